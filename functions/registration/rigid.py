"""Turns and moves of all sections from their pairs: two linear robust solves, rotations first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from functions.model.transform import Warp
from functions.registration.overlaps import Matches
from functions.registration.robust import solve_robust
from functions.registration.stack import Pair, StackSection

Floats = NDArray[np.float64]
Edge = tuple[int, int, float, float]
"""Sections a and b, angle of b minus angle of a, weight."""
SIGMA_TURN_RAD = 0.003
SIGMA_MOVE_PX = 3.0
TETHER = 1e-9
HOLD = 1e6


def place_rigidly(
    sections: Sequence[StackSection],
    pairs: Sequence[Pair],
    label: NDArray[np.int64],
    locked: Mapping[int, Warp],
) -> list[Floats]:
    """Rigid maps (2, 3) of all sections; of a locked one, the rigid part of its warp.

    Groups (`label`) without a pair between them are tied by stage positions, weakly. Without locked sections
    angles and moves are zero on average.
    """
    count = len(sections)
    edges = [(p.a, p.b, -_pair_turn(p.matches), 1.0) for p in pairs]
    edges += [(k, k + 1, 0.0, 1e-4) for k in range(count - 1) if label[k] != label[k + 1]]
    held = {k: _turn_of(warp, sections[k]) for k, warp in locked.items()}
    angles = _angles(count, edges, held)
    steps = []
    for k, (a, b, _, _) in enumerate(edges):
        if k < len(pairs):
            m = pairs[k].matches
            here, there = _turned(a, m.a_yx, angles, locked), _turned(b, m.b_yx, angles, locked)
            steps.append(np.median(here - there, axis=0))
        else:
            near = sections[a].centre_yx
            far = near + sections[a].stage_origin_yx_px - np.array(sections[b].stage_origin_yx_px)
            steps.append((_turned(a, near[None], angles, locked) - _turned(b, far[None], angles, locked))[0])
    moves = _solve_edges(
        count, edges, np.array(steps).reshape(-1, 2), SIGMA_MOVE_PX, dict.fromkeys(locked, np.zeros(2))
    )
    if not locked:
        moves = moves - moves.mean(axis=0)
    out = []
    for k, section in enumerate(sections):
        move = moves[k]
        if k in locked:
            move = locked[k].apply(section.centre_yx[None])[0] - _rotation(angles[k]) @ section.centre_yx
        out.append(np.concatenate([_rotation(angles[k]), move[:, None]], axis=1))
    return out


def _rotation(angle: float) -> Floats:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _turned(section: int, points_yx: Floats, angles: Floats, locked: Mapping[int, Warp]) -> Floats:
    """Points placed but for the move that is sought."""
    if section in locked:
        return locked[section].apply(points_yx)
    return np.asarray(points_yx @ _rotation(angles[section]).T, dtype=np.float64)


def _angles(count: int, edges: Sequence[Edge], held: Mapping[int, float]) -> Floats:
    tree = _walk(count, edges, held)
    turn = np.array([_wrap(d - (tree[b] - tree[a])) for a, b, d, _ in edges])
    known = {k: np.array([angle - tree[k]]) for k, angle in held.items()}
    angles = tree + _solve_edges(count, edges, turn[:, None], SIGMA_TURN_RAD, known)[:, 0]
    return angles if held else angles - angles.mean()


def _pair_turn(matches: Matches) -> float:
    """Angle of the best rigid map a -> b, with outliers trimmed once."""
    keep = np.ones(len(matches), dtype=np.bool_)
    angle = 0.0
    for _ in range(2):
        a, b = matches.a_yx[keep], matches.b_yx[keep]
        angle = _procrustes(a, b)
        off = np.linalg.norm(
            (matches.a_yx - a.mean(axis=0)) @ _rotation(angle).T - (matches.b_yx - b.mean(axis=0)), axis=1
        )
        keep = off <= 3.0 * float(np.median(off)) + 1e-9
    return angle


def _procrustes(a_yx: Floats, b_yx: Floats) -> float:
    """Angle of the rigid map a -> b that leaves the smallest squares."""
    a, b = a_yx - a_yx.mean(axis=0), b_yx - b_yx.mean(axis=0)
    return float(np.arctan2((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum(), (a * b).sum()))


def _turn_of(warp: Warp, section: StackSection) -> float:
    points = section.grid(9)
    return _procrustes(points, warp.apply(points))


def _wrap(angle: float) -> float:
    return float((angle + np.pi) % (2 * np.pi) - np.pi)


def _walk(count: int, edges: Sequence[Edge], held: Mapping[int, float]) -> Floats:
    """Angles along a spanning tree: a start from which all residuals are small, however large the turns."""
    angles = np.zeros(count)
    reached = np.zeros(count, dtype=np.bool_)
    for k, angle in (held or {0: 0.0}).items():
        angles[k], reached[k] = angle, True
    ordered = sorted(edges, key=lambda e: (-e[3], e[0], e[1]))
    for _ in range(count):
        before = int(reached.sum())
        for a, b, d, _ in ordered:
            if reached[a] and not reached[b]:
                angles[b], reached[b] = angles[a] + d, True
            elif reached[b] and not reached[a]:
                angles[a], reached[a] = angles[b] - d, True
        if int(reached.sum()) == before:
            break
    return angles


def _solve_edges(
    count: int, edges: Sequence[Edge], step: Floats, sigma: float, held: Mapping[int, Floats]
) -> Floats:
    """Values (N, K) with v[b] - v[a] = step, robustly, weighted by the edges' fourth entry; `held` ones
    stay."""
    width = next((len(v) for v in held.values()), step.shape[1] if step.ndim == 2 and step.shape[1] else 2)
    values = np.zeros((count, width))
    for k, value in held.items():
        values[k] = value
    if not edges:
        return values
    rows = np.repeat(np.arange(len(edges)), 2)
    ends = np.array([(a, b) for a, b, _, _ in edges]).ravel()
    design = sparse.csr_matrix((np.tile([-1.0, 1.0], len(edges)), (rows, ends)), shape=(len(edges), count))
    weight = np.array([w for _, _, _, w in edges]) / sigma**2
    tether = np.full(count, TETHER / sigma**2)
    tether[list(held)] = HOLD / sigma**2
    # Huber alone: with few edges, cutting one off may cut the stack in two
    return solve_robust(
        design,
        step,
        weight=weight,
        prior=sparse.diags(tether, format="csr"),
        prior_right=tether[:, None] * values,
        floor_px=sigma,
        rounds=10,
        cut=np.inf,
    ).unknowns
