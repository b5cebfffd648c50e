"""Blocks of subvolumes: how a grid of millions is taken apart, so that it can be joined piece by piece.

Level 0 has blocks of `leaf_zyx` subvolumes; a block of the next level holds 2 x 2 x 2 of them, until one is
left.

    level 0    | a b | c d | e f |        a..f: subvolumes; | : overlaps between blocks, joined one level up,
    level 1    | a b   c d | e f |                             where they lie inside a block
    level 2    | a b   c d   e f |

Only what lies on the outer sides of a block has to be known to the level above. Sides are numbered 2 * axis
for the low and 2 * axis + 1 for the high one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
from numpy.typing import NDArray

from functions.model.geometry import ZYX

Integers = NDArray[np.int64]

AXES = (0, 1, 2)
SIDES = range(6)
LARGEST_LEAF = 8
BYTES_PER_ROW = 400
"""What joining a block takes at its peak for each equality it reads, measured and rounded up."""


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
        most = budget_mib * 2**20 / (BYTES_PER_ROW * max(rows_per_overlap, 1.0))
        edge = LARGEST_LEAF
        while True:
            hierarchy = cls(counts_zyx=counts_zyx, leaf_zyx=(edge, edge, edge))
            if edge == 1 or hierarchy.overlaps_read(0) <= most:
                break
            edge //= 2
        need = max(hierarchy.overlaps_read(level) for level in range(hierarchy.levels))
        if need > most:
            mib = int(budget_mib * need / most) + 1
            raise ValueError(
                f"budget_mib: {budget_mib} is too small to join {counts_zyx} subvolumes: give {mib}"
            )
        return hierarchy

    @property
    def levels(self) -> int:
        """How many levels there are; the last has one block."""
        level = 0
        while prod(self.grid(level)) > 1:
            level += 1
        return level + 1

    def grid(self, level: int) -> ZYX:
        """Blocks of a level along each axis."""
        z, y, x = (-(-n // (e << level)) for n, e in zip(self.counts_zyx, self.leaf_zyx, strict=True))
        return z, y, x

    def blocks(self, level: int) -> Iterator[Block]:
        """The blocks of a level, in z, y, x order."""
        for z, y, x in product(*(range(n) for n in self.grid(level))):
            yield Block(level=level, index_zyx=(z, y, x))

    def children(self, block: Block) -> list[Block]:
        """The blocks of the level below that make up a block, in z, y, x order."""
        below = self.grid(block.level - 1)
        ranges = (range(2 * i, min(2 * i + 2, n)) for i, n in zip(block.index_zyx, below, strict=True))
        return [Block(level=block.level - 1, index_zyx=(z, y, x)) for z, y, x in product(*ranges)]

    def ranges(self, block: Block) -> tuple[range, range, range]:
        """The subvolumes of a block, along each axis."""
        edges = (e << block.level for e in self.leaf_zyx)
        z, y, x = (
            range(i * e, min((i + 1) * e, n))
            for i, e, n in zip(block.index_zyx, edges, self.counts_zyx, strict=True)
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

    def overlaps_read(self, level: int) -> int:
        """How many overlaps the largest block of a level reads at most, those seen from both sides twice."""
        edges = [min(e << level, n) for e, n in zip(self.leaf_zyx, self.counts_zyx, strict=True)]
        overlaps = 0
        for edge, count in zip(edges, self.counts_zyx, strict=True):
            outer = 2 if edge < count else 0
            inner = edge - 1 if level == 0 else 2  # two children see the cut between them
            overlaps += (inner + outer) * prod(edges) // edge
        return overlaps
