"""Grey values that fit: between tiles of a section, and between sections of a stack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    values = np.arange(1 << 16, dtype=np.float32)  # each is worked out once: an image as floats takes room
    table = np.rint(np.clip((values - low) * (254.0 / (high - low)) + 1.0, 1.0, 255.0)).astype(np.uint8)
    table[0] = 0
    out: NDArray[np.uint8] = table[image]
    return out


def moments(counts: Histogram) -> tuple[float, float]:
    """Mean and standard deviation of what a histogram counts; 0 where it counts nothing."""
    total = counts.sum()
    if total == 0:
        return 0.0, 0.0
    values = np.arange(len(counts), dtype=np.float64)
    mean = float((counts * values).sum() / total)
    return mean, float(np.sqrt((counts * (values - mean) ** 2).sum() / total))


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedCells:
    """The usable cells that two tiles share: N cells of the first (`a`: row, column), their centres, and
    where these are in the second, px and cell (`b`)."""

    pair: tuple[int, int]
    a: NDArray[np.int64]
    b: NDArray[np.int64]
    a_yx: Floats
    b_yx: Floats

    def values(self, cells: Sequence[NDArray[np.float32]]) -> tuple[Floats, Floats]:
        """What the two show there (N,)."""
        here, there = (
            cells[k][at[:, 0], at[:, 1]].astype(np.float64)
            for k, at in zip(self.pair, (self.a, self.b), strict=True)
        )
        return here, there


def shared_cells(
    pair: tuple[int, int], usable: Sequence[NDArray[np.bool_]], warps: Sequence[Warp], *, cell_px: int
) -> SharedCells:
    """What two tiles share, by where their warps place them."""
    a, b = pair
    at = np.stack(np.nonzero(usable[a]), axis=1)
    points = at.astype(np.float64) * cell_px + (cell_px - 1) / 2.0
    near = _near(points, warps[a], warps[b], usable[b].shape, cell_px)
    at, points = at[near], points[near]
    there = warps[b].inverse(warps[a].apply(points))
    index = np.floor((there + 0.5) / cell_px).astype(np.int64)
    both = np.asarray(((index >= 0) & (index < np.array(usable[b].shape))).all(axis=1))
    both[both] = usable[b][index[both, 0], index[both, 1]]
    return SharedCells(pair=pair, a=at[both], b=index[both], a_yx=points[both], b_yx=there[both])


def equalise_tiles(
    shared: Sequence[SharedCells],
    cells: Sequence[NDArray[np.float32]],
    usable: Sequence[NDArray[np.bool_]],
) -> Floats:
    """Gain and offset (N, 2) of each tile so that overlaps have equal mean and spread.

    Cell means of 8 x 8 px are compared, which are nearly free of noise. Tiles without overlap keep (1, 0).
    """
    count = len(cells)
    rows = []
    for common in shared:
        here, there = common.values(cells)
        if len(here) >= MIN_SAMPLES:
            rows.append((*common.pair, here.mean(), there.mean(), here.std() + 1.0, there.std() + 1.0))
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
