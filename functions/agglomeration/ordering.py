"""Rows of numbers in order, of which more are given than fit into memory: an external merge sort.

    add       as many rows as are held at a time are sorted, and kept in a scratch store as a run of blocks
    add       `FAN_IN` runs of one length become a longer one
    in order  a block of each run is in memory while they are merged

Knuth, The Art of Computer Programming 3, 5.4.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import cast

import numpy as np
from numpy.typing import NDArray

from functions.model.scratch import Scratch

Rows = NDArray[np.void]
Key = tuple[float, ...]
Columns = Callable[[Rows], Sequence[NDArray[np.generic]]]
Run = tuple[int, int]
"""Its number, and how many blocks it has."""
FAN_IN = 32
"""Runs that are merged at a time."""
LEAST_BLOCK, BLOCKS_A_RUN = 256, 8 * FAN_IN
"""A block of each run that is merged is in memory, with keys of three times its size: together half of the
rows that are held."""


class Ordering:
    """Collects rows of one kind, and gives them in ascending order of `columns`, the first before all others.

    At most `at_once` rows are held at a time; what does not fit is in the scratch store, each row once. The
    order of equal rows is not said.
    """

    def __init__(self, kind: np.dtype[np.void], columns: Columns, *, scratch: Scratch, at_once: int) -> None:
        self._columns, self._scratch = columns, scratch
        self._held = np.zeros(max(1, at_once), kind)
        self._count = self._named = 0
        self._levels: list[list[Run]] = []
        self._block = max(LEAST_BLOCK, self._held.size // BLOCKS_A_RUN)

    def add(self, rows: Rows) -> None:
        """Take up rows."""
        while rows.size:
            free = self._held.size - self._count
            if not free:
                self._take(self._keep(self._sorted()))
                self._count, free = 0, self._held.size
            part, rows = rows[:free], rows[free:]
            self._held[self._count : self._count + part.size] = part
            self._count += part.size

    def in_order(self) -> Iterator[np.void]:
        """All rows, once; nothing may be added any more."""
        if not self._levels:
            yield from chain.from_iterable(self._sorted())
            return
        last = self._keep(self._sorted())
        self._held = self._held[:0].copy()
        runs = [last, *chain.from_iterable(self._levels)]  # the shortest first
        while len(runs) > FAN_IN:
            runs = [*runs[FAN_IN:], self._keep(self._blocks(self._merged(runs[:FAN_IN])))]
        yield from self._merged(runs)

    def _take(self, run: Run, level: int = 0) -> None:
        """Add a run to those of its length; many become a longer one, so that there are never many."""
        if level == len(self._levels):
            self._levels.append([])
        runs = self._levels[level]
        runs.append(run)
        if len(runs) == FAN_IN:
            longer = self._keep(self._blocks(self._merged(runs)))
            runs.clear()
            self._take(longer, level + 1)

    def _sorted(self) -> Iterator[Rows]:
        """What is held, in order, a block at a time."""
        held = self._held[: self._count]
        order = np.lexsort(self._columns(held)[::-1])
        for start in range(0, held.size, self._block):
            yield held[order[start : start + self._block]]

    def _keep(self, blocks: Iterable[Rows]) -> Run:
        """Write a run."""
        self._named += 1
        number, count = self._named, 0
        for rows in blocks:
            self._scratch.write(_name(number, count), {"rows": rows})
            count += 1
        return number, count

    def _merged(self, runs: Sequence[Run]) -> Iterator[np.void]:
        for _, row in heapq.merge(*map(self._keyed, runs), key=lambda keyed: keyed[0]):
            yield row

    def _keyed(self, run: Run) -> Iterator[tuple[Key, np.void]]:
        """Rows of a run with what they are compared by; a block is removed when it is read."""
        number, count = run
        for block in range(count):
            name = _name(number, block)
            rows = cast(Rows, self._scratch.read(name, ("rows",))["rows"])
            self._scratch.remove(name)
            yield from zip(zip(*(c.tolist() for c in self._columns(rows)), strict=True), rows, strict=True)

    def _blocks(self, rows: Iterable[np.void]) -> Iterator[Rows]:
        block, count = np.zeros(self._block, self._held.dtype), 0
        for row in rows:
            block[count] = row
            count += 1
            if count == block.size:
                yield block.copy()
                count = 0
        if count:
            yield block[:count].copy()


def _name(run: int, block: int) -> str:
    return f"run{run}/{block:08d}"
