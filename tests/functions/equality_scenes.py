"""Equalities of grids of subvolumes that need no voxels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from numpy.typing import NDArray

from functions.agglomeration.blocks import Block, Hierarchy
from functions.agglomeration.equalities import INSIDE, Rows, leaf_of
from functions.agglomeration.hierarchy import node_keys
from functions.agglomeration.reduction import Leaf, Reduction, Summary
from functions.model.geometry import ZYX

COLUMNS = ("first", "second", "voxels", "first_voxels", "second_voxels", "accepted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A source of equalities: `overlaps[position, axis]` has one row (the `COLUMNS`) a pair of labels."""

    counts_zyx: ZYX
    owned_voxels: list[NDArray[np.int64]]
    overlaps: Mapping[tuple[int, int], NDArray[np.int64]]
    contested_share: float = 2.0
    """Above 1: none is contested, not even in overlaps as impossible as random ones."""

    def leaf(self, block: Block, hierarchy: Hierarchy) -> Leaf:
        """The equalities of a block, put together as those of a run are."""
        mine = hierarchy.positions(block)
        steps = (self.counts_zyx[1] * self.counts_zyx[2], self.counts_zyx[2], 1)
        inside = set(mine.tolist())
        found: list[tuple[int, int, int, int, NDArray[np.int64]]] = []
        for (low, axis), rows in sorted(self.overlaps.items()):
            high = low + steps[axis]
            if low in inside or high in inside:
                side = INSIDE if low in inside and high in inside else 2 * axis + (low in inside)
                found.append((3 * low + axis, side, low, high, rows.reshape(-1, 6)))
        count = [len(rows) for *_, rows in found]
        overlap, side, low, high = (
            np.repeat([f[i] for f in found], count).astype(np.int64) for i in range(4)
        )
        rows = np.concatenate([np.zeros((0, 6), np.int64), *(f[4] for f in found)])
        return leaf_of(
            Rows(
                overlap=overlap,
                side=side,
                first=node_keys(low, rows[:, 0]),
                second=node_keys(high, rows[:, 1]),
                voxels=rows[:, 2],
                first_voxels=rows[:, 3],
                second_voxels=rows[:, 4],
                accepted=rows[:, 5] > 0,
            ),
            labels=np.array([len(self.owned_voxels[p]) for p in mine]),
            owned_voxels=np.concatenate([self.owned_voxels[p] for p in mine]),
            contested_share=self.contested_share,
            min_voxels=1,
        )


@dataclass(slots=True)
class Memory:
    """A scratch store without files."""

    kept: dict[str, dict[str, NDArray[np.generic]]] = field(default_factory=dict)

    def write(self, name: str, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Keep copies."""
        self.kept[name] = {key: np.array(value) for key, value in arrays.items()}

    def read(self, name: str, names: tuple[str, ...]) -> dict[str, NDArray[np.generic]]:
        """Give copies."""
        return {key: self.kept[name][key].copy() for key in names}


def random_grid(counts: ZYX, *, labels: int, rows: int, seed: int, share: float = 2.0) -> Grid:
    """Labels of random sizes, and up to `rows` random pairs of them in each overlap."""
    random = np.random.default_rng(seed)
    owned = [random.integers(0, 50, random.integers(0, labels + 1)) for _ in range(np.prod(counts))]
    overlaps = {}
    for position, index in enumerate(product(*(range(n) for n in counts))):
        for axis in range(3):
            step = (counts[1] * counts[2], counts[2], 1)[axis]
            if index[axis] + 1 < counts[axis]:
                sizes = len(owned[position]), len(owned[position + step])
                n = int(random.integers(0, rows + 1)) if min(sizes) else 0
                table = np.ones((n, 6), np.int64)
                table[:, 0], table[:, 1] = (random.integers(1, s + 1, n) if n else [] for s in sizes)
                table[:, 2] = random.integers(1, 9, n)
                table[:, 3:5] = table[:, 2:3] + random.integers(0, 9, (n, 2))
                table[:, 5] = random.integers(0, 4, n) > 0
                overlaps[position, axis] = np.unique(table, axis=0)
    return Grid(counts_zyx=counts, owned_voxels=owned, overlaps=overlaps, contested_share=share)


def reduced(grid: Grid, leaf_zyx: ZYX, *, min_voxels: int = 0) -> tuple[Summary, list[list[int]]]:
    """The summary, and the ids of all local labels of each subvolume, in grid order."""
    hierarchy = Hierarchy(counts_zyx=grid.counts_zyx, leaf_zyx=leaf_zyx)
    reduction = Reduction(source=grid, hierarchy=hierarchy, scratch=Memory(), min_voxels=min_voxels)
    summary = reduction.solve()
    ids: dict[int, list[int]] = {}
    for block, table in reduction.tables():
        for rank, position in enumerate(hierarchy.positions(block).tolist()):
            ids[position] = table.lookup(rank).tolist()
    return summary, [ids[p] for p in range(len(grid.owned_voxels))]
