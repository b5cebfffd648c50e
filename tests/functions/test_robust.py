"""Kept factors solve what exact ones solve."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse

from functions.model.transform import Warp
from functions.registration import montage, robust
from functions.registration.montage import Pair, solve_montage
from functions.registration.overlaps import Matches
from functions.registration.robust import KeptFactor, conjugate_gradients, factorised, solve

Floats = NDArray[np.float64]
SIDE, SIZE, STEP = 5, 600, 520


def corners(side: int) -> Floats:
    """Tiles of a square section."""
    return np.array([[y, x] for y in range(side) for x in range(side)], dtype=np.float64) * STEP


def contradictory(side: int, seed: int) -> tuple[list[Pair], list[Matches]]:
    """Noisy matches of bent tiles: one in eight is wrong, and one whole seam."""
    rng = np.random.default_rng(seed)
    bends = rng.uniform(0, 2 * np.pi, (side * side, 2))
    pairs = [
        (k, j)
        for k in range(side * side)
        for j in (k + 1, k + side)
        if j < side * side and (j != k + 1 or j % side)
    ]
    matches = []
    for a, b in pairs:
        low, high = np.maximum(*corners(side)[[a, b]]), np.minimum(*corners(side)[[a, b]]) + SIZE
        places = rng.uniform(low, high, (40, 2))
        a_yx, b_yx = (
            places - corners(side)[k] + 0.8 * np.sin(places[:, ::-1] / 150.0 + bends[k]) for k in (a, b)
        )
        b_yx = b_yx + rng.normal(0, 0.15, b_yx.shape)
        wrong = rng.random(40) < (1.0 if (a, b) == pairs[3] else 0.125)
        b_yx[wrong] += rng.uniform(-9, 9, (int(wrong.sum()), 2))
        matches.append(Matches(a_yx=a_yx, b_yx=b_yx, peak=rng.uniform(0.3, 1.0, 40), ratio=np.zeros(40)))
    return pairs, matches


def solved(side: int, seed: int) -> tuple[Warp, ...]:
    """The warps of such a section."""
    pairs, matches = contradictory(side, seed)
    shapes = [(SIZE, SIZE)] * side**2
    return solve_montage(corners(side), shapes, pairs, matches, tether_px=20.0).warps


@pytest.mark.parametrize("seed", [0, 1])
def test_a_kept_factor_places_tiles_as_exact_ones_do(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    counted: list[int] = []

    def counting(normal: Any) -> Any:
        counted.append(normal.shape[0])
        return factorised(normal)

    monkeypatch.setattr(robust, "factorised", counting)
    kept = solved(SIDE, seed)
    often = len(counted)
    monkeypatch.setattr(montage, "KeptFactor", lambda: solve)
    exact = solved(SIDE, seed)
    assert len(counted) - often == montage.ROUNDS + montage.FIRST_ROUNDS
    assert often <= 6
    points = np.random.default_rng(seed).uniform(0, SIZE, (200, 2))
    apart = [np.abs(a.apply(points) - b.apply(points)).max() for a, b in zip(kept, exact, strict=True)]
    assert max(apart) < 1e-3


def test_the_stiffness_of_many_tiles_is_that_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiles that are not judged are placed all the same, and as well."""
    whole = solved(SIDE, 2)
    monkeypatch.setattr(montage, "MAX_JUDGED", 16)
    some = solved(SIDE, 2)
    points = np.random.default_rng(2).uniform(0, SIZE, (200, 2))
    apart = [np.abs(a.apply(points) - b.apply(points)).max() for a, b in zip(whole, some, strict=True)]
    assert max(apart) < 1e-3


def test_a_factor_of_something_else_is_replaced() -> None:
    rng = np.random.default_rng(0)
    count = 300
    steps = sparse.diags([-1.0, 1.0], [0, 1], shape=(count - 1, count), format="csr")
    right = rng.normal(size=(count, 2))
    solver = KeptFactor()
    for weights in (np.ones(count - 1), 10.0 ** rng.uniform(-4, 4, count - 1)):
        normal = (steps.T @ sparse.diags(weights) @ steps + sparse.identity(count) * 1e-2).tocsr()
        np.testing.assert_allclose(solver(normal, right, None), solve(normal, right), rtol=1e-8, atol=1e-8)


def test_conjugate_gradients_say_when_they_were_stopped() -> None:
    normal = sparse.diags(np.arange(1.0, 101.0), format="csr")
    right = np.ones((100, 1))
    assert conjugate_gradients(normal, right, lambda r: r, None, tolerance_px=1e-12, most=7)[1] == 7
    exact, iterations = conjugate_gradients(
        normal, right, lambda r: r / np.arange(1.0, 101.0)[:, None], None, tolerance_px=1e-12
    )
    assert iterations == 4  # the first is exact, three are quiet
    np.testing.assert_allclose(exact[:, 0], 1.0 / np.arange(1.0, 101.0))
