"""The normal equations of a stack, summed up a few matches at a time, group by group of sections.

In memory are a few numbers for every unknown and every match. The rows of matches, and the matrix that they
add up to (`BlockMatrix`), are in a scratch store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from functions.model.scratch import Scratch
from functions.registration.block_matrix import BlockMatrix
from functions.registration.match_rows import Edge, Former
from functions.registration.priors import Prior
from functions.registration.robust import Sparse

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
MIN_JACOBIAN = 0.3
"""Locally, a sheet may shrink tissue to this share of its area."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """The unknowns of an edge's groups: those of the lower, then those of the upper if that is another."""

    edge: Edge
    lower: slice
    upper: slice

    @classmethod
    def of(cls, edge: Edge, bounds: Sequence[int]) -> Ends:
        """Those of an edge, of groups that begin at `bounds`."""
        lower, upper = (slice(bounds[g], bounds[g + 1]) for g in edge)
        return cls(edge=edge, lower=lower, upper=upper if edge[0] != edge[1] else slice(0, 0))

    @property
    def split(self) -> int:
        """How many are of the lower group."""
        return int(self.lower.stop - self.lower.start)

    def local(self, columns: Integers) -> Integers:
        """Which of these some unknowns are."""
        above = columns - self.upper.start + self.split
        return np.asarray(np.where(columns < self.lower.stop, columns - self.lower.start, above))

    def take(self, unknowns: Floats) -> Floats:
        """Their values."""
        return np.concatenate([unknowns[self.lower], unknowns[self.upper]])

    def add(self, values: Floats, to: Floats) -> None:
        """Add values of these to those of all."""
        to[self.lower] += values[: self.split]
        to[self.upper] += values[self.split :]

    def blocks(self, matrix: Sparse) -> dict[Edge, Sparse]:
        """A symmetric matrix of these, as blocks on and above the diagonal."""
        (lower, upper), split = self.edge, self.split
        if lower == upper:
            return {(lower, lower): matrix}
        return {
            (lower, lower): matrix[:split, :split],
            (lower, upper): matrix[:split, split:],
            (upper, upper): matrix[split:, split:],
        }


class StackEquations:
    """All matches of a stack, in the order of its pairs, and a prior that may be replaced."""

    def __init__(self, former: Former, prior: Prior, scratch: Scratch) -> None:
        self.prior = prior
        self._scratch, self._former = scratch, former
        self._bounds = former.plates.bounds[former.plates.groups].tolist()
        pieces = former.pieces()
        self._edges = [piece.edge for piece in pieces]
        for index, piece in enumerate(pieces):
            rows, ends = former.rows(piece), Ends.of(piece.edge, self._bounds)
            arrays: dict[str, NDArray[Any]] = {
                "places": former.places(piece),
                "columns": ends.local(rows.columns).astype(np.int32),
                "factors": rows.factors,
                "slopes": rows.slopes,
                "target": rows.target,
                "weight": rows.weight,
            }
            scratch.write(f"rows/{index}", arrays)

    @property
    def count(self) -> int:
        """How many matches there are."""
        return int(self._former.counts.sum())

    def residual_px(self, unknowns: Floats) -> Floats:
        """How far (M,) each match is off."""
        out = np.empty(self.count)
        for index, edge in enumerate(self._edges):
            kept = self._read(index, "places", "columns", "factors", "target")
            mine = Ends.of(edge, self._bounds).take(unknowns)
            off = np.einsum("mc,mck->mk", kept["factors"], mine[kept["columns"]]) - kept["target"]
            out[kept["places"]] = np.linalg.norm(off, axis=1)
        return out

    def system(self, robust: Floats, unknowns: Floats, residual_px: Floats) -> tuple[BlockMatrix, Floats]:
        """Normal matrix and right side (P, 2), where matches count `robust` (M,) times."""
        matrix, right = BlockMatrix(self._bounds, self._scratch), self.prior.right.copy()
        begun: dict[Edge, Sparse] = {}
        index = 0
        for group in range(len(self._bounds) - 1):
            for column, block in self.prior.blocks(group).items():
                _sum(begun, (group, column), block)
            while index < len(self._edges) and self._edges[index][0] == group:
                ends = Ends.of(self._edges[index], self._bounds)
                normal, side = self._normal(index, ends.take(unknowns), robust, residual_px)
                ends.add(side, to=right)
                for key, block in ends.blocks(normal).items():
                    _sum(begun, key, block)
                index += 1
            matrix.write(group, {c: begun.pop((r, c)) for r, c in sorted(begun) if r == group})
        return matrix, right

    def _normal(
        self, index: int, unknowns: Floats, robust: Floats, residual_px: Floats
    ) -> tuple[Sparse, Floats]:
        """What a piece adds to the normal matrix and right side of the unknowns (P, 2) it couples."""
        kept = self._read(index, "places", "columns", "factors", "target", "slopes", "weight")
        places, columns, slopes = kept["places"], kept["columns"], kept["slopes"]
        weight = kept["weight"] * robust[places]
        starts = np.arange(columns.size + 1, step=columns.shape[1])
        entries = kept["factors"].ravel(), columns.ravel(), starts
        design = sparse.csr_matrix(entries, shape=(len(columns), len(unknowns)))
        scaled = design.T.tocsr()
        scaled.data *= weight[scaled.indices]
        squares = weight * residual_px[places] ** 2
        side = scaled @ kept["target"] + push(slopes, columns[:, : slopes.shape[2]], unknowns, squares)
        return scaled @ design, side

    def _read(self, index: int, *names: str) -> dict[str, Any]:
        return self._scratch.read(f"rows/{index}", names)


def push(slopes: Floats, columns: Integers, unknowns: Floats, squares: Floats) -> Floats:
    """What makes residuals count in pixels of the sections, not of the frame: a right side (P, 2).

    Where a map shrinks, residuals in the frame do too, so the fit would be better the smaller the stack. In
    pixels of the sections a square is, to first order, r^2 (1 - (div a + div b) / 2), where div is by how
    much the sheets of both sections spread tissue there. Its slope is a push outwards on both.

    Args:
        slopes: of both sheets (2, M, C) along the axes of the frame, of the unknowns `columns` (M, C).
        squares: weighted squares (M,) of the residuals.
    """
    spread = np.einsum("kmc,mck->m", slopes, unknowns[columns])
    force = squares / np.maximum(1.0 + spread / 4.0, MIN_JACOBIAN) / 4.0
    pushed = [(along * force[:, None]).ravel() for along in slopes]
    flat = columns.ravel()
    return np.stack([np.bincount(flat, weights=p, minlength=len(unknowns)) for p in pushed], axis=1)


def _sum(begun: dict[Edge, Sparse], key: Edge, block: Sparse) -> None:
    begun[key] = begun[key] + block if key in begun else block
