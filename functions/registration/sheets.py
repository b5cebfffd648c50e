"""Cubic B-spline sheets as columns of a least-squares problem: design rows and smoothness."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from functions.model.splines import spline_basis

Sparse = Any
Floats = NDArray[np.float64]
FORMS_KEPT = 8
"""Of so many shapes: most sheets are alike."""


def basis_rows(
    points_yx: Floats, *, spacing_px: float, shape: tuple[int, int]
) -> tuple[NDArray[np.int64], Floats]:
    """Columns (N, 16) of the flattened coefficients (gy * gx) and their weights (N, 16) at points (N, 2)."""
    gy, gx = shape
    iy, wy = spline_basis(points_yx[:, 0], spacing_px, gy)
    ix, wx = spline_basis(points_yx[:, 1], spacing_px, gx)
    k = np.arange(4)
    columns = (iy[:, None, None] + k[None, :, None]) * gx + ix[:, None, None] + k[None, None, :]
    weights = wy[:, :, None] * wx[:, None, :]
    return columns.reshape(len(points_yx), 16), weights.reshape(len(points_yx), 16)


def slope_rows(
    points_yx: Floats, *, spacing_px: float, shape: tuple[int, int]
) -> tuple[NDArray[np.int64], Floats]:
    """Columns (N, 16), as of `basis_rows`, and the weights (2, N, 16) of the slopes along y and x, per px."""
    (iy, wy, sy), (ix, wx, sx) = (
        (*spline_basis(points_yx[:, k], spacing_px, n), _spline_slopes(points_yx[:, k], spacing_px, n))
        for k, n in enumerate(shape)
    )
    k = np.arange(4)
    columns = (iy[:, None, None] + k[None, :, None]) * shape[1] + ix[:, None, None] + k[None, None, :]
    weights = np.stack([sy[:, :, None] * wx[:, None, :], wy[:, :, None] * sx[:, None, :]])
    return columns.reshape(-1, 16), weights.reshape(2, -1, 16) / spacing_px


def _spline_slopes(points_1d: Floats, spacing_px: float, size: int) -> Floats:
    """Derivatives (N, 4) of the four cubic weights of `spline_basis`, per knot."""
    u = np.clip(points_1d / spacing_px, 0.0, float(size - 3))
    t = u - np.minimum(np.floor(u), size - 4)
    return np.stack(
        [-((1 - t) ** 2) / 2, (3 * t**2 - 4 * t) / 2, (-3 * t**2 + 2 * t + 1) / 2, t**2 / 2], axis=1
    )


def _difference(n: int, order: int) -> Sparse:
    if n <= order:
        return sparse.csr_matrix((0, n))
    if order == 0:
        return sparse.identity(n, format="csr")
    stencil = {1: [-1.0, 1.0], 2: [1.0, -2.0, 1.0]}[order]
    return sparse.diags(stencil, list(range(order + 1)), shape=(n - order, n), format="csr")


@lru_cache(maxsize=FORMS_KEPT)
def bending(shape: tuple[int, int]) -> Sparse:
    """Quadratic form of the second differences (thin plate): 0 for affine coefficient grids. Shared: not to
    be changed."""
    out = None
    for order_y, order_x, factor in ((2, 0, 1.0), (0, 2, 1.0), (1, 1, 2.0)):
        d = sparse.kron(_difference(shape[0], order_y), _difference(shape[1], order_x), format="csr")
        form = factor * (d.T @ d)
        out = form if out is None else out + form
    return out


@lru_cache(maxsize=FORMS_KEPT)
def membrane(shape: tuple[int, int]) -> Sparse:
    """Quadratic form of the first differences: 0 for a constant grid only. Shared: not to be changed."""
    out = None
    for order_y, order_x in ((1, 0), (0, 1)):
        d = sparse.kron(_difference(shape[0], order_y), _difference(shape[1], order_x), format="csr")
        out = d.T @ d if out is None else out + d.T @ d
    return out
