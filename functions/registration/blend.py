"""Blend the tiles of a section, strip by strip."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from functions.model.transform import Warp
from functions.registration.masks import CELL_PX, Gray, Mask, enlarge
from functions.registration.warp import MARGIN_PX, dense_coordinates, sample, step_for

Floats = NDArray[np.float32]
FEATHER_CELLS = 64
POWER = 4
"""Weights grow with this power of the distance to the rim: the change-over is narrow and lies in the
middle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedTile:
    """A tile to draw: `usable` on cells of 8 px; grey values become gain * v + offset."""

    warp: Warp
    shape_yx: tuple[int, int]
    usable: Mask
    gain: float
    offset: float

    def rim(self) -> NDArray[np.float64]:
        """Points (N, 2) along the border, in section px."""
        h, w = self.shape_yx
        t = np.linspace(0.0, 1.0, 17)
        edges = [
            (0 * t, t * (w - 1)),
            (0 * t + h - 1, t * (w - 1)),
            (t * (h - 1), 0 * t),
            (t * (h - 1), 0 * t + w - 1),
        ]
        return self.warp.apply(np.concatenate([np.stack(e, axis=1) for e in edges]))


def frame(tiles: Sequence[PlacedTile]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Upper left corner and shape, in px, of the box that holds all tiles."""
    points = np.concatenate([tile.rim() for tile in tiles])
    low = np.floor(points.min(axis=0) + 1e-6).astype(int)
    high = np.ceil(points.max(axis=0) - 1e-6).astype(int) + 1
    return (int(low[0]), int(low[1])), (int(high[0] - low[0]), int(high[1] - low[1]))


def blend(
    tiles: Sequence[PlacedTile],
    read: Callable[[int], Gray],
    *,
    shape_yx: tuple[int, int],
    strip_px: int,
) -> Iterator[tuple[int, Gray, Gray]]:
    """Draw tiles into a section from pixel (0, 0) on; yields (first row, grey strip, mask strip of 0 and 1).

    Memory: one strip, and what `read` keeps.
    """
    boxes = [(tile.rim().min(axis=0), tile.rim().max(axis=0)) for tile in tiles]
    ramps = [_ramp(tile.usable) for tile in tiles]
    for top in range(0, shape_yx[0], strip_px):
        rows = min(strip_px, shape_yx[0] - top)
        total = np.zeros((rows, shape_yx[1]), np.float32)
        weights = np.zeros((rows, shape_yx[1]), np.float32)
        for index, (tile, (low, high)) in enumerate(zip(tiles, boxes, strict=True)):
            y0, y1 = max(top, int(low[0]) - 1), min(top + rows, int(high[0]) + 2)
            x0, x1 = max(0, int(low[1]) - 1), min(shape_yx[1], int(high[1]) + 2)
            if y0 >= y1 or x0 >= x1 or not tile.usable.any():
                continue
            part = (slice(y0 - top, y1 - top), slice(x0, x1))
            value, weight = _draw(tile, ramps[index], read(index), (y0, x0), (y1 - y0, x1 - x0))
            total[part] += value * weight
            weights[part] += weight
        covered = weights > 0
        gray = np.rint(np.clip(total / np.where(covered, weights, 1.0), 0, 255)).astype(np.uint8)
        yield top, np.where(covered, gray, 0).astype(np.uint8), covered.astype(np.uint8)


def _ramp(usable: Mask) -> Floats:
    """Blending weight of each cell: a power of its distance to the nearest unusable cell or border."""
    distance = ndimage.distance_transform_edt(np.pad(usable, 1))[1:-1, 1:-1]
    return ((np.minimum(distance, FEATHER_CELLS) / FEATHER_CELLS) ** POWER).astype(np.float32)


def _draw(
    tile: PlacedTile, ramp: Floats, image: Gray, top_left: tuple[int, int], shape: tuple[int, int]
) -> tuple[Floats, Floats]:
    """Grey values and weights of one tile in a box of the section."""
    step = step_for(None if tile.warp.sheet is None else tile.warp.sheet.spacing_px)
    where = dense_coordinates(tile.warp.inverse, top_left, shape, step_px=step)
    size = image.shape
    inside = (
        (where[0] >= -0.01)
        & (where[0] <= size[0] - 0.99)
        & (where[1] >= -0.01)
        & (where[1] <= size[1] - 0.99)
    )
    start = max(0, int(np.floor(where[0].min())) - MARGIN_PX)
    stop = min(size[0], int(np.ceil(where[0].max())) + MARGIN_PX + 1)
    if stop - start < 2 or not inside.any():
        return np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    local = where - np.array([start, 0.0])[:, None, None]
    value = sample(image[start:stop], local) * np.float32(tile.gain) + np.float32(tile.offset)
    weight = sample(ramp, (where - (CELL_PX - 1) / 2.0) / CELL_PX, cubic=False)
    if not tile.usable.all():
        mask = enlarge(tile.usable, (size[0], size[1]))[start:stop].astype(np.float32)
        inside &= sample(mask, local, cubic=False) > 0.99
    return value, np.where(inside, np.maximum(weight, 1e-9), 0.0).astype(np.float32)
