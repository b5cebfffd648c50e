"""Sparse linear least squares that wrong measurements cannot bend (iteratively reweighted; Holland &
Welsch, 1977)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import linalg

Floats = NDArray[np.float64]
Sparse = Any
Solver = Callable[[Any, Floats, Floats | None], Floats]
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
    solver: Solver = solve,
) -> Solution:
    """Minimise sum w rho(|design x - target|) + x' prior x - 2 x' prior_right (see `reweighted`).

    Args:
        design: sparse (M, P), shared by both axes.
        target: (M, K), K = 2 for y and x; the residual is the norm over K.
        weight: (M,) inverse variances.
        prior: sparse (P, P) that makes the system definite.
        solver: of the linear system of each round, from the unknowns of the round before.
    """
    right = np.zeros((design.shape[1], target.shape[1])) if prior_right is None else prior_right
    equations = Measured(design, target, weight=weight, prior=prior, prior_right=right)
    return reweighted(
        equations, np.zeros_like(right), floor_px=floor_px, rounds=rounds, cut=cut, solver=solver
    )


class Equations(Protocol):
    """M measurements that are linear in P unknowns, with what is known of these beforehand."""

    @property
    def count(self) -> int:
        """M."""

    def system(self, robust: Floats, unknowns: Floats, residual_px: Floats) -> tuple[Any, Floats]:
        """Normal matrix (P, P) and right side (P, K) where measurements count `robust` (M,) times; what
        depends on the unknowns follows those of the round before, and their residuals (M,)."""

    def residual_px(self, unknowns: Floats) -> Floats:
        """How far (M,) each measurement is off."""


class Measured:
    """Equations that are at hand as one sparse matrix (see `solve_robust`)."""

    def __init__(
        self, design: Sparse, target: Floats, *, weight: Floats, prior: Sparse, prior_right: Floats
    ) -> None:
        self._design, self._target, self._weight = design, target, weight
        self._prior, self._prior_right = prior, prior_right
        self._transposed = design.T.tocsr()
        self._scaled = self._transposed.copy()

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._target)

    def system(self, robust: Floats, unknowns: Floats, residual_px: Floats) -> tuple[Sparse, Floats]:
        """Normal matrix and right side."""
        weight = self._weight * robust
        np.multiply(self._transposed.data, weight[self._transposed.indices], out=self._scaled.data)
        right = self._scaled @ self._target + self._prior_right
        return self._scaled @ self._design + self._prior, right

    def residual_px(self, unknowns: Floats) -> Floats:
        """How far each measurement is off."""
        return np.asarray(np.linalg.norm(self._design @ unknowns - self._target, axis=1))


def reweighted(
    equations: Equations,
    unknowns: Floats,
    *,
    floor_px: float,
    rounds: int,
    cut: float,
    solver: Solver,
    sizes: NDArray[np.int64] | None = None,
) -> Solution:
    """Solve equations so that measurements that are far off count less, from unknowns (P, K) to begin with.

    The loss goes from Huber (first half of the rounds: finds the basin) to Tukey's biweight (then: ignores
    what is further off than `cut` robust standard deviations). The scale is the median residual, at least
    `floor_px`.

    Args:
        solver: of the linear system of each round, from the unknowns of the round before.
        sizes: of the groups that measurements come in, one after the other. One whose median residual is
            above that of all has that scale of its own, and counts less by the square of it.
    """
    robust, residual = np.ones(equations.count), np.zeros(equations.count)
    for index in range(rounds):
        normal, right = equations.system(robust, unknowns, residual)
        unknowns = solver(normal, right, unknowns)
        residual = equations.residual_px(unknowns)
        if len(residual) == 0:
            break
        # the median of a Rayleigh distribution is 1.18 sigma
        alive = residual[robust > 0] if (robust > 0).any() else residual
        sigma = max(floor_px, float(np.median(alive)) / 1.1774)
        biweight = cut if index >= rounds // 2 else None
        if sizes is None:
            robust = _trust(residual, sigma, biweight)
            continue
        ends = np.cumsum(sizes)
        for group in map(slice, ends - sizes, ends):
            scale = max(sigma, _upper_median(residual[group]) / 1.1774)
            trust = max(MIN_GROUP_TRUST, (sigma / scale) ** 2)
            robust[group] = trust * _trust(residual[group], scale, biweight)
    return Solution(unknowns=unknowns, residual_px=residual, weight=robust)


def _trust(residual: Floats, scale: float, cut: float | None) -> Floats:
    """How much (M,) measurements count: by Huber's loss, or by Tukey's that ends at `cut` scales."""
    if cut is None:
        return 1.0 / np.maximum(1.0, residual / (1.5 * scale))
    return np.asarray(np.maximum(0.0, 1.0 - (residual / (cut * scale)) ** 2) ** 2)


def _upper_median(values: Floats) -> float:
    return float(np.partition(values, len(values) // 2)[len(values) // 2])
