"""The verdict on a registered stack: `registration_gate.json`, and what is told of each section and pair."""

from __future__ import annotations

from typing import Literal

from functions.model.base import Document
from functions.model.parameters import GateParameters

FORMAT: Literal["petavoxel.registration-gate/1"] = "petavoxel.registration-gate/1"
Level = Literal["pass", "look", "fail"]
LEVELS: tuple[Level, Level, Level] = ("pass", "look", "fail")
REASONS = {
    "seam_residual": "matches of the seam disagree by {value} px (95th percentile; limit {limit} px)",
    "seam_shift": "the two tiles' images fit best {value} px away from where they lie (limit {limit} px)",
    "seam_unlike": "{value} of the seam's windows show different things in the two tiles (limit {limit})",
    "tile_displaced": "{value} of the tile's seams do not fit (limit {limit})",
    "tiles_by_stage": "{value} of the section's tiles lie where the stage says, unregistered (limit {limit})",
    "pair_residual": "matches of the pair disagree by {value} px (95th percentile; limit {limit} px)",
    "pair_shift": "the sections' images fit best {value} px away from where they lie (limit {limit} px)",
    "pair_displaced": "{value} of the windows fit better elsewhere than where they lie (limit {limit})",
    "pair_unlike": "{value} of the windows show different things in the two sections (limit {limit})",
    "coverage": "matches hold {value} of what there is to see (at least {limit})",
    "confidence": "median correlation of the matches is {value} (at least {limit})",
    "interpolated": "no pair ties the section to the stack; it was placed between its neighbours",
    "out_of_place": "it does not fit the sections next to it (the pair named is the worse one)",
    "bad_share": "{value} of the sections do not fit (limit {limit})",
    "interpolated_share": "{value} of the sections are tied by no pair (limit {limit})",
}
"""What each code says; `{value}` and `{limit}` are put in."""
SHARES = {
    "seam_unlike", "tile_displaced", "tiles_by_stage", "pair_displaced", "pair_unlike", "coverage",
    "bad_share", "interpolated_share",
}  # fmt: skip
"""Codes whose value and limit are shares: told in percent."""


class Reason(Document):
    """Why something is not passed: `subject` names section, seam, tile or pair."""

    level: Level
    code: str
    subject: str
    value: float = 0.0
    limit: float = 0.0

    @property
    def text(self) -> str:
        """The reason in words."""
        if self.code in SHARES:
            value, limit = f"{100 * self.value:.3g} %", f"{100 * self.limit:g} %"
        else:
            value, limit = f"{self.value:.3g}", f"{self.limit:g}"
        return REASONS[self.code].format(value=value, limit=limit)


class SeamVerdict(Document):
    """One overlap: the solve's own figures, and what the two images say where they lie."""

    a: str
    b: str
    centre_yx: tuple[float, float]
    verdict: Level
    residual_px_p95: float | None = None
    windows: int = 0
    ncc: float | None = None
    shift_px: float | None = None
    """How far away the images fit best; None where too few windows say so."""


class SectionVerdict(Document):
    """One section. `confidence` and `coverage` are those of its best pair."""

    section: str
    z: int
    verdict: Level
    placed: str
    tiles: int = 0
    tiles_by_stage: int = 0
    residual_px_p95: float | None = None
    """Of its worst seam in use."""
    ncc: float | None = None
    """Median of its seams' windows."""
    shift_px: float | None = None
    """Of its worst seam, by its images."""
    confidence: float | None = None
    coverage: float | None = None
    seams: tuple[SeamVerdict, ...] = ()
    reasons: tuple[Reason, ...] = ()


class PairVerdict(Document):
    """A registered pair. What images say is measured between sections that follow each other only."""

    pair: str
    verdict: Level
    steps: int = 1
    """1: the next usable section."""
    matches: int = 0
    residual_px_p95: float | None = None
    """Of its matches under the solved transforms."""
    confidence: float | None = None
    windows: int = 0
    ncc: float | None = None
    shift_px: float | None = None
    displaced: float | None = None
    """Share of windows that fit better elsewhere."""
    unlike: float | None = None
    """Share of windows that correlate far less than is usual in this stack."""
    reasons: tuple[Reason, ...] = ()


class GateDocument(Document):
    """`registration_gate.json`."""

    format: Literal["petavoxel.registration-gate/1"] = FORMAT
    verdict: Level
    judged: bool = True
    """False for a stack that came aligned: there is nothing of ours to judge."""
    figures: dict[str, float] = {}
    reasons: tuple[Reason, ...] = ()
    """Of the stack as a whole."""
    limits: GateParameters
    sections: tuple[SectionVerdict, ...] = ()
    pairs: tuple[PairVerdict, ...] = ()

    @property
    def every_reason(self) -> tuple[Reason, ...]:
        """All reasons, failures first, those of the whole before those of sections and pairs."""
        told = [r for part in (self.sections, self.pairs) for row in part for r in row.reasons]
        return tuple(sorted((*self.reasons, *told), key=lambda r: -LEVELS.index(r.level)))


def worst(levels: list[Level]) -> Level:
    """The worst of some levels; pass without any."""
    return max(levels, key=LEVELS.index, default="pass")
