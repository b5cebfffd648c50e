"""Draw each section into its row of the aligned volume: straight from the raw tiles, in one interpolation.

The stitched section is for registration and the report; its pixels are not resampled into the volume. A
section of an aligned stack is copied. In the same pass the artefact codes that stitching found are put where
the image is: no tile is read for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from functions.budget import tile_cache_bytes
from functions.model.artefacts import NAMES
from functions.model.geometry import Box
from functions.model.transform import SectionLayout, SectionTransform
from functions.registration.blend import blend
from functions.registration.codes import pull_codes
from functions.registration.masks import Gray
from functions.stages import Stages
from functions.store.artefacts import load_artefacts
from functions.store.cells import UnitReport
from functions.store.drawing import chained_tiles, layout_reader, load_usable
from functions.store.run import Run
from functions.store.transforms import (
    ALIGNED_KINDS,
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
        VolumeError: the section's layout, codes or transform are missing.
    """
    entry = next(s for s in run.sections if s.section.id == unit)
    row = run.aligned.sections.index(entry.section.z)
    layout, transform, cells = load_layout(run, unit), load_transform(run, unit), load_artefacts(run, unit)
    height, width = run.aligned.volume.shape_zyx[1:]
    stages = Stages()
    if layout.exact_copy:
        strips = _copied(run, layout, (height, width))
    else:
        reader = layout_reader(run, entry, layout, cache_bytes=tile_cache_bytes(run))
        read = stages.timed("read", reader.image)
        strips = _drawn(run, layout, transform, read, (height, width))
    target = [Volume.create(run.work, aligned_volume_ref(run.aligned, kind)) for kind in ALIGNED_KINDS]
    counts = np.zeros(len(NAMES), np.int64)
    with stages.stage("render"):
        for top, gray, inside in strips:
            codes = pull_codes(cells, transform.warp, layout.shape_yx, top=top, covered=inside > 0)
            box = Box(offset_zyx=(row, top, 0), shape_zyx=(1, *gray.shape))
            for volume, plane in zip(target, (gray, inside, codes), strict=True):
                volume.write(box, plane[None])
            counts += [np.count_nonzero(codes == code) for code in range(len(NAMES))]
    return UnitReport(figures={"row": float(row)} | _fractions(counts) | stages.figures)


def _fractions(counts: NDArray[np.int64]) -> dict[str, float]:
    """Covered share of the row, and of that, the share of everything but tissue."""
    covered = int(counts[1:].sum())
    shares = {
        f"{name}_fraction": round(int(n) / max(covered, 1), 4)
        for name, n in zip(NAMES[2:], counts[2:], strict=True)
    }
    return {"covered_fraction": round(covered / int(counts.sum()), 4), **shares}


def _drawn(
    run: Run,
    layout: SectionLayout,
    transform: SectionTransform,
    read: Callable[[int], Gray],
    shape_yx: tuple[int, int],
) -> Strips:
    """First row, grey values and mask of each strip, from the raw tiles."""
    tiles = chained_tiles(layout, transform, load_usable(run, layout))
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
