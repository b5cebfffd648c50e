"""Cholesky factors that are plain arrays, so that they can be put aside in files."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from scipy.sparse import csgraph

Floats = NDArray[np.float64]
Sparse = Any
LIFT = 1e-10
"""Share by which the diagonal is raised where rounding alone makes a matrix indefinite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BandedFactor:
    """Of a symmetric positive definite matrix (P, P): unknowns in the order `order` (P,), in which all that
    is not 0 lies near the diagonal, and the lower bands (B, P) of the factor, as LAPACK keeps them."""

    order: NDArray[np.int64]
    bands: Floats

    @classmethod
    def of(cls, matrix: Sparse) -> BandedFactor:
        """Factorise.

        Knots come row by row, which is the best order for a single sheet; several that are coupled are put
        in that of Cuthill and McKee ("Reducing the bandwidth of sparse symmetric matrices", 1969).

        Raises:
            LinAlgError: the matrix is not positive definite, by more than rounding.
        """
        coupled = matrix.tocoo()
        orders = [
            np.arange(matrix.shape[0]),
            csgraph.reverse_cuthill_mckee(matrix.tocsr(), symmetric_mode=True).astype(np.int64),
        ]
        widths = [_bandwidth(coupled, order) for order in orders]
        order = orders[int(np.argmin(widths))]
        place = _places(order)
        row, column = place[coupled.row], place[coupled.col]
        lower = row >= column
        for lift in (0.0, LIFT):  # a factor that is a little off still serves iteration
            bands = np.zeros((min(widths) + 1, matrix.shape[0]), order="F")
            bands[(row - column)[lower], column[lower]] = coupled.data[lower]
            bands[0] *= 1.0 + lift
            with suppress(np.linalg.LinAlgError):
                return cls(order=order, bands=_cholesky(bands))
        raise np.linalg.LinAlgError(f"a matrix of {matrix.shape[0]} unknowns is not positive definite")

    def solve(self, right: Floats) -> Floats:
        """Solve for K right sides (P, K)."""
        out = np.empty_like(right)
        out[self.order] = linalg.cho_solve_banded((self.bands, True), right[self.order], check_finite=False)
        return out


def _cholesky(bands: Floats) -> Floats:
    factor: Floats = linalg.cholesky_banded(bands, lower=True, overwrite_ab=True, check_finite=False)
    return factor


def _places(order: NDArray[np.int64]) -> NDArray[np.int64]:
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return place


def _bandwidth(matrix: Sparse, order: NDArray[np.int64]) -> int:
    place = _places(order)
    return int(np.abs(place[matrix.row] - place[matrix.col]).max(initial=0))
