"""How far tiles may be stretched and bent: as far as their matches give evidence of it.

Seams are best where sheets follow the matches, as long as these are many: few matches would rather bend tiles
by their own noise. So a section is solved under the prior, of a few, that makes its matches most probable
(type II maximum likelihood; MacKay, "Bayesian interpolation", Neural Computation 1992). For a linear problem
with Gaussian noise that is exact, and costs one factorisation for each prior.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from functions.registration.robust import factorised
from functions.registration.sheets import bending

Floats = NDArray[np.float64]
Sparse = Any

SHEET_SIGMA_PX = 3.0
LENS_SIGMA_PX = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Freedom:
    """Standard deviations, px: of what a tile is stretched or sheared by at its rim, and of the second
    differences of its sheet and of the lens."""

    affine_px: float
    bend_px: float


FREEDOMS = (
    Freedom(affine_px=0.25, bend_px=0.1),
    Freedom(affine_px=0.35, bend_px=0.3),
    Freedom(affine_px=0.5, bend_px=1.0),
)
"""From stiff to free."""
MAX_JUDGED = 64
"""Tiles of a section that are asked; the next would say the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """Inverse covariances of one tile's unknowns (shift, two of the linear part, sheet) and of the lens's."""

    tile: Sparse
    lens: Sparse

    def of(self, tiles: int) -> Sparse:
        """That of all unknowns of so many tiles, the lens last."""
        return sparse.block_diag([*[self.tile] * tiles, self.lens], format="csr")

    def log_determinant(self, tiles: int) -> float:
        """Of `of(tiles)`."""
        tile, lens = (float(np.linalg.slogdet(part.toarray())[1]) for part in (self.tile, self.lens))
        return tiles * tile + lens


def prior_of(freedom: Freedom, knots: tuple[int, int], *, tether_px: float, lens_weight: float) -> Prior:
    """The prior for sheets of so many knots (y, x).

    Args:
        tether_px: how far a tile without matches may be pulled from its place.
        lens_weight: so many overlaps say already what the lens is; one says about as much as its prior.
    """
    bent, still = bending(knots) / freedom.bend_px**2, sparse.identity(knots[0] * knots[1])
    stretch = 1.0 / freedom.affine_px**2
    rigid = sparse.diags([1e-3 / max(tether_px, 1.0) ** 2, stretch, stretch])
    return Prior(
        tile=sparse.block_diag([rigid, bent + still / SHEET_SIGMA_PX**2], format="csr"),
        lens=((bent + still / LENS_SIGMA_PX**2) * (1.0 + lens_weight)).tocsr(),
    )


def most_probable(
    priors: Sequence[Prior], design: Sparse, target: Floats, weight: Floats, *, tiles: int
) -> int:
    """Which prior makes the targets (M, 2) of `design` (M, P) most probable.

    Args:
        weight: inverse variances (M,), 0 for what does not count. The noise is taken to be larger where no
            prior explains the targets with as little: noisy matches are no evidence of bending.
        tiles: how many there are.
    """
    rows = np.flatnonzero(weight)
    if not len(rows):
        return 0
    part, seen, w = design[rows], target[rows], weight[rows]
    scaled = part.T.tocsr().multiply(w).tocsr()
    normal, right, square = scaled @ part, scaled @ seen, float((w[:, None] * seen**2).sum())
    measured = len(rows), normal, right, square
    return int(np.argmax([_log_evidence(prior, *measured, tiles=tiles) for prior in priors]))


def _log_evidence(
    prior: Prior, rows: int, normal: Sparse, right: Floats, square: float, *, tiles: int
) -> float:
    """How probable a prior makes what was measured, but for what all priors share. A function of its own, for
    a factor reserves many times the memory that it fills: there is never a second one beside it."""
    factor = factorised(normal + prior.of(tiles))
    rest = max(0.0, square - float((right * factor.solve(right)).sum()))
    noise = max(1.0, rest / (2 * rows))  # a variance, both axes; times the stated one
    fit = -rows * float(np.log(noise)) - rest / (2.0 * noise)
    return fit + prior.log_determinant(tiles) - float(np.log(np.abs(factor.U.diagonal())).sum())
