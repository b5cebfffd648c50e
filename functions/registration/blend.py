"""Blend the tiles of a section, strip by strip."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from functions.model.transform import Warp
from functions.registration.masks import CELL_PX, Gray, Mask, enlarge, reduce_all
from functions.registration.warp import Sources, dense_sources, reached_box, sample, step_for

Floats = NDArray[np.float32]
FEATHER_CELLS = 64
Reach = tuple[tuple[float, float], tuple[float, float]]
PixelBox = tuple[int, int, int, int]
"""First row and column, and those after the last."""
EMPTY: PixelBox = (0, 0, 0, 0)
POWER = 4
"""Weights grow with this power of the distance to the rim (what `weight_at` gives)."""
LAST = np.float32(-1e6)
BLOCK_PX = 2048
"""A strip is drawn so many columns at a time: a pixel takes some 50 bytes for each tile that it shows."""
SEAM_PX = 16.0
"""Width of the feather along a seam; beyond, a pixel comes from one tile, so that nothing is seen twice."""


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

    @property
    def lead_px(self) -> float:
        """How much farther than it is its rim counts: sharper tiles are drawn before others."""

    def rim(self) -> NDArray[np.float64]:
        """Points (N, 2) along the image's border where they are drawn."""

    def sources(self, top_left_yx: tuple[int, int], shape_yx: tuple[int, int]) -> Sources:
        """Place in the image of every pixel (H, W) of a drawn box."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedTile:
    """A tile in its section: `usable` on cells of 8 px; grey values become gain * v + offset."""

    warp: Warp
    shape_yx: tuple[int, int]
    usable: Mask
    gain: float
    offset: float
    lead_px: float = 0.0
    cell_px: float = float(CELL_PX)

    @property
    def reach_yx_px(self) -> Reach:
        """Centres of the border pixels, and rounding errors."""
        return (-0.01, self.shape_yx[0] - 0.99), (-0.01, self.shape_yx[1] - 0.99)

    def sources(self, top_left_yx: tuple[int, int], shape_yx: tuple[int, int]) -> Sources:
        """Tile px of a box (H, W) of the section."""
        step = step_for(None if self.warp.sheet is None else self.warp.sheet.spacing_px)
        return dense_sources(self.warp.inverse, top_left_yx, shape_yx, step_px=step)

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What a tile shows of a box (H, W): grey values, depth (0 where there is nothing) and rank (there
    `LAST`). Where no other tile is seen, only whether the depth is 0 matters."""

    value: Floats
    depth: Floats
    rank: Floats


Part = tuple[PixelBox, list[int], list[Layer]]
"""A box, which tiles reach it, and what they show of it."""


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

    Each pixel comes from the tile whose rim is farthest, its lead added. Where another's is less than
    `SEAM_PX` nearer, both are mixed; towards the rim of a tile its share falls to 0, so that no edge shows.
    Memory: a strip of both, `BLOCK_PX` columns of each tile in them, and what `read` keeps.
    """
    boxes = [_pixel_box(tile.rim()) if tile.usable.any() else EMPTY for tile in tiles]
    ramps = [ramp(tile.usable) for tile in tiles]
    for top in range(0, shape_yx[0], strip_px):
        rows = min(strip_px, shape_yx[0] - top)
        gray, covered = (np.zeros((rows, shape_yx[1]), np.uint8) for _ in range(2))
        for left in range(0, shape_yx[1], BLOCK_PX):
            block = (top, left, top + rows, min(left + BLOCK_PX, shape_yx[1]))
            for part in _drawn_parts(tiles, ramps, boxes, read, block):
                _put(part, gray, covered, top)
        yield top, gray, covered


def _drawn_parts(
    tiles: Sequence[Drawable],
    ramps: Sequence[Floats],
    boxes: Sequence[PixelBox],
    read: Callable[[int], NDArray[np.generic]],
    block: PixelBox,
) -> list[Part]:
    """The parts of a block with what the tiles show of them."""
    parts: list[Part] = [(box, which, []) for box, which in _parts(block, boxes)]
    own: dict[int, list[Part]] = {}
    for part in parts:
        for k in part[1]:
            own.setdefault(k, []).append(part)
    for k in sorted(own):
        _draw_parts(tiles[k], ramps[k], read(k), _common(block, boxes[k]), own[k])
    return parts


def _put(part: Part, gray: Gray, covered: Gray, top: int) -> None:
    """Mix the layers of a part into the strip that begins in row `top`."""
    (y0, x0, y1, x1), _, layers = part
    if not layers:
        return
    where = (slice(y0 - top, y1 - top), slice(x0, x1))
    value, inside = _mixed(layers)
    np.rint(np.clip(value, 0.0, 255.0, out=value), out=value)
    gray[where], covered[where] = np.where(inside, value, np.float32(0.0)), inside


def _parts(box: PixelBox, boxes: Sequence[PixelBox]) -> Iterator[tuple[PixelBox, list[int]]]:
    """Cut a box along the sides of others: each part and which of them hold it, where any does.

    Most of a section is drawn from one tile: there, nothing needs to be weighed.
    """
    y0, x0, y1, x1 = box
    near = [k for k, b in enumerate(boxes) if b[0] < y1 and b[2] > y0 and b[1] < x1 and b[3] > x0]
    rows = sorted({y0, y1, *(y for k in near for y in (boxes[k][0], boxes[k][2]) if y0 < y < y1)})
    for top, bottom in pairwise(rows):
        here = [k for k in near if boxes[k][0] <= top and boxes[k][2] >= bottom]
        begin = sorted(here, key=lambda k: boxes[k][1], reverse=True)
        columns = sorted({x0, x1, *(x for k in here for x in (boxes[k][1], boxes[k][3]) if x0 < x < x1)})
        which: list[int] = []
        for left, right in pairwise(columns):
            which = [k for k in which if boxes[k][3] > left]
            while begin and boxes[begin[-1]][1] <= left:
                which.append(begin.pop())
            if which:
                yield (top, left, bottom, right), sorted(which)


def _draw_parts(
    tile: Drawable, cells: Floats, image: NDArray[np.generic], box: PixelBox, parts: Sequence[Part]
) -> None:
    """Draw a tile in a box, once, and add what is seen to the layers of the box's parts."""
    value, inside, where = _draw(tile, image, (box[0], box[1]), (box[2] - box[0], box[3] - box[1]))
    for (y0, x0, y1, x1), which, layers in parts:
        at = (slice(y0 - box[0], y1 - box[0]), slice(x0 - box[1], x1 - box[1]))
        seen = inside[at]
        depth = rank = seen.astype(np.float32)
        if len(which) > 1 and seen.any():
            weight = np.maximum(weight_at(tile, cells, where.at(*at)), 1e-9)
            depth = np.where(seen, _depth(weight), np.float32(0.0))
            rank = np.where(seen, _rank(depth, tile.lead_px), LAST)
        if seen.any():
            layers.append(Layer(value=value[at], depth=depth, rank=rank))


def _mixed(layers: Sequence[Layer]) -> tuple[Floats, Mask]:
    """Grey values and where they are, of what one or several tiles show of a box."""
    if len(layers) == 1:
        return layers[0].value.copy(), layers[0].depth > 0
    best = np.maximum.reduce([layer.rank for layer in layers])
    total, weights = np.zeros_like(best), np.zeros_like(best)
    for layer in layers:
        share = np.maximum(layer.rank - best + SEAM_PX, 0.0) * np.minimum(layer.depth, SEAM_PX)
        total += layer.value * share
        weights += share
    covered = weights > 0
    return total / np.where(covered, weights, np.float32(1.0)), covered


def _common(a: PixelBox, b: PixelBox) -> PixelBox:
    """Where two boxes overlap."""
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])


def _depth(weight: Floats) -> Floats:
    """Distance to the rim in px, from 1 on, of pixels with a blending weight."""
    return np.asarray(FEATHER_CELLS * CELL_PX * weight ** (1.0 / POWER) + 1.0, dtype=np.float32)


def _rank(depth: Floats, lead_px: float) -> Floats:
    """Depth with lead; the lead is lost towards the rim, so that another tile takes over before it."""
    kept = np.minimum(depth / np.float32(abs(lead_px) + SEAM_PX), 1.0)
    return np.asarray(depth + np.float32(lead_px) * kept, dtype=np.float32)


def _pixel_box(points: NDArray[np.float64]) -> PixelBox:
    """Rows and columns of the pixels that points (N, 2) may reach; an empty box without any."""
    if not len(points):
        return EMPTY
    (y0, x0), (y1, x1) = points.min(axis=0).astype(int) - 1, points.max(axis=0).astype(int) + 2
    return int(y0), int(x0), int(y1), int(x1)


def ramp(usable: Mask) -> Floats:
    """Blending weight of each cell: a power of its distance to the nearest unusable cell or border."""
    distance = ndimage.distance_transform_edt(np.pad(usable, 1))[1:-1, 1:-1]
    return ((np.minimum(distance, FEATHER_CELLS) / FEATHER_CELLS) ** POWER).astype(np.float32)


def _draw(
    tile: Drawable, image: NDArray[np.generic], top_left: tuple[int, int], shape: tuple[int, int]
) -> tuple[Floats, Mask, Sources]:
    """Grey values of one tile in a box of what is drawn, where it is drawn, and places in the tile."""
    where = tile.sources(top_left, shape)
    local, inside, crop, holes = where.local_yx, np.ones(shape, dtype=np.bool_), [], False
    for c, reach, corner in zip(local, tile.reach_yx_px, where.corner_yx, strict=True):
        low, high = (np.float32(r - corner) for r in reach)
        first, last = float(c.min()), float(c.max())
        holes |= np.isnan(first)
        if not (first >= low and last <= high):  # nan: not
            inside &= (c >= low) & (c <= high)
            first = max(float(low), float(np.fmin.reduce(c, axis=None)))
            last = min(float(high), float(np.fmax.reduce(c, axis=None)))
        crop.append((first, last))
    if not inside.any():
        return np.zeros(shape, np.float32), inside, where
    box = reached_box(crop, where.corner_yx, image.shape)
    off = [np.float32(c - s.start) for c, s in zip(where.corner_yx, box, strict=True)]
    if any(off):
        local = local + np.array(off, dtype=np.float32)[:, None, None]
    if holes:  # not drawn, so any place will do
        local = np.where(np.isnan(local), np.float32(0.0), local)
    value = sample(image[box], local)
    value *= np.float32(tile.gain)
    value += np.float32(tile.offset)
    if not tile.usable.all():
        mask = _pixels(tile, (image.shape[0], image.shape[1]), box)
        if not mask.all():
            inside &= sample(mask.astype(np.float32), local, cubic=False) > 0.99
    return value, inside, where


def weight_at(tile: Drawable, cells: Floats, where: NDArray[np.float64] | Floats) -> Floats:
    """Blending weight (H, W) of a tile at its px (2, H, W), from the `ramp` of its cells."""
    places = np.subtract(where, (tile.cell_px - 1) / 2.0)
    places *= 1.0 / tile.cell_px
    return sample(cells, places, cubic=False)


def _pixels(tile: Drawable, shape_yx: tuple[int, int], box: tuple[slice, slice]) -> Mask:
    """Which pixels of a part of an image may be drawn."""
    if tile.cell_px >= 1.0:
        return enlarge(tile.usable, shape_yx, int(tile.cell_px))[box]
    return reduce_all(tile.usable, int(1.0 / tile.cell_px))[: shape_yx[0], : shape_yx[1]][box]
