"""Where the tiles of a section lie: one sparse robust least-squares problem from all measured overlaps.

First translations, in which wrong overlaps show by contradicting the others; then, from patches, for each
tile an affine map and a smooth sheet, plus one lens sheet that all tiles share. The gauge is held by weak
priors: tiles keep their shape, and the mean position stays the stage's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from functions.model.transform import Sheet, Warp, sheet_shape
from functions.registration.correlation import Shift
from functions.registration.overlaps import Matches
from functions.registration.robust import solve_robust
from functions.registration.sheets import basis_rows, bending

Floats = NDArray[np.float64]
Pair = tuple[int, int]

COARSE_SIGMA_PX = 1.5
"""Accuracy of a coarse offset, lens distortion included."""
LOOP_LIMIT_PX = 8.0
MIN_PEAK = 0.12
MIN_MARGIN = 0.08
CELLS = 5
"""Sheet cells along the longer side of a tile."""
MATCH_SIGMA_PX = 0.1
BEND_SIGMA_PX = 1.0
SHEET_SIGMA_PX = 3.0
AFFINE_SIGMA_PX = 2.0
LENS_SIGMA_PX = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Positions (N, 2) px of tile corners, which pairs agree, and which tiles hang on no agreeing pair."""

    positions_yx: Floats
    kept: NDArray[np.bool_]
    loose: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Montage:
    """Solved warps, tile px to section px, and residuals of every match (one array a pair; weights 0 =
    rejected)."""

    warps: tuple[Warp, ...]
    residuals_px: tuple[Floats, ...]
    weights: tuple[Floats, ...]


def place_tiles(
    stage_yx_px: Floats,
    pairs: Sequence[Pair],
    measured: Sequence[Shift | None],
    *,
    uncertainty_px: float,
) -> Placement:
    """Solve translations; overlaps that contradict the others are rejected and replaced by the stage's
    offset.

    An offset that no loop checks must at least stand out clearly.
    """
    count = len(stage_yx_px)
    stage_step = np.array([stage_yx_px[b] - stage_yx_px[a] for a, b in pairs]).reshape(-1, 2)
    sure = np.array(
        [m is not None and m.peak >= MIN_PEAK and m.margin >= MIN_MARGIN for m in measured], dtype=np.bool_
    )
    step = np.array(
        [m.shift_yx_px if m is not None else s for m, s in zip(measured, stage_step, strict=True)]
    ).reshape(-1, 2)
    trust = np.array([m.peak * m.margin if m is not None else 0.0 for m in measured])
    kept = sure.copy()
    positions = stage_yx_px
    for _ in range(2):
        positions, residual = _translations(
            stage_yx_px, pairs, step, kept, trust, uncertainty_px=uncertainty_px
        )
        kept = sure & (residual <= LOOP_LIMIT_PX)
    step_map = _stage_map(stage_step[kept], step[kept])
    corrected = np.where(kept[:, None], step, stage_step @ step_map.T)
    positions, _ = _translations(
        stage_yx_px, pairs, corrected, kept, trust, uncertainty_px=uncertainty_px, bridge=True
    )
    return Placement(positions_yx=positions, kept=kept, loose=_loose(count, pairs, kept))


def _translations(
    stage: Floats,
    pairs: Sequence[Pair],
    step: Floats,
    kept: NDArray[np.bool_],
    trust: Floats,
    *,
    uncertainty_px: float,
    bridge: bool = False,
) -> tuple[Floats, Floats]:
    """Positions (N, 2) and the residual (E,) of every pair; unkept pairs pull like a stage step, or not
    at all."""
    count, edges = len(stage), len(pairs)
    ends = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    rows = np.repeat(np.arange(edges), 2)
    values = np.tile([-1.0, 1.0], edges)
    design = sparse.csr_matrix((values, (rows, ends.ravel())), shape=(edges, count))
    soft = 1.0 / max(uncertainty_px, 1.0) ** 2
    strong = (0.2 + trust) / COARSE_SIGMA_PX**2
    weight = np.where(kept, strong, soft if bridge else 0.0)
    prior = sparse.identity(count, format="csr") * (soft * 1e-4)
    solution = solve_robust(
        design, step, weight=weight, prior=prior, prior_right=stage * (soft * 1e-4),
        floor_px=COARSE_SIGMA_PX, cut=6.0, rounds=2 if bridge else 12,
    )  # fmt: skip
    return solution.unknowns, solution.residual_px


def _stage_map(stage_step: Floats, step: Floats) -> Floats:
    """The 2 x 2 map from stage offsets to measured ones (the stage may be turned against the camera)."""
    if len(step) < 3:
        return np.eye(2)
    ridge = np.eye(2, dtype=np.float64) * (1e-2 * float((stage_step**2).sum()) / len(step))
    normal = stage_step.T @ stage_step + ridge
    return np.asarray(np.linalg.solve(normal, stage_step.T @ step + ridge).T, dtype=np.float64)


def _loose(count: int, pairs: Sequence[Pair], kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Tiles outside the largest group that kept pairs hold together (none for a single tile)."""
    ends = np.array(pairs, dtype=np.int64).reshape(-1, 2)[kept]
    graph = sparse.coo_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(count, count))
    _, label = csgraph.connected_components(graph, directed=False)
    return np.asarray(label != np.argmax(np.bincount(label))) if count > 1 else np.zeros(count, np.bool_)


def solve_montage(
    positions_yx: Floats,
    shapes_yx: Sequence[tuple[int, int]],
    pairs: Sequence[Pair],
    matches: Sequence[Matches],
    *,
    tether_px: float,
) -> Montage:
    """Affine map and sheet of every tile from all patch matches.

    Args:
        positions_yx: tile corners (N, 2) from `place_tiles`.
        matches: per pair; empty where nothing was found.
        tether_px: how far a tile without matches may be pulled from its position.
    """
    count = len(shapes_yx)
    shape = (max(s[0] for s in shapes_yx), max(s[1] for s in shapes_yx))
    spacing = (max(shape) - 1) / CELLS
    knots = sheet_shape(shape, spacing)
    centre, half = (np.array(shape) - 1) / 2.0, (max(shape) - 1) / 2.0
    block = 3 + knots[0] * knots[1]
    total = count * block + knots[0] * knots[1]
    a_index = np.repeat([a for a, _ in pairs], [len(m) for m in matches]).astype(np.int64)
    b_index = np.repeat([b for _, b in pairs], [len(m) for m in matches]).astype(np.int64)
    a_yx = np.concatenate([m.a_yx for m in matches]) if matches else np.zeros((0, 2))
    b_yx = np.concatenate([m.b_yx for m in matches]) if matches else np.zeros((0, 2))
    peak = np.concatenate([m.peak for m in matches]) if matches else np.zeros(0)

    def rows(index: NDArray[np.int64], points: Floats) -> sparse.csr_matrix:
        columns, weights = basis_rows(points, spacing_px=spacing, shape=knots)
        n = len(points)
        start = index[:, None] * block
        unit = (points - centre) / half
        cols = np.concatenate([start + np.arange(3), start + 3 + columns, count * block + columns], axis=1)
        vals = np.concatenate([np.ones((n, 1)), unit, weights, weights], axis=1)
        return sparse.csr_matrix(
            (vals.ravel(), (np.repeat(np.arange(n), cols.shape[1]), cols.ravel())), shape=(n, total)
        )

    design = rows(a_index, a_yx) - rows(b_index, b_yx)
    target = (b_yx + positions_yx[b_index]) - (a_yx + positions_yx[a_index])
    sheet = bending(knots) / BEND_SIGMA_PX**2 + sparse.identity(knots[0] * knots[1]) / SHEET_SIGMA_PX**2
    lens = bending(knots) / BEND_SIGMA_PX**2 + sparse.identity(knots[0] * knots[1]) / LENS_SIGMA_PX**2
    rigid = sparse.diags([1e-3 / max(tether_px, 1.0) ** 2, 1 / AFFINE_SIGMA_PX**2, 1 / AFFINE_SIGMA_PX**2])
    prior = sparse.block_diag([sparse.block_diag([rigid, sheet])] * count + [lens], format="csr")
    solution = solve_robust(
        design, target, weight=np.clip(peak, 0.05, 1) ** 2 / MATCH_SIGMA_PX**2, prior=prior
    )
    cuts = np.cumsum([len(m) for m in matches])[:-1]
    common = solution.unknowns[count * block :]
    warps = []
    for k in range(count):
        own = solution.unknowns[k * block : (k + 1) * block]
        linear = np.eye(2) + own[1:3].T / half
        move = positions_yx[k] + own[0] - (own[1:3].T / half) @ centre
        bent = (own[3:] + common).T.reshape(2, *knots)
        flat = not len(peak) or float(np.abs(bent).max()) < 1e-6
        warps.append(
            Warp(
                affine=np.concatenate([linear, move[:, None]], axis=1),
                sheet=None if flat else Sheet(spacing_px=spacing, coefficients=bent),
            )
        )
    return Montage(
        warps=_without_common_affine(warps, shapes_yx, positions_yx),
        residuals_px=tuple(np.split(solution.residual_px, cuts)) if matches else (),
        weights=tuple(np.split(solution.weight, cuts)) if matches else (),
    )


def _without_common_affine(
    warps: Sequence[Warp], shapes_yx: Sequence[tuple[int, int]], positions_yx: Floats
) -> tuple[Warp, ...]:
    """Fix the gauge: tiles are on average neither scaled, sheared nor turned, and stay where they were on
    average.

    Overlaps cannot see an affine map of the whole section, so the solve leaves it to its weak priors.
    """
    jacobians, moves = [], []
    for warp, shape in zip(warps, shapes_yx, strict=True):
        axes = [np.linspace(0.0, n - 1.0, 5) for n in shape]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
        placed = warp.apply(points)
        middle = points.mean(axis=0)
        fit = np.linalg.lstsq(points - middle, placed - placed.mean(axis=0), rcond=None)[0]
        jacobians.append(fit.T)
        moves.append(placed.mean(axis=0) - middle)
    back = np.linalg.inv(np.mean(jacobians, axis=0))
    shift = positions_yx.mean(axis=0) - back @ np.mean(moves, axis=0)
    out = []
    for warp in warps:
        affine = back @ warp.affine
        affine[:, 2] += shift
        sheet = warp.sheet
        if sheet is not None:
            bent = np.einsum("ij,jyx->iyx", back, sheet.coefficients)
            sheet = Sheet(spacing_px=sheet.spacing_px, coefficients=bent)
        out.append(Warp(affine=affine, sheet=sheet))
    return tuple(out)
