"""Sparse linear least squares that wrong measurements cannot bend (iteratively reweighted; Holland &
Welsch, 1977)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import linalg

Floats = NDArray[np.float64]
Sparse = Any
Solver = Callable[[Sparse, Floats, Floats | None], Floats]
Push = Callable[[Floats, Floats], Floats]
DENSE_LIMIT = 64
DIRECT_LIMIT = 60_000
MAX_ITERATIONS = 400
WORN, WORN_OUT = 8, 20
"""So many iterations take as long as a new factor of a small section; those of a large one, much less. After
more than the first, the next system is factorised anew; after the second, this one."""
TOLERANCE_PX = 1e-3
"""Of the last three steps; what is left then is a thousand times less."""
MIN_GROUP_TRUST = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """Unknowns (P, K), residual norms (M,) and the final robust weights (M,), 0 for what was rejected."""

    unknowns: Floats
    residual_px: Floats
    weight: Floats


def factorised(normal: Sparse) -> Any:
    """The LU factors of a symmetric positive definite system."""
    return linalg.splu(
        normal.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )


def solve(normal: Sparse, right: Floats, start: Floats | None = None) -> Floats:
    """Solve a symmetric positive definite system for K right sides (P, K)."""
    if normal.shape[0] <= DENSE_LIMIT:
        return np.asarray(np.linalg.solve(normal.toarray(), right), dtype=np.float64)
    if normal.shape[0] <= DIRECT_LIMIT:
        out: Floats = factorised(normal).solve(right)
        return out
    scale = sparse.diags(1.0 / normal.diagonal())
    begin = np.zeros_like(right) if start is None else start
    columns = [
        linalg.cg(normal, column, x0=first, rtol=1e-7, maxiter=4000, M=scale)[0]
        for column, first in zip(right.T, begin.T, strict=True)
    ]
    return np.stack(columns, axis=1)


class KeptFactor:
    """Solves the systems of one robust problem, which differ in their weights alone: the first by its factor,
    later ones by conjugate gradients that this factor preconditions, as long as that does not take long.

    A factor of a plane of tiles takes the 1.5th power of their number, and of 256 tiles 60 times as long as a
    solution with it.
    """

    def __init__(self) -> None:
        self._factor: Any = None

    def __call__(self, normal: Sparse, right: Floats, start: Floats | None) -> Floats:
        """The unknowns (P, K), to about `TOLERANCE_PX`."""
        if normal.shape[0] > DIRECT_LIMIT:
            return solve(normal, right, start)
        if self._factor is not None:
            found, iterations = conjugate_gradients(
                normal, right, self._factor.solve, start, tolerance_px=TOLERANCE_PX, most=WORN_OUT
            )
            if iterations > WORN:
                self._factor = None
            if iterations < WORN_OUT:
                return found
        self._factor = factorised(normal)
        out: Floats = self._factor.solve(right)
        return out


def conjugate_gradients(
    normal: Sparse,
    right: Floats,
    correct: Callable[[Floats], Floats],
    start: Floats | None,
    *,
    tolerance_px: float,
    most: int = MAX_ITERATIONS,
) -> tuple[Floats, int]:
    """Preconditioned conjugate gradients for all K right sides (P, K) at once, each with steps of its own;
    and how many iterations it took. It ends after three steps below the tolerance, or at `most`."""
    x = np.zeros_like(right) if start is None else start.copy()
    residual = right - normal @ x
    z = correct(residual)
    direction = z.copy()
    power = (residual * z).sum(axis=0)
    quiet = 0
    iterations = 0
    while iterations < most:
        iterations += 1
        pushed = normal @ direction
        curve = (direction * pushed).sum(axis=0)
        move = direction * (power / np.where(curve > 0, curve, 1.0))
        x += move
        # one short step may be chance; three in a row are the end
        quiet = quiet + 1 if float(np.abs(move).max()) < tolerance_px else 0
        if quiet == 3:
            break
        residual -= pushed * (power / np.where(curve > 0, curve, 1.0))
        z = correct(residual)
        after = (residual * z).sum(axis=0)
        direction = z + direction * (after / np.where(power > 0, power, 1.0))
        power = after
    return x, iterations


def solve_robust(
    design: Sparse,
    target: Floats,
    *,
    weight: Floats,
    prior: Sparse,
    prior_right: Floats | None = None,
    floor_px: float = 0.15,
    rounds: int = 12,
    cut: float = 4.0,
    group: NDArray[np.int64] | None = None,
    solver: Solver = solve,
    start: Floats | None = None,
    push: Push | None = None,
) -> Solution:
    """Minimise sum w rho(|design x - target|) + x' prior x - 2 x' prior_right.

    The loss goes from Huber (first half of the rounds: finds the basin) to Tukey's biweight (then: ignores
    what is further off than `cut` robust standard deviations). The scale is the median residual, at least
    `floor_px`.

    Args:
        design: sparse (M, P), shared by both axes.
        target: (M, K), K = 2 for y and x; the residual is the norm over K.
        weight: (M,) inverse variances.
        prior: sparse (P, P) that makes the system definite.
        group: (M,) numbers of groups; one whose median residual is above that of all has that scale of its
            own, and counts less by the square of it.
        solver: of the linear system of each round, from the unknowns of the round before.
        start: unknowns (P, K) to begin with.
        push: right side (P, K) that follows from the unknowns so far and the weighted squares (M,) of
            their residuals.
    """
    base = np.zeros((design.shape[1], target.shape[1])) if prior_right is None else prior_right
    robust = np.ones(len(target))
    residual = np.zeros(len(target))
    unknowns = np.zeros_like(base) if start is None else start
    transposed = design.T.tocsr()
    scaled = transposed.copy()
    for index in range(rounds):
        w = weight * robust
        np.multiply(transposed.data, w[transposed.indices], out=scaled.data)
        right = scaled @ target + base
        if push is not None:
            right = right + push(unknowns, w * residual**2)
        unknowns = solver(scaled @ design + prior, right, unknowns)
        residual = np.linalg.norm(design @ unknowns - target, axis=1)
        if len(residual) == 0:
            break
        # the median of a Rayleigh distribution is 1.18 sigma
        alive = residual[robust > 0] if (robust > 0).any() else residual
        sigma = max(floor_px, float(np.median(alive)) / 1.1774)
        scale, trust = np.full(len(target), sigma), np.ones(len(target))
        if group is not None:
            scale = np.maximum(sigma, _group_medians(residual, group) / 1.1774)
            trust = np.maximum(MIN_GROUP_TRUST, (sigma / scale) ** 2)
        if index < rounds // 2:
            robust = trust / np.maximum(1.0, residual / (1.5 * scale))
        else:
            robust = trust * np.maximum(0.0, 1.0 - (residual / (cut * scale)) ** 2) ** 2
    return Solution(unknowns=unknowns, residual_px=residual, weight=robust)


def _group_medians(residual: Floats, group: NDArray[np.int64]) -> Floats:
    """Median of each measurement's group (M,)."""
    order = np.lexsort((residual, group))
    counts = np.bincount(group)
    first = np.cumsum(counts) - counts
    middle = residual[order[np.minimum(first + counts // 2, len(order) - 1)]]
    return np.asarray(middle[group], dtype=np.float64)
