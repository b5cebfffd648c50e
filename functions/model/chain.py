"""Warps one after the other: from a pixel of a raw tile to a pixel of the volume, and back, in one map.

    tile px ──TileTransform──► section px ──SectionTransform──► aligned px ──► px of a level

Nothing is resampled on the way: a chain maps points, so an image is read once, where its pixels are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from functions.model.transform import Points, Warp

TOLERANCE_PX = 1e-3
"""A point that was mapped back is at most so far from the point asked for, once mapped forward again."""
ITERATIONS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """The first warp is applied first. A chain of no warps is the identity."""

    warps: tuple[Warp, ...] = ()

    def apply(self, points_yx: Points) -> Points:
        """Map points (N, 2) forward; nan where a warp has no answer (in a crack)."""
        for warp in self.warps:
            points_yx = warp.apply(points_yx)
        return points_yx

    def inverse(self, points_yx: Points) -> Points:
        """Map points (N, 2) back to within `TOLERANCE_PX`; nan where there is no such point (in a fold)."""
        for warp in reversed(self.warps):
            points_yx = _inverse(warp, points_yx)
        return points_yx

    def then(self, *warps: Warp) -> Chain:
        """This chain, and further warps after it."""
        return Chain(warps=(*self.warps, *warps))

    def after(self, *warps: Warp) -> Chain:
        """Further warps first, then this chain."""
        return Chain(warps=(*warps, *self.warps))


def _inverse(warp: Warp, points_yx: Points) -> Points:
    """One warp back, checked by going forward again where its fixed point may not converge."""
    if warp.sheet is None:
        return warp.inverse(points_yx)
    back = warp.inverse(points_yx, iterations=ITERATIONS, tolerance_px=TOLERANCE_PX / 4)
    with np.errstate(invalid="ignore"):
        miss = np.linalg.norm(warp.apply(back) - points_yx, axis=1)
        return np.where((miss <= TOLERANCE_PX)[:, None], back, np.nan)


def level_warp(factor: int, corner_yx_px: tuple[float, float] = (0.0, 0.0)) -> Warp:
    """From px of an image to px of its level: pixel r of the level covers `factor` px about
    `corner + r * factor + (factor - 1) / 2`."""
    y, x = (-(c + (factor - 1) / 2) / factor for c in corner_yx_px)
    return Warp(affine=np.array([[1.0 / factor, 0.0, y], [0.0, 1.0 / factor, x]]))


def source_warp(factor: int) -> Warp:
    """From px of a reduced image to px of the image itself: the inverse of `level_warp`."""
    shift = (factor - 1) / 2
    return Warp(affine=np.array([[factor, 0.0, shift], [0.0, factor, shift]], dtype=np.float64))
