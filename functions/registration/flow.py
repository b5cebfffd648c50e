"""Patches of one section found in another that has been drawn onto it, and the smooth map through them.

Maps lead from the pixels of section a to those of section b.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from functions.model.parameters import AlignParameters
from functions.model.transform import Sheet, Warp, sheet_shape
from functions.registration.correlation import match_patches
from functions.registration.masks import Image, Mask, band_pass
from functions.registration.overlaps import Matches
from functions.registration.robust import solve_robust
from functions.registration.rotation import Level
from functions.registration.sheets import basis_rows, bending
from functions.registration.warp import dense_coordinates, pull, source_box

Floats = NDArray[np.float64]
MIN_INLIERS = 8
LEVEL_PATCH_PX = 48
APART_PX = 8
FINE_PX = 1.5
COARSE_PX = 12.0


def warp_level(b: Level, shape_yx: tuple[int, int], warp: Warp) -> tuple[Image, Mask]:
    """Section b, drawn onto the pixels of a (both of one level)."""
    f, half = b.factor, (b.factor - 1) / 2.0
    coordinates = dense_coordinates(lambda r: (warp.apply(r * f + half) - half) / f, (0, 0), shape_yx)
    box = source_box(coordinates, b.image.shape)
    if box is None:
        return np.zeros(shape_yx, np.float32), np.zeros(shape_yx, np.bool_)
    return pull(b.image[box], b.mask[box], coordinates, box, device=b.device)


def _spread(first: int, last: int, step: int) -> NDArray[np.int64]:
    """Whole numbers from `first` to `last`, both included, about `step` apart."""
    count = max(1, round((last - first) / step) + 1)
    return np.rint(np.linspace(first, max(first, last), count)).astype(np.int64)


def _match_level(
    a: Level,
    b: Level,
    warp: Warp,
    *,
    patch_px: int,
    stride_px: int,
    reach_px: int,
    floor: float,
    ratio: float,
) -> tuple[Matches, int]:
    """Matches, in full-resolution px, of patches of a in b drawn through `warp`; and how many were tried."""
    shape = (a.image.shape[0], a.image.shape[1])
    drawn, drawn_mask = warp_level(b, shape, warp)
    patch = max(12, min(patch_px, min(shape) // 3))
    # patches may hang over the border by a third, so that the rim is measured too
    over = patch // 3
    step = max(4, min(stride_px, patch // 2))
    axes = [_spread(-over, n - patch + over, step) for n in shape]
    corners = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.int64)
    found = match_patches(
        np.pad(band_pass(a.image, a.mask, fine_px=FINE_PX, coarse_px=COARSE_PX, device=a.device), over),
        np.pad(a.mask, over),
        band_pass(drawn, drawn_mask, fine_px=FINE_PX, coarse_px=COARSE_PX, device=a.device),
        drawn_mask,
        fixed_corner_yx=corners + over,
        moving_corner_yx=corners,
        patch_yx_px=(patch, patch),
        reach_px=reach_px,
        min_cover=0.55,
        apart_px=APART_PX,
        device=a.device,
    )
    second = np.maximum(found.second, 0.0) / np.maximum(found.peak, 1e-6)
    good = found.valid & (found.peak >= floor) & (second <= ratio)
    half = (a.factor - 1) / 2.0
    here = _centroids(np.pad(a.mask, over), corners[good] + over, patch) - over
    there = here + found.shift_yx_px[good]
    matches = Matches(
        a_yx=here * a.factor + half,
        b_yx=warp.apply(there * a.factor + half),
        peak=found.peak[good],
        ratio=second[good],
    )
    return matches, int((found.peak > -1.0).sum())


def _centroids(mask: Mask, corner_yx: NDArray[np.int64], patch_px: int) -> Floats:
    """Middles (N, 2) of the usable pixels of square patches: what a match is about."""
    y, x = (np.arange(n, dtype=np.float64) for n in mask.shape)
    top, left = corner_yx.T
    sums = []
    for moment in (mask.astype(np.float64), mask * y[:, None], mask * x):
        total = np.pad(moment, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
        bottom, right = top + patch_px, left + patch_px
        sums.append(total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left])
    return np.asarray(np.stack(sums[1:], axis=1) / np.maximum(sums[0], 1.0)[:, None], dtype=np.float64)


def refine_affine(a: Level, b: Level, warp: Warp) -> Warp | None:
    """An affine map from patches; None when too few agree on one."""
    found, _ = _match_level(
        a,
        b,
        warp,
        patch_px=LEVEL_PATCH_PX,
        stride_px=LEVEL_PATCH_PX // 2,
        reach_px=10,
        floor=0.15,
        ratio=0.92,
    )
    if len(found) < MIN_INLIERS:
        return None
    centre = found.a_yx.mean(axis=0)
    scale = float(np.abs(found.a_yx - centre).max()) + 1.0
    unit = (found.a_yx - centre) / scale
    design = sparse.csr_matrix(np.concatenate([np.ones((len(unit), 1)), unit], axis=1))
    start = warp.apply(found.a_yx)
    solution = solve_robust(
        design,
        found.b_yx - start,
        weight=np.clip(found.peak, 0.05, 1.0) ** 2,
        prior=sparse.diags([1e-3, 1e-2, 1e-2], format="csr"),
        floor_px=1.5 * a.factor,
    )
    inliers = int((solution.weight > 0).sum())
    if inliers < max(MIN_INLIERS, 0.25 * len(found)):
        return None
    move, linear = solution.unknowns[0], solution.unknowns[1:3].T / scale
    affine = warp.affine + np.concatenate([linear, (move - linear @ centre)[:, None]], axis=1)
    if not 0.5 < np.linalg.det(affine[:, :2]) < 2.0:
        return None
    return Warp(affine=affine)


def flow(
    a: Level, b: Level, warp: Warp, parameters: AlignParameters, *, reach_px: int
) -> tuple[Matches, int]:
    """Block-wise flow on a grid, after b has been drawn through the current map."""
    return _match_level(
        a,
        b,
        warp,
        patch_px=parameters.patch_px,
        stride_px=parameters.stride_px,
        reach_px=reach_px,
        floor=parameters.min_correlation,
        ratio=parameters.max_second_peak,
    )


def fit_warp(
    found: Matches, affine: Floats, *, spacing_px: float, shape_yx: tuple[int, ...]
) -> tuple[Warp, Floats, Floats]:
    """The smooth map nearest to the matches; their robust weights (0: contradicts its neighbours) and
    residuals."""
    knots = sheet_shape((shape_yx[0], shape_yx[1]), spacing_px)
    columns, weights = basis_rows(found.a_yx, spacing_px=spacing_px, shape=knots)
    n = len(found)
    design = sparse.csr_matrix(
        (weights.ravel(), (np.repeat(np.arange(n), 16), columns.ravel())), shape=(n, knots[0] * knots[1])
    )
    base = Warp(affine=affine)
    solution = solve_robust(
        design,
        found.b_yx - base.apply(found.a_yx),
        weight=np.clip(found.peak, 0.05, 1.0) ** 2 / 0.5**2,
        prior=bending(knots) / 2.0**2 + sparse.identity(knots[0] * knots[1]) * 1e-4,
        floor_px=0.3,
        cut=5.0,
    )
    sheet = Sheet(spacing_px=spacing_px, coefficients=solution.unknowns.T.reshape(2, *knots))
    return Warp(affine=affine, sheet=sheet), solution.weight, solution.residual_px
