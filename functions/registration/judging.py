"""From figures of a registered stack to verdicts with reasons. No pixels, no files.

seams ─► section ─┐        a section is out of place when it fits neither neighbour;
                  ├─► whole    a pair that does not fit and has no such section is a break in the stack
pairs ─► section ─┘
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from functions.model.gate import (
    LEVELS,
    GateDocument,
    Level,
    PairVerdict,
    Reason,
    SeamVerdict,
    SectionVerdict,
    worst,
)
from functions.model.parameters import GateParameters
from functions.registration.evidence import NO_WINDOWS, Windows


@dataclass(frozen=True, slots=True, kw_only=True)
class SeamFigures:
    """An overlap; `used`: its matches hold the tiles."""

    a: str
    b: str
    centre_yx: tuple[float, float]
    used: bool
    residual_px_p95: float | None
    windows: Windows = NO_WINDOWS


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionFigures:
    """A section; `by_stage` are ids of tiles that nothing registers. Coverage and confidence: best pair's."""

    section: str
    z: int
    placed: str
    tiles: int
    by_stage: tuple[str, ...] = ()
    seams: tuple[SeamFigures, ...] = ()
    confidence: float | None = None
    coverage: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PairFigures:
    """A pair `steps` usable sections apart; `gap`: z indices from a to b. Images are compared at one step."""

    pair: str
    a: str
    b: str
    steps: int
    gap: int
    matches: int
    residual_px_p95: float | None
    confidence: float | None
    windows: Windows | None = None
    """None where the images were not compared."""


def judge_section(figures: SectionFigures, limits: GateParameters) -> SectionVerdict:
    """The verdict on a section as it was stitched, and on how its pairs hold it where that is known."""
    measured = np.concatenate([seam.windows.ncc for seam in figures.seams] or [np.zeros(0)])
    usual = float(np.median(measured)) if len(measured) else 0.0
    seams, reasons = [], []
    for seam in figures.seams:
        found = _seam_reasons(figures.section, seam, limits, usual)
        reasons += found
        seams.append(_seam_verdict(seam, worst([r.level for r in found])))
    reasons += _tile_reasons(figures.section, seams)
    reasons += _held_reasons(figures, limits)
    used = [s.residual_px_p95 for s in figures.seams if s.used and s.residual_px_p95 is not None]
    return SectionVerdict(
        section=figures.section,
        z=figures.z,
        verdict=worst([r.level for r in reasons]),
        placed=figures.placed,
        tiles=figures.tiles,
        tiles_by_stage=len(figures.by_stage),
        residual_px_p95=max(used, default=None),
        ncc=_short(usual) if len(measured) else None,
        shift_px=max((s.shift_px for s in seams if s.shift_px is not None), default=None),
        confidence=_short(figures.confidence),
        coverage=_short(figures.coverage),
        seams=tuple(seams),
        reasons=tuple(reasons),
    )


def judge_pair(
    figures: PairFigures, limits: GateParameters, *, usual_ncc: float, held: bool = True
) -> PairVerdict:
    """The verdict on a pair; `held`: matches are said to tie both sections to the stack."""
    w = figures.windows or NO_WINDOWS
    shift = w.shift_px
    look, fail = (px * figures.gap for px in (limits.shift_look_px, limits.shift_fail_px))
    moved = [float(w.displaced(px).mean()) if len(w) else None for px in (look, fail)]
    unlike = float(w.unlike(usual_ncc).mean()) if len(w) and figures.gap == 1 else None
    apart = (limits.pair_look_px * figures.gap, limits.pair_fail_px * figures.gap)
    reasons = _over(figures.pair, "pair_residual", figures.residual_px_p95, *apart)
    reasons += _over(figures.pair, "pair_shift", shift, look, fail)
    displaced = _over(figures.pair, "pair_displaced", moved[1], 1.0, limits.displaced_fail)
    reasons += displaced or _over(figures.pair, "pair_displaced", moved[0], limits.displaced_look, 1.0)
    reasons += _over(
        figures.pair, "pair_unlike", unlike, limits.unlike_look, limits.unlike_fail if held else 1.0
    )
    return PairVerdict(
        pair=figures.pair,
        verdict=worst([r.level for r in reasons]),
        steps=figures.steps,
        matches=figures.matches,
        residual_px_p95=_short(figures.residual_px_p95),
        confidence=_short(figures.confidence),
        windows=len(w),
        ncc=_short(w.median_ncc),
        shift_px=_short(shift),
        displaced=_short(moved[0]),
        unlike=_short(unlike),
        reasons=tuple(reasons),
    )


def judge_stack(
    sections: Sequence[SectionFigures], pairs: Sequence[PairFigures], limits: GateParameters
) -> GateDocument:
    """The verdicts on every section and pair, and on the whole."""
    near = [p.windows.ncc for p in pairs if p.windows is not None and p.gap == 1]
    measured = np.concatenate(near) if near else np.zeros(0)
    usual = float(np.median(measured)) if len(measured) else 0.0
    loose = {s.section for s in sections if s.placed == "interpolated"}
    judged = [
        judge_pair(p, limits, usual_ncc=usual, held=not {p.a, p.b} & loose and p.matches > 0) for p in pairs
    ]
    levels = {(p.a, p.b): verdict.verdict for p, verdict in zip(pairs, judged, strict=True) if p.steps == 1}
    astray, breaks = _astray([s.section for s in sections], levels)
    verdicts = [_with_place(judge_section(s, limits), astray.get(s.section)) for s in sections]
    bad = sum(v.verdict == "fail" for v in verdicts) + breaks
    count = max(len(sections), 1)
    reasons = [
        r
        for code, share, limit in (
            ("bad_share", bad / count, limits.bad_sections_fail),
            ("interpolated_share", len(loose) / count, limits.interpolated_fail),
        )
        for r in _over("the stack", code, share, limit, limit)
    ]
    any_look = {"look", "fail"} & {*(v.verdict for v in verdicts), *(p.verdict for p in judged)}
    figures = {"sections": float(len(sections)), "sections_failed": float(bad)}
    figures |= {f"sections_{k}": float(sum(v.verdict == k for v in verdicts)) for k in LEVELS[:2]}
    figures["sections_interpolated"] = float(len(loose))
    if len(measured):
        figures["neighbour_ncc_median"] = round(usual, 4)
    return GateDocument(
        verdict=worst([*(r.level for r in reasons), "look" if any_look else "pass"]),
        figures=figures,
        reasons=tuple(reasons),
        limits=limits,
        sections=tuple(verdicts),
        pairs=tuple(judged),
    )


def _astray(
    order: Sequence[str], levels: dict[tuple[str, str], Level]
) -> tuple[dict[str, tuple[Level, str]], int]:
    """Sections that fit no neighbour, with level and pair, and the failed pairs that none of them explains.

    A section between two others is out of place when it fits neither; the first and the last when they do not
    fit their only neighbour and that one fits its other neighbour.
    """
    near = list(pairwise(order))
    rank = [LEVELS.index(levels[pair]) if pair in levels else 0 for pair in near]
    found: dict[str, tuple[Level, str]] = {}
    for k in range(1, len(order) - 1):
        level = min(rank[k - 1], rank[k])
        if level > 0:
            pair = near[k - 1] if rank[k - 1] >= rank[k] else near[k]
            found[order[k]] = (LEVELS[level], "-".join(pair))
    between = set(found)
    for k, end, inner in ((0, 0, 1), (-1, len(order) - 1, len(order) - 2)):
        if near and rank[k] > 0 and order[inner] not in between:
            found[order[end]] = (LEVELS[rank[k]], "-".join(near[k]))
    breaks = sum(
        r == 2 and not any(found.get(s, ("pass", ""))[0] == "fail" for s in pair)
        for pair, r in zip(near, rank, strict=True)
    )
    return found, breaks


def _with_place(verdict: SectionVerdict, astray: tuple[Level, str] | None) -> SectionVerdict:
    """The section's verdict with what its neighbours say of it."""
    if astray is None:
        return verdict
    subject = f"{verdict.section}: pair {astray[1]}"
    reason = Reason(level=astray[0], code="out_of_place", subject=subject)
    update = {"verdict": worst([verdict.verdict, reason.level]), "reasons": (*verdict.reasons, reason)}
    return verdict.model_copy(update=update)


def _seam_reasons(section: str, seam: SeamFigures, limits: GateParameters, usual_ncc: float) -> list[Reason]:
    """What is wrong with an overlap; matches that the solve left out hold nothing and are not judged."""
    subject = f"{section}: seam {seam.a} / {seam.b}"
    look, fail = limits.seam_look_px, limits.seam_fail_px
    reasons = _over(subject, "seam_residual", seam.residual_px_p95 if seam.used else None, look, fail)
    reasons += _over(subject, "seam_shift", seam.windows.shift_px, look, fail)
    if seam.used and len(seam.windows):
        unlike = float(seam.windows.unlike(usual_ncc).mean())
        reasons += _over(subject, "seam_unlike", unlike, limits.unlike_look, limits.unlike_fail)
    return reasons


def _seam_verdict(seam: SeamFigures, level: Level) -> SeamVerdict:
    return SeamVerdict(
        a=seam.a,
        b=seam.b,
        centre_yx=seam.centre_yx,
        verdict=level,
        residual_px_p95=seam.residual_px_p95,
        windows=len(seam.windows),
        ncc=_short(seam.windows.median_ncc),
        shift_px=_short(seam.windows.shift_px),
    )


def _tile_reasons(section: str, seams: Sequence[SeamVerdict]) -> list[Reason]:
    """Tiles of which most seams fail: the one that is out of place, rather than its neighbours."""
    out = []
    for tile in sorted({name for seam in seams for name in (seam.a, seam.b)}):
        own = [seam.verdict for seam in seams if tile in (seam.a, seam.b) and seam.windows]
        share = own.count("fail") / len(own) if own else 0.0
        if share > 0.5:
            out.append(
                Reason(
                    level="fail",
                    code="tile_displaced",
                    subject=f"{section}: tile {tile}",
                    value=share,
                    limit=0.5,
                )
            )
    return out


def _held_reasons(figures: SectionFigures, limits: GateParameters) -> list[Reason]:
    """How much of a section is held by matches, and how surely."""
    name = figures.section
    if figures.placed == "interpolated":
        held = [Reason(level="look", code="interpolated", subject=name)]
    else:
        held = [
            *_under(name, "coverage", figures.coverage, limits.coverage_look, limits.coverage_fail),
            *_under(name, "confidence", figures.confidence, limits.confidence_look, limits.confidence_fail),
        ]
    share = len(figures.by_stage) / max(figures.tiles, 1)
    return held + _over(name, "tiles_by_stage", share, limits.stage_tiles_look, limits.stage_tiles_fail)


def _over(subject: str, code: str, value: float | None, look: float, fail: float) -> list[Reason]:
    """A reason where a value is above a limit."""
    if value is None or value <= min(look, fail):
        return []
    level: Level = "fail" if value > fail else "look"
    limit = fail if level == "fail" else look
    return [Reason(level=level, code=code, subject=subject, value=round(value, 4), limit=limit)]


def _under(subject: str, code: str, value: float | None, look: float, fail: float) -> list[Reason]:
    """A reason where a value is below a limit."""
    if value is None or value >= look:
        return []
    level: Level = "fail" if value < fail else "look"
    limit = fail if level == "fail" else look
    return [Reason(level=level, code=code, subject=subject, value=round(value, 4), limit=limit)]


def _short(value: float | None) -> float | None:
    return None if value is None else round(float(value), 4)
