"""Where every section of a stack lies: one joint solve over all pairs.

First rigid motions (rotations, then translations, both linear and robust), then a sheet for each section,
all in one sparse least-squares problem. No section is the anchor: the gauge is that rotations and
translations are zero on average, and that sections keep their size and shape on average, so that no section
imprints its distortion on the stack and the stack neither shrinks nor drifts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from functions.model.transform import Sheet, Warp, sheet_shape
from functions.registration.overlaps import Matches
from functions.registration.robust import solve_robust
from functions.registration.sheets import basis_rows, bending, membrane

Floats = NDArray[np.float64]
MATCH_SIGMA_PX = 0.5
BEND_SIGMA_PX = 2.0
STRETCH_SIGMA_PX = 12.0
SHEET_SIGMA_PX = 100.0
SIGMA_TURN_RAD = 0.003
SIGMA_MOVE_PX = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StackSection:
    """A section to place: its index along z, shape, and stage position of pixel (0, 0), px."""

    z: int
    shape_yx: tuple[int, int]
    stage_origin_yx_px: tuple[float, float] = (0.0, 0.0)

    @property
    def centre_yx(self) -> Floats:
        """Middle of the image."""
        return (np.array(self.shape_yx, dtype=np.float64) - 1.0) / 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StackPair:
    """Matches between sections `a` and `b` (indices into the stack)."""

    a: int
    b: int
    matches: Matches


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Solved warps, section px to a common frame; which sections hang on matches; residuals of each
    pair's matches."""

    warps: tuple[Warp, ...]
    held: tuple[bool, ...]
    residuals_px: tuple[Floats, ...]


def solve_stack(
    sections: Sequence[StackSection],
    pairs: Sequence[StackPair],
    *,
    spacing_px: float,
    stiffness: float = 1.0,
    rigid_only: bool = False,
) -> Stack:
    """Place all sections.

    A section that no pair holds is put between its neighbours along z, with the average of their sheets.

    Args:
        pairs: with at least a few matches each; a pair that should not count is left out.
        stiffness: factor on the resistance to bending.
    """
    count = len(sections)
    label = _groups(count, pairs)
    largest = int(np.argmax(np.bincount(label)))
    held = tuple(bool(k) for k in (label == largest)) if pairs else (count == 1,) * count
    angles, moves = _rigid(sections, pairs, label)
    rigid = [_rigid_affine(angle, move) for angle, move in zip(angles, moves, strict=True)]
    if rigid_only or not pairs:
        warps = [Warp(affine=a) for a in rigid]
    else:
        warps = _without_common_affine(
            sections, _elastic(sections, pairs, rigid, spacing_px, stiffness), rigid
        )
        warps = [w if any(k in (p.a, p.b) for p in pairs) else _between(k, sections, warps, pairs)
                 for k, w in enumerate(warps)]  # fmt: skip
    residuals = tuple(
        np.linalg.norm(warps[p.a].apply(p.matches.a_yx) - warps[p.b].apply(p.matches.b_yx), axis=1)
        for p in pairs
    )
    return Stack(warps=tuple(warps), held=held, residuals_px=residuals)


def _groups(count: int, pairs: Sequence[StackPair]) -> NDArray[np.int64]:
    """Label (N,) of the group that pairs hold together."""
    ends = np.array([(p.a, p.b) for p in pairs], dtype=np.int64).reshape(-1, 2)
    graph = sparse.coo_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(count, count))
    return np.asarray(csgraph.connected_components(graph, directed=False)[1], dtype=np.int64)


def _rotation(angle: float) -> Floats:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _rigid_affine(angle: float, move_yx: Floats) -> Floats:
    return np.concatenate([_rotation(angle), move_yx[:, None]], axis=1)


def _pair_turn(matches: Matches) -> float:
    """Angle of the best rigid map a -> b (Procrustes), with outliers trimmed once."""
    keep = np.ones(len(matches), dtype=np.bool_)
    angle = 0.0
    for _ in range(2):
        a, b = matches.a_yx[keep], matches.b_yx[keep]
        a0, b0 = a - a.mean(axis=0), b - b.mean(axis=0)
        angle = float(np.arctan2((a0[:, 0] * b0[:, 1] - a0[:, 1] * b0[:, 0]).sum(), (a0 * b0).sum()))
        off = np.linalg.norm(
            (matches.a_yx - a.mean(axis=0)) @ _rotation(angle).T - (matches.b_yx - b.mean(axis=0)), axis=1
        )
        keep = off <= 3.0 * float(np.median(off)) + 1e-9
    return angle


def _rigid(
    sections: Sequence[StackSection], pairs: Sequence[StackPair], label: NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Angles (N,) and moves (N, 2). Groups without a pair between them are tied by stage positions,
    weakly."""
    count = len(sections)
    edges = [(p.a, p.b, -_pair_turn(p.matches), 1.0 / abs(sections[p.b].z - sections[p.a].z)) for p in pairs]
    edges += [(k, k + 1, 0.0, 1e-4) for k in range(count - 1) if label[k] != label[k + 1]]
    tree = _walk(count, edges)
    turn = np.array([_wrap(d - (tree[b] - tree[a])) for a, b, d, _ in edges])
    angles = tree + _solve_edges(count, edges, turn[:, None], SIGMA_TURN_RAD, 1e-9)[:, 0]
    angles -= angles.mean()
    steps = []
    for k, (a, b, _, _) in enumerate(edges):
        if k < len(pairs):
            m = pairs[k].matches
            here, there = m.a_yx @ _rotation(angles[a]).T, m.b_yx @ _rotation(angles[b]).T
            steps.append(np.median(here - there, axis=0))
        else:
            here = sections[a].centre_yx
            there = here + sections[a].stage_origin_yx_px - np.array(sections[b].stage_origin_yx_px)
            steps.append(_rotation(angles[a]) @ here - _rotation(angles[b]) @ there)
    moves = _solve_edges(count, edges, np.array(steps).reshape(-1, 2), SIGMA_MOVE_PX, 1e-9)
    return angles, moves - moves.mean(axis=0)


def _wrap(angle: float) -> float:
    return float((angle + np.pi) % (2 * np.pi) - np.pi)


def _walk(count: int, edges: Sequence[tuple[int, int, float, float]]) -> Floats:
    """Angles along a spanning tree: a start from which all residuals are small, however large the turns."""
    angles = np.zeros(count)
    reached = np.zeros(count, dtype=np.bool_)
    reached[0] = True
    for _ in range(count):
        for a, b, d, _ in sorted(edges, key=lambda e: (-e[3], e[0], e[1])):
            if reached[a] and not reached[b]:
                angles[b], reached[b] = angles[a] + d, True
            elif reached[b] and not reached[a]:
                angles[a], reached[a] = angles[b] - d, True
        if reached.all():
            break
    return angles


def _solve_edges(
    count: int, edges: Sequence[tuple[int, int, float, float]], step: Floats, sigma: float, tether: float
) -> Floats:
    """Values (N, K) with v[b] - v[a] = step, robustly, weighted by the edges' fourth entry."""
    if not edges:
        return np.zeros((count, step.shape[1] if step.ndim == 2 and step.shape[1] else 2))
    rows = np.repeat(np.arange(len(edges)), 2)
    ends = np.array([(a, b) for a, b, _, _ in edges]).ravel()
    design = sparse.csr_matrix((np.tile([-1.0, 1.0], len(edges)), (rows, ends)), shape=(len(edges), count))
    weight = np.array([w for _, _, _, w in edges]) / sigma**2
    prior = sparse.identity(count, format="csr") * (tether / sigma**2)
    # Huber alone: with few edges, cutting one off may cut the stack in two
    return solve_robust(
        design, step, weight=weight, prior=prior, floor_px=sigma, rounds=10, cut=np.inf
    ).unknowns


def _elastic(
    sections: Sequence[StackSection],
    pairs: Sequence[StackPair],
    rigid: Sequence[Floats],
    spacing_px: float,
    stiffness: float,
) -> list[Warp]:
    """A sheet for every section on top of its rigid motion, all solved at once."""
    knots = [sheet_shape(s.shape_yx, spacing_px) for s in sections]
    start = np.concatenate([[0], np.cumsum([y * x for y, x in knots])]).astype(np.int64)
    total = int(start[-1])
    columns, values, target, weight = [], [], [], []
    for pair in pairs:
        m = pair.matches
        dz = abs(sections[pair.b].z - sections[pair.a].z)
        ca, wa = basis_rows(m.a_yx, spacing_px=spacing_px, shape=knots[pair.a])
        cb, wb = basis_rows(m.b_yx, spacing_px=spacing_px, shape=knots[pair.b])
        columns.append(np.concatenate([start[pair.a] + ca, start[pair.b] + cb], axis=1))
        values.append(np.concatenate([wa, -wb], axis=1))
        target.append(Warp(affine=rigid[pair.b]).apply(m.b_yx) - Warp(affine=rigid[pair.a]).apply(m.a_yx))
        weight.append(np.clip(m.peak, 0.05, 1.0) ** 2 / dz / MATCH_SIGMA_PX**2)
    rows = sum(len(c) for c in columns)
    index = np.repeat(np.arange(rows), 32)
    design = sparse.csr_matrix(
        (np.concatenate(values).ravel(), (index, np.concatenate(columns).ravel())), shape=(rows, total)
    )
    forms = [
        bending(k) * (stiffness / BEND_SIGMA_PX**2)
        + membrane(k) / STRETCH_SIGMA_PX**2
        + sparse.identity(k[0] * k[1]) / SHEET_SIGMA_PX**2
        for k in knots
    ]
    solution = solve_robust(
        design,
        np.concatenate(target),
        weight=np.concatenate(weight),
        prior=sparse.block_diag(forms, format="csr"),
        floor_px=0.4,
        rounds=8,
        cut=5.0,
    )
    out = []
    for k, shape in enumerate(knots):
        part = solution.unknowns[start[k] : start[k + 1]]
        sheet = Sheet(spacing_px=spacing_px, coefficients=part.T.reshape(2, *shape))
        out.append(Warp(affine=rigid[k], sheet=sheet))
    return out


def _without_common_affine(
    sections: Sequence[StackSection], warps: Sequence[Warp], rigid: Sequence[Floats]
) -> list[Warp]:
    """Fix the gauge: on average over the stack, sections keep their size and shape.

    Pairs cannot see an affine map of the whole stack, and a stack that shrinks has smaller residuals.
    """
    jacobians, moves = [], []
    for section, warp, motion in zip(sections, warps, rigid, strict=True):
        axes = [np.linspace(0.0, n - 1.0, 9) for n in section.shape_yx]
        points = Warp(affine=motion).apply(
            np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
        )
        placed = warp.apply(Warp(affine=motion).inverse(points))
        middle = points.mean(axis=0)
        jacobians.append(np.linalg.lstsq(points - middle, placed - placed.mean(axis=0), rcond=None)[0].T)
        moves.append((middle, placed.mean(axis=0)))
    back = np.linalg.inv(np.mean(jacobians, axis=0))
    before, after = (np.mean([m[k] for m in moves], axis=0) for k in range(2))
    out = []
    for warp in warps:
        affine = back @ warp.affine
        affine[:, 2] += before - back @ after
        sheet = _sheet_of(warp)
        bent = np.einsum("ij,jyx->iyx", back, sheet.coefficients)
        out.append(Warp(affine=affine, sheet=Sheet(spacing_px=sheet.spacing_px, coefficients=bent)))
    return out


def _between(
    index: int, sections: Sequence[StackSection], warps: Sequence[Warp], pairs: Sequence[StackPair]
) -> Warp:
    """The sheet of a section without matches: the weighted mean of the nearest held sections on both
    sides."""
    tied = sorted({k for p in pairs for k in (p.a, p.b)})
    sides = [
        max((k for k in tied if k < index), default=None),
        min((k for k in tied if k > index), default=None),
    ]
    near = [k for k in sides if k is not None and sections[k].shape_yx == sections[index].shape_yx]
    if not near:
        return Warp(affine=warps[index].affine)
    weight = np.array([1.0 / abs(sections[k].z - sections[index].z) for k in near])
    total = np.zeros_like(_sheet_of(warps[near[0]]).coefficients)
    for w, k in zip(weight / weight.sum(), near, strict=True):
        total += w * _sheet_of(warps[k]).coefficients
    spacing = _sheet_of(warps[near[0]]).spacing_px
    return Warp(affine=warps[index].affine, sheet=Sheet(spacing_px=spacing, coefficients=total))


def _sheet_of(warp: Warp) -> Sheet:
    assert isinstance(warp.sheet, Sheet)
    return warp.sheet
