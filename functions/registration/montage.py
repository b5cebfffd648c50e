"""Where the tiles of a section lie: one sparse robust least-squares problem from all measured overlaps.

First translations, in which wrong overlaps show by contradicting the others; then, from patches, for each
tile an affine map and a smooth sheet, plus one lens sheet that all tiles share, about what earlier sections
say of it. The gauge is held by weak
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
from functions.registration.lens import LensPrior, without_affine
from functions.registration.overlaps import Matches
from functions.registration.robust import KeptFactor, Sparse, solve_robust
from functions.registration.sheets import basis_rows
from functions.registration.stiffness import FREEDOMS, MAX_JUDGED, Prior, most_probable, prior_of

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
"""Accuracy of a patch, at least."""
ROUNDS, FIRST_ROUNDS = 6, 4
"""Of reweighting; the first solve only tells wrong matches from right ones, for the stiffness."""
ANGLE_SIGMA = 0.002
TURNED = 0.009
"""Radians; lens and stage leave less."""
MAX_TURNED = 0.1
"""Share of turned tiles above which what tiles share in section px is no lens."""
GAUGE_LIMIT = 0.008
"""Tiles whose linear part differs more from the median do not count for the section's scale and rotation."""


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
    lens: Sheet | None
    """What the tiles share, in raw px; None without matches, or where tiles stand differently."""


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
    near = kept & (np.linalg.norm(step - stage_step, axis=1) <= 4.0 * max(uncertainty_px, LOOP_LIMIT_PX))
    step_map = _stage_map(stage_step[near], step[near])
    corrected = np.where(kept[:, None], step, stage_step @ step_map.T)
    group = groups_of(count, pairs, kept)
    # inside a group the images say where tiles lie; the stage only says how groups lie to each other
    bridge = np.array([group[a] != group[b] for a, b in pairs], dtype=np.bool_)
    positions, _ = _translations(
        stage_yx_px, pairs, corrected, kept, trust, uncertainty_px=uncertainty_px, bridge=bridge
    )
    loose = group != np.argmax(np.bincount(group)) if count else np.zeros(0, np.bool_)
    return Placement(positions_yx=positions, kept=kept, loose=np.asarray(loose, dtype=np.bool_))


def _translations(
    stage: Floats,
    pairs: Sequence[Pair],
    step: Floats,
    kept: NDArray[np.bool_],
    trust: Floats,
    *,
    uncertainty_px: float,
    bridge: NDArray[np.bool_] | None = None,
) -> tuple[Floats, Floats]:
    """Positions (N, 2) and the residual (E,) of every pair; unkept pairs pull like a stage step where
    `bridge` (E,) is True, or not at all."""
    count, edges = len(stage), len(pairs)
    ends = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    rows = np.repeat(np.arange(edges), 2)
    values = np.tile([-1.0, 1.0], edges)
    design = sparse.csr_matrix((values, (rows, ends.ravel())), shape=(edges, count))
    soft = 1.0 / max(uncertainty_px, 1.0) ** 2
    strong = (0.2 + trust) / COARSE_SIGMA_PX**2
    weight = np.where(kept, strong, 0.0 if bridge is None else np.where(bridge, soft, 0.0))
    prior = sparse.identity(count, format="csr") * (soft * 1e-4)
    solution = solve_robust(
        design, step, weight=weight, prior=prior, prior_right=stage * (soft * 1e-4),
        floor_px=COARSE_SIGMA_PX, cut=6.0, rounds=12 if bridge is None else 2,
    )  # fmt: skip
    return solution.unknowns, solution.residual_px


def _stage_map(stage_step: Floats, step: Floats) -> Floats:
    """The 2 x 2 map from stage offsets to measured ones (the stage may be turned against the camera)."""
    if len(step) < 3:
        return np.eye(2)
    ridge = np.eye(2, dtype=np.float64) * (1e-2 * float((stage_step**2).sum()) / len(step))
    normal = stage_step.T @ stage_step + ridge
    return np.asarray(np.linalg.solve(normal, stage_step.T @ step + ridge).T, dtype=np.float64)


def groups_of(count: int, pairs: Sequence[Pair], kept: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The group (N,) each tile belongs to; kept pairs tie tiles together."""
    ends = np.array(pairs, dtype=np.int64).reshape(-1, 2)[kept]
    graph = sparse.coo_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(count, count))
    return np.asarray(csgraph.connected_components(graph, directed=False)[1], dtype=np.int64)


def turn_frames(
    frames: Floats, shapes_yx: Sequence[tuple[int, int]], pairs: Sequence[Pair], matches: Sequence[Matches]
) -> Floats:
    """Frames (N, 2, 3) in which tiles that matches show to be turned by more than half a degree are turned.

    The solve's prior keeps tiles upright; a turned one would bend its neighbours. Tiles turn about their
    centres. Each pair gives the difference of two angles; most tiles are not turned.
    """
    count = len(shapes_yx)
    rows = [
        (a, b, _angle(frames, (a, b), m)) for (a, b), m in zip(pairs, matches, strict=True) if len(m) >= 4
    ]
    if not rows:
        return frames
    ends = np.array([r[:2] for r in rows], dtype=np.int64)
    values = np.tile([1.0, -1.0], len(rows))
    design = sparse.csr_matrix(
        (values, (np.repeat(np.arange(len(rows)), 2), ends.ravel())), (len(rows), count)
    )
    solution = solve_robust(
        design, np.array([[r[2]] for r in rows]), weight=np.full(len(rows), ANGLE_SIGMA**-2),
        prior=sparse.identity(count, format="csr") * (0.01 / ANGLE_SIGMA**2), floor_px=ANGLE_SIGMA,
        cut=1e3, rounds=4,
    )  # fmt: skip
    angles = solution.unknowns[:, 0] - np.median(solution.unknowns[:, 0])
    out = frames.copy()
    for k in np.flatnonzero(np.abs(angles) > TURNED).tolist():
        c, s = np.cos(angles[k]), np.sin(angles[k])
        linear = np.array([[c, -s], [s, c]]) @ frames[k, :, :2]
        centre = (np.array(shapes_yx[k]) - 1) / 2.0
        out[k] = np.concatenate([linear, (frames[k] @ [*centre, 1.0] - linear @ centre)[:, None]], axis=1)
    return out


def _angle(frames: Floats, pair: Pair, matches: Matches) -> float:
    """By which angle the first tile of a pair must be turned to lie like the second."""
    own, other = (
        (m - m.mean(axis=0)) @ frames[k, :, :2].T
        for k, m in zip(pair, (matches.a_yx, matches.b_yx), strict=True)
    )
    cross = float((own[:, 0] * other[:, 1] - own[:, 1] * other[:, 0]).sum())
    return float(np.arctan2(cross, float((own * other).sum())))


def solve_montage(
    positions_yx: Floats,
    shapes_yx: Sequence[tuple[int, int]],
    pairs: Sequence[Pair],
    matches: Sequence[Matches],
    *,
    tether_px: float,
    frames: Floats | None = None,
    lens: LensPrior | None = None,
) -> Montage:
    """Affine map and sheet of every tile from all patch matches.

    Args:
        positions_yx: corners (N, 2) of the upright tiles from `place_tiles`.
        matches: per pair; empty where nothing was found.
        tether_px: how far a tile without matches may be pulled from its position.
        frames: raw to upright pixels (N, 2, 3) of each tile; shapes and matches are in raw pixels.
        lens: what is known of it; only the difference is solved for, the more narrowly the more is known.
    """
    count = len(shapes_yx)
    start = np.array([np.eye(2, 3)] * count) if frames is None else frames.copy()
    start[:, :, 2] += positions_yx
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
        first = index[:, None] * block
        unit = (points - centre) / half
        cols = np.concatenate([first + np.arange(3), first + 3 + columns, count * block + columns], axis=1)
        vals = np.concatenate([np.ones((n, 1)), unit, weights, weights], axis=1)
        return sparse.csr_matrix(
            (vals.ravel(), (np.repeat(np.arange(n), cols.shape[1]), cols.ravel())), shape=(n, total)
        )

    design = rows(a_index, a_yx) - rows(b_index, b_yx)
    known = np.zeros((2, *knots)) if lens is None else lens.sheet.coefficients
    field = Sheet(spacing_px=spacing, coefficients=known)
    target = _placed(start, b_index, b_yx + field(b_yx)) - _placed(start, a_index, a_yx + field(a_yx))
    priors = [
        prior_of(freedom, knots, tether_px=tether_px, lens_weight=0.0 if lens is None else lens.weight)
        for freedom in FREEDOMS
    ]
    weight = np.clip(peak, 0.05, 1) ** 2 / MATCH_SIGMA_PX**2
    judged = min(count, MAX_JUDGED)
    inside = np.flatnonzero((a_index < judged) & (b_index < judged))
    part = design[inside][:, np.r_[: judged * block, count * block : total]]
    best = _stiffness(part, target[inside], weight[inside], priors, tiles=judged)
    solution = solve_robust(
        design, target, weight=weight, prior=priors[best].of(count), rounds=ROUNDS, solver=KeptFactor()
    )
    cuts = np.cumsum([len(m) for m in matches])[:-1]
    shared = solution.unknowns[count * block :].T.reshape(2, *knots)
    warps = []
    for k in range(count):
        own = solution.unknowns[k * block : (k + 1) * block]
        linear = start[k, :, :2] + own[1:3].T / half
        move = start[k, :, 2] + own[0] - (own[1:3].T / half) @ centre
        bent = np.einsum("ij,jyx->iyx", start[k, :, :2], known) + own[3:].T.reshape(2, *knots) + shared
        flat = float(np.abs(bent).max()) < 1e-6
        warps.append(
            Warp(
                affine=np.concatenate([linear, move[:, None]], axis=1),
                sheet=None if flat else Sheet(spacing_px=spacing, coefficients=bent),
            )
        )
    return Montage(
        warps=_without_common_affine(warps, shapes_yx, start),
        residuals_px=tuple(np.split(solution.residual_px, cuts)) if matches else (),
        weights=tuple(np.split(solution.weight, cuts)) if matches else (),
        lens=_lens(start, known, shared, spacing) if len(peak) else None,
    )


def _stiffness(design: Sparse, target: Floats, weight: Floats, priors: Sequence[Prior], *, tiles: int) -> int:
    """Which prior the matches of so many tiles speak for, wrong ones left out."""
    prior = priors[-1].of(tiles)
    first = solve_robust(design, target, weight=weight, prior=prior, rounds=FIRST_ROUNDS, solver=KeptFactor())
    return most_probable(priors, design, target, weight * first.weight, tiles=tiles)


def _lens(start: Floats, known: Floats, shared: Floats, spacing_px: float) -> Sheet | None:
    """The lens in raw px: `shared` (2, gy, gx) is in section px, and of use where most tiles stand alike."""
    linear = start[:, :, :2]
    usual = np.median(linear, axis=0)
    if np.mean(np.abs(linear - usual).max(axis=(1, 2)) > TURNED) > MAX_TURNED:
        return None
    found = known + np.einsum("ij,jyx->iyx", np.linalg.inv(usual), shared)
    return without_affine(Sheet(spacing_px=spacing_px, coefficients=found))


def _placed(start: Floats, index: NDArray[np.int64], points_yx: Floats) -> Floats:
    """Raw pixels (M, 2) of tiles `index` (M,) mapped by those tiles' affine maps (N, 2, 3)."""
    out: Floats = np.einsum("mij,mj->mi", start[index, :, :2], points_yx) + start[index, :, 2]
    return out


def _without_common_affine(
    warps: Sequence[Warp], shapes_yx: Sequence[tuple[int, int]], start: Floats
) -> tuple[Warp, ...]:
    """Fix the gauge: tiles are on average neither scaled, sheared nor turned against their first placement
    (N, 2, 3), and stay where they were on average.

    Overlaps cannot see an affine map of the whole section, so the solve leaves it to its weak priors.
    """
    jacobians, moves, places = [], [], []
    for warp, shape, first in zip(warps, shapes_yx, start, strict=True):
        axes = [np.linspace(0.0, n - 1.0, 5) for n in shape]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
        placed, middle = warp.apply(points), points.mean(axis=0)
        fit = np.linalg.lstsq(points - middle, placed - placed.mean(axis=0), rcond=None)[0]
        jacobians.append(fit.T @ np.linalg.inv(first[:, :2]))
        moves.append(placed.mean(axis=0))
        places.append(first[:, :2] @ middle + first[:, 2])
    off = np.abs(np.array(jacobians) - np.median(jacobians, axis=0)).max(axis=(1, 2))
    # a tile that was turned or stretched by itself says nothing about the section
    back = np.linalg.inv(np.mean(np.array(jacobians)[off <= max(GAUGE_LIMIT, float(np.median(off)))], axis=0))
    shift = np.mean(places, axis=0) - back @ np.mean(moves, axis=0)
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
