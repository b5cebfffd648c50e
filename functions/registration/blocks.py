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
from scipy.sparse import linalg

Floats = NDArray[np.float64]
Sparse = Any
DIRECT_LIMIT = 2_000
"""So many unknowns are factorised at once. A factor grows with the square of a block's width."""
BLOCK_UNKNOWNS = 1_500
TOLERANCE_PX = 1e-3
MAX_ITERATIONS = 400


@dataclass(frozen=True, slots=True)
class BlockSolver:
    """Solves symmetric positive definite systems whose unknowns belong to sections.

    Args:
        owner: section (P,) of each unknown.
        coarse: modes (P, Q) that span what moves sections as a whole.
        step: sections that a block owns; None chooses by the number of unknowns.
        overlap: sections that it shares with the next block, on either side.
    """

    owner: NDArray[np.int64]
    coarse: Sparse
    step: int | None = None
    overlap: int = 1

    def __call__(self, normal: Sparse, right: Floats, start: Floats | None) -> Floats:
        """Solve for K right sides (P, K), from a start that may be close."""
        if self.step is None and normal.shape[0] <= DIRECT_LIMIT:
            out: Floats = factorise(normal).solve(right)
            return out
        blocks = self._blocks()
        factors = [factorise(normal[rows][:, rows]) for rows in blocks]
        coarse = factorise(self.coarse.T @ normal @ self.coarse)

        def correct(residual: Floats) -> Floats:
            out = np.asarray(self.coarse @ coarse.solve(self.coarse.T @ residual))
            for rows, factor in zip(blocks, factors, strict=True):
                out[rows] += factor.solve(residual[rows])
            return out

        return conjugate_gradients(normal, right, correct, start)

    def _blocks(self) -> list[NDArray[np.int64]]:
        """Unknowns of each block, in order of the sections."""
        sections = np.unique(self.owner)
        each = len(self.owner) / max(1, len(sections))
        step = self.step or max(1, int(BLOCK_UNKNOWNS / each) - 2 * self.overlap)
        out = []
        for first in range(0, len(sections), step):
            low, high = max(0, first - self.overlap), first + step + self.overlap
            out.append(np.flatnonzero(np.isin(self.owner, sections[low:high])))
        return out


def factorise(normal: Sparse) -> Any:
    """Factor of a symmetric positive definite sparse matrix."""
    return linalg.splu(
        normal.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )


def conjugate_gradients(normal: Sparse, right: Floats, correct: Any, start: Floats | None) -> Floats:
    """Preconditioned conjugate gradients for all K right sides (P, K) at once, each with steps of its own."""
    x = np.zeros_like(right) if start is None else start.copy()
    residual = right - normal @ x
    z = correct(residual)
    direction = z.copy()
    power = (residual * z).sum(axis=0)
    quiet = 0
    for _ in range(MAX_ITERATIONS):
        pushed = normal @ direction
        curve = (direction * pushed).sum(axis=0)
        move = direction * (power / np.where(curve > 0, curve, 1.0))
        x += move
        # one short step may be chance; three in a row are the end
        quiet = quiet + 1 if float(np.abs(move).max()) < TOLERANCE_PX else 0
        if quiet == 3:
            break
        residual -= pushed * (power / np.where(curve > 0, curve, 1.0))
        z = correct(residual)
        after = (residual * z).sum(axis=0)
        direction = z + direction * (after / np.where(power > 0, power, 1.0))
        power = after
    return x
