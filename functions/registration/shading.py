"""The shading that all tiles of a camera share, from what they show: least-squares self-calibration.

Two tiles that overlap show the same tissue at two places of the camera, so the ratio of what they show is
that of its brightness there, whatever the tissue (Fixsen, Moseley & Arendt, "Calibrating array detectors",
ApJS 2000). That says exactly how brightness changes along the rims; for the rest of a tile, and for
gradients, which such ratios cannot tell from tiles of unequal gain, the mean of many tiles stands in: tissue
differs from tile to tile, the camera does not.

How good that is shows in how much it changes when tiles are left out (jackknife; Efron & Stein, 1981),
whatever tissue and tiles have of their own. A shading that is not clearly more than its error counts as none;
the others are drawn towards none by their share of error (James & Stein, 1961).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from functions.model.shading import Shading
from functions.model.transform import sheet_shape
from functions.registration.contrast import SharedCells
from functions.registration.masks import CELL_PX, Gray, Mask
from functions.registration.sheets import basis_rows, bending

Floats = NDArray[np.float64]

KNOT_CELLS = 4
"""Spline cells along the longer side of a tile: shading is smooth."""
BEND_SIGMA, LEVEL_SIGMA = 0.05, 0.5
"""Of the logarithm of the brightness: second differences between knots, and values."""
BLOCKS = 16
"""Blocks along the longer side of a tile whose means are compared with the tile's."""
SAMPLES = 128
"""Cells of an overlap that are compared."""
MAX_GROUPS = 400
"""Tiles and overlaps of a section that are looked at, of each."""
PARTS = 16
"""So many parts of the tiles are left out, one after the other."""
MIN_TILES = 4
ROUNDS = 4
NOISE = 0.003
"""Logarithms that differ less are equal."""
SURE = 6.0
"""A shading counts when its mean square is so many times its variance. Of 44 sections of 4 tiles that had
none, the most was 3.2."""
MIN_VARIANCE = 0.003**2
"""However many tiles a shading rests on: a camera that was adjusted is followed."""
VISIBLE = 0.004
"""A change below half a grey level of mid-grey is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """A tile, or two that overlap: `values` (n,) are `design` (n, K) times the unknowns, and a constant that
    stands for what the tiles themselves have."""

    tiles: tuple[int, ...]
    design: Floats
    values: Floats


def estimate_shading(
    shared: Sequence[SharedCells],
    cells: Sequence[NDArray[np.float32]],
    usable: Sequence[Mask],
    shapes_yx: Sequence[tuple[int, int]],
) -> Shading | None:
    """The shading that the tiles of a section show, not yet drawn towards none; None of fewer than
    `MIN_TILES` tiles of the usual (largest) shape.

    Args:
        shared: what pairs of tiles have in common.
        cells: mean grey values of each tile on cells of `CELL_PX`; `usable` says which count.
    """
    shape = usual_shape(shapes_yx)
    alike = [k for k, own in enumerate(shapes_yx) if own == shape and usable[k].any()]
    if len(alike) < MIN_TILES:
        return None
    spacing = (max(shape) - 1) / KNOT_CELLS
    knots = sheet_shape(shape, spacing)
    seams = [s for s in shared if len(s.b_yx) and s.pair[0] in alike and s.pair[1] in alike]
    kinds = [
        [_of_tile(alike[k], cells, usable, spacing, knots) for k in _some(len(alike))],
        [_of_seam(seams[k], cells, spacing, knots) for k in _some(len(seams))],
    ]
    prior = (bending(knots) / BEND_SIGMA**2).toarray() + np.eye(knots[0] * knots[1]) / LEVEL_SIGMA**2
    whole, without = _solve(kinds, prior, {k: rank % PARTS for rank, k in enumerate(alike)})
    axes = [np.linspace(0.0, n - 1.0, 17) for n in shape]
    basis = _rows(np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2), spacing, knots)
    off = (without - without.mean(axis=0)) @ basis.T
    off -= off.mean(axis=1, keepdims=True)
    return Shading(
        spacing_px=spacing,
        coefficients=(whole - float((basis @ whole).mean())).reshape(knots),
        variance=float((len(off) - 1) / len(off) * (off**2).sum(axis=0).mean()),
        tiles=len(alike),
    )


def usual_shape(shapes_yx: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The largest shape of a section's tiles: that of the camera; smaller ones are parts, one cannot say
    which."""
    return max(shapes_yx, key=lambda s: (s[0] * s[1], s))


def _some(count: int) -> list[int]:
    """At most `MAX_GROUPS` of so many, spread evenly."""
    spread = np.linspace(0, count - 1, min(count, MAX_GROUPS)).round().astype(int)
    return [int(k) for k in spread]


def _rows(points_yx: Floats, spacing_px: float, knots: tuple[int, int]) -> Floats:
    """Weights (N, K) of all coefficients at points (N, 2)."""
    columns, weights = basis_rows(points_yx, spacing_px=spacing_px, shape=knots)
    out = np.zeros((len(points_yx), knots[0] * knots[1]))
    np.put_along_axis(out, columns, weights, axis=1)
    return out


def _log(values: Floats | NDArray[np.float32]) -> Floats:
    return np.log(np.maximum(np.asarray(values, dtype=np.float64), 1.0))


def _of_tile(
    k: int,
    cells: Sequence[NDArray[np.float32]],
    usable: Sequence[Mask],
    spacing_px: float,
    knots: tuple[int, int],
) -> _Group:
    """Means of a tile's blocks, of those that are usable by half."""
    side = -(-max(cells[k].shape) // BLOCKS)
    starts = [np.arange(0, n, side) for n in cells[k].shape]

    def sums(values: Floats) -> Floats:
        rows: Floats = np.add.reduceat(values, starts[0], axis=0)
        return np.asarray(np.add.reduceat(rows, starts[1], axis=1), dtype=np.float64)

    used = usable[k].astype(np.float64)
    count = sums(used)
    good = count >= 0.5 * side * side
    y, x = np.nonzero(good)
    centre = (np.stack([starts[0][y], starts[1][x]], axis=1) + side / 2.0) * CELL_PX - 0.5
    mean = (sums(cells[k] * used) / np.maximum(count, 1.0))[good]
    return _Group(tiles=(k,), design=_rows(centre, spacing_px, knots), values=_log(mean))


def _of_seam(
    shared: SharedCells, cells: Sequence[NDArray[np.float32]], spacing_px: float, knots: tuple[int, int]
) -> _Group:
    """Ratios of what two tiles show of the same tissue."""
    some = np.unique(np.linspace(0, len(shared.b_yx) - 1, SAMPLES).round().astype(int))
    here, there = shared.values(cells)
    design = _rows(shared.a_yx[some], spacing_px, knots) - _rows(shared.b_yx[some], spacing_px, knots)
    return _Group(tiles=shared.pair, design=design, values=_log(here[some]) - _log(there[some]))


def _solve(kinds: Sequence[Sequence[_Group]], prior: Floats, part: dict[int, int]) -> tuple[Floats, Floats]:
    """Coefficients (K,) of all tiles, and those without each part of the tiles (parts, K); tiles and overlaps
    are weighed by their own scatter, and what does not fit counts less (Huber)."""
    parts, size = max(part.values()) + 1, len(prior)
    found = np.zeros(size)
    weights = [[np.ones(len(g.values)) for g in groups] for groups in kinds]
    normal, right = np.zeros((size, size)), np.zeros(size)
    left_normal, left_right = np.zeros((parts, size, size)), np.zeros((parts, size))
    for _ in range(ROUNDS):
        normal[:], right[:] = prior, 0.0
        left_normal[:], left_right[:] = 0.0, 0.0
        for groups, own in zip(kinds, weights, strict=True):
            rest = [_centred(g.values - g.design @ found, w) for g, w in zip(groups, own, strict=True)]
            scale = max(NOISE, 1.4826 * float(np.median(np.abs(np.concatenate(rest))))) if rest else NOISE
            for group, weight, residual in zip(groups, own, rest, strict=True):
                weight[:] = 1.0 / np.maximum(1.0, np.abs(residual) / (1.5 * scale))
                design = _centred(group.design, weight)
                scaled = (weight / scale**2)[:, None] * design
                a, b = scaled.T @ design, scaled.T @ _centred(group.values, weight)
                normal += a
                right += b
                for q in {part[k] for k in group.tiles}:
                    left_normal[q] += a
                    left_right[q] += b
        found[:] = np.linalg.solve(normal, right)
    without = np.linalg.solve(normal - left_normal, (right - left_right)[..., None])[..., 0]
    return found, np.asarray(without, dtype=np.float64)


def _centred(values: Floats, weight: Floats) -> Floats:
    """Less their weighted mean over the first axis."""
    out: Floats = values - np.average(values, axis=0, weights=weight) if len(values) else values
    return out


def joined(shadings: Sequence[Shading | None]) -> Shading | None:
    """The mean of what several say of one camera, each by its certainty; None of none."""
    known = [s for s in shadings if s is not None]
    if not known:
        return None
    weights = np.array([1.0 / max(s.variance, MIN_VARIANCE) for s in known])
    return Shading(
        spacing_px=known[0].spacing_px,
        coefficients=np.average([s.coefficients for s in known], axis=0, weights=weights),
        variance=max(MIN_VARIANCE, float(1.0 / weights.sum())),
        tiles=sum(s.tiles for s in known),
    )


def believed(shading: Shading | None, shape_yx: tuple[int, int]) -> Shading | None:
    """What tiles should be divided by: drawn towards none as far as it is uncertain; None where it may well
    be none."""
    if shading is None:
        return None
    values = shading.on_grid(*(np.linspace(0.0, n - 1.0, 17) for n in shape_yx))
    square = float((values**2).mean())
    if square <= SURE * shading.variance:
        return None
    share = 1.0 - shading.variance / square
    return replace(shading, coefficients=np.round(share * shading.coefficients, 5))


def alike(a: Shading | None, b: Shading | None) -> bool:
    """Whether nobody would see which of two is taken."""
    apart = sum_of(a, b, sign=-1.0)
    return apart is None or float(np.abs(apart.coefficients).max()) < VISIBLE


def sum_of(a: Shading | None, b: Shading | None, *, sign: float = 1.0) -> Shading | None:
    """One after the other; with sign -1 the first and the second undone. Variance and tiles are those of the
    first."""
    if a is None or b is None:
        return a if b is None else replace(b, coefficients=sign * b.coefficients)
    return replace(a, coefficients=a.coefficients + sign * b.coefficients)


def factors(shading: Shading, shape_yx: tuple[int, int]) -> NDArray[np.float32]:
    """What the pixels (Y, X) of a tile are multiplied by so that the shading is gone."""
    values = shading.on_grid(*(np.arange(n, dtype=np.float64) for n in shape_yx)).astype(np.float32)
    return np.exp(-values)


def flattened(image: Gray, by: NDArray[np.float32]) -> Gray:
    """A tile times `by` (Y, X), rounded. 0 and 255 stay: there, the camera has measured nothing."""
    out: Gray = np.rint(np.clip(image * by, 1.0, 254.0)).astype(np.uint8)
    np.copyto(out, image, where=(image == 0) | (image == 255))
    return out
