"""The done marks of a step's units, wherever their cells are, and what they say about bytes and memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from functions.store.cells import Mark
from functions.store.measured import PEAK
from functions.store.run import Run
from functions.store.traffic import FIGURES
from functions.tasks import StepName

PER_VOXEL = ("read_bytes", "written_bytes")


def marks_of(run: Run, step: StepName) -> Iterator[Mark]:
    """Marks of a step's finished units, in the order of their names.

    Raises:
        PetavoxelError: an earlier step has not run, so nobody knows the units; or a mark is damaged.
    """
    if step == "stitch":
        units = [(run.cell(step, s.section.id), s.section.id) for s in run.sections]
    elif step == "align_pairs":
        units = [(run.cell(step, unit), unit) for unit in run.pairs]
    else:
        yield from run.cell(step).marks()
        return
    for cell, unit in units:
        if cell.is_done(unit):
            yield cell.mark(unit)


def traffic_of(marks: Iterable[Mark]) -> dict[str, float]:
    """Bytes that units read and wrote, added up, and the largest of their peaks, as far as marks tell."""
    totals: dict[str, float] = {}
    for mark in marks:
        for name in FIGURES:
            if name in mark.figures:
                totals[name] = totals.get(name, 0.0) + mark.figures[name]
        if PEAK in mark.figures:
            totals[PEAK] = max(totals.get(PEAK, 0.0), mark.figures[PEAK])
    return totals


def per_voxel(totals: dict[str, float], voxels: int) -> dict[str, float]:
    """Stored bytes that a step moved for each voxel of the volume."""
    return {
        f"{name}_per_voxel": round(totals[name] / voxels, 4)
        for name in PER_VOXEL
        if name in totals and voxels
    }
