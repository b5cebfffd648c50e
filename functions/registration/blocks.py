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

from functions.registration.robust import conjugate_gradients, factorised

Floats = NDArray[np.float64]
Sparse = Any
DIRECT_LIMIT = 2_000
"""So many unknowns are factorised at once. A factor grows with the square of a block's width."""
BLOCK_UNKNOWNS = 1_500
TOLERANCE_PX = 3e-3
WORN = 1.5
"""Factors are renewed after a system that took so many times the iterations of the one they are of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Sections that a block owns (None: as many as `BLOCK_UNKNOWNS` allow), and that it shares with the next
    one on either side. A layout that is not automatic never solves the whole at once."""

    step: int | None = None
    overlap: int = 1


AUTOMATIC = Layout()


class BlockSolver:
    """Solves a sequence of similar symmetric positive definite systems whose unknowns belong to sections.

    Factors of the blocks only speed the iteration up, so those of an earlier system serve a later one, as
    long as they do that well.

    Args:
        owner: section (P,) of each unknown.
        coarse: modes (P, Q) that span what moves sections as a whole.
    """

    def __init__(self, owner: NDArray[np.int64], coarse: Sparse, layout: Layout = AUTOMATIC) -> None:
        self._owner, self._coarse, self._layout = owner, coarse, layout
        self._rows: list[NDArray[np.int64]] = []
        self._factors: list[Any] = []
        self._fresh_iterations: int | None = None

    def __call__(self, normal: Sparse, right: Floats, start: Floats | None) -> Floats:
        """Solve for K right sides (P, K), from a start that may be close."""
        if self._layout.step is None and normal.shape[0] <= DIRECT_LIMIT:
            out: Floats = factorised(normal).solve(right)
            return out
        fresh = not self._factors
        if fresh:
            self._rows = self._blocks()
            self._factors = [factorised(normal[rows][:, rows]) for rows in self._rows]
        coarse = factorised(self._coarse.T @ normal @ self._coarse)

        def correct(residual: Floats) -> Floats:
            out = np.asarray(self._coarse @ coarse.solve(self._coarse.T @ residual))
            for rows, factor in zip(self._rows, self._factors, strict=True):
                out[rows] += factor.solve(residual[rows])
            return out

        solution, iterations = conjugate_gradients(normal, right, correct, start, tolerance_px=TOLERANCE_PX)
        if fresh:
            self._fresh_iterations = iterations
        elif self._fresh_iterations is not None and iterations > WORN * self._fresh_iterations:
            self._factors = []
        return solution

    def _blocks(self) -> list[NDArray[np.int64]]:
        """Unknowns of each block, in order of the sections."""
        sections = np.unique(self._owner)
        each = len(self._owner) / max(1, len(sections))
        step, overlap = self._layout.step, self._layout.overlap
        if step is None:
            # sections of many knots are blocks by themselves: a factor of three would not pay
            overlap = overlap if (1 + 2 * overlap) * each <= BLOCK_UNKNOWNS else 0
            step = max(1, int(BLOCK_UNKNOWNS / each) - 2 * overlap)
        out = []
        for first in range(0, len(sections), step):
            low, high = max(0, first - overlap), first + step + overlap
            out.append(np.flatnonzero(np.isin(self._owner, sections[low:high])))
        return out
