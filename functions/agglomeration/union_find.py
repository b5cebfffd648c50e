"""Connected components of equalities, array-based: the answer depends on the set of equalities alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


def components(size: int, first: Integers, second: Integers) -> Integers:
    """For each of `size` nodes the smallest node of its component; `first[i]` and `second[i]` are joined.

    Roots are hooked to smaller roots and paths halved until nothing moves (Shiloach and Vishkin 1982), so the
    result is the same for any order of the edges.

    Raises:
        ValueError: an edge names a node that does not exist.
    """
    if first.size and (min(first.min(), second.min()) < 0 or max(first.max(), second.max()) >= size):
        raise ValueError(f"first, second: nodes must lie in [0, {size})")
    parent = np.arange(size, dtype=np.int64)
    while True:
        a, b = parent[first], parent[second]
        low, high = np.minimum(a, b), np.maximum(a, b)
        open_edges = low != high
        if not open_edges.any():
            return parent
        np.minimum.at(parent, high[open_edges], low[open_edges])
        while not np.array_equal(parent, grand := parent[parent]):
            parent = grand


def limited_components(
    size: int, first: Integers, second: Integers, strength: NDArray[np.float64], group: Integers, *, most: int
) -> tuple[Integers, NDArray[np.bool_]]:
    """Components that hold at most `most` nodes of any one group (a group is a subvolume).

    Joins are taken strongest first (ties: lower nodes first); one that would break the limit is refused. A
    false merger in one subvolume shows as several of its neighbours' objects in one component: this stops it.
    An honest neurite that leaves a subvolume and comes back needs `most` of 2 or more.

    Returns:
        components as of `components`, and which edges were refused.
    """
    parent = list(range(size))
    pieces: list[dict[int, int]] = [{int(g): 1} for g in group]

    def find(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    low, high = np.minimum(first, second), np.maximum(first, second)
    refused = np.zeros(first.shape, bool)
    for edge in np.lexsort((high, low, -strength)):
        a, b = sorted((find(int(first[edge])), find(int(second[edge]))))
        if a == b:
            continue
        few, many = sorted((pieces[a], pieces[b]), key=len)
        if any(many.get(g, 0) + n > most for g, n in few.items()):
            refused[edge] = True
            continue
        for g, n in few.items():
            many[g] = many.get(g, 0) + n
        parent[b], pieces[a], pieces[b] = a, many, {}
    return np.array([find(node) for node in range(size)], np.int64), refused


def ranks(representative: Integers, keep: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Ids 1..n of the components in the order of their smallest node; 0 where `keep` is false.

    `keep` is one value a node and must be the same for all nodes of a component.

    Raises:
        ValueError: more components than uint32 can number.
    """
    kept = np.unique(representative[keep])
    if kept.size >= 2**32:
        raise ValueError(f"representative: {kept.size} components do not fit 32-bit ids")
    ids = np.zeros(representative.shape, np.uint32)
    ids[keep] = (np.searchsorted(kept, representative[keep]) + 1).astype(np.uint32)
    return ids
