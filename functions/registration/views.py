"""The tiles of a section as they are compared: upright, at the section's scale, with masks.

    raw tile pixel ──frame──► upright pixel ──position──► section pixel

A frame is an affine map (2, 3). For most tiles it is the identity and the upright tile is the tile itself; a
tile that was turned, or has another pixel size, is resampled for comparing only, never for drawing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from functions.model.transform import Warp
from functions.registration.artefacts import torn_cells
from functions.registration.contrast import histogram
from functions.registration.focus import fine_cells
from functions.registration.masks import (
    CELL_PX,
    Gray,
    Mask,
    enlarge,
    reduce_all,
    reduce_mean,
    require_gray,
    tile_masks,
)
from functions.registration.warp import dense_coordinates, sample

Floats = NDArray[np.float64]
Reader = Callable[[int], Gray]
COUNTED_PX = 400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TileView:
    """What is kept of a tile while others are read: cells of 8 x 8 px and a histogram of its texture."""

    shape_yx: tuple[int, int]
    usable: Mask
    textured: Mask
    cells: NDArray[np.float32]
    counts: NDArray[np.int64]
    fine: NDArray[np.float32]
    """Variance of fine detail on the same cells."""


def view_tile(image: Gray) -> TileView:
    """Masks, cell means and histogram of a tile.

    Raises:
        TypeError: it is not of 8 bits.
    """
    require_gray(image)
    masks = tile_masks(image)
    shape = (int(image.shape[0]), int(image.shape[1]))
    # a fold is drawn, but lies elsewhere in the neighbour's picture
    textured = masks.textured & ~torn_cells(image, masks.usable)
    return TileView(
        shape_yx=shape,
        usable=masks.usable,
        textured=textured,
        cells=reduce_mean(image, CELL_PX),
        counts=_counts(image, textured),
        fine=fine_cells(image),
    )


def _counts(image: Gray, textured: Mask) -> NDArray[np.int64]:
    """Histogram of the texture; of large tiles, of every so many rows: means and spreads need no more."""
    rows = np.arange(0, image.shape[0], max(1, image.size // COUNTED_PX))
    mask = np.repeat(textured[rows // CELL_PX], CELL_PX, axis=1)[:, : image.shape[1]]
    return histogram(image[rows], mask)


class Upright:
    """Tiles of a section behind their frames. `shapes[k]` is the shape (H, W) of upright tile k."""

    def __init__(self, read: Reader, views: Sequence[TileView], linear: Sequence[Floats]) -> None:
        self._read = read
        self.views = tuple(views)
        self.frames = [frame_of(view.shape_yx, a) for view, a in zip(views, linear, strict=True)]

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Shape of every upright tile."""
        return [_shape(v.shape_yx, f) for v, f in zip(self.views, self.frames, strict=True)]

    def turned(self, index: int, linear: Floats) -> Upright:
        """The same tiles, tile `index` mapped by `linear` (2, 2)."""
        out = Upright(self._read, self.views, [f[:, :2] for f in self.frames])
        out.frames[index] = frame_of(self.views[index].shape_yx, linear)
        return out

    def corners(self, stage_yx_px: Floats) -> Floats:
        """Where the corners (N, 2) of upright tiles lie if tiles are turned about their centres."""
        out = np.array(stage_yx_px, dtype=np.float64)
        for k, (view, frame) in enumerate(zip(self.views, self.frames, strict=True)):
            centre = (np.array(view.shape_yx) - 1) / 2.0
            scale = float(np.sqrt(abs(np.linalg.det(frame[:, :2]))))
            out[k] += scale * centre - (frame[:, :2] @ centre + frame[:, 2])
        return out

    def image(self, index: int) -> Gray:
        """Grey values of upright tile `index`."""
        frame = self.frames[index]
        if is_plain(frame):
            return self._read(index)
        value = sample(self._read(index), self._source(index))
        return np.rint(np.clip(value, 0, 255)).astype(np.uint8)

    def textured(self, index: int) -> Mask:
        """Where upright tile `index` has something to compare, in pixels."""
        view = self.views[index]
        raw = enlarge(view.textured, view.shape_yx)
        if is_plain(self.frames[index]):
            return raw
        where = self._source(index)
        inside = np.ones(where.shape[1:], dtype=np.bool_)
        for c, n in zip(where, view.shape_yx, strict=True):
            inside &= (c >= 0) & (c <= n - 1)
        out: Mask = inside & (sample(raw.astype(np.float32), where, cubic=False) > 0.99)
        return out

    def textured_blocks(self, index: int, factor: int) -> Mask:
        """Blocks of `factor` px, a power of two, that are `textured` in every pixel."""
        if not is_plain(self.frames[index]):
            return reduce_all(self.textured(index), factor)
        view = self.views[index]
        if factor >= CELL_PX:
            return reduce_all(view.textured, factor // CELL_PX)
        y, x = (-(-n // factor) for n in view.shape_yx)
        return enlarge(view.textured, (y, x), CELL_PX // factor)

    def back(self, index: int, points_yx: Floats) -> Floats:
        """Upright pixels (N, 2) to raw pixels of the tile."""
        return Warp(affine=self.frames[index]).inverse(points_yx)

    def _source(self, index: int) -> Floats:
        frame = self.frames[index]
        shape = _shape(self.views[index].shape_yx, frame)
        return dense_coordinates(Warp(affine=frame).inverse, (0, 0), shape, step_px=32)


def is_plain(frame: Floats) -> bool:
    """Whether a frame leaves a tile as it is."""
    return bool(np.array_equal(frame, np.eye(2, 3)))


def rotation(degrees: float) -> Floats:
    """The matrix (2, 2) on y, x that turns by an angle, from +y towards +x."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[c, -s], [s, c]])


def frame_of(shape_yx: tuple[int, int], linear: Floats) -> Floats:
    """The frame (2, 3) with this linear part whose box begins at pixel (0, 0)."""
    corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]) * (np.array(shape_yx) - 1.0)
    low = (corners @ linear.T).min(axis=0)
    return np.concatenate([linear, -low[:, None] + 0.0], axis=1)


def _shape(shape_yx: tuple[int, int], frame: Floats) -> tuple[int, int]:
    if is_plain(frame):
        return shape_yx
    corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]) * (np.array(shape_yx) - 1.0)
    high = np.ceil(Warp(affine=frame).apply(corners).max(axis=0) - 1e-6).astype(int) + 1
    return int(high[0]), int(high[1])
