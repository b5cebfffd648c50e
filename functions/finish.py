"""Finish: the bundle that is published. It appears whole or not at all.

bundle/   volume.zarr   transforms   neuroglancer.json   report.html   ro-crate-metadata.json   search.json
          registration_gate.json   sections.json   edges.csv   manifest-sha256.txt

Where objects were agglomerated, `labels/segmentation` has what they became, `labels/supervoxels` the objects
of relabel, and edges.csv what joins them; else the last two are not there.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np

from functions import gate
from functions.model.artefacts import NAMES
from functions.model.geometry import Box
from functions.publication import (
    bundle,
    facts,
    neuroglancer,
    omezarr,
    record,
    report,
    rocrate,
    sections,
)
from functions.store.aligned import read_aligned
from functions.store.artefacts import open_artefacts
from functions.store.cells import Cell, UnitReport, result_of_unit
from functions.store.edges import edges_path, read_mapping
from functions.store.equalities import note_user
from functions.store.files import atomic_path, write_bytes, write_json
from functions.store.labels import prepared_labels
from functions.store.pyramid import AnyArray, Read
from functions.store.run import Run
from functions.store.transform_files import write_transforms
from functions.store.volumes import Volume
from functions.tasks import StepResult

UNIT = "all"
SHOWN_SEGMENTS = 12


class LabelCounter:
    """Passes boxes of labels on and counts the voxels of each id; boxes must not overlap.

    Ids are ranks (`functions.reconcile`), so an array by id holds no more than there are objects.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._voxels = np.zeros(1, np.int64)

    def read(self, box: Box) -> AnyArray:
        """The labels of a box."""
        labels: AnyArray = self._read(box)
        for plane in labels:  # sorting takes as much again as what is sorted
            ids, counts = np.unique(plane, return_counts=True)
            if (more := int(ids[-1]) + 1 - self._voxels.size) > 0:
                self._voxels = np.concatenate([self._voxels, np.zeros(more, np.int64)])
            self._voxels[ids] += counts
        return labels

    def count(self) -> facts.LabelCount:
        """What has been read so far."""
        segments = self._voxels[1:]
        order = np.argsort(-segments, kind="stable")[:SHOWN_SEGMENTS]
        return facts.LabelCount(
            voxels=int(self._voxels.sum()),
            labelled=int(segments.sum()),
            segments=int(np.count_nonzero(segments)),
            largest=tuple((int(i) + 1, int(segments[i])) for i in order if segments[i]),
        )


def perform(run: Run) -> StepResult:
    """Make the bundle, unless it is there.

    Raises:
        UpstreamError: the labels are not finished, or not agglomerated.
        VolumeError: a layout, a transform or an array is missing or damaged.
    """
    cell = run.cell("finish")
    mark, fresh = cell.run_unit(UNIT, lambda: compute(run, cell))
    return result_of_unit("finish", mark, fresh=fresh, paths={"bundle": str(cell.file("bundle"))})


def compute(run: Run, cell: Cell) -> UnitReport:
    """Write all documents into a folder that gets its name at the end."""
    facts.require_labels(run)
    note_user(run, "finish")
    for left in cell.path.glob(".bundle.*.partial"):  # of a run that was killed
        shutil.rmtree(left)
    with atomic_path(cell.file("bundle")) as partial:
        partial.mkdir()
        count = _write_volume(run, partial / bundle.VOLUME)
        write_transforms(run, partial / bundle.TRANSFORMS)
        if run.agglomerates:
            shutil.copyfile(edges_path(run), partial / bundle.EDGES)
        found = facts.gather(run, count=count, gate=gate.given(run))
        _write_documents(found, partial)
        bundle.write_manifest(partial)
        size = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
    return UnitReport(
        status=found.status,
        figures={
            "segments": count.segments,
            "labelled_fraction": round(count.fraction, 4),
            "bundle_bytes": size,
        },
    )


def _write_volume(run: Run, path: Path) -> facts.LabelCount:
    """Image, labels and artefact codes with their levels."""
    p, mapping = run.parameters.finish, read_mapping(run)
    image, labels, codes = run.aligned.volume, prepared_labels(run), open_artefacts(run).ref
    omezarr.write_image(
        path,
        read=partial(read_aligned, run, "image"),
        shape_zyx=image.shape_zyx,
        voxel_size_zyx_nm=image.voxel_size_zyx_nm,
        name=p.title or run.manifest.acquisition.id,
        chunk_zyx=p.chunk_zyx_px,
        shard_zyx=p.shard_zyx_px,
    )
    supervoxels = Volume.open(run.work, labels)
    counter = LabelCounter(lambda box: mapping.apply(np.asarray(supervoxels.read(box), np.uint32)))
    shown: dict[str, Read] = {omezarr.LABELS: counter.read}
    if run.agglomerates:
        shown[omezarr.SUPERVOXELS] = supervoxels.read
    for name, read in shown.items():
        omezarr.write_labels(
            path,
            read=read,
            shape_zyx=labels.shape_zyx,
            dtype=labels.dtype,
            voxel_size_zyx_nm=image.voxel_size_zyx_nm,
            name=name,
            chunk_zyx=p.chunk_zyx_px,
            shard_zyx=p.shard_zyx_px,
        )
    omezarr.write_labels(
        path,
        read=partial(read_aligned, run, "artefacts"),
        shape_zyx=image.shape_zyx,
        dtype=codes.dtype,
        voxel_size_zyx_nm=image.voxel_size_zyx_nm,
        name=omezarr.ARTEFACTS,
        pooling="max",
        value_names=NAMES,
        chunk_zyx=p.chunk_zyx_px,
        shard_zyx=p.shard_zyx_px,
    )
    return counter.count()


def _write_documents(found: facts.Facts, folder: Path) -> None:
    """Viewer state, tables, report, record and, last since it names the others, the crate."""
    state = neuroglancer.template(
        shape_zyx=found.image.shape_zyx,
        voxel_size_zyx_nm=found.image.voxel_size_zyx_nm,
        segment_ids=tuple(i for i, _ in found.count.largest),
    )
    write_bytes(folder / neuroglancer.FILE, (neuroglancer.compact(state) + "\n").encode())
    write_json(folder / bundle.GATE, found.gate.to_json())
    write_json(folder / bundle.SECTIONS, sections.section_table(found).to_json())
    write_bytes(folder / "report.html", report.render(found, volume=folder / bundle.VOLUME).encode())
    write_json(folder / "search.json", record.search_entry(found).to_json())
    write_json(folder / rocrate.FILE, rocrate.crate(found, bundle=folder))
