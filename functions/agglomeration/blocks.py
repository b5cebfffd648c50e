"""Blocks of subvolumes: how a grid of millions is taken apart, so that it can be joined piece by piece.

Level 0 has blocks of `leaf_zyx` subvolumes; a block of the next level holds two of them that are neighbours
along the axis with most blocks, until one is left.

    level 0    | a b | c d | e f |        a..f: subvolumes; | : overlaps between blocks, joined one level up,
    level 1    | a b   c d | e f |                             where they lie inside a block
    level 2    | a b   c d   e f |

Only what lies on the outer sides of a block has to be known to the level above. Sides are numbered 2 * axis
for the low and 2 * axis + 1 for the high one. Two at a time, since most of what the topmost blocks hold
then is one cut through the volume, not three.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import ceil, prod

import numpy as np
from numpy.typing import NDArray

from functions.model.geometry import ZYX

Integers = NDArray[np.int64]

AXES = (0, 1, 2)
SIDES = range(6)
LARGEST_LEAF = 8
LEAF_BYTES = 400
"""What a block of level 0 takes at its peak for each pair of labels that it reads, measured and rounded
up."""
JOIN_BYTES = 120
"""What a higher block takes at its peak for each equality on its children's sides, measured and rounded
up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block of a level: `index_zyx` counts blocks of that level."""

    level: int
    index_zyx: ZYX

    @property
    def id(self) -> str:
        """A file's name, e.g. `l0_z0003_y0000_x0012`."""
        z, y, x = self.index_zyx
        return f"l{self.level}_z{z:04d}_y{y:04d}_x{x:04d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchy:
    """All levels of blocks over a grid of `counts_zyx` subvolumes; made on demand, it holds nothing."""

    counts_zyx: ZYX
    leaf_zyx: ZYX = (LARGEST_LEAF, LARGEST_LEAF, LARGEST_LEAF)

    def __post_init__(self) -> None:
        if min(self.counts_zyx) < 1 or min(self.leaf_zyx) < 1:
            raise ValueError(f"leaf_zyx: {self.leaf_zyx} of {self.counts_zyx} subvolumes must be positive")

    @classmethod
    def within(cls, counts_zyx: ZYX, *, rows_per_overlap: float, budget_mib: int) -> Hierarchy:
        """The largest blocks that are joined within a budget, where overlaps hold so many equalities.

        Raises:
            ValueError: not even the smallest blocks fit, or what crosses the middle of the volume does not.
        """
        edge = LARGEST_LEAF
        while True:
            hierarchy = cls(counts_zyx=counts_zyx, leaf_zyx=(edge, edge, edge))
            if edge == 1 or hierarchy.mib(0, rows_per_overlap=rows_per_overlap) <= budget_mib:
                break
            edge //= 2
        need = max(hierarchy.mib(k, rows_per_overlap=rows_per_overlap) for k in range(hierarchy.levels))
        if need > budget_mib:
            raise ValueError(
                f"budget_mib: {budget_mib} is too small to join {counts_zyx} subvolumes: give {ceil(need)}"
            )
        return hierarchy

    @property
    def levels(self) -> int:
        """How many levels there are; the last has one block."""
        return len(_edges(self.counts_zyx, self.leaf_zyx))

    def edges(self, level: int) -> ZYX:
        """Subvolumes along each axis in a block of a level."""
        return _edges(self.counts_zyx, self.leaf_zyx)[level]

    def grid(self, level: int) -> ZYX:
        """Blocks of a level along each axis."""
        return _grid(self.counts_zyx, self.edges(level))

    def blocks(self, level: int) -> Iterator[Block]:
        """The blocks of a level, in z, y, x order."""
        for z, y, x in product(*(range(n) for n in self.grid(level))):
            yield Block(level=level, index_zyx=(z, y, x))

    def children(self, block: Block) -> list[Block]:
        """The blocks of the level below that make up a block, in z, y, x order."""
        below = self.grid(block.level - 1)
        edges = zip(self.edges(block.level), self.edges(block.level - 1), strict=True)
        held = [whole // part for whole, part in edges]
        ranges = (
            range(k * i, min(k * i + k, n)) for k, i, n in zip(held, block.index_zyx, below, strict=True)
        )
        return [Block(level=block.level - 1, index_zyx=(z, y, x)) for z, y, x in product(*ranges)]

    def ranges(self, block: Block) -> tuple[range, range, range]:
        """The subvolumes of a block, along each axis."""
        z, y, x = (
            range(i * e, min((i + 1) * e, n))
            for i, e, n in zip(block.index_zyx, self.edges(block.level), self.counts_zyx, strict=True)
        )
        return z, y, x

    def positions(self, block: Block) -> Integers:
        """Ranks of a block's subvolumes in the grid's z, y, x order, ascending."""
        z, y, x = (np.array(r, np.int64) for r in self.ranges(block))
        grid = (z[:, None, None] * self.counts_zyx[1] + y[:, None]) * self.counts_zyx[2] + x
        return grid.ravel()

    def leaf_of(self, index_zyx: ZYX) -> tuple[Block, int]:
        """The block of level 0 that holds a subvolume, and the subvolume's rank in it."""
        z, y, x = (i // e for i, e in zip(index_zyx, self.leaf_zyx, strict=True))
        block = Block(level=0, index_zyx=(z, y, x))
        ranges = self.ranges(block)
        k, j, i = (n - r.start for n, r in zip(index_zyx, ranges, strict=True))
        return block, (k * len(ranges[1]) + j) * len(ranges[2]) + i

    def mib(self, level: int, *, rows_per_overlap: float) -> float:
        """Memory that the largest block of a level takes, where overlaps hold so many rows."""
        size = LEAF_BYTES if level == 0 else JOIN_BYTES
        return size * max(rows_per_overlap, 1.0) * self.overlaps_read(level) / 2**20

    def overlaps_read(self, level: int) -> int:
        """How many overlaps the largest block of a level reads at most, those seen from both sides twice."""
        edges = [min(e, n) for e, n in zip(self.edges(level), self.counts_zyx, strict=True)]
        parts = self.edges(level - 1) if level else (1, 1, 1)
        overlaps = 0
        for edge, part, count in zip(edges, parts, self.counts_zyx, strict=True):
            outer = min(2, -(-count // edge) - 1)
            inner = -(-edge // part) - 1
            overlaps += (inner * (2 if level else 1) + outer) * prod(edges) // edge
        return overlaps


@lru_cache(maxsize=64)
def _edges(counts_zyx: ZYX, leaf_zyx: ZYX) -> tuple[ZYX, ...]:
    edges = [leaf_zyx]
    while prod(grid := _grid(counts_zyx, edges[-1])) > 1:
        longest = grid.index(max(grid))
        z, y, x = (e * (2 if axis == longest else 1) for axis, e in enumerate(edges[-1]))
        edges.append((z, y, x))
    return tuple(edges)


def _grid(counts_zyx: ZYX, edges_zyx: ZYX) -> ZYX:
    z, y, x = (-(-n // e) for n, e in zip(counts_zyx, edges_zyx, strict=True))
    return z, y, x
