"""Provenance: an RO-Crate 1.1 that follows Process Run Crate 0.5.

One CreateAction a step, with the times of its marks, the program as its instrument, and what it read and
wrote. No person is named unless the run's parameters name one as a creator.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from functions.publication.facts import Facts, StepTime
from functions.store.cells import CODE_VERSION
from functions.tasks import STEPS, StepName

FILE = "ro-crate-metadata.json"
CONTEXT = "https://w3id.org/ro/crate/1.1/context"
CRATE_PROFILE = "https://w3id.org/ro/crate/1.1"
PROCESS_PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
PROGRAM = "#petavoxel"

Entity = dict[str, Any]

WRITES: dict[StepName, tuple[str, str]] = {
    "ingest": ("#tiles", "Usable tiles and the list of bad ones"),
    "stitch": ("#stitched", "Stitched sections with their layouts"),
    "align_pairs": ("#pairs", "Registered pairs of sections"),
    "align_solve": ("transforms/", "One transform a section"),
    "align_render": ("#aligned", "Aligned image volume"),
    "segment": ("#local-labels", "Labels of overlapping subvolumes"),
    "match": ("#equalities", "Equal labels of neighbouring subvolumes"),
    "reconcile": ("#table", "One table of global labels"),
    "relabel": ("#labels", "Global label volume"),
    "candidates": ("#candidates", "Pairs of objects that might be one"),
    "resegment": ("#evidence", "Candidate pairs flooded again"),
    "agglomerate": ("edges.csv", "Pairs of objects with scores and decisions"),
    "finish": ("volume.zarr/", "Published volume"),
}
READS: dict[StepName, tuple[str, ...]] = {
    "ingest": ("#acquisition",),
    "stitch": ("#tiles",),
    "align_pairs": ("#stitched",),
    "align_solve": ("#pairs", "#stitched"),
    "align_render": ("transforms/", "#tiles"),
    "segment": ("#aligned",),
    "match": ("#local-labels",),
    "reconcile": ("#equalities",),
    "relabel": ("#table", "#local-labels"),
    "candidates": ("#labels", "#table", "#aligned"),
    "resegment": ("#candidates", "#labels", "#aligned"),
    "agglomerate": ("#evidence",),
    "finish": ("#aligned", "#labels"),
}
AGGLOMERATION: tuple[StepName, ...] = ("candidates", "resegment", "agglomerate")
"""Steps that a run may leave out."""
MEDIA = {
    "transforms/index.json": ("What the transforms say, and of which sections", "application/json"),
    "report.html": ("Quality report", "text/html"),
    "sections.json": ("How good each section is: verdict, residual, coverage, artefacts", "application/json"),
    "registration_gate.json": ("Verdicts on stitching and alignment, with reasons", "application/json"),
    "neuroglancer.json": (
        "Neuroglancer state; {base_url} stands for the bundle's address",
        "application/json",
    ),
    "search.json": ("Content of the search entry", "application/json"),
    "manifest-sha256.txt": ("Checksums of all other files", "text/plain"),
}
AGGLOMERATION_MEDIA = {"edges.csv": ("Pairs of supervoxels with scores and decisions", "text/csv")}


def crate(facts: Facts, *, bundle: Path) -> dict[str, Any]:
    """The metadata document of a bundle; `bundle` is looked at for the sizes of files already written."""
    times = {time.step: time for time in facts.times}
    steps, media = _steps(facts), _media(facts)
    actions = [_action(facts, step, times.get(step)) for step in steps]
    named = [WRITES[step] for step in steps]
    graph: list[Entity] = [
        {
            "@id": FILE,
            "@type": "CreativeWork",
            "conformsTo": {"@id": CRATE_PROFILE},
            "about": {"@id": "./"},
        },
        _root(facts, actions, media),
        {"@id": PROCESS_PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"},
        _volume(facts),
        _transforms(facts),
        *(_file(name, *media[name], bundle=bundle) for name in media),
        *_creators(facts),
        *_license(facts),
        _acquisition(facts),
        *({"@id": i, "@type": "Dataset", "name": name} for i, name in named if i.startswith("#")),
        {
            "@id": PROGRAM,
            "@type": "SoftwareApplication",
            "name": "Petavoxel",
            "version": CODE_VERSION,
            "softwareVersion": CODE_VERSION,
        },
        *actions,
    ]
    return {"@context": CONTEXT, "@graph": graph}


def _steps(facts: Facts) -> list[StepName]:
    """The steps of the run that write something, in order."""
    left_out: tuple[StepName, ...] = () if facts.run.agglomerates else AGGLOMERATION
    return [step for step in STEPS if step in WRITES and step not in left_out]


def _media(facts: Facts) -> dict[str, tuple[str, str]]:
    """Title and type of each document of the bundle, by name."""
    return dict(sorted((MEDIA | (AGGLOMERATION_MEDIA if facts.run.agglomerates else {})).items()))


def _root(facts: Facts, actions: list[Entity], media: dict[str, tuple[str, str]]) -> Entity:
    acquisition = facts.run.manifest.acquisition
    root: Entity = {
        "@id": "./",
        "@type": "Dataset",
        "name": facts.title,
        "description": f"Aligned electron microscopy of acquisition {acquisition.id}, neurites segmented",
        "datePublished": facts.finished.date().isoformat(),
        "conformsTo": {"@id": PROCESS_PROFILE},
        "hasPart": [
            {"@id": "volume.zarr/"},
            {"@id": "transforms/"},
            *({"@id": name} for name in media),
        ],
        "mentions": [{"@id": action["@id"]} for action in actions],
        "publisher": facts.run.parameters.finish.publisher,
        "keywords": "connectomics, electron microscopy",
    }
    if creators := _creators(facts):
        root["creator"] = [{"@id": creator["@id"]} for creator in creators]
    if licenses := _license(facts):
        root["license"] = {"@id": licenses[0]["@id"]}
    return root


def _action(facts: Facts, step: StepName, time: StepTime | None) -> Entity:
    """What a step did. Finish writes this document, so its own end is not known here."""
    action: Entity = {
        "@id": f"#{step}-action",
        "@type": "CreateAction",
        "name": step,
        "description": WRITES[step][1],
        "instrument": {"@id": PROGRAM},
        "object": [{"@id": i} for i in READS[step]],
        "result": [{"@id": WRITES[step][0]}],
    }
    if time is not None:
        action["startTime"] = _moment(time.started)
        action["endTime"] = _moment(time.ended)
        action["actionStatus"] = {"@id": "http://schema.org/CompletedActionStatus"}
    return action


def _volume(facts: Facts) -> Entity:
    return {
        "@id": "volume.zarr/",
        "@type": "Dataset",
        "name": "Image, labels and artefacts",
        "description": f"{'x'.join(map(str, facts.image.shape_zyx))} voxels (z, y, x), "
        f"{facts.count.segments} segments",
        "encodingFormat": "application/vnd.zarr",
    }


def _transforms(facts: Facts) -> Entity:
    return {
        "@id": "transforms/",
        "@type": "Dataset",
        "name": "Transforms",
        "description": f"Where the raw tiles of {len(facts.layouts)} sections lie in the volume: affine maps"
        " and B-spline sheets, forward, in pixels",
        "encodingFormat": "application/json",
    }


def _file(name: str, title: str, media: str, *, bundle: Path) -> Entity:
    entity: Entity = {"@id": name, "@type": "File", "name": title, "encodingFormat": media}
    if (bundle / name).exists():
        entity["contentSize"] = str((bundle / name).stat().st_size)
    return entity


def _acquisition(facts: Facts) -> Entity:
    acquisition = facts.run.manifest.acquisition
    return {
        "@id": "#acquisition",
        "@type": "Dataset",
        "name": acquisition.id,
        "description": f"{len(acquisition.sections)} sections from {acquisition.instrument}, "
        f"layout {acquisition.layout}",
    }


def _creators(facts: Facts) -> list[Entity]:
    names = facts.run.parameters.finish.creators
    return [
        {"@id": f"#creator-{i}", "@type": "Person", "name": name} for i, name in enumerate(names, start=1)
    ]


def _license(facts: Facts) -> list[Entity]:
    address = facts.run.parameters.finish.license
    return [{"@id": address, "@type": "CreativeWork", "name": address}] if address else []


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).isoformat(timespec="milliseconds")
