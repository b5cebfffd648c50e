"""Draw each section into its row of the aligned volume: straight from the raw tiles, in one interpolation.

The stitched section is for registration and the report; its pixels are not resampled into the volume. A
section of an aligned stack is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from functions.model.geometry import Box
from functions.model.transform import SectionLayout
from functions.registration.blend import blend
from functions.registration.masks import Gray
from functions.stages import Stages
from functions.store.cells import UnitReport
from functions.store.drawing import chained_tiles, layout_reader, load_usable
from functions.store.run import Run
from functions.store.transforms import (
    CHUNK_PX,
    KINDS,
    aligned_volume_ref,
    load_layout,
    load_transform,
    section_volume,
)
from functions.store.volumes import Volume

Strips = Iterator[tuple[int, Gray, Gray]]


def units(run: Run) -> list[str]:
    """Ids of the usable sections; a missing section's row stays empty."""
    return [s.section.id for s in run.sections]


def compute(run: Run, unit: str) -> UnitReport:
    """Draw the section named `unit`.

    Raises:
        AcquisitionError: a tile has changed since ingest accepted it, or cannot be read any more.
        VolumeError: the section's layout or transform is missing.
    """
    entry = next(s for s in run.sections if s.section.id == unit)
    row = run.aligned.sections.index(entry.section.z)
    layout = load_layout(run, unit)
    height, width = run.aligned.volume.shape_zyx[1:]
    stages = Stages()
    if layout.exact_copy:
        strips = _copied(run, layout, (height, width))
    else:
        read = stages.timed("read", layout_reader(run, entry, layout).image)
        strips = _drawn(run, layout, read, (height, width))
    target = [Volume.create(run.work, aligned_volume_ref(run.aligned, kind)) for kind in KINDS]
    covered = 0
    with stages.stage("render"):
        for top, gray, inside in strips:
            box = Box(offset_zyx=(row, top, 0), shape_zyx=(1, *gray.shape))
            target[0].write(box, gray[None])
            target[1].write(box, inside[None])
            covered += int(inside.sum())
    figures = {"row": float(row), "covered_fraction": round(covered / (height * width), 4)}
    return UnitReport(figures=figures | stages.figures)


def _drawn(run: Run, layout: SectionLayout, read: Callable[[int], Gray], shape_yx: tuple[int, int]) -> Strips:
    """First row, grey values and mask of each strip, from the raw tiles."""
    tiles = chained_tiles(layout, load_transform(run, layout.section), load_usable(run, layout))
    return blend(tiles, read, shape_yx=shape_yx, strip_px=CHUNK_PX)


def _copied(run: Run, layout: SectionLayout, shape_yx: tuple[int, int]) -> Strips:
    """First row, grey values and mask of each strip: the section's own pixels in the volume's corner."""
    source = [Volume.open(run.work, section_volume(run, layout.section, n, layout.shape_yx)) for n in KINDS]
    height, width = layout.shape_yx
    for top in range(0, shape_yx[0], CHUNK_PX):
        strip = np.zeros((2, min(CHUNK_PX, shape_yx[0] - top), shape_yx[1]), np.uint8)
        rows, columns = min(strip.shape[1], height - top), min(shape_yx[1], width)
        if rows > 0:
            box = Box(offset_zyx=(0, top, 0), shape_zyx=(1, rows, columns))
            for plane, volume in zip(strip, source, strict=True):
                plane[:rows, :columns] = volume.read(box)[0]
        yield top, strip[0], strip[1]
