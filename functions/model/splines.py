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
    weights = np.stack(
        [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1
    )
    return first, weights / 6.0
