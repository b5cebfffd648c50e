"""Solve a stack too large for one factorisation: overlapping blocks of sections, and a coarse solve of all.

Conjugate gradients, preconditioned by two-level additive Schwarz (Toselli & Widlund, "Domain Decomposition
Methods", 2005, ch. 2-3): every block of neighbouring sections is solved by itself, which settles what is
local; a coarse problem in which sections only move and stretch as a whole settles what is far. The exact
solution is the same for every layout of blocks; the tolerance says how near to it the iteration ends.

    sections  0 1 2 3 4 5 6 7 8 9 ...
    block 0   ███████████
    block 1           ███████████        each owns its step, and sees `overlap` sections on either side
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from functions.model.scratch import Scratch
from functions.registration.banded import BandedFactor
from functions.registration.block_matrix import BlockMatrix
from functions.registration.robust import MAX_ITERATIONS, conjugate_gradients, factorised

Floats = NDArray[np.float64]
Sparse = Any
DIRECT_LIMIT = 2_000
"""So many unknowns are factorised at once. A factor grows with the square of a block's width."""
BLOCK_UNKNOWNS = 1_500
TOLERANCE_PX = 1.5e-3
WORN = 1.5
"""Factors are renewed after a system that took so many times the iterations of the one they are of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Sections (of a parted one, each region) that a block owns, None: as many as `BLOCK_UNKNOWNS` allow; and
    that it shares with the next one on either side. A layout that is not automatic never solves the whole at
    once."""

    step: int | None = None
    overlap: int = 1


AUTOMATIC = Layout()


class BlockSolver:
    """Solves a sequence of similar symmetric positive definite systems whose unknowns belong to sections.

    Factors of the blocks only speed the iteration up, so those of an earlier system serve a later one, as
    long as they do that well. They are kept in the scratch store, and read one by one.

    Args:
        bounds: where the unknowns of each section, or of each of its regions, begin, and their number at the
            end.
        shared: unknowns that are coupled with all of a section, which would make factors dense: they are in
            no block, but each is a coarse mode.
        coarse: modes (P, Q) that span what moves sections as a whole.
    """

    def __init__(
        self,
        bounds: NDArray[np.int64],
        shared: NDArray[np.int64],
        coarse: Sparse,
        scratch: Scratch,
        layout: Layout = AUTOMATIC,
    ) -> None:
        self._coarse, self._scratch, self._layout = coarse, scratch, layout
        self._inside = np.ones(bounds[-1], dtype=np.bool_)
        self._inside[shared] = False
        self._ranges = self._blocks(bounds)
        self._factorised = False
        self._fresh_iterations: int | None = None
        self.settled = True
        """Whether the last system's iteration came to its end."""

    def __call__(self, normal: BlockMatrix, right: Floats, start: Floats | None) -> Floats:
        """Solve for K right sides (P, K), from a start that may be close."""
        if self._layout.step is None and normal.shape[0] <= DIRECT_LIMIT:
            out: Floats = factorised(normal.take(0, normal.shape[0])).solve(right)
            return out
        fresh = not self._factorised
        if fresh:
            self._factorise(normal)
        coarse = factorised(normal.project(self._coarse))

        def correct(residual: Floats) -> Floats:
            out = np.asarray(self._coarse @ coarse.solve(self._coarse.T @ residual))
            for index in range(len(self._ranges)):
                rows = self._rows(index)
                out[rows] += self._factor(index).solve(residual[rows])
            return out

        solution, iterations = conjugate_gradients(
            normal, right, correct, start, tolerance_px=TOLERANCE_PX, most=MAX_ITERATIONS
        )
        self.settled = iterations < MAX_ITERATIONS
        if fresh:
            self._fresh_iterations = iterations
        elif self._fresh_iterations is not None and iterations > WORN * self._fresh_iterations:
            self._factorised = False
        return solution

    def _factorise(self, normal: BlockMatrix) -> None:
        for index, (first, last) in enumerate(self._ranges):
            inside = self._inside[first:last]
            factor = BandedFactor.of(normal.take(first, last)[inside][:, inside])
            self._scratch.write(f"factors/{index}", {"order": factor.order, "bands": factor.bands})
        self._factorised = True

    def _rows(self, index: int) -> NDArray[np.int64]:
        first, last = self._ranges[index]
        return first + np.flatnonzero(self._inside[first:last])

    def _factor(self, index: int) -> BandedFactor:
        kept = self._scratch.read(f"factors/{index}", ("order", "bands"))
        return BandedFactor(
            order=np.asarray(kept["order"], np.int64), bands=np.asarray(kept["bands"], np.float64)
        )

    def _blocks(self, bounds: NDArray[np.int64]) -> list[tuple[int, int]]:
        """First and last (excluded) unknown of each block, in order of the sections."""
        starts = np.append(bounds[:-1][np.diff(bounds) > 0], bounds[-1])
        count = len(starts) - 1
        each = bounds[-1] / max(1, count)
        step, overlap = self._layout.step, self._layout.overlap
        if step is None:
            # sections of many knots are blocks by themselves: a factor of three would not pay
            overlap = overlap if (1 + 2 * overlap) * each <= BLOCK_UNKNOWNS else 0
            step = max(1, int(BLOCK_UNKNOWNS / each) - 2 * overlap)
        return [
            (int(starts[max(0, first - overlap)]), int(starts[min(count, first + step + overlap)]))
            for first in range(0, count, step)
        ]
