"""Uniform cubic B-splines."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


def spline_basis(points_1d: Points, spacing_px: float, size: int) -> tuple[NDArray[np.int64], Points]:
    """First knot (N,) and the four cubic weights (N, 4) of each coordinate, which is clamped to the
    domain."""
    u = np.clip(points_1d / spacing_px, 0.0, float(size - 3))
    first = np.minimum(np.floor(u).astype(np.int64), size - 4)
    t = u - first
    rest = 1.0 - t
    square, cube = t * t, rest * rest * rest / 6.0
    last = square * t / 6.0
    # they add up to 1
    second = 3.0 * last - square + 2.0 / 3.0
    return first, np.stack([cube, second, 1.0 - cube - second - last, last], axis=1)
