"""A symmetric matrix of a stack's unknowns that need not fit into memory.

Unknowns come in groups (a section of many knots, or several of few). What couples two groups is a block, and
only those on and above the diagonal are kept, group by group, in a scratch store:

            0   1   2   3
        0   ■   ■   □   ■       of row 0: blocks 0, 1 and 3
        1       ■   ■   □
        2           ■   ■
        3               ■
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from functions.model.scratch import Scratch

Floats = NDArray[np.float64]
Sparse = Any
PARTS = ("data", "indices", "indptr")


class BlockMatrix:
    """The matrix (P, P). It is written row by row, and valid until the next one is written to its store.

    Args:
        bounds: where groups begin, and P at the end.
    """

    def __init__(self, bounds: Sequence[int], scratch: Scratch) -> None:
        self.bounds = tuple(int(bound) for bound in bounds)
        self.shape = (self.bounds[-1], self.bounds[-1])
        self._scratch = scratch
        self._columns: list[tuple[int, ...]] = [() for _ in self.bounds[1:]]

    def write(self, row: int, blocks: Mapping[int, Sparse]) -> None:
        """Keep the blocks of a row of groups, by column: from the diagonal on."""
        self._columns[row] = tuple(sorted(blocks))
        arrays = {f"{part} {c}": getattr(blocks[c], part) for c in self._columns[row] for part in PARTS}
        self._scratch.write(_name(row), arrays)

    def __matmul__(self, vectors: Floats) -> Floats:
        out = np.zeros_like(vectors)
        for row, column, block in self._blocks():
            rows, columns = self._of(row), self._of(column)
            out[rows] += block @ vectors[columns]
            if row != column:
                out[columns] += block.T @ vectors[rows]
        return out

    def take(self, start: int, stop: int) -> Sparse:
        """Rows and columns of the unknowns from `start` to before `stop`."""
        groups = [g for g, (a, b) in enumerate(self._ranges()) if a < stop and b > start]
        inside = [slice(max(0, start - a), min(b, stop) - a) for a, b in map(self._range, groups)]
        grid: list[list[Any]] = [[None] * len(groups) for _ in groups]
        for i, j, block in self._among(groups):
            grid[i][j] = block[inside[i], inside[j]]
            if i != j:
                grid[j][i] = grid[i][j].T
        return sparse.bmat(grid, format="csr")

    def project(self, modes: Sparse) -> Sparse:
        """modes' times this times modes (P, Q)."""
        parts = []
        for row, column, block in self._blocks():
            part = (modes[self._of(row)].T @ (block @ modes[self._of(column)])).tocoo()
            parts += [part] if row == column else [part, part.T]
        values, rows, columns = (
            np.concatenate([getattr(p, name) for p in parts]) for name in ("data", "row", "col")
        )
        return sparse.csc_matrix((values, (rows, columns)), shape=(modes.shape[1],) * 2)

    def _blocks(self) -> Iterator[tuple[int, int, Sparse]]:
        for row in range(len(self._columns)):
            for column, block in self._row(row, self._columns[row]):
                yield row, column, block

    def _among(self, groups: Sequence[int]) -> Iterator[tuple[int, int, Sparse]]:
        """Blocks of groups that follow each other, by their places among these."""
        for i, group in enumerate(groups):
            wanted = tuple(c for c in self._columns[group] if c in groups)
            for column, block in self._row(group, wanted):
                yield i, column - groups[0], block

    def _row(self, row: int, columns: tuple[int, ...]) -> Iterator[tuple[int, Sparse]]:
        names = tuple(f"{part} {column}" for column in columns for part in PARTS)
        arrays: dict[str, Any] = self._scratch.read(_name(row), names)
        for column in columns:
            height, width = (stop - start for start, stop in map(self._range, (row, column)))
            data, indices, ends = (arrays[f"{part} {column}"] for part in PARTS)
            yield column, sparse.csr_matrix((data, indices, ends), shape=(height, width))

    def _ranges(self) -> Iterator[tuple[int, int]]:
        return zip(self.bounds[:-1], self.bounds[1:], strict=True)

    def _range(self, group: int) -> tuple[int, int]:
        return self.bounds[group], self.bounds[group + 1]

    def _of(self, group: int) -> slice:
        return slice(*self._range(group))


def _name(row: int) -> str:
    return f"normal/{row}"
