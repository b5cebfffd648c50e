"""What a report shows of the gate: verdicts, maps of what images share, drift along z, before and after.

Everything here is bounded, whatever the number of sections and tiles: the report stays a page.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from functions.model.gate import LEVELS, PairVerdict, Reason, SeamVerdict, SectionVerdict
from functions.model.transform import SectionLayout
from functions.publication import pictures, planes, plots
from functions.publication.facts import Facts
from functions.registration.evidence import Windows
from functions.store.evidence import load_pair, load_seams
from functions.store.tiles import TileReader

SHOWN_REASONS = 100
SHOWN_PAIRS = 6
MAP_SEAMS = 4000
"""Dots on the maps of all sections together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """A place before and after: two pictures in one frame."""

    label: str
    before: str
    after: str
    before_note: str
    after_note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Map:
    """A drawn map and what stands below it."""

    label: str
    note: str
    drawing: Markup
    level: str


def reasons(facts: Facts) -> tuple[Reason, ...]:
    """The gate's reasons, failures first."""
    return facts.gate.every_reason[:SHOWN_REASONS]


def section_rows(facts: Facts) -> list[tuple[SectionVerdict, PairVerdict | None]]:
    """Every section with the pair that leads to the next one; the worst of them where there are too many."""
    following = {p.pair.split("-")[0]: p for p in facts.gate.pairs if p.steps == 1}
    rows = [(verdict, following.get(verdict.section)) for verdict in facts.gate.sections]
    ranked = sorted(rows, key=lambda row: _rank(row[0], row[1]))[
        : facts.run.parameters.finish.report_sections
    ]
    return sorted(ranked, key=lambda row: row[0].z)


def _rank(section: SectionVerdict, pair: PairVerdict | None) -> tuple[float, ...]:
    levels = [LEVELS.index(section.verdict), LEVELS.index(pair.verdict) if pair else 0]
    off = [section.shift_px, section.residual_px_p95, pair.shift_px if pair else None]
    return (-max(levels), -max((value for value in off if value is not None), default=0.0), section.z)


def section_maps(facts: Facts, worst_px: float) -> list[Map]:
    """Each section's seams as dots, by what their images say; the worst sections where there are too many."""
    layouts = {layout.section: layout for layout in facts.layouts if layout.seams}
    ranked = sorted(facts.gate.sections, key=lambda verdict: _rank(verdict, None))
    chosen, left = [], MAP_SEAMS
    for verdict in ranked[: facts.run.parameters.finish.report_sections]:
        if verdict.section in layouts and len(verdict.seams) <= left:
            chosen.append(verdict)
            left -= len(verdict.seams)
    return [
        Map(
            label=str(verdict.z),
            note="–" if verdict.shift_px is None else f"{verdict.shift_px:.2f} px",
            drawing=plots.small_map(
                layouts[verdict.section], [_off(s) for s in verdict.seams], worst_px=worst_px
            ),
            level=verdict.verdict,
        )
        for verdict in sorted(chosen, key=lambda verdict: verdict.z)
    ]


def _off(seam: SeamVerdict) -> float | None:
    """How far a seam is off: by its images, else by its matches."""
    return seam.shift_px if seam.shift_px is not None else seam.residual_px_p95


def seam_windows(facts: Facts, layout: SectionLayout) -> list[Windows]:
    """What was measured along each seam of a section; nothing where the stack came aligned."""
    return load_seams(facts.run, layout.section, len(layout.seams)) if facts.gate.judged else []


def worst_place(windows: Windows, centre_yx: tuple[float, float]) -> tuple[float, float]:
    """Where a seam is worst: the window that is farthest off, else the one least alike, else its middle."""
    if not len(windows):
        return centre_yx
    length = np.where(windows.sure, np.linalg.norm(windows.shift_yx_px, axis=1), 0.0)
    k = int(np.argmax(length)) if length.max() > 1.0 else int(np.argmin(windows.ncc))
    return float(windows.centre_yx[k, 0]), float(windows.centre_yx[k, 1])


def pair_maps(facts: Facts) -> list[Map]:
    """The pairs of following sections that share least, window by window."""
    near = [p for p in facts.gate.pairs if p.steps == 1 and p.windows]
    near.sort(key=lambda p: (-LEVELS.index(p.verdict), -(p.displaced or 0.0), p.ncc or 0.0, p.pair))
    shape = facts.image.shape_zyx[1:]
    return [
        Map(
            label=p.pair,
            note=f"correlation {p.ncc:.2f}, {100 * (p.displaced or 0):.0f} % displaced",
            drawing=plots.pair_map(load_pair(facts.run, p.pair), shape, label=f"What {p.pair} share"),
            level=p.verdict,
        )
        for p in near[:SHOWN_PAIRS]
    ]


def agreement(facts: Facts) -> Markup:
    """Correlation of each section with the next, where they lie."""
    z = {s.section: s.z for s in facts.gate.sections}
    near = [p for p in facts.gate.pairs if p.steps == 1 and p.ncc is not None]
    points = [(float(z[p.pair.split("-")[0]]), float(p.ncc or 0.0)) for p in near]
    return plots.line_plot([("correlation", points)], x_label="section", y_label="correlation with next")


def image_drift(facts: Facts) -> Markup:
    """Shifts that images show between following sections, added up along z: what creeps in, px."""
    z = {s.section: s.z for s in facts.gate.sections}
    total, rows = np.zeros(2), []
    for pair in (p for p in facts.gate.pairs if p.steps == 1):
        windows = load_pair(facts.run, pair.pair)
        if windows.shift_px is not None:
            total = total + np.median(windows.shift_yx_px[windows.sure], axis=0)
        rows.append((float(z[pair.pair.split("-")[1]]), float(total[0]), float(total[1])))
    series = [("y", [(r[0], r[1]) for r in rows]), ("x", [(r[0], r[2]) for r in rows])]
    return plots.line_plot(series, x_label="section", y_label="added-up shift, px")


def steps(facts: Facts) -> Markup:
    """How far each section's centre moved against the one before, and how far it was bent on average, px."""
    rows: list[tuple[float, float, float]] = []
    before: NDArray[np.float64] | None = None
    for entry, layout in zip(facts.run.sections, facts.layouts, strict=True):
        transform = facts.transforms[layout.section]
        centre = np.array([[n / 2 for n in transform.shape_yx]])
        move = (transform.apply(centre) - centre - layout.stage_origin_yx_px)[0]
        _, bend = transform.displacement_grid(max(transform.shape_yx) / 16)
        against = 0.0 if before is None else float(np.linalg.norm(move - before))
        rows.append((float(entry.section.z), against, float(np.linalg.norm(bend, axis=-1).mean())))
        before = move
    series = [("moved", [(r[0], r[1]) for r in rows]), ("bent", [(r[0], r[2]) for r in rows])]
    return plots.line_plot(series, x_label="section", y_label="px")


def flips(facts: Facts) -> list[Flip]:
    """The volume cut along z before and after; and the worst seam by stage and as solved."""
    found = []
    voxel = facts.image.voxel_size_zyx_nm
    for cut in planes.reslices(facts):
        shape = max(1, round(cut.after.shape[0] * voxel[0] / voxel[1])), cut.after.shape[1]
        both = [np.asarray(pictures.resize(p, shape, smooth=False)) for p in (cut.before, cut.after)]
        found.append(
            Flip(
                label=f"{cut.axes} through the middle, one row a section",
                before=pictures.data_uri(both[0], kind="jpeg"),
                after=pictures.data_uri(both[1], kind="jpeg"),
                before_note=f"{cut.axes} as the stage placed it",
                after_note=f"{cut.axes} aligned",
            )
        )
    return [flip for flip in (*found, _stage_flip(facts)) if flip is not None]


def _stage_flip(facts: Facts) -> Flip | None:
    """Around the worst seam of the worst section; None where there is no seam, or its tiles are gone."""
    layouts = {layout.section: layout for layout in facts.layouts}
    ranked = sorted(facts.gate.sections, key=lambda verdict: _rank(verdict, None))
    verdict = next((v for v in ranked if v.seams), None)
    if verdict is None:
        return None
    layout = layouts[verdict.section]
    worst = max(
        range(len(verdict.seams)),
        key=lambda k: (LEVELS.index(verdict.seams[k].verdict), _off(verdict.seams[k]) or 0.0),
    )
    seam = verdict.seams[worst]
    section = next(s.section for s in facts.run.sections if s.section.id == verdict.section)
    voxel = facts.image.voxel_size_zyx_nm
    both = planes.staged_and_solved(
        TileReader(facts.run.acquisition_folder, section),
        section,
        layout,
        (voxel[1], voxel[2]),
        centre_yx=worst_place(seam_windows(facts, layout)[worst], seam.centre_yx),
    )
    if not both:
        return None
    return Flip(
        label=f"{verdict.section}, around seam {seam.a} / {seam.b}; {both[0].shape[1]} px wide",
        before=pictures.data_uri(both[0], kind="jpeg"),
        after=pictures.data_uri(both[1], kind="jpeg"),
        before_note="tiles where the stage put them",
        after_note="tiles as stitched",
    )
