"""Grey values that fit: between tiles of a section, and between sections of a stack."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from functions.model.transform import ContrastMap, Warp

Floats = NDArray[np.float64]
Histogram = NDArray[np.int64]

GAIN_SIGMA = 0.3
OFFSET_SIGMA = 40.0
MIN_SAMPLES = 12
MAX_STRETCH = 4.0
NEAR_CELLS = 8
"""Farther than sheets bend."""


def histogram(
    image: NDArray[np.uint8] | NDArray[np.uint16], mask: NDArray[np.bool_] | None = None
) -> Histogram:
    """Counts of every grey value of the masked pixels; as many bins as the type has values."""
    values = image.ravel() if mask is None else image[mask]
    return np.bincount(values, minlength=int(np.iinfo(image.dtype).max) + 1).astype(np.int64)


def percentile_range(counts: Histogram, *, low: float = 0.1, high: float = 99.9) -> tuple[float, float]:
    """Grey values below which `low` and `high` per cent of the non-zero pixels lie (0 marks what is
    outside)."""
    inner = np.concatenate([np.zeros(1, np.int64), counts[1:]])
    total = inner.sum()
    if total == 0:
        return 0.0, 1.0
    cumulative = np.asarray(inner.cumsum() / total)
    start, stop = (int(np.searchsorted(cumulative, p / 100.0)) for p in (low, high))
    return float(start), float(max(stop, start + 1))


def to_eight_bit(image: NDArray[np.uint16], low: float, high: float) -> NDArray[np.uint8]:
    """Map [low, high] to [1, 255]; 0 stays 0, so that black margins stay recognisable."""
    scaled = np.clip((image.astype(np.float32) - low) * (254.0 / (high - low)) + 1.0, 1.0, 255.0)
    return np.asarray(np.where(np.equal(image, 0), 0, np.rint(scaled)), dtype=np.uint8)


def sample_cells(
    cells: NDArray[np.float32], usable: NDArray[np.bool_], points_yx: Floats, cell_px: int
) -> Floats:
    """Cell means at points (N, 2); nan outside or where not usable."""
    index = np.floor((points_yx + 0.5) / cell_px).astype(np.int64)
    inside = np.asarray(((index >= 0) & (index < np.array(cells.shape))).all(axis=1))
    index = np.asarray(np.where(inside[:, None], index, 0), dtype=np.int64)
    good = inside & usable[index[:, 0], index[:, 1]]
    return np.where(good, cells[index[:, 0], index[:, 1]], np.nan).astype(np.float64)


def common_cells(
    pair: tuple[int, int],
    cells: Sequence[NDArray[np.float32]],
    usable: Sequence[NDArray[np.bool_]],
    warps: Sequence[Warp],
    *,
    cell_px: int,
) -> tuple[Floats, Floats]:
    """Values (N,) of the cells that two tiles share: in the first, and at the same place in the second."""
    a, b = pair
    y, x = np.nonzero(usable[a])
    points = np.stack([y, x], axis=1).astype(np.float64) * cell_px + (cell_px - 1) / 2.0
    near = _near(points, warps[a], warps[b], cells[b].shape, cell_px)
    y, x, points = y[near], x[near], points[near]
    there = sample_cells(cells[b], usable[b], warps[b].inverse(warps[a].apply(points)), cell_px)
    both = np.isfinite(there)
    return cells[a][y, x][both].astype(np.float64), there[both]


def equalise_tiles(
    pairs: Sequence[tuple[int, int]],
    cells: Sequence[NDArray[np.float32]],
    usable: Sequence[NDArray[np.bool_]],
    warps: Sequence[Warp],
    *,
    cell_px: int,
) -> Floats:
    """Gain and offset (N, 2) of each tile so that overlaps have equal mean and spread.

    Cell means of 8 x 8 px are compared, which are nearly free of noise. Tiles without overlap keep (1, 0).
    """
    count = len(warps)
    rows = []
    for a, b in pairs:
        here, there = common_cells((a, b), cells, usable, warps, cell_px=cell_px)
        if len(here) >= MIN_SAMPLES:
            rows.append((a, b, here.mean(), there.mean(), here.std() + 1.0, there.std() + 1.0))
    gain = np.exp(
        balance(count, [(a, b, np.log(sb) - np.log(sa)) for a, b, _, _, sa, sb in rows], GAIN_SIGMA)
    )
    steps = [(a, b, gain[b] * mb - gain[a] * ma) for a, b, ma, mb, _, _ in rows]
    own = np.array(
        [float(c[u].mean()) if u.any() else 0.0 for c, u in zip(cells, usable, strict=True)], dtype=np.float64
    )
    keep = (1.0 - gain) * own
    rest = [(a, b, d - (keep[a] - keep[b])) for a, b, d in steps]
    offset = keep + balance(count, rest, OFFSET_SIGMA)
    return np.asarray(np.stack([gain, offset], axis=1), dtype=np.float64)


def _near(points_yx: Floats, a: Warp, b: Warp, cells_yx: tuple[int, ...], cell_px: int) -> NDArray[np.bool_]:
    """Points of a that may lie in b, by the affine parts alone: exact inverses of all would cost seconds."""
    there = Warp(affine=b.affine).inverse(Warp(affine=a.affine).apply(points_yx)) / cell_px
    return np.asarray(((there > -NEAR_CELLS) & (there < np.array(cells_yx) + NEAR_CELLS)).all(axis=1))


def balance(count: int, rows: Sequence[tuple[int, int, float]], sigma: float) -> Floats:
    """Values v with v[a] - v[b] = d as well as possible and v small (relative weight 0.05 : sigma)."""
    normal: Floats = np.eye(count, dtype=np.float64) / sigma**2
    right = np.zeros(count)
    weight = 1.0 / (0.05 * sigma) ** 2
    for a, b, d in rows:
        normal[a, a] += weight
        normal[b, b] += weight
        normal[a, b] -= weight
        normal[b, a] -= weight
        right[a] += weight * d
        right[b] -= weight * d
    return np.asarray(np.linalg.solve(normal, right), dtype=np.float64)


def section_contrast(
    counts: Sequence[Histogram], gains: Floats, *, target_mean: float, target_std: float
) -> ContrastMap:
    """The linear map that brings a section to the target mean and standard deviation.

    Args:
        counts: one histogram of 256 bins a tile, of usable pixels.
        gains: gain and offset (N, 2) of each tile.

    The extreme 1 % on both sides are clipped first, so that dirt and folds do not count.
    """
    gray = np.arange(256, dtype=np.float64)
    values = np.concatenate([gain * gray + offset for gain, offset in gains])
    weight = np.concatenate([c.astype(np.float64) for c in counts])
    if weight.sum() == 0:
        return ContrastMap(mean=0.0, std=0.0)
    order = np.argsort(values, kind="stable")
    cumulative = weight[order].cumsum() / weight.sum()
    low, high = (
        values[order][min(len(order) - 1, int(np.searchsorted(cumulative, p)))] for p in (0.01, 0.99)
    )
    clipped = np.clip(values, low, high)
    mean = float((clipped * weight).sum() / weight.sum())
    std = float(np.sqrt(((clipped - mean) ** 2 * weight).sum() / weight.sum()))
    gain = float(np.clip(target_std / max(std, 1e-6), 1.0 / MAX_STRETCH, MAX_STRETCH))
    return ContrastMap(
        mean=round(mean, 4),
        std=round(std, 4),
        gain=round(gain, 6),
        offset=round(target_mean - gain * mean, 4),
    )
