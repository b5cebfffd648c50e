"""The box of the aligned volume that holds all sections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from functions.model.transform import Warp
from functions.registration.stack import StackSection

Floats = NDArray[np.float64]
MAX_GROWTH = 1.6
"""The volume is at most so much wider than the median section: one wild section must not fill the disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Upper left corner (whole px, in the frame of the warps) and shape of the volume; and how far the
    sections reach beyond it."""

    corner_yx: Floats
    shape_yx: tuple[int, int]
    lost_px: float


def frame_of(
    sections: Sequence[StackSection],
    warps: Sequence[Warp],
    *,
    locked_shape_yx: tuple[int, ...] | None = None,
) -> Frame:
    """The box of all sections, cut to a sane size about the stack's middle.

    Args:
        locked_shape_yx: the warps are those of a volume of this shape; it keeps its corner, and grows only
            at its far sides.
    """
    rims = [warp.apply(_rim(section.shape_yx)) for section, warp in zip(sections, warps, strict=True)]
    low, high = np.array([r.min(axis=0) for r in rims]), np.array([r.max(axis=0) for r in rims])
    start, stop = np.floor(low.min(axis=0)), np.ceil(high.max(axis=0)) + 1
    middle = np.median((high + low) / 2, axis=0)
    reach = np.median(high - low, axis=0) * MAX_GROWTH / 2
    wide = stop - start > 2 * reach
    first = np.where(wide, np.maximum(start, np.floor(middle - reach)), start)
    last = np.where(wide, np.minimum(stop, np.ceil(middle + reach)), stop)
    if locked_shape_yx is not None:
        first, last = np.zeros(2), np.maximum(last, np.array(locked_shape_yx, dtype=np.float64))
    lost = max(0.0, float((first - start).max()), float((stop - last).max()))
    return Frame(corner_yx=first, shape_yx=(int(last[0] - first[0]), int(last[1] - first[1])), lost_px=lost)


def _rim(shape_yx: tuple[int, int]) -> Floats:
    """Points (132, 2) along the border of an image."""
    h, w = shape_yx
    t = np.linspace(0.0, 1.0, 33)
    sides = [
        (0 * t, t * (w - 1)),
        (0 * t + h - 1, t * (w - 1)),
        (t * (h - 1), 0 * t),
        (t * (h - 1), 0 * t + w - 1),
    ]
    return np.concatenate([np.stack(side, axis=1) for side in sides])
