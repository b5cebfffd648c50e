"""Draw a section of the volume straight from its raw tiles, at any level: one interpolation, never two.

    px of the level ──► aligned px ──► section px ──► tile px ──► px of the reduced tile    (points)
    grey values are read once, there, by bicubic interpolation                              (pixels)

`blend` draws these tiles as it draws those of a section, with the same weights and grey values. A level is
drawn from tiles reduced by the mean of blocks: what is finer than its pixels is averaged, not skipped. Pixel
r of a level of factor f has its centre at r * f + (f - 1) / 2 of the volume.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from functions.model.chain import Branch, Chain, level_warp, source_warp
from functions.model.transform import Points
from functions.registration.blend import Floats, Reach, weight_at
from functions.registration.masks import CELL_PX, Mask
from functions.registration.warp import Sources, dense_coordinates, dense_sources, step_for

RIM_STEP_PX = 16
"""The border is followed in steps that a sheet cannot bulge out between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainedTile:
    """A tile as the volume sees it: `chain` leads from px of its (reduced) image to px of what is drawn.

    Its image is the raw tile reduced by `factor`; `shape_yx` and `usable`, on cells of 8 px, are of the raw
    tile.
    """

    chain: Chain
    shape_yx: tuple[int, int]
    usable: Mask
    gain: float
    offset: float
    factor: int = 1
    lead_px: float = 0.0

    @property
    def cell_px(self) -> float:
        """Side of a cell in px of the image."""
        return CELL_PX / self.factor

    @property
    def reach_yx_px(self) -> Reach:
        """As far as the centres of the raw tile's border pixels, whatever the level."""
        y, x = (
            ((-0.01 - (self.factor - 1) / 2) / self.factor, (n - 0.99 - (self.factor - 1) / 2) / self.factor)
            for n in self.shape_yx
        )
        return y, x

    @property
    def step_px(self) -> int:
        """How far apart the chain may be evaluated, in px of what is drawn."""
        spacings = [
            warp.sheet.spacing_px / self.factor for warp in self.chain.warps if warp.sheet is not None
        ]
        return step_for(min(spacings, default=None))

    def rim(self) -> Points:
        """Points (N, 2) along the border where they are drawn; those in no place are left out."""
        (top, bottom), (left, right) = self.reach_yx_px
        y = np.linspace(top, bottom, max(2, self.shape_yx[0] // RIM_STEP_PX + 1))
        x = np.linspace(left, right, max(2, self.shape_yx[1] // RIM_STEP_PX + 1))
        edges = [(0 * x + top, x), (0 * x + bottom, x), (y, 0 * y + left), (y, 0 * y + right)]
        points = self.chain.apply(np.concatenate([np.stack(e, axis=1) for e in edges]))
        return points[np.isfinite(points).all(axis=1)]

    def sources(self, top_left_yx: tuple[int, int], shape_yx: tuple[int, int]) -> Sources:
        """Px of the tile's image for every pixel (H, W) of a drawn box.

        A cut chain is followed region by region, since nothing may be interpolated across the cut.
        """
        branches = self.chain.branches
        if not branches:
            return dense_sources(self.chain.inverse, top_left_yx, shape_yx, step_px=self.step_px)
        out = np.full((2, *shape_yx), np.nan)
        deepest = np.zeros(shape_yx)
        for branch in branches:
            depth = self._depth(branch, top_left_yx, shape_yx)
            here = depth >= deepest
            if here.any():
                where = dense_coordinates(branch.chain.inverse, top_left_yx, shape_yx, step_px=self.step_px)
                out, deepest = np.where(here, where, out), np.where(here, depth, deepest)
        return Sources.of(out)

    def _depth(
        self, branch: Branch, top_left_yx: tuple[int, int], shape_yx: tuple[int, int]
    ) -> NDArray[np.float64]:
        """How deep every pixel (H, W) of a drawn box lies in a branch's region."""
        twice = dense_coordinates(
            lambda points: np.repeat(branch.depth(points)[:, None], 2, axis=1), top_left_yx, shape_yx
        )
        return np.asarray(twice[0])

    def at_level(self, factor: int, corner_yx_px: tuple[int, int]) -> ChainedTile:
        """The tile reduced by `factor`, a power of two, drawn into a level that begins at `corner_yx_px`."""
        return ChainedTile(
            chain=self.chain.after(source_warp(factor)).then(level_warp(factor, corner_yx_px)),
            shape_yx=self.shape_yx,
            usable=self.usable,
            gain=self.gain,
            offset=self.offset,
            factor=factor,
            lead_px=self.lead_px,
        )

    def weight(self, points_yx: Points, cells: Floats) -> Floats:
        """Blending weight (N,) at points (N, 2) of the tile, 0 where it is not drawn.

        Args:
            cells: the `ramp` of `usable`.
        """
        where = np.nan_to_num(points_yx.T[:, None, :], nan=0.0)
        cell = np.floor((where[:, 0] + 0.5) / self.cell_px).astype(np.int64).T
        cell = np.clip(cell, 0, np.array(self.usable.shape) - 1)
        low, high = np.array(self.reach_yx_px).T
        inside = ((points_yx >= low) & (points_yx <= high)).all(axis=1)
        used = inside & self.usable[cell[:, 0], cell[:, 1]]
        weight = np.maximum(weight_at(self, cells, where)[0], 1e-9)
        return np.where(used, weight, 0.0).astype(np.float32)
