"""Draw each section into its row of the aligned volume: one interpolation from the stitched image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from functions.model.geometry import Box
from functions.model.transform import SectionTransform
from functions.registration.warp import dense_coordinates, pull, source_box
from functions.stages import Stages
from functions.store.cells import UnitReport
from functions.store.run import AlignedVolume, Run
from functions.store.transforms import (
    CHUNK_PX,
    KINDS,
    aligned_volume_ref,
    load_layout,
    load_transform,
    section_volume,
)
from functions.store.volumes import Volume


def units(run: Run) -> list[str]:
    """Ids of the usable sections; a missing section's row stays empty."""
    return [s.section.id for s in run.sections]


def compute(run: Run, unit: str) -> UnitReport:
    """Draw the section named `unit`."""
    aligned = run.aligned
    entry = next(s for s in run.sections if s.section.id == unit)
    row = aligned.sections.index(entry.section.z)
    transform, stages = load_transform(run, unit), Stages()
    with stages.stage("render"):
        covered = _draw(run, aligned, row, transform)
    height, width = aligned.volume.shape_zyx[1:]
    figures = {"row": float(row), "covered_fraction": round(covered / (height * width), 4)}
    return UnitReport(figures=figures | stages.figures)


def _draw(run: Run, aligned: AlignedVolume, row: int, transform: SectionTransform) -> int:
    """Write image and mask of one row, strip by strip; returns the number of covered pixels."""
    layout = load_layout(run, transform.section)
    source = [Volume.open(run.work, section_volume(run, layout.section, n, layout.shape_yx)) for n in KINDS]
    target = [Volume.create(run.work, aligned_volume_ref(aligned, n)) for n in KINDS]
    height, width = aligned.volume.shape_zyx[1:]
    covered = 0
    for top in range(0, height, CHUNK_PX):
        rows = min(CHUNK_PX, height - top)
        gray, inside = _strip(source, transform, top, (rows, width))
        box = Box(offset_zyx=(row, top, 0), shape_zyx=(1, rows, width))
        target[0].write(box, gray[None])
        target[1].write(box, inside.astype(np.uint8)[None])
        covered += int(inside.sum())
    return covered


def _strip(
    source: list[Volume], transform: SectionTransform, top: int, shape_yx: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Grey values and mask of a strip; the identity copies pixels."""
    gray, inside = np.zeros(shape_yx, np.uint8), np.zeros(shape_yx, np.bool_)
    height, width = transform.shape_yx
    if transform.warp.is_identity:
        rows, columns = min(shape_yx[0], height - top), min(shape_yx[1], width)
        if rows > 0:
            box = Box(offset_zyx=(0, top, 0), shape_zyx=(1, rows, columns))
            gray[:rows, :columns] = source[0].read(box)[0]
            inside[:rows, :columns] = source[1].read(box)[0] > 0
        return gray, inside
    coordinates = dense_coordinates(transform.inverse, (top, 0), shape_yx)
    part = source_box(coordinates, (height, width))
    if part is None:
        return gray, inside
    box = Box(
        offset_zyx=(0, part[0].start, part[1].start),
        shape_zyx=(1, part[0].stop - part[0].start, part[1].stop - part[1].start),
    )
    value, inside = pull(source[0].read(box)[0], source[1].read(box)[0] > 0, coordinates, part)
    return np.rint(np.clip(value, 0, 255)).astype(np.uint8), inside
