"""Between the files of a run and the joining of its overlaps: what a block reads, and the ids it gets."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, fields
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from functions.agglomeration.blocks import AXES, Block, Hierarchy
from functions.agglomeration.equalities import INSIDE, Rows, leaf_of
from functions.agglomeration.hierarchy import node_keys
from functions.agglomeration.overlaps import ACCEPTED
from functions.agglomeration.reduction import Leaf
from functions.agglomeration.tables import BlockTable
from functions.model.subvolumes import Neighbours, Subvolume
from functions.store.equalities import (
    CANDIDATE,
    OVERLAP,
    Records,
    match_path,
    read_leaf_zyx,
    read_records,
    table_path,
)
from functions.store.labels import grid_of, read_arrays, read_owned, write_arrays
from functions.store.mending import computed_again
from functions.store.run import Run

SAMPLE = 64
"""Overlaps that are looked at to tell how many rows one holds."""
CACHED_TABLES = 8
COLUMNS = tuple(column.name for column in fields(BlockTable))


@dataclass(frozen=True, slots=True)
class MatchedOverlaps:
    """The equalities of a run, as the reduction reads them."""

    run: Run

    def rows_per_overlap(self) -> float:
        """The largest number of rows in a sample that is spread over the volume."""
        grid = grid_of(self.run)
        step = max(1, 3 * len(grid) // SAMPLE)
        sample = islice(grid.neighbours(), 0, None, step)
        return float(max((len(self._records(pair)) for pair in sample), default=0))

    def leaf(self, block: Block, hierarchy: Hierarchy) -> Leaf:
        """The equalities of one block of level 0.

        Raises:
            VolumeError: a file is missing or damaged.
        """
        p = self.run.parameters.reconcile
        found = self._overlaps(block, hierarchy)
        records = [np.zeros(0, OVERLAP), *(self._records(pair) for pair, _ in found)]
        size = [r.size for r in records[1:]]
        low, high, side = (
            np.repeat(np.array(values, np.int64), size)
            for values in (
                [pair.first.position for pair, _ in found],
                [pair.second.position for pair, _ in found],
                [side for _, side in found],
            )
        )
        rows = np.concatenate(records)
        grid = grid_of(self.run)
        subvolumes = list(grid.block(*hierarchy.ranges(block)))
        owned = [read_owned(self.run, subvolume) for subvolume in subvolumes]
        return leaf_of(
            Rows(
                overlap=np.repeat(np.arange(len(found)), size),
                side=side,
                first=node_keys(low, rows["first"]),
                second=node_keys(high, rows["second"]),
                voxels=rows["voxels"].astype(np.int64),
                first_voxels=rows["first_voxels"].astype(np.int64),
                second_voxels=rows["second_voxels"].astype(np.int64),
                accepted=rows["verdict"] == ACCEPTED,
            ),
            labels=np.array([n.size for n in owned], np.int64),
            owned_voxels=np.concatenate(owned),
            contested_share=p.contested_share,
            min_voxels=p.min_voxels,
        )

    def _overlaps(self, block: Block, hierarchy: Hierarchy) -> list[tuple[Neighbours, int]]:
        """The pairs that a block's subvolumes are in, and the outer side that each crosses, or `INSIDE`.

        Both blocks at a side meet its pairs in the same order, that of the grid.
        """
        grid, ranges = grid_of(self.run), hierarchy.ranges(block)
        found = []
        for subvolume in grid.block(*ranges):
            for axis in AXES:
                at = subvolume.index_zyx[axis]
                if at == ranges[axis].start and at > 0:
                    z, y, x = (n - (a == axis) for a, n in enumerate(subvolume.index_zyx))
                    found.append((grid.above((z, y, x), axis), 2 * axis))
                outside = at + 1 == ranges[axis].stop
                found.append((grid.above(subvolume.index_zyx, axis), 2 * axis + 1 if outside else INSIDE))
        return [(pair, side) for pair, side in found if pair is not None]

    def _records(self, pair: Neighbours) -> Records:
        with computed_again(self.run, "match", pair.id):
            return read_records(match_path(self.run, pair), OVERLAP)

    def candidates(self, block: Block, hierarchy: Hierarchy, tables: Tables) -> Records:
        """Pairs that share voxels and are in two objects, with their numbers; `ACCEPTED` ones were contested.

        Of the overlaps whose first subvolume is in the block, so that each pair stands in one block.
        """
        found = [np.zeros(0, CANDIDATE)]
        for pair, side in self._overlaps(block, hierarchy):
            if side != INSIDE and side % 2 == 0:
                continue
            rows = self._records(pair)
            first = tables.lookup(pair.first)[rows["first"]]
            second = tables.lookup(pair.second)[rows["second"]]
            apart = (first > 0) & (second > 0) & (first != second)
            records = np.zeros(int(apart.sum()), CANDIDATE)
            records["first_id"], records["second_id"] = first[apart], second[apart]
            records["first_subvolume"], records["second_subvolume"] = (
                pair.first.position,
                pair.second.position,
            )
            for name in OVERLAP.names or ():
                records[name] = rows[name][apart]
            found.append(records)
        return np.concatenate(found)


@dataclass(slots=True)
class Tables:
    """Global ids of a run's local labels; the tables used last are kept in memory."""

    run: Run
    _cache: OrderedDict[str, BlockTable] = field(default_factory=OrderedDict)
    _hierarchy: Hierarchy | None = None

    def lookup(self, subvolume: Subvolume) -> NDArray[np.uint32]:
        """Array to index with a subvolume's local labels; 0 stays 0.

        Raises:
            UpstreamError: reconcile has not run.
            VolumeError: a table is missing or damaged.
        """
        if self._hierarchy is None:
            counts = grid_of(self.run).counts_zyx
            self._hierarchy = Hierarchy(counts_zyx=counts, leaf_zyx=read_leaf_zyx(self.run))
        block, rank = self._hierarchy.leaf_of(subvolume.index_zyx)
        if block.id not in self._cache:
            self._cache[block.id] = read_table(self.run, block)
            if len(self._cache) > CACHED_TABLES:
                self._cache.popitem(last=False)
        self._cache.move_to_end(block.id)
        return self._cache[block.id].lookup(rank)


def read_table(run: Run, block: Block) -> BlockTable:
    """Read the global ids of one block's local labels.

    Raises:
        VolumeError: the table is missing or damaged.
    """
    found = read_arrays(table_path(run, block.id), COLUMNS)
    return BlockTable(
        starts=found["starts"].astype(np.int64),
        labels=found["labels"].astype(np.int64),
        offsets=found["offsets"].astype(np.int64),
        exceptions=found["exceptions"].astype(np.uint32),
        ids=found["ids"].astype(np.uint32),
    )


def write_table(run: Run, block: Block, table: BlockTable) -> None:
    """Write the global ids of one block's local labels."""
    write_arrays(table_path(run, block.id), {name: getattr(table, name) for name in COLUMNS})
