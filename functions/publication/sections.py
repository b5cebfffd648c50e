"""`sections.json`: how good each section of a published volume is, a row each, for programs to choose by.

Verdicts and the codes of their reasons are the gate's; what an artefact covers is counted where it was drawn.
"""

from __future__ import annotations

from typing import Literal

from functions.model.artefacts import NAMES
from functions.model.base import Document
from functions.model.gate import Level
from functions.publication.facts import Facts

COVERED = "covered_fraction"


class SectionRow(Document):
    """One section; None where nothing was measured, as for a stack that came aligned."""

    section: str
    z: int
    """Of the acquisition."""
    row: int
    """z of the volume."""
    verdict: Level | None
    """The gate's; None where the stack came aligned."""
    reasons: tuple[str, ...]
    """Codes of the gate's reasons."""
    placed: str
    tiles: int
    residual_px_p95: float | None
    """Of its worst seam in use."""
    shift_px: float | None
    """Of its worst seam, by its images."""
    confidence: float | None
    """Median correlation of its best pair's matches."""
    coverage: float | None
    """Share of its windows with a match near by."""
    covered_fraction: float | None
    """Share of its row of the volume that shows a picture."""
    artefacts: dict[str, float]
    """Share of the picture by code."""


class SectionsDocument(Document):
    """`sections.json`."""

    format: Literal["petavoxel.sections/1"] = "petavoxel.sections/1"
    missing: tuple[int, ...]
    """z indices of the acquisition without any picture."""
    sections: tuple[SectionRow, ...]


def section_table(facts: Facts) -> SectionsDocument:
    """The rows of all sections, ascending in z."""
    drawn = {mark.unit: mark.figures for mark in facts.marks["align_render"]}
    rows = facts.run.aligned.sections
    table = []
    for entry, layout in zip(facts.run.sections, facts.layouts, strict=True):
        section, figures = entry.section, drawn.get(layout.section, {})
        judged = facts.verdicts.get(section.id)
        table.append(
            SectionRow(
                section=section.id,
                z=section.z,
                row=rows.index(section.z),
                verdict=None if judged is None else judged.verdict,
                reasons=() if judged is None else tuple(reason.code for reason in judged.reasons),
                placed=facts.transforms[section.id].placed,
                tiles=len(layout.tiles),
                residual_px_p95=layout.residual_px_p95 if judged is None else judged.residual_px_p95,
                shift_px=None if judged is None else judged.shift_px,
                confidence=None if judged is None else judged.confidence,
                coverage=None if judged is None else judged.coverage,
                covered_fraction=figures.get(COVERED),
                artefacts=_shares(figures),
            )
        )
    present = {entry.section.z for entry in facts.run.sections}
    return SectionsDocument(missing=tuple(z for z in rows if z not in present), sections=tuple(table))


def _shares(figures: dict[str, float]) -> dict[str, float]:
    """What the mark of a drawn section says of each artefact."""
    names = {f"{name}_fraction": name for name in NAMES[2:]}
    return {name: figures[key] for key, name in names.items() if key in figures}
