"""One block of the hierarchical union-find: join what lies inside, hand on what touches the outer sides.

A *node* is a local label that some equality names; its key orders nodes by subvolume, then label. A
component is *open* if one of its nodes is named by an equality across an outer side: the level above goes
on with it, as one node whose key is the smallest of its members. Every other component is closed: nothing
can still change it.

Equalities across a side are in the same order on both of its sides, so two blocks are put together row by
row, without a search. All of this depends on the set of equalities alone, not on the blocks or their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from functions.agglomeration.blocks import AXES, SIDES, Block
from functions.agglomeration.union_find import components

Integers = NDArray[np.int64]
Rows = NDArray[np.int32]
REFUSED = -1
"""In a row of a side: this side's block does not take part in the equality."""
LABEL_BITS = 32


def node_keys(positions: Integers, labels: NDArray[np.integer]) -> Integers:
    """Keys of local labels: ascending with the subvolume's position, then with the label."""
    return np.asarray((positions << LABEL_BITS) | labels.astype(np.int64), np.int64)


def positions_of(keys: Integers) -> Integers:
    """The subvolume of each key."""
    return keys >> LABEL_BITS


def labels_of(keys: Integers) -> Integers:
    """The local label of each key."""
    return keys & ((1 << LABEL_BITS) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """What a block joins: nodes with their `keys` and `voxels`, joined by pairs of indices into them.

    `sides`: for each of the six outer sides the node of every equality that crosses it, or `REFUSED`.
    """

    keys: Integers
    voxels: Integers
    first: Integers | Rows
    second: Integers | Rows
    sides: tuple[Rows, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Solved:
    """The components of a block: first the `opened` ones, then the closed, each lot ascending by key.

    `component`: of each node. `keys` (smallest member) and `voxels`: of each component. `sides`: for each
    outer side the component of every equality that crosses it, or `REFUSED`.
    """

    component: Integers
    keys: Integers
    voxels: Integers
    opened: int
    sides: tuple[Rows, ...]


def solve(nodes: Nodes) -> Solved:
    """Join the nodes of a block."""
    order = np.argsort(nodes.keys, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(order.size)
    smallest = components(order.size, rank[nodes.first], rank[nodes.second])
    is_open = np.zeros(order.size, bool)
    for side in nodes.sides:
        is_open[smallest[rank[side[side >= 0]]]] = True
    is_root = smallest == np.arange(order.size)
    open_roots, closed_roots = np.flatnonzero(is_root & is_open), np.flatnonzero(is_root & ~is_open)
    roots = np.concatenate([open_roots, closed_roots])
    index = np.zeros(order.size, np.int64)
    index[roots] = np.arange(roots.size)
    component = index[smallest[rank]]
    voxels = np.zeros(roots.size, np.int64)
    np.add.at(voxels, component, nodes.voxels)
    return Solved(
        component=component,
        keys=nodes.keys[order[roots]],
        voxels=voxels,
        opened=open_roots.size,
        sides=tuple(_renamed(side, component) for side in nodes.sides),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """What a solved block hands to the level above: its open components and its sides."""

    block: Block
    keys: Integers
    voxels: Integers
    sides: tuple[Rows, ...]


def assemble(children: Sequence[Child]) -> Nodes:
    """Put neighbouring blocks together: their open components are the nodes, in the order of the children.

    Raises:
        ValueError: two neighbours do not name the same number of equalities.
    """
    starts = np.cumsum([0, *(child.keys.size for child in children)])
    sides = [
        tuple(_shifted(side, int(start)) for side in child.sides)
        for child, start in zip(children, starts[:-1], strict=True)
    ]
    at = {child.block.index_zyx: i for i, child in enumerate(children)}
    first, second = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    for index, i in at.items():
        for axis in AXES:
            z, y, x = (n + (a == axis) for a, n in enumerate(index))
            j = at.get((z, y, x))
            if j is None:
                continue
            low, high = sides[i][2 * axis + 1], sides[j][2 * axis]
            if low.size != high.size:
                raise ValueError(
                    f"{children[i].block.id}: {low.size} equalities with {children[j].block.id}, "
                    f"which has {high.size}"
                )
            both = (low >= 0) & (high >= 0)
            first.append(low[both])
            second.append(high[both])
    return Nodes(
        keys=np.concatenate([child.keys for child in children]),
        voxels=np.concatenate([child.voxels for child in children]),
        first=np.concatenate(first),
        second=np.concatenate(second),
        sides=tuple(_outer(children, sides, side) for side in SIDES),
    )


def _outer(children: Sequence[Child], sides: Sequence[tuple[Rows, ...]], side: int) -> Rows:
    """The rows of the outer side of all children together."""
    axis, high = divmod(side, 2)
    along = [child.block.index_zyx[axis] for child in children]
    outermost = max(along) if high else min(along)
    return np.concatenate([s[side] for s, n in zip(sides, along, strict=True) if n == outermost])


def _renamed(side: Rows, names: Integers) -> Rows:
    renamed = side.copy()
    renamed[side >= 0] = names[side[side >= 0]]
    return renamed


def _shifted(side: Rows, start: int) -> Rows:
    shifted = side + np.int32(start)
    shifted[side < 0] = REFUSED
    return shifted
