"""Warps one after the other: from a pixel of a raw tile to a pixel of the volume, and back, in one map.

    tile px ──TileTransform──► section px ──SectionTransform──► aligned px ──► px of a level

Nothing is resampled on the way: a chain maps points, so an image is read once, where its pixels are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from functions.model.regions import Floats, Regions
from functions.model.transform import CutSheet, Points, Warp

TOLERANCE_PX = 2e-3
"""A point that was mapped back is at most so far from the point asked for, once mapped forward again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """The first warp is applied first. A chain of no warps is the identity."""

    warps: tuple[Warp, ...] = ()

    def apply(self, points_yx: Points) -> Points:
        """Map points (N, 2) forward."""
        for warp in self.warps:
            points_yx = warp.apply(points_yx)
        return points_yx

    def inverse(self, points_yx: Points) -> Points:
        """Map points (N, 2) back, each warp to within `TOLERANCE_PX`; nan where nothing lies on a point: in
        the gap of an opened fold, or where a sheet folds over itself."""
        for warp in reversed(self.warps):
            points_yx = _inverse(warp, points_yx)
        return points_yx

    def then(self, *warps: Warp) -> Chain:
        """This chain, and further warps after it."""
        return Chain(warps=(*self.warps, *warps))

    def after(self, *warps: Warp) -> Chain:
        """Further warps first, then this chain."""
        return Chain(warps=(*warps, *self.warps))

    @property
    def branches(self) -> tuple[Branch, ...]:
        """The smooth maps that a chain with one cut sheet consists of; none where nothing is cut."""
        for k, warp in enumerate(self.warps):
            if isinstance(warp.sheet, CutSheet):
                return tuple(
                    Branch(
                        chain=Chain(warps=(*self.warps[:k], smooth, *self.warps[k + 1 :])),
                        back=Chain(warps=(smooth, *self.warps[k + 1 :])),
                        regions=warp.sheet.regions,
                        region=region,
                    )
                    for region, smooth in enumerate(warp.branches)
                )
        return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """What a cut chain is for one region: `chain` as a whole, and `back` as far as the cut image."""

    chain: Chain
    back: Chain
    regions: Regions
    region: int

    def depth(self, points_yx: Points) -> Floats:
        """How deep points (N, 2), mapped back, lie in the region: it holds where that is 0 or more, px."""
        source = self.back.inverse(points_yx)
        there = np.asarray(np.isfinite(source).all(axis=1))
        margin = self.regions.margins(np.where(there[:, None], source, 0.0))[:, self.region]
        return np.asarray(np.where(there, margin, -1e6), dtype=np.float64)


def _inverse(warp: Warp, points_yx: Points) -> Points:
    """One warp back, checked by going forward again where its fixed point may not converge."""
    if warp.sheet is None:
        return warp.inverse(points_yx)
    known = np.asarray(np.isfinite(points_yx).all(axis=1))
    points = np.where(known[:, None], points_yx, 0.0)
    back, there = warp.locate(points)
    miss = np.linalg.norm(warp.apply(back) - points, axis=1)
    return np.where((known & there & (miss <= TOLERANCE_PX))[:, None], back, np.nan)


def level_warp(factor: int, corner_yx_px: tuple[float, float] = (0.0, 0.0)) -> Warp:
    """From px of an image to px of its level: pixel r of the level covers `factor` px about
    `corner + r * factor + (factor - 1) / 2`."""
    y, x = (-(c + (factor - 1) / 2) / factor for c in corner_yx_px)
    return Warp(affine=np.array([[1.0 / factor, 0.0, y], [0.0, 1.0 / factor, x]]))


def source_warp(factor: int) -> Warp:
    """From px of a reduced image to px of the image itself: the inverse of `level_warp`."""
    shift = (factor - 1) / 2
    return Warp(affine=np.array([[factor, 0.0, shift], [0.0, factor, shift]], dtype=np.float64))
