"""Where every section of a stack lies: one joint solve over all pairs.

First rigid motions, then a sheet for each section (for each region of one that folds or cracks part). No
section is the anchor: the gauge is that rotations and translations are zero on average, and that sections
keep their size and shape on average, so that no section imprints its distortion on the stack and the stack
neither shrinks nor drifts. It leans as the images say, or as the stage does: no pair can tell. Locked
sections, if there are any, are the frame instead: they stay to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from functions.model.scratch import Held, Scratch
from functions.model.transform import Sheet, Warp
from functions.registration.blocks import AUTOMATIC, Layout
from functions.registration.elastic import bend_sections
from functions.registration.rigid import place_rigidly
from functions.registration.stack import Pair, Stack, StackSection

Floats = NDArray[np.float64]
NONE_LOCKED: Mapping[int, Warp] = {}
MAX_PAIR_ERROR_PX = 12.0
PAIR_CUT = 8.0
"""A pair is refused when its displacement is off by this many times the median of all, and by the above."""


def solve_stack(
    sections: Sequence[StackSection],
    pairs: Sequence[Pair],
    *,
    spacing_px: float,
    stiffness: float = 1.0,
    locked: Mapping[int, Warp] = NONE_LOCKED,
    trust_stage: bool = False,
    layout: Layout = AUTOMATIC,
    scratch: Scratch | None = None,
) -> Stack:
    """Place all sections.

    A section that no pair holds is put between its neighbours along z, with the average of their sheets.

    Args:
        pairs: with at least a few matches each; a pair that should not count is left out.
        stiffness: factor on the resistance to bending.
        locked: warps of sections (by index) that must not move; the others are placed against them.
        trust_stage: let the stack lean as the stage positions say, not as the images do; without locked
            sections only, which lean as they lean.
        layout: blocks of sections that are solved at once; the result does not depend on it.
        scratch: keeps the equations and their factors, which are large; None: memory.
    """
    count = len(sections)
    label = _groups(count, pairs, locked)
    main = label[min(locked)] if locked else int(np.argmax(np.bincount(label)))
    held = tuple(bool(k) for k in (label == main)) if pairs else (count == 1,) * count
    rigid = place_rigidly(sections, pairs, label, locked)
    refused = _contradicting(pairs, rigid, label, locked)
    told, pairs = pairs, [p for k, p in enumerate(pairs) if k not in refused]
    if refused:
        rigid = place_rigidly(sections, pairs, label, locked)
    warps = [locked.get(k, Warp(affine=affine)) for k, affine in enumerate(rigid)]
    bent: tuple[int, ...] = ()
    settled = True
    if any(p.a not in locked or p.b not in locked for p in pairs):
        warps, bent, settled = bend_sections(
            sections,
            pairs,
            rigid,
            spacing_px=spacing_px,
            stiffness=stiffness,
            locked=locked,
            layout=layout,
            scratch=Held() if scratch is None else scratch,
        )
        if not locked:
            warps = _without_common_affine(sections, warps, rigid)
        tied = {k for p in pairs for k in (p.a, p.b)} | set(locked)
        warps = [w if k in tied else _between(k, sections, warps, tied) for k, w in enumerate(warps)]
    if trust_stage and not locked:
        warps = _leaning_by_stage(sections, warps, held)
    residuals = tuple(
        np.linalg.norm(warps[p.a].apply(p.matches.a_yx) - warps[p.b].apply(p.matches.b_yx), axis=1)
        for p in told
    )
    return Stack(
        warps=tuple(warps), held=held, residuals_px=residuals, bent=bent, refused=refused, settled=settled
    )


def _contradicting(
    pairs: Sequence[Pair],
    rigid: Sequence[Floats],
    label: NDArray[np.int64],
    locked: Mapping[int, Warp],
) -> tuple[int, ...]:
    """Pairs whose whole displacement contradicts all others; never those that alone hold sections together.

    A far pair of sections that have little in common may match by chance, and then consistently so.
    """
    if not pairs:
        return ()
    off = []
    for p in pairs:
        a, b = (locked.get(k, Warp(affine=rigid[k])) for k in (p.a, p.b))
        off.append(np.linalg.norm(np.median(a.apply(p.matches.a_yx) - b.apply(p.matches.b_yx), axis=0)))
    limit = max(MAX_PAIR_ERROR_PX, PAIR_CUT * float(np.median(off)))
    wrong = tuple(int(k) for k in np.flatnonzero(np.array(off) > limit))
    rest = [p for k, p in enumerate(pairs) if k not in wrong]
    parted = len(np.unique(_groups(len(rigid), rest, locked))) > len(np.unique(label))
    return () if parted else wrong


def _groups(count: int, pairs: Sequence[Pair], locked: Mapping[int, Warp]) -> NDArray[np.int64]:
    """Label (N,) of the group that pairs hold together; locked sections hold together by themselves."""
    frame = sorted(locked)
    ends = np.array([(p.a, p.b) for p in pairs] + list(pairwise(frame)), dtype=np.int64).reshape(-1, 2)
    graph = sparse.coo_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(count, count))
    return np.asarray(csgraph.connected_components(graph, directed=False)[1], dtype=np.int64)


def _without_common_affine(
    sections: Sequence[StackSection], warps: Sequence[Warp], rigid: Sequence[Floats]
) -> list[Warp]:
    """Fix the gauge: on average over the stack, sections keep their size and shape.

    Pairs cannot see an affine map of the whole stack, and a stack that shrinks has smaller residuals.
    A parted section says little about size: an opened fold makes it wider, a closed crack narrower.
    """
    whole = [k for k, s in enumerate(sections) if s.regions is None] or list(range(len(sections)))
    jacobians, before, after = [], [], []
    for k in whole:
        motion = Warp(affine=rigid[k])
        points = sections[k].grid(9)
        start, placed = motion.apply(points), warps[k].apply(points)
        before.append(start.mean(axis=0))
        after.append(placed.mean(axis=0))
        jacobians.append(np.linalg.lstsq(start - before[-1], placed - after[-1], rcond=None)[0].T)
    back = np.linalg.inv(np.mean(jacobians, axis=0))
    move = np.mean(before, axis=0) - back @ np.mean(after, axis=0)
    affine = np.concatenate([back, move[:, None]], axis=1)
    return [warp.then(affine) for warp in warps]


def _leaning_by_stage(
    sections: Sequence[StackSection], warps: Sequence[Warp], held: Sequence[bool]
) -> list[Warp]:
    """Move every section in proportion to z, so that what registration did to the stage positions has no
    trend.

    Tissue that runs sideways from section to section looks like a stage that creeps. Images set it upright,
    and no pair can tell: they all lean the same way.
    """
    z = np.array([s.z for s in sections], dtype=np.float64)
    moved = [
        w.apply(s.centre_yx[None])[0] - s.centre_yx - s.stage_origin_yx_px
        for s, w in zip(sections, warps, strict=True)
    ]
    known = np.flatnonzero(held)
    if len(known) < 2:
        return list(warps)
    slope = np.polyfit(z[known], np.array(moved)[known], 1)[0]
    leaning = (z[:, None] - z[known].mean()) * slope
    return [
        w.then(np.concatenate([np.eye(2), -by[:, None]], axis=1))
        for w, by in zip(warps, leaning, strict=True)
    ]


def _between(index: int, sections: Sequence[StackSection], warps: Sequence[Warp], tied: set[int]) -> Warp:
    """The sheet of a section without matches: the weighted mean of the nearest whole held sections on both
    sides."""
    sheets = {k: w.sheet for k, w in enumerate(warps) if k in tied and isinstance(w.sheet, Sheet)}
    sides = [
        max((k for k in sheets if k < index), default=None),
        min((k for k in sheets if k > index), default=None),
    ]
    near = [k for k in sides if k is not None and sections[k].shape_yx == sections[index].shape_yx]
    if not near:
        return Warp(affine=warps[index].affine)
    weight = np.array([1.0 / abs(sections[k].z - sections[index].z) for k in near])
    parts = [w * sheets[k].coefficients for w, k in zip(weight / weight.sum(), near, strict=True)]
    spacing = sheets[near[0]].spacing_px
    return Warp(
        affine=warps[index].affine, sheet=Sheet(spacing_px=spacing, coefficients=np.sum(parts, axis=0))
    )
