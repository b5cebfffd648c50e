"""Blend the tiles of a section, strip by strip."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from functions.model.transform import Warp
from functions.registration.masks import CELL_PX, Gray, Mask, enlarge, reduce_all
from functions.registration.warp import MARGIN_PX, dense_coordinates, sample, step_for

Floats = NDArray[np.float32]
FEATHER_CELLS = 64
Reach = tuple[tuple[float, float], tuple[float, float]]
POWER = 4
"""Weights grow with this power of the distance to the rim: the change-over is narrow and lies in the
middle."""


class Drawable(Protocol):
    """An image to draw: what `blend` asks of a tile."""

    @property
    def usable(self) -> Mask:
        """Which cells of the image may be drawn."""

    @property
    def cell_px(self) -> float:
        """Side of a cell in px of the image; it has to be a power of two."""

    @property
    def reach_yx_px(self) -> Reach:
        """Lowest and highest y, and x, of the image that are drawn."""

    @property
    def gain(self) -> float:
        """Grey values become gain * v + offset."""

    @property
    def offset(self) -> float:
        """See `gain`."""

    def rim(self) -> NDArray[np.float64]:
        """Points (N, 2) along the image's border where they are drawn."""

    def sources(self, top_left_yx: tuple[int, int], shape_yx: tuple[int, int]) -> NDArray[np.float64]:
        """Place (2, H, W) in the image of every pixel of a drawn box; nan where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedTile:
    """A tile in its section: `usable` on cells of 8 px; grey values become gain * v + offset."""

    warp: Warp
    shape_yx: tuple[int, int]
    usable: Mask
    gain: float
    offset: float
    cell_px: float = float(CELL_PX)

    @property
    def reach_yx_px(self) -> Reach:
        """Centres of the border pixels, and rounding errors."""
        return (-0.01, self.shape_yx[0] - 0.99), (-0.01, self.shape_yx[1] - 0.99)

    def sources(self, top_left_yx: tuple[int, int], shape_yx: tuple[int, int]) -> NDArray[np.float64]:
        """Tile px (2, H, W) of a box of the section."""
        step = step_for(None if self.warp.sheet is None else self.warp.sheet.spacing_px)
        return dense_coordinates(self.warp.inverse, top_left_yx, shape_yx, step_px=step)

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
    tiles: Sequence[Drawable],
    read: Callable[[int], NDArray[np.generic]],
    *,
    shape_yx: tuple[int, int],
    strip_px: int,
) -> Iterator[tuple[int, Gray, Gray]]:
    """Draw tiles into an image from pixel (0, 0) on; yields (first row, grey strip, mask strip of 0 and 1).

    Memory: one strip, and what `read` keeps.
    """
    boxes = [_box(tile.rim()) for tile in tiles]
    ramps = [ramp(tile.usable) for tile in tiles]
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


def _box(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Corners of the box about points (N, 2); an empty one without any."""
    if not len(points):
        return np.zeros(2), np.full(2, -9.0)
    return points.min(axis=0), points.max(axis=0)


def ramp(usable: Mask) -> Floats:
    """Blending weight of each cell: a power of its distance to the nearest unusable cell or border."""
    distance = ndimage.distance_transform_edt(np.pad(usable, 1))[1:-1, 1:-1]
    return ((np.minimum(distance, FEATHER_CELLS) / FEATHER_CELLS) ** POWER).astype(np.float32)


def _draw(
    tile: Drawable,
    cells: Floats,
    image: NDArray[np.generic],
    top_left: tuple[int, int],
    shape: tuple[int, int],
) -> tuple[Floats, Floats]:
    """Grey values and weights of one tile in a box of what is drawn."""
    where = tile.sources(top_left, shape)
    size = (image.shape[0], image.shape[1])
    inside = np.ones(shape, dtype=np.bool_)
    for c, (low, high) in zip(where, tile.reach_yx_px, strict=True):
        inside &= (c >= low) & (c <= high)
    if not inside.any():
        return np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    if np.isnan(where).any():  # not drawn, so any place will do
        where = np.where(np.isnan(where), where[:, inside][:, :1, None], where)
    start = max(0, int(np.floor(where[0].min())) - MARGIN_PX)
    stop = min(size[0], int(np.ceil(where[0].max())) + MARGIN_PX + 1)
    local = where - np.array([start, 0.0])[:, None, None]
    value = sample(image[start:stop], local) * np.float32(tile.gain) + np.float32(tile.offset)
    weight = weight_at(tile, cells, where)
    if not tile.usable.all():
        mask = _pixels(tile, size)[start:stop].astype(np.float32)
        inside &= sample(mask, local, cubic=False) > 0.99
    return value, np.where(inside, np.maximum(weight, 1e-9), 0.0).astype(np.float32)


def weight_at(tile: Drawable, cells: Floats, where: NDArray[np.float64]) -> Floats:
    """Blending weight (H, W) of a tile at its px (2, H, W), from the `ramp` of its cells."""
    return sample(cells, (where - (tile.cell_px - 1) / 2.0) / tile.cell_px, cubic=False)


def _pixels(tile: Drawable, shape_yx: tuple[int, int]) -> Mask:
    """Which pixels of an image may be drawn."""
    if tile.cell_px >= 1.0:
        return enlarge(tile.usable, shape_yx, int(tile.cell_px))
    return reduce_all(tile.usable, int(1.0 / tile.cell_px))[: shape_yx[0], : shape_yx[1]]
