"""The hierarchical union-find in external memory: one block at a time, everything between in a scratch store.

    up      every block is solved; what is open goes to the level above          -> components
    down    every component learns its smallest member and size                 -> who is an object's smallest
    count   objects of each subvolume are counted and numbered (8 bytes each)   -> where its ids start
    up      the id of an object goes from its smallest member to where it closed
    down    and from there to all its members                                    -> one table a block

Memory is that of one block, plus 8 bytes a subvolume. The tables are the same for blocks of any size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from functions.agglomeration.blocks import SIDES, Block, Hierarchy
from functions.agglomeration.hierarchy import Child, Nodes, Solved, assemble, labels_of, positions_of, solve
from functions.agglomeration.tables import BlockTable, Exceptions, own_ids, require_countable, table
from functions.model.scratch import Scratch

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """The equalities of a block of subvolumes, between node keys; each once.

    `first`, `second`: inside the block, with their `iou`. `sides`: across each outer side the key of this
    block's label, or -1 where this block refuses the equality; in the order of subvolumes, then as measured.
    `labels`: local labels of each subvolume; `owned_voxels`: of all of them, one subvolume after the other.
    """

    first: Integers
    second: Integers
    iou: NDArray[np.float64]
    sides: tuple[Integers, ...]
    labels: Integers
    owned_voxels: Integers


class Source(Protocol):
    """Where equalities come from."""

    def leaf(self, block: Block, hierarchy: Hierarchy) -> Leaf:
        """Those of one block of level 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What was joined. Voxels are owned ones; `largest_voxels` are those of the largest object."""

    labels: int
    equalities: int
    objects: int
    voxels: int
    largest_voxels: int
    joins_refused: int = 0


@dataclass(slots=True)
class Reduction:
    """One reduction: `solve`, then `tables`. Objects of fewer than `min_voxels` are dropped."""

    source: Source
    hierarchy: Hierarchy
    scratch: Scratch
    min_voxels: int = 0

    def solve(self) -> Summary:
        """Join everything, and number the objects."""
        hierarchy = self.hierarchy
        equalities = labels = voxels = largest = 0
        for block in hierarchy.blocks(0):
            leaf = self.source.leaf(block, hierarchy)
            nodes, flat = leaf_nodes(leaf, hierarchy.positions(block))
            largest = max(largest, _largest_alone(leaf, flat))
            self._keep(block, solve(nodes))
            self._keep_leaf(block, nodes, leaf, flat)
            equalities += nodes.first.size
            labels, voxels = labels + int(leaf.labels.sum()), voxels + int(leaf.owned_voxels.sum())
        for level in range(1, hierarchy.levels):
            for block in hierarchy.blocks(level):
                nodes = assemble([self._child(child) for child in hierarchy.children(block)])
                self._keep(block, solve(nodes))
                equalities += nodes.first.size
        largest = max(largest, self._settle())
        return Summary(
            labels=labels,
            equalities=equalities,
            objects=self._number(),
            voxels=voxels,
            largest_voxels=largest,
        )

    def tables(self) -> Iterator[tuple[Block, BlockTable]]:
        """The table of every block of level 0; after `solve`."""
        starts = self.scratch.read("starts", ("starts",))["starts"]
        for level in reversed(range(self.hierarchy.levels)):
            for block in self.hierarchy.blocks(level):
                ids = self._read(f"ids/{block.id}", "ids")
                if level < self.hierarchy.levels - 1:  # what closed here is known, the rest comes from above
                    above = self._read(f"all_ids/{block.id}", "ids")
                    ids[: above.size] = above
                if level:
                    self._hand_down("all_ids", block, {"ids": ids})
                else:
                    yield block, self._table(block, ids, np.asarray(starts, np.int64))

    def _table(self, block: Block, ids: Integers, starts: Integers) -> BlockTable:
        positions = self.hierarchy.positions(block)
        kept = self.scratch.read(f"leaf/{block.id}", ("labels",))
        return table(
            self._exceptions(block),
            ids,
            positions=positions,
            starts=starts[positions],
            labels=np.asarray(kept["labels"], np.int64),
        )

    def _settle(self) -> int:
        """Tell every component its object's smallest member and size; the size of the largest object."""
        largest = 0
        for level in reversed(range(self.hierarchy.levels)):
            for block in self.hierarchy.blocks(level):
                solved = self.scratch.read(f"solved/{block.id}", ("keys", "voxels"))
                keys, voxels = (np.asarray(solved[name], np.int64) for name in ("keys", "voxels"))
                if level < self.hierarchy.levels - 1:
                    above = self.scratch.read(f"final/{block.id}", ("keys", "voxels"))
                    keys[: above["keys"].size] = above["keys"]
                    voxels[: above["voxels"].size] = above["voxels"]
                largest = max(largest, int(voxels.max(initial=0)))
                if level:
                    self._hand_down("final", block, {"keys": keys, "voxels": voxels})
                else:
                    self._except(block, keys, voxels)
        return largest

    def _except(self, block: Block, keys: Integers, voxels: Integers) -> None:
        """Write which labels of a block of level 0 do not count up from where their subvolume starts."""
        kept = self.scratch.read(f"leaf/{block.id}", ("keys", "small"))
        nodes, small = (np.asarray(kept[name], np.int64) for name in ("keys", "small"))
        component = self._read(f"solved/{block.id}", "component")
        own = (nodes == keys[component]) & (voxels[component] >= self.min_voxels)
        dropped = voxels < self.min_voxels
        excepted = np.concatenate([nodes[~own], small])
        names = np.where(dropped[component[~own]], -1, component[~own])
        names = np.concatenate([names, np.full(small.size, -1)])
        order = np.argsort(excepted, kind="stable")
        self.scratch.write(
            f"exceptions/{block.id}",
            {
                "keys": excepted[order],
                "component": names[order],
                "own_keys": nodes[own],
                "own_component": component[own],
            },
        )

    def _number(self) -> int:
        """Give each object its id where its smallest member is, and take it up to where the object closed."""
        hierarchy = self.hierarchy
        objects = np.zeros(int(np.prod(hierarchy.counts_zyx)) + 1, np.int64)
        for block in hierarchy.blocks(0):
            positions = hierarchy.positions(block)
            labels = self._read(f"leaf/{block.id}", "labels")
            objects[positions + 1] = labels - np.diff(self._exceptions(block).of(positions))
        starts = np.cumsum(objects)
        require_countable(int(starts[-1]))
        self.scratch.write("starts", {"starts": starts[:-1]})
        for level in range(hierarchy.levels):
            for block in hierarchy.blocks(level):
                solved = self.scratch.read(f"solved/{block.id}", ("component", "opened", "keys"))
                ids = np.zeros(solved["keys"].size, np.int64)
                if level:
                    below = [self._opened_ids(child) for child in hierarchy.children(block)]
                    component = np.asarray(solved["component"], np.int64)
                    np.maximum.at(ids, component, np.concatenate(below))  # one of them has it
                else:
                    self._own_ids(block, ids, starts)
                self.scratch.write(f"ids/{block.id}", {"ids": ids, "opened": solved["opened"]})
        return int(starts[-1])

    def _own_ids(self, block: Block, ids: Integers, starts: Integers) -> None:
        positions = self.hierarchy.positions(block)
        own = self.scratch.read(f"exceptions/{block.id}", ("own_keys", "own_component"))
        ids[own["own_component"]] = own_ids(
            np.asarray(own["own_keys"], np.int64),
            exceptions=self._exceptions(block),
            positions=positions,
            starts=starts[positions],
        )

    def _opened_ids(self, block: Block) -> Integers:
        found = self.scratch.read(f"ids/{block.id}", ("ids", "opened"))
        return np.asarray(found["ids"][: int(found["opened"])], np.int64)

    def _exceptions(self, block: Block) -> Exceptions:
        found = self.scratch.read(f"exceptions/{block.id}", ("keys", "component"))
        return Exceptions(
            keys=np.asarray(found["keys"], np.int64), component=np.asarray(found["component"], np.int64)
        )

    def _read(self, name: str, array: str) -> Integers:
        return np.asarray(self.scratch.read(name, (array,))[array], np.int64)

    def _keep(self, block: Block, solved: Solved) -> None:
        self.scratch.write(
            f"solved/{block.id}",
            {
                "component": solved.component,
                "keys": solved.keys,
                "voxels": solved.voxels,
                "opened": np.array(solved.opened, np.int64),
            },
        )
        names = {f"side{side}": solved.sides[side] for side in SIDES}
        self.scratch.write(f"sides/{block.id}", names)

    def _keep_leaf(self, block: Block, nodes: Nodes, leaf: Leaf, flat: Integers) -> None:
        small = leaf.owned_voxels < self.min_voxels
        small[flat] = False
        self.scratch.write(
            f"leaf/{block.id}",
            {
                "keys": nodes.keys,
                "labels": leaf.labels,
                "small": _keys_at(np.flatnonzero(small), leaf.labels, self.hierarchy.positions(block)),
            },
        )

    def _child(self, block: Block) -> Child:
        solved = self.scratch.read(f"solved/{block.id}", ("keys", "voxels", "opened"))
        names = tuple(f"side{side}" for side in SIDES)
        sides = self.scratch.read(f"sides/{block.id}", names)
        opened = int(solved["opened"])
        return Child(
            block=block,
            keys=np.asarray(solved["keys"][:opened], np.int64),
            voxels=np.asarray(solved["voxels"][:opened], np.int64),
            sides=tuple(np.asarray(sides[name], np.int32) for name in names),
        )

    def _hand_down(self, name: str, block: Block, values: Mapping[str, Integers]) -> None:
        """Write for each child what its open components, the nodes of this block, have become."""
        component = self._read(f"solved/{block.id}", "component")
        start = 0
        for child in self.hierarchy.children(block):
            opened = int(self.scratch.read(f"solved/{child.id}", ("opened",))["opened"])
            mine = component[start : start + opened]
            self.scratch.write(f"{name}/{child.id}", {key: value[mine] for key, value in values.items()})
            start += opened


def leaf_nodes(leaf: Leaf, positions: Integers) -> tuple[Nodes, Integers]:
    """The labels that equalities of the block name, and where each is among all its labels."""
    named = [leaf.first, leaf.second, *(side[side >= 0] for side in leaf.sides)]
    keys = np.unique(np.concatenate(named))
    starts = np.cumsum(leaf.labels) - leaf.labels
    flat = starts[np.searchsorted(positions, positions_of(keys))] + labels_of(keys) - 1
    nodes = Nodes(
        keys=keys,
        voxels=leaf.owned_voxels[flat],
        first=np.searchsorted(keys, leaf.first),
        second=np.searchsorted(keys, leaf.second),
        sides=tuple(
            np.where(side >= 0, np.searchsorted(keys, side), -1).astype(np.int32) for side in leaf.sides
        ),
    )
    return nodes, flat


def _largest_alone(leaf: Leaf, flat: Integers) -> int:
    """The size of the largest object that equals nothing."""
    alone = np.ones(leaf.owned_voxels.size, bool)
    alone[flat] = False
    return int(leaf.owned_voxels.max(initial=0, where=alone))


def _keys_at(flat: Integers, labels: Integers, positions: Integers) -> Integers:
    """Keys of the labels at these places among all labels of a block."""
    ends = np.cumsum(labels)
    rank = np.searchsorted(ends, flat, side="right")
    return np.asarray((positions[rank] << 32) | (flat - (ends - labels)[rank] + 1), np.int64)
