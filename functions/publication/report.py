"""The quality report: one page that carries everything it shows.

Numbers come from `facts`, pixels from `planes`; this module chooses what a person should see, worst first, and
hands it to the template. The page needs no network, and everything from outside is escaped by the template.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from functions.model.transform import Seam, SectionLayout
from functions.publication import pictures, planes, plots
from functions.publication.facts import Facts
from functions.store.cells import CODE_VERSION
from functions.store.tiles import TileReader

TEMPLATE = "report.html.j2"
THUMBNAIL_PX = 150
STITCHED_PX = 900
STITCHED_SECTIONS = 2
FIELD_ARROWS = 18
FIELD_CELLS = 48
VERDICT_RANK = {"rejected": 0, "look": 1, "unmatched": 2, "ok": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A figure of the header."""

    name: str
    value: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A picture with what lies over it."""

    label: str
    image: str
    overlay: str = ""
    drawing: Markup = Markup("")
    shape_yx: tuple[int, int] = (1, 1)
    note: str = ""
    colour: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeamRow:
    """A seam of the table of the worst."""

    section: str
    seam: Seam
    colour: str
    pictures: tuple[str, ...]


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
    worst_px = _scale(facts)
    return environment.get_template(TEMPLATE).render(
        facts=facts,
        acquisition=facts.run.manifest.acquisition,
        findings=facts.run.manifest.findings,
        version=CODE_VERSION,
        cards=_cards(facts),
        slices={s.axes: _slice(s) for s in levels.slices()},
        thumbnails=_thumbnails(facts, levels, worst_px),
        stitched=_stitched(facts, worst_px),
        seams=_worst_seams(facts, worst_px),
        seam_count=sum(len(layout.seams) for layout in facts.layouts),
        worst_px=worst_px,
        fields=_fields(facts),
        field_largest=_field_largest(facts, levels),
        motion=_motion(facts),
        pair_plot=_pair_plot(facts),
        reslices=[] if facts.run.manifest.acquisition.aligned else _reslices(facts),
        bars=_bars(facts),
        parameters=_parameters(facts),
        largest=_largest(facts),
    )


def _cards(facts: Facts) -> list[Card]:
    """The figures at the top."""
    shape, voxel = facts.image.shape_zyx, facts.image.voxel_size_zyx_nm
    extent = [n * v / 1000 for n, v in zip(shape, voxel, strict=True)]
    acquisition = facts.run.manifest.acquisition
    pairs = list(facts.pair_residuals_px.values())
    wall = max((t.ended for t in facts.times), default=0) - min((t.started for t in facts.times), default=0)
    stitch = facts.stitch_residual_px
    missing = len(acquisition.missing_sections)
    cards = [
        Card(
            name="Volume",
            value=_count(facts.image.box.voxels) + " voxels",
            detail=f"{shape[2]} × {shape[1]} × {shape[0]} (x, y, z), "
            f"{extent[2]:.3g} × {extent[1]:.3g} × {extent[0]:.3g} µm",
        ),
        Card(
            name="Sections",
            value=str(len(facts.layouts)),
            detail=f"{sum(len(x.tiles) for x in facts.layouts)} tiles"
            + (f", {missing} sections missing" if missing else ", none missing"),
        ),
        Card(
            name="Stitch residual",
            value="–" if stitch is None else f"{stitch:.2f} px",
            detail="95th percentile, worst section" if stitch is not None else "one tile a section",
        ),
        Card(
            name="Align residual",
            value=f"{np.median(pairs):.2f} px" if pairs else "–",
            detail=f"95th percentile, median of {len(pairs)} pairs; worst {max(pairs):.2f}"
            if pairs
            else "sections came aligned",
        ),
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
    return cards


def _slice(cut: planes.Slice) -> Figure:
    return Figure(
        label=cut.axes,
        image=pictures.data_uri(cut.image, kind="jpeg"),
        overlay=pictures.data_uri(pictures.overlay(cut.labels), kind="png"),
        shape_yx=(cut.image.shape[0], cut.image.shape[1]),
        note=str(cut.at),
    )


def _thumbnails(facts: Facts, levels: planes.PublishedLevels, worst_px: float) -> list[Figure]:
    """Evenly chosen rows of the aligned volume; missing sections are among them."""
    rows = facts.run.aligned.sections
    residual = {x.section: x.residual_px_p95 for x in facts.layouts}
    chosen = _evenly(len(rows), facts.run.parameters.finish.report_sections)
    figures = []
    for row in chosen:
        name = f"z{rows[row]:05d}"
        present = name in residual
        value = residual[name] if present else None
        picture = pictures.stretch(levels.row(row, longest_px=THUMBNAIL_PX))
        figures.append(
            Figure(
                label=str(rows[row]),
                image=pictures.data_uri(picture, kind="jpeg") if present else "",
                shape_yx=(picture.shape[0], picture.shape[1]),
                note=("missing" if not present else "") if value is None else f"{value:.2f} px",
                colour="" if value is None else plots.residual_colour(value, worst_px=worst_px),
            )
        )
    return figures


def _stitched(facts: Facts, worst_px: float) -> list[Figure]:
    """The sections with the worst seams, with all their seams drawn."""
    ranked = sorted(
        (x for x in facts.layouts if x.seams), key=lambda x: (-(x.residual_px_p95 or 0.0), x.section)
    )
    return [
        Figure(
            label=layout.section,
            image=pictures.data_uri(
                pictures.stretch(planes.stitched_preview(facts.run, layout, longest_px=STITCHED_PX)),
                kind="jpeg",
            ),
            drawing=plots.seam_map(layout, worst_px=worst_px),
            shape_yx=layout.shape_yx,
            note=f"{len(layout.tiles)} tiles, {len(layout.seams)} seams"
            + ("" if layout.residual_px_p95 is None else f", p95 {layout.residual_px_p95:.2f} px"),
        )
        for layout in ranked[:STITCHED_SECTIONS]
    ]


def _worst_seams(facts: Facts, worst_px: float) -> list[SeamRow]:
    """Rejected and doubtful seams first, then by residual; with both tiles' pixels."""
    sections = {s.section.id: s.section for s in facts.run.sections}
    every = [(layout, seam) for layout in facts.layouts for seam in layout.seams]
    every.sort(
        key=lambda row: (
            VERDICT_RANK[row[1].verdict],
            -(row[1].residual_px_p95 or 0.0),
            row[0].section,
            row[1].a,
            row[1].b,
        )
    )
    rows = []
    for layout, seam in every[: facts.run.parameters.finish.report_seams]:
        section = sections[layout.section]
        reader = TileReader(facts.run.acquisition_folder, section)
        crops = planes.seam_pictures(reader, section, layout, seam)
        images = [*crops, pictures.composite(*crops)] if len(crops) == 2 else []
        rows.append(
            SeamRow(
                section=layout.section,
                seam=seam,
                colour=plots.residual_colour(seam.residual_px_p95, worst_px=worst_px),
                pictures=tuple(pictures.data_uri(image, kind="jpeg") for image in images),
            )
        )
    return rows


def _fields(facts: Facts) -> list[Figure]:
    """Each section's elastic displacement as a colour field, all on one scale."""
    if facts.run.manifest.acquisition.aligned:
        return []
    longest = _longest_px(facts)
    chosen = _evenly(len(facts.layouts), facts.run.parameters.finish.report_sections)
    figures = []
    for layout in (facts.layouts[i] for i in chosen):
        transform = facts.transforms[layout.section]
        _, moved = transform.displacement_grid(max(transform.shape_yx) / FIELD_CELLS)
        figures.append(
            Figure(
                label=layout.section,
                image=pictures.data_uri(pictures.flow_colours(moved, longest_px=longest), kind="png"),
                shape_yx=transform.shape_yx,
                note=f"{float(np.hypot(moved[..., 0], moved[..., 1]).max()):.1f} px",
            )
        )
    return figures


def _field_largest(facts: Facts, levels: planes.PublishedLevels) -> list[Figure]:
    """The section that was bent most, with arrows."""
    del levels
    if facts.run.manifest.acquisition.aligned:
        return []
    lengths = {x.section: _section_longest_px(facts, x) for x in facts.layouts}
    layout = max(facts.layouts, key=lambda x: (lengths[x.section], x.section))
    transform = facts.transforms[layout.section]
    grid, moved = transform.displacement_grid(max(transform.shape_yx) / FIELD_ARROWS)
    preview = pictures.stretch(planes.stitched_preview(facts.run, layout, longest_px=STITCHED_PX))
    return [
        Figure(
            label=layout.section,
            image=pictures.data_uri(preview, kind="jpeg"),
            drawing=plots.quiver(
                grid,
                moved,
                shape_yx=transform.shape_yx,
                longest_px=lengths[layout.section],
                label=f"Displacements of {layout.section}",
            ),
            shape_yx=transform.shape_yx,
            note=f"longest arrow {lengths[layout.section]:.1f} px",
        )
    ]


def _motion(facts: Facts) -> Markup:
    """How far each section's centre was moved from where the stage put it, against the stack's mean."""
    if facts.run.manifest.acquisition.aligned:
        return Markup("")
    rows = []
    for entry, layout in zip(facts.run.sections, facts.layouts, strict=True):
        transform = facts.transforms[layout.section]
        centre = np.array([[n / 2 for n in transform.shape_yx]])
        rows.append((entry.section.z, *(transform.apply(centre) - centre - layout.stage_origin_yx_px)[0]))
    table = np.array(rows)
    table[:, 1:] -= np.median(table[:, 1:], axis=0)
    return plots.line_plot(
        [("y", table[:, [0, 1]].tolist()), ("x", table[:, [0, 2]].tolist())],
        x_label="section",
        y_label="shift, px",
    )


def _pair_plot(facts: Facts) -> Markup:
    """Residual of every registered pair; near and far neighbours are two series."""
    z = {unit: (a.section.z, b.section.z) for unit, (a, b) in facts.run.pairs.items()}
    order = {s.section.z: i for i, s in enumerate(facts.run.sections)}
    series: dict[str, list[tuple[float, float]]] = {}
    for unit, value in facts.pair_residuals_px.items():
        a, b = z[unit]
        series.setdefault(f"+{order[b] - order[a]}", []).append((float(a), value))
    return plots.line_plot(
        [(name, sorted(series[name])) for name in sorted(series)], x_label="first section of the pair",
        y_label="residual p95, px",
    )  # fmt: skip


def _reslices(facts: Facts) -> list[tuple[str, str, str, tuple[int, int]]]:
    """Before and after along z: axes, both pictures, and their shape in square pixels."""
    voxel = facts.image.voxel_size_zyx_nm
    found = []
    for cut in planes.reslices(facts):
        tall = max(1, round(cut.after.shape[0] * voxel[0] / voxel[1]))
        shape = tall, cut.after.shape[1]
        both = [np.asarray(pictures.resize(p, shape, smooth=False)) for p in (cut.before, cut.after)]
        found.append((cut.axes, *(pictures.data_uri(p, kind="jpeg") for p in both), shape))
    return found  # type: ignore[return-value]


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
        )
        for t in facts.times
    ]


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


def _scale(facts: Facts) -> float:
    """The residual drawn in the strongest colour: a pixel, or more where seams are worse."""
    values = [s.residual_px_p95 for x in facts.layouts for s in x.seams if s.residual_px_p95 is not None]
    return max(1.0, float(np.percentile(values, 98)) if values else 1.0)


def _section_longest_px(facts: Facts, layout: SectionLayout) -> float:
    _, moved = facts.transforms[layout.section].displacement_grid(max(layout.shape_yx) / FIELD_ARROWS)
    return float(np.hypot(moved[..., 0], moved[..., 1]).max(initial=0.0))


def _longest_px(facts: Facts) -> float:
    return max((_section_longest_px(facts, layout) for layout in facts.layouts), default=1.0)


def _evenly(count: int, most: int) -> list[int]:
    """At most `most` indices, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / max(most - 1, 1)) for i in range(most)})


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
