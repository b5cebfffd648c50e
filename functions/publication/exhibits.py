"""What a report shows: pictures with what lies over them, chosen so that the worst comes first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from functions.model.artefacts import NAMES, TISSUE
from functions.model.gate import LEVELS, SeamVerdict
from functions.model.transform import Seam, SectionLayout, SectionTransform
from functions.publication import pictures, planes, plots, registered
from functions.publication.facts import Facts
from functions.store.tiles import TileReader

THUMBNAIL_PX = 150
STITCHED_PX = 900
STITCHED_SECTIONS = 2
FIELD_ARROWS = 18
FIELD_CELLS = 48
VERDICT_RANK = {"rejected": 0, "look": 1, "unmatched": 2, "ok": 3}
NOTHING = Markup("")
STRETCHES = ("stretch y, %", "stretch x, %", "turn, degrees")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A picture with what lies over it."""

    label: str
    image: str
    overlay: str = ""
    drawing: Markup = NOTHING
    shape_yx: tuple[int, int] = (1, 1)
    note: str = ""
    colour: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeamRow:
    """A seam of the table of the worst."""

    section: str
    seam: Seam
    judged: SeamVerdict | None
    """What the gate found; None where the stack came aligned."""
    colour: str
    pictures: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeRow:
    """An artefact in words; shares of what is drawn of a section."""

    name: str
    colour: str
    sections: int
    share: float
    worst: str
    worst_share: float


def orthogonal(cut: planes.Slice) -> Figure:
    return Figure(
        label=cut.axes,
        image=pictures.data_uri(cut.image, kind="jpeg"),
        overlay=pictures.data_uri(pictures.overlay(cut.labels), kind="png"),
        shape_yx=(cut.image.shape[0], cut.image.shape[1]),
        note=str(cut.at),
    )


def thumbnails(facts: Facts, levels: planes.PublishedLevels, worst_px: float) -> list[Figure]:
    """Evenly chosen rows of the aligned volume with their artefacts; missing sections are among them."""
    rows = facts.run.aligned.sections
    residual = {x.section: x.residual_px_p95 for x in facts.layouts}
    chosen = _evenly(len(rows), facts.run.parameters.finish.report_sections)
    figures = []
    for row in chosen:
        name = f"z{rows[row]:05d}"
        present = name in residual
        value = residual[name] if present else None
        picture = pictures.stretch(levels.row(row, longest_px=THUMBNAIL_PX))
        codes = levels.codes(row, longest_px=THUMBNAIL_PX)
        torn = present and bool((codes > TISSUE).any())
        figures.append(
            Figure(
                label=str(rows[row]),
                image=pictures.data_uri(picture, kind="jpeg") if present else "",
                overlay=pictures.data_uri(pictures.code_overlay(codes), kind="png") if torn else "",
                shape_yx=(picture.shape[0], picture.shape[1]),
                note=("missing" if not present else "") if value is None else f"{value:.2f} px",
                colour="" if value is None else plots.residual_colour(value, worst_px=worst_px),
            )
        )
    return figures


def artefacts(facts: Facts) -> list[CodeRow]:
    """Of each code that occurs, the mean share of the drawn tissue, and the section that has most of it."""
    rows = []
    for code, (red, green, blue) in pictures.CODE_COLOURS.items():
        shares = {
            mark.unit: value
            for mark in facts.marks["align_render"]
            for name, value in mark.figures.items()
            if name == f"{NAMES[code]}_fraction" and value > 0
        }
        if shares:
            worst = max(shares, key=lambda unit: (shares[unit], unit))
            rows.append(
                CodeRow(
                    name=NAMES[code],
                    colour=f"#{red:02x}{green:02x}{blue:02x}",
                    sections=len(shares),
                    share=sum(shares.values()) / len(facts.layouts),
                    worst=worst,
                    worst_share=shares[worst],
                )
            )
    return rows


def stitched(facts: Facts, worst_px: float) -> list[Figure]:
    """The sections with the worst seams, all their seams drawn: by their matches, and by their images."""
    told = facts.verdicts
    ranked = sorted(
        (x for x in facts.layouts if x.seams),
        key=lambda x: (
            -LEVELS.index(told[x.section].verdict if x.section in told else "pass"),
            -(x.residual_px_p95 or 0.0),
            x.section,
        ),
    )
    return [
        Figure(
            label=layout.section,
            image=pictures.data_uri(
                pictures.stretch(planes.stitched_preview(facts.run, layout, longest_px=STITCHED_PX)),
                kind="jpeg",
            ),
            drawing=plots.seam_map(layout, worst_px=worst_px)
            + plots.seam_map(
                layout,
                worst_px=worst_px,
                windows=registered.seam_windows(facts, layout),
                name="images",
            ),
            shape_yx=layout.shape_yx,
            note=f"{len(layout.tiles)} tiles, seams: {len(layout.seams)}"
            + ("" if layout.residual_px_p95 is None else f", p95 {layout.residual_px_p95:.2f} px"),
        )
        for layout in ranked[:STITCHED_SECTIONS]
    ]


def worst_seams(facts: Facts, worst_px: float) -> list[SeamRow]:
    """Seams that the gate fails first, then rejected and doubtful ones, then by how far they are off.

    Both tiles' pixels are shown where the images agree least.
    """
    sections = {s.section.id: s.section for s in facts.run.sections}
    told = facts.verdicts
    every = [
        (layout, k, told[layout.section].seams[k] if layout.section in told else None)
        for layout in facts.layouts
        for k in range(len(layout.seams))
    ]
    every.sort(key=lambda row: (*_seam_rank(row[0].seams[row[1]], row[2]), row[0].section, row[1]))
    rows = []
    for layout, k, judged in every[: facts.run.parameters.finish.report_seams]:
        section, seam = sections[layout.section], layout.seams[k]
        reader = TileReader(facts.run.acquisition_folder, section)
        measured = registered.seam_windows(facts, layout)
        centre = registered.worst_place(measured[k], seam.centre_yx) if measured else seam.centre_yx
        crops = planes.seam_pictures(reader, section, layout, seam, centre_yx=centre)
        images = [*crops, pictures.composite(*crops), pictures.difference(*crops)] if crops else []
        rows.append(
            SeamRow(
                section=layout.section,
                seam=seam,
                judged=judged,
                colour=plots.residual_colour(seam.residual_px_p95, worst_px=worst_px),
                pictures=tuple(pictures.data_uri(image, kind="jpeg") for image in images),
            )
        )
    return rows


def _seam_rank(seam: Seam, judged: SeamVerdict | None) -> tuple[float, float, float]:
    """The worst first: by the gate's level, by the solve's verdict, by how far it is off."""
    level = LEVELS.index(judged.verdict) if judged else 0
    off = max(seam.residual_px_p95 or 0.0, (judged.shift_px or 0.0) if judged else 0.0)
    return -float(level == 2), float(VERDICT_RANK[seam.verdict]), -off


def fields(facts: Facts) -> list[Figure]:
    """Each section's elastic displacement as a colour field, all on one scale."""
    if facts.run.manifest.acquisition.aligned:
        return []
    longest = _longest_px(facts)
    chosen = _evenly(len(facts.layouts), facts.run.parameters.finish.report_sections)
    figures = []
    for layout in (facts.layouts[i] for i in chosen):
        transform = facts.transforms[layout.section]
        _, moved = _bend(transform, cells=FIELD_CELLS)
        figures.append(
            Figure(
                label=layout.section,
                image=pictures.data_uri(pictures.flow_colours(moved, longest_px=longest), kind="png"),
                shape_yx=transform.shape_yx,
                note=f"{float(np.hypot(moved[..., 0], moved[..., 1]).max()):.1f} px",
            )
        )
    return figures


def most_bent(facts: Facts) -> list[Figure]:
    """The section that was bent most, with arrows."""
    if facts.run.manifest.acquisition.aligned:
        return []
    lengths = {x.section: _section_longest_px(facts, x) for x in facts.layouts}
    layout = max(facts.layouts, key=lambda x: (lengths[x.section], x.section))
    transform = facts.transforms[layout.section]
    grid, moved = _bend(transform, cells=FIELD_ARROWS)
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


def motion(facts: Facts) -> Markup:
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


def pair_plot(facts: Facts) -> tuple[list[str], Markup]:
    """Residual of every registered pair; near and far neighbours are series of their own, with names."""
    order = {s.section.id: i for i, s in enumerate(facts.run.sections)}
    series: dict[int, list[tuple[float, float]]] = {}
    for unit, value in facts.pair_residuals_px.items():
        a, b = (entry.section for entry in facts.run.pairs[unit])
        series.setdefault(order[b.id] - order[a.id], []).append((float(a.z), value))
    names = {1: "next section", 2: "second next", 3: "third next"}
    rows = [(names.get(step, f"{step} sections on"), sorted(series[step])) for step in sorted(series)]
    plot = plots.line_plot(rows, x_label="first section of the pair", y_label="residual p95, px")
    return [name for name, _ in rows], plot


def residual_scale(facts: Facts) -> float:
    """The residual drawn in the strongest colour: a pixel, or more where seams are worse."""
    values = [s.residual_px_p95 for x in facts.layouts for s in x.seams if s.residual_px_p95 is not None]
    return max(1.0, float(np.percentile(values, 98)) if values else 1.0)


def _bend(transform: SectionTransform, *, cells: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Grid (gy, gx, 2) of section px and its displacement, without the part that is affine."""
    grid, moved = transform.displacement_grid(max(transform.shape_yx) / cells)
    flat = np.column_stack([grid.reshape(-1, 2), np.ones(grid[..., 0].size)])
    linear, *_ = np.linalg.lstsq(flat, moved.reshape(-1, 2), rcond=None)
    return grid, moved - (flat @ linear).reshape(moved.shape)


def _affine(transform: SectionTransform) -> NDArray[np.float64]:
    """The affine map (2, 3; y, x, 1) nearest to a whole transform."""
    grid, _ = transform.displacement_grid(max(transform.shape_yx) / FIELD_ARROWS)
    points = grid.reshape(-1, 2)
    flat = np.column_stack([points, np.ones(len(points))])
    linear, *_ = np.linalg.lstsq(flat, transform.apply(points), rcond=None)
    return np.asarray(linear.T)


def stretch_and_turn(facts: Facts) -> Markup:
    """Each section's stretch along y and x, and its turn: what drifts when an alignment goes astray."""
    if facts.run.manifest.acquisition.aligned:
        return NOTHING
    rows = []
    for entry in facts.run.sections:
        a = _affine(facts.transforms[entry.section.id])
        stretch = (np.hypot(a[0, 0], a[1, 0]) - 1) * 100, (np.hypot(a[0, 1], a[1, 1]) - 1) * 100
        rows.append((float(entry.section.z), *stretch, float(np.degrees(np.arctan2(a[1, 0], a[0, 0])))))
    series = [(name, [(row[0], float(row[i])) for row in rows]) for i, name in enumerate(STRETCHES, start=1)]
    return plots.line_plot(series, x_label="section", y_label="%, degrees")


def _section_longest_px(facts: Facts, layout: SectionLayout) -> float:
    _, moved = _bend(facts.transforms[layout.section], cells=FIELD_ARROWS)
    return float(np.hypot(moved[..., 0], moved[..., 1]).max(initial=0.0))


def _longest_px(facts: Facts) -> float:
    return max((_section_longest_px(facts, layout) for layout in facts.layouts), default=1.0)


def _evenly(count: int, most: int) -> list[int]:
    """At most `most` indices, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / max(most - 1, 1)) for i in range(most)})
