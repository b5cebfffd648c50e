"""Which merges are taken, of verdicts on pairs that were each given by itself: strongest first, guarded.

Columns of numbers, about 100 bytes a pair and 40 a segment: of a large volume neither the evidence nor the
decisions would fit into memory as objects.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from functions.agglomeration.union_find import components

Ids = NDArray[np.uint64]
Integers = NDArray[np.int64]
NOBODY = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Verdicts on N pairs: the segments' ids, the point (N, 3) that was looked at, both scores (see
    `decisions.Decision`), and whether the pair by itself is a merge."""

    first: NDArray[np.unsignedinteger]
    second: NDArray[np.unsignedinteger]
    point_zyx: NDArray[np.integer]
    score: NDArray[np.float64]
    speculative: NDArray[np.float64]
    merge: NDArray[np.bool_]

    def order(self) -> Integers:
        """Merges first, the strongest first; what is equal by ids and place."""
        z, y, x = self.point_zyx.T
        keys = x, y, z, self.second, self.first, -self.speculative, -self.score, ~self.merge
        return np.lexsort(keys).astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """Which segments are one: for each of `segments` (ascending) the lowest id of its object.

    `order`: pairs as they were decided. Of each pair in the order given, what made a guard refuse its merge:
    `lost`, which of the two (0 or 1) is no segment; `crumb`, the place among `segments` of one that is small
    and has joined a better partner. `NOBODY` where no guard did.
    """

    segments: Ids
    representative: Ids
    order: Integers
    lost: Integers
    crumb: Integers


def settle(judged: Judged, *, segments: Ids, voxels: Integers, min_bridge_voxels: int) -> Settled:
    """Take merges strongest first; the order in which pairs are given does not matter.

    `segments` and their `voxels`: all segments there are. A merge with any other, dropped since, is refused.
    A segment below `min_bridge_voxels` joins one partner only, its best. Of several points of one pair one
    merge is enough.

    Raises:
        ValueError: `segments` holds an id twice or 0, or `voxels` has another length.
    """
    known, sizes = _sorted(segments, voxels)
    order = judged.order()
    places = [_places(known, ids) for ids in (judged.first, judged.second)]
    lost, crumb = np.full((2, order.size), NOBODY, np.int64)
    parent, joins = np.arange(known.size), np.zeros(known.size, np.int32)
    joined = np.zeros(order.size, np.bool_)
    for pair in order[: int(judged.merge.sum())]:
        a, b = int(places[0][pair]), int(places[1][pair])
        if NOBODY in (a, b):
            lost[pair] = 0 if a == NOBODY else 1
            continue
        low, high = sorted((_root(parent, a), _root(parent, b)))
        if low == high:
            continue
        crumbs = [n for n in (a, b) if joins[n] and sizes[n] < min_bridge_voxels]
        if crumbs:
            crumb[pair] = crumbs[0]
            continue
        parent[high] = low
        joins[[a, b]] += 1
        joined[pair] = True
    merged = components(known.size, places[0][joined], places[1][joined])
    return Settled(segments=known, representative=known[merged], order=order, lost=lost, crumb=crumb)


def _sorted(segments: Ids, voxels: Integers) -> tuple[Ids, Integers]:
    if segments.ndim != 1 or segments.shape != voxels.shape:
        raise ValueError(f"voxels: shape {voxels.shape} must equal that of segments, {segments.shape}")
    order = np.argsort(segments)
    known, sizes = segments[order].astype(np.uint64), voxels[order]
    if known.size and (known[0] == 0 or (np.diff(known) == 0).any()):
        raise ValueError("segments: hold 0 or an id twice; give each segment once")
    return known, sizes


def _places(known: Ids, ids: NDArray[np.unsignedinteger]) -> Integers:
    """Where ids are among those known; `NOBODY` for others."""
    if not known.size:
        return np.full(ids.size, NOBODY, np.int64)
    at = np.minimum(np.searchsorted(known, ids.astype(np.uint64)), known.size - 1)
    return np.where(known[at] == ids, at, NOBODY).astype(np.int64)


def _root(parent: Integers, node: int) -> int:
    while (above := int(parent[node])) != node:
        parent[node] = parent[above]
        node = int(parent[node])
    return node
