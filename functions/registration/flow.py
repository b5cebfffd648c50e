"""Patches of one section found in another that has been drawn onto it, and the smooth map through them.

Maps lead from the pixels of section a to those of section b.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from functions.model.parameters import AlignParameters
from functions.model.transform import Sheet, Warp, sheet_shape
from functions.registration.correlation import PatchShifts, match_patches
from functions.registration.filters import halo_px, local_contrasts
from functions.registration.masks import Image, Mask, band_pass
from functions.registration.overlaps import Matches
from functions.registration.robust import solve_robust
from functions.registration.rotation import Level
from functions.registration.sheets import basis_rows, bending
from functions.registration.warp import STEP_PX, draw_window

Floats = NDArray[np.float64]
MIN_INLIERS = 8
LEVEL_PATCH_PX = 48
APART_PX = 8
FINE_PX = 1.5
COARSE_PX = 12.0
HALO_PX = halo_px(fine_px=FINE_PX, coarse_px=COARSE_PX)
SAMPLED_PX = 1024
SAMPLES, SAMPLE_PX = 4, 512
"""The typical contrast of a level of more than 1024 x 1024 px is that of 4 x 4 windows of 512 px."""
Window = tuple[slice, slice]


def typical_contrast(level: Level) -> float:
    """Median of the local variance of a level, as `filters.band` takes it; 0 where nothing is usable."""
    rows, columns = (_samples(n, max(level.shape_yx) <= SAMPLED_PX) for n in level.shape_yx)
    found = []
    for box in ((r, c) for r in rows for c in columns):
        image, mask = (
            torch.from_numpy(np.ascontiguousarray(plane[box])).to(level.device)
            for plane in (level.image, level.mask)
        )
        found.append(local_contrasts(image, mask, fine_px=FINE_PX, coarse_px=COARSE_PX).cpu().numpy())
    values = np.concatenate(found)
    return float(np.median(values)) if len(values) else 0.0


def _samples(length: int, whole: bool) -> list[slice]:
    if whole or length <= SAMPLE_PX:
        return [slice(0, length)]
    starts = np.unique(np.linspace(0, length - SAMPLE_PX, SAMPLES).astype(int))
    return [slice(int(s), int(s) + SAMPLE_PX) for s in starts]


def warp_level(b: Level, shape_yx: tuple[int, int], warp: Warp) -> tuple[Image, Mask]:
    """Section b, drawn onto the pixels of a (both of one level)."""
    return _warp_window(b, (slice(0, shape_yx[0]), slice(0, shape_yx[1])), warp)


def _warp_window(b: Level, window: Window, warp: Warp) -> tuple[Image, Mask]:
    """A window of section b, drawn onto the pixels of a (both of one level)."""
    f, half = b.factor, (b.factor - 1) / 2.0

    def source_of(points: Floats) -> Floats:
        return (warp.apply(points * f + half) - half) / f

    return draw_window(b.image, b.mask, source_of, window, device=b.device)


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
    window_px: int,
) -> tuple[Matches, int]:
    """Matches, in full-resolution px, of patches of a in b drawn through `warp`; and how many were tried.

    Patches are compared window by window; neither section, nor what is drawn of it, is held as a whole.
    """
    shape = a.shape_yx
    patch = max(12, min(patch_px, min(shape) // 3))
    # patches may hang over the border by a third, so that the rim is measured too
    over = patch // 3
    step = max(4, min(stride_px, patch // 2))
    axes = [_spread(-over, n - patch + over, step) for n in shape]
    corners = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.int64)
    peak, here, there = np.full(len(corners), -1.0), np.zeros((len(corners), 2)), np.zeros((len(corners), 2))
    second, good = np.ones(len(corners)), np.zeros(len(corners), dtype=np.bool_)
    for chosen in _by_window(corners, window_px):
        found, middle = _match_window(a, b, warp, corners[chosen], patch, reach_px)
        peak[chosen], here[chosen], there[chosen] = found.peak, middle, middle + found.shift_yx_px
        second[chosen] = np.maximum(found.second, 0.0) / np.maximum(found.peak, 1e-6)
        good[chosen] = found.valid & (found.peak >= floor) & (second[chosen] <= ratio)
    half = (a.factor - 1) / 2.0
    matches = Matches(
        a_yx=here[good] * a.factor + half,
        b_yx=warp.apply(there[good] * a.factor + half),
        peak=peak[good],
        ratio=second[good],
    )
    return matches, int((peak > -1.0).sum())


def _by_window(corner_yx: NDArray[np.int64], window_px: int) -> list[NDArray[np.int64]]:
    """Indices of the corners (N, 2) in each window; windows are of one size, as few as do."""
    low = corner_yx.min(axis=0)
    extent = corner_yx.max(axis=0) - low + 1
    count = -(-extent // window_px)
    y, x = ((corner_yx - low) * count // extent).T
    window = y * count[1] + x
    return [np.flatnonzero(window == k) for k in np.unique(window)]


def _match_window(
    a: Level, b: Level, warp: Warp, corner_yx: NDArray[np.int64], patch_px: int, reach_px: int
) -> tuple[PatchShifts, Floats]:
    """Patches of a with corners (N, 2) in b drawn through `warp`; and middles (N, 2) of what they show."""
    low, high = corner_yx.min(axis=0), corner_yx.max(axis=0) + patch_px
    seen, window = _windows(low, high, a.shape_yx)
    mask = a.mask[window]
    fixed = _band_window(a.image[window], mask, a)[seen]
    room = [
        (s.start - int(n), int(m) - s.stop) for s, n, m in zip(_plain(seen, window), low, high, strict=True)
    ]
    fixed_mask = np.pad(mask[seen], room)
    wide, drawn_window = _windows(low - reach_px - 1, high + reach_px + 1, a.shape_yx)
    drawn, drawn_mask = _warp_window(b, drawn_window, warp)
    moving = _band_window(drawn, drawn_mask, b)[wide]
    found = match_patches(
        np.pad(fixed, room),
        fixed_mask,
        moving,
        drawn_mask[wide],
        fixed_corner_yx=corner_yx - low,
        moving_corner_yx=corner_yx - [s.start for s in _plain(wide, drawn_window)],
        patch_yx_px=(patch_px, patch_px),
        reach_px=reach_px,
        min_cover=0.55,
        apart_px=APART_PX,
        device=a.device,
    )
    return found, _centroids(fixed_mask, corner_yx - low, patch_px) + low


def _windows(
    low: NDArray[np.int64], high: NDArray[np.int64], shape_yx: tuple[int, int]
) -> tuple[Window, Window]:
    """The part of a level from `low` to `high`, within a window that has all that counts for it; that window.

    Windows begin where coordinates of drawn levels are evaluated, so that these do not depend on them.
    """
    parts, windows = [], []
    for start, stop, n in zip(low.tolist(), high.tolist(), shape_yx, strict=True):
        first, last = min(max(0, start), n - 1), max(1, min(n, stop))
        begin = max(0, first - HALO_PX) // STEP_PX * STEP_PX
        windows.append(slice(begin, min(n, last + HALO_PX)))
        parts.append(slice(first - begin, last - begin))
    return (parts[0], parts[1]), (windows[0], windows[1])


def _plain(part: Window, window: Window) -> list[slice]:
    """A part of a window in pixels of the level."""
    return [slice(w.start + p.start, w.start + p.stop) for p, w in zip(part, window, strict=True)]


def _band_window(image: Image, mask: Mask, level: Level) -> Image:
    return band_pass(
        image, mask, fine_px=FINE_PX, coarse_px=COARSE_PX, contrast=level.contrast, device=level.device
    )


def _centroids(mask: Mask, corner_yx: NDArray[np.int64], patch_px: int) -> Floats:
    """Middles (N, 2) of the usable pixels of square patches: what a match is about."""
    plane, x = mask.astype(np.float64), np.arange(mask.shape[1], dtype=np.float64)
    moments = np.stack([np.ones(patch_px), np.arange(patch_px, dtype=np.float64)])
    out = np.zeros((len(corner_yx), 2))
    for top in np.unique(corner_yx[:, 0]):  # patches lie in rows: one product for each
        chosen = np.flatnonzero(corner_yx[:, 0] == top)
        count, down = moments @ plane[top : top + patch_px]
        sums = np.pad(np.stack([count, down + top * count, x * count]).cumsum(axis=1), ((0, 0), (1, 0)))
        left = corner_yx[chosen, 1]
        pixels, *middle = sums[:, left + patch_px] - sums[:, left]
        out[chosen] = np.stack(middle, axis=1) / np.maximum(pixels, 1.0)[:, None]
    return out


def refine_affine(a: Level, b: Level, warp: Warp, *, window_px: int) -> Warp | None:
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
        window_px=window_px,
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
        window_px=parameters.window_px,
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
