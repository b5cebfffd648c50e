"""Rows of numbers in order, of which more are given than fit into memory: an external merge sort.

    add       as many rows as are held at a time are sorted, and kept in a scratch store as a run of blocks
    in order  a few blocks of each run are merged; more runs than `FAN_IN` become fewer, longer ones first

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
FAN_IN = 32
"""Runs that are merged at a time."""
BLOCKS_A_RUN = 4 * FAN_IN
"""A block of each run that is merged is in memory: together a quarter of the rows that were held, which the
keys of their rows make as large as all of these."""


class Ordering:
    """Collects rows of one kind, and gives them in ascending order of `columns`, the first before all others.

    At most `at_once` rows are held at a time; what does not fit goes to the scratch store. The order of equal
    rows is not said.
    """

    def __init__(self, kind: np.dtype[np.void], columns: Columns, *, scratch: Scratch, at_once: int) -> None:
        self._columns, self._scratch = columns, scratch
        self._held = np.zeros(max(1, at_once), kind)
        self._count = 0
        self._runs: list[list[str]] = []
        self._named = 0
        self._block = max(1, self._held.size // BLOCKS_A_RUN)

    def add(self, rows: Rows) -> None:
        """Take up rows."""
        while rows.size:
            free = self._held.size - self._count
            if not free:
                self._runs.append(self._keep(self._sorted()))
                self._count, free = 0, self._held.size
            part, rows = rows[:free], rows[free:]
            self._held[self._count : self._count + part.size] = part
            self._count += part.size

    def in_order(self) -> Iterator[np.void]:
        """All rows, once; nothing may be added any more."""
        if not self._runs:
            yield from chain.from_iterable(self._sorted())
            return
        self._runs.append(self._keep(self._sorted()))
        self._held = self._held[:0].copy()
        while len(self._runs) > FAN_IN:
            groups = [self._runs[start : start + FAN_IN] for start in range(0, len(self._runs), FAN_IN)]
            self._runs = [self._keep(self._blocks(self._merged(group))) for group in groups]
        yield from self._merged(self._runs)

    def _sorted(self) -> Iterator[Rows]:
        """What is held, in order, a block at a time."""
        held = self._held[: self._count]
        order = np.lexsort(self._columns(held)[::-1])
        for start in range(0, held.size, self._block):
            yield held[order[start : start + self._block]]

    def _keep(self, blocks: Iterable[Rows]) -> list[str]:
        """Write a run; the names of its blocks."""
        run, names = self._named, list[str]()
        self._named += 1
        for rows in blocks:
            names.append(f"run{run}/{len(names):08d}")
            self._scratch.write(names[-1], {"rows": rows})
        return names

    def _merged(self, runs: Sequence[Sequence[str]]) -> Iterator[np.void]:
        for _, row in heapq.merge(*map(self._keyed, runs), key=lambda keyed: keyed[0]):
            yield row

    def _keyed(self, run: Sequence[str]) -> Iterator[tuple[Key, np.void]]:
        for name in run:
            rows = cast(Rows, self._scratch.read(name, ("rows",))["rows"])
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
