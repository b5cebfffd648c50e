"""The quality report: one page that carries everything it shows.

Numbers come from `facts`, pixels from `exhibits`; this module hands them to the template. The page needs no
network, and the template escapes everything from outside. However large the volume, it holds a bounded
number of pictures of bounded size, and stays below about 10 MB.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from functions.model.gate import LEVELS, GateDocument
from functions.publication import exhibits, pictures, planes, registered
from functions.publication.facts import Facts, StepTime
from functions.store.cells import CODE_VERSION
from functions.store.measured import PEAK
from functions.store.moved import PER_VOXEL, per_voxel

TEMPLATE = "report.html.j2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A figure of the header."""

    name: str
    value: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A step's time; widths are shares of the longest."""

    step: str
    units: int
    seconds: float
    wall_s: float
    share: float
    slowest: str
    slowest_s: float
    moved: str
    """Bytes a voxel, and the largest peak of memory; empty where marks do not tell."""


def render(facts: Facts, *, volume: Path) -> str:
    """The report as one HTML document. `volume` is the bundle's OME-Zarr, already written."""
    levels = planes.PublishedLevels(volume, facts)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    worst_px = exhibits.residual_scale(facts)
    pair_names, pair_plot = exhibits.pair_plot(facts)
    return environment.get_template(TEMPLATE).render(
        facts=facts,
        acquisition=facts.run.manifest.acquisition,
        findings=facts.run.manifest.findings,
        version=CODE_VERSION,
        cards=_cards(facts),
        slices={s.axes: exhibits.orthogonal(s) for s in levels.slices()},
        thumbnails=exhibits.thumbnails(facts, levels, worst_px),
        artefacts=exhibits.artefacts(facts),
        stitched=exhibits.stitched(facts, worst_px),
        seams=exhibits.worst_seams(facts, worst_px),
        seam_count=sum(len(layout.seams) for layout in facts.layouts),
        worst_px=worst_px,
        fields=exhibits.fields(facts),
        field_largest=exhibits.most_bent(facts),
        motion=exhibits.motion(facts),
        stretch=exhibits.stretch_and_turn(facts),
        stretch_names=exhibits.STRETCHES,
        pair_names=pair_names,
        pair_plot=pair_plot,
        **_registration(facts, worst_px),
        bars=_bars(facts),
        parameters=_parameters(facts),
        largest=_largest(facts),
    )


def _registration(facts: Facts, worst_px: float) -> dict[str, Any]:
    """What the gate's part of the page shows; nothing where the stack came aligned."""
    if not facts.gate.judged:
        empty: tuple[()] = ()
        return dict.fromkeys(("reasons", "rows", "section_maps", "pair_maps", "flips", "drifts"), empty)
    return {
        "reasons": registered.reasons(facts),
        "rows": registered.section_rows(facts),
        "section_maps": registered.section_maps(facts, worst_px),
        "pair_maps": registered.pair_maps(facts),
        "flips": registered.flips(facts),
        "drifts": {
            "agreement": registered.agreement(facts),
            "images": registered.image_drift(facts),
            "steps": registered.steps(facts),
        },
    }


def _cards(facts: Facts) -> list[Card]:
    """The figures at the top."""
    shape, voxel = facts.image.shape_zyx, facts.image.voxel_size_zyx_nm
    extent = [n * v / 1000 for n, v in zip(shape, voxel, strict=True)]
    acquisition = facts.run.manifest.acquisition
    wall = max((t.ended for t in facts.times), default=0) - min((t.started for t in facts.times), default=0)
    stitch, align = facts.stitch_residual_px, facts.align_residual_px
    missing = len(acquisition.missing_sections)
    return [
        Card(
            name="Volume",
            value=_count(facts.image.box.voxels),
            detail=f"voxels: {shape[2]} × {shape[1]} × {shape[0]} (x, y, z), "
            f"{extent[2]:.3g} × {extent[1]:.3g} × {extent[0]:.3g} µm",
        ),
        Card(
            name="Sections",
            value=str(len(facts.layouts)),
            detail=f"{sum(len(x.tiles) for x in facts.layouts)} tiles"
            + (f", {missing} missing" if missing else ", none missing"),
        ),
        Card(
            name="Stitch residual",
            value="–" if stitch is None else f"{stitch:.2f} px",
            detail="95th percentile, worst section" if stitch is not None else "one tile a section",
        ),
        Card(
            name="Align residual",
            value="–" if align is None else f"{align:.2f} px",
            detail=f"95th percentile, {len(facts.pair_residuals_px)} pairs of sections"
            if align is not None
            else "sections came aligned",
        ),
        _gate_card(facts.gate),
        Card(
            name="Segments",
            value=_count(facts.count.segments),
            detail=f"{facts.count.fraction:.1%} of voxels labelled",
        ),
        Card(
            name="Time",
            value=_duration(wall),
            detail=f"{_count(int(facts.image.box.voxels / wall))} voxels a second" if wall > 0 else "",
        ),
    ]


def _gate_card(gate: GateDocument) -> Card:
    """The verdict on the registered stack."""
    if not gate.judged:
        return Card(name="Gate", value="–", detail="sections came aligned")
    counts = [f"{sum(s.verdict == level for s in gate.sections)} {level}" for level in LEVELS]
    return Card(name="Gate", value=gate.verdict, detail=f"sections: {', '.join(counts)}")


def _bars(facts: Facts) -> list[Bar]:
    longest = max((t.seconds for t in facts.times), default=0.0) or 1.0
    return [
        Bar(
            step=t.step,
            units=t.units,
            seconds=t.seconds,
            wall_s=t.wall_s,
            share=t.seconds / longest,
            slowest=t.slowest,
            slowest_s=t.slowest_s,
            moved=_moved(t, facts.image.box.voxels),
        )
        for t in facts.times
    ]


def _moved(time: StepTime, voxels: int) -> str:
    """What a step read and wrote for each voxel of the volume, and what its largest unit took."""
    found = per_voxel(time.traffic, voxels)
    if not found:
        return ""
    read, written = (found[f"{name}_per_voxel"] for name in PER_VOXEL)
    return f"read {read:.3g}, wrote {written:.3g} bytes a voxel; {time.traffic[PEAK]:.0f} MiB at most"


def _largest(facts: Facts) -> list[tuple[int, int, str]]:
    """Id, voxels and colour of the largest segments."""
    colours = pictures.segment_colours(np.array([i for i, _ in facts.count.largest], dtype=np.uint64))
    return [
        (i, n, f"#{r:02x}{g:02x}{b:02x}")
        for (i, n), (r, g, b) in zip(facts.count.largest, colours.tolist(), strict=True)
    ]


def _parameters(facts: Facts) -> dict[str, dict[str, Any]]:
    """All parameters by group; of a path only the file's name, since folders may tell who made the run."""
    groups: dict[str, dict[str, Any]] = facts.run.parameters.to_json()
    return {
        group: {
            name: Path(v).name if isinstance(v, str) and v.startswith("/") else v
            for name, v in values.items()
        }
        for group, values in groups.items()
    }


def _count(value: int) -> str:
    """A number a person reads: 950, 12.3 k, 4.56 M."""
    for size, unit in ((10**12, " T"), (10**9, " G"), (10**6, " M"), (10**4, " k")):
        if value >= size:
            return f"{value / (size if size != 10**4 else 1000):.3g}{unit}"
    return str(value)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
