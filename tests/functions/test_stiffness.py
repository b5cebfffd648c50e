"""Tiles bend as far as their matches give evidence of it, and no farther."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse

from functions.registration import montage
from functions.registration.montage import solve_montage
from functions.registration.overlaps import Matches
from functions.registration.robust import solve_robust
from functions.registration.stiffness import FREEDOMS, Prior, most_probable, prior_of

Floats = NDArray[np.float64]
SIZE, STEP = 1000, 880
CORNERS = np.array([[y, x] for y in range(3) for x in range(3)], dtype=np.float64) * STEP
PAIRS = [(k, k + 1) for k in range(9) if k % 3 < 2] + [(k, k + 3) for k in range(6)]


def bent(tile: int, points_yx: Floats, bend_px: float) -> Floats:
    """Where pixels (N, 2) of a tile truly belong, less its corner: a wave of its own along each axis."""
    phase = np.random.default_rng(tile).uniform(0, 2 * np.pi, 2)
    wave = np.sin(2 * np.pi * points_yx[:, ::-1] / 1200.0 + phase)
    return points_yx + bend_px * np.asarray(wave, dtype=np.float64)


def tile_point(tile: int, places: Floats, bend_px: float) -> Floats:
    """The pixels (N, 2) of a tile that belong at places of the section."""
    out = places - CORNERS[tile]
    for _ in range(30):
        out = out - (bent(tile, out, bend_px) + CORNERS[tile] - places)
    return out


def overlap(a: int, b: int, count: tuple[int, int]) -> Floats:
    """Places (N, 2) of the section spread over what two tiles share, so many across and along the seam."""
    low, high = np.maximum(CORNERS[a], CORNERS[b]) + 20, np.minimum(CORNERS[a], CORNERS[b]) + SIZE - 21
    counts = count if high[0] - low[0] < high[1] - low[1] else count[::-1]
    axes = [np.linspace(lo, hi, n) for lo, hi, n in zip(low, high, counts, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)


def seam_error(count: tuple[int, int], *, noise_px: float, bend_px: float, seed: int = 0) -> float:
    """RMS distance between where both tiles of a pair put the same tissue, from matches with that noise."""
    rng = np.random.default_rng(seed)
    matches = []
    for a, b in PAIRS:
        places = overlap(a, b, count)
        here, there = (tile_point(k, places, bend_px) for k in (a, b))
        ones = np.ones(len(places))
        seen = there + rng.normal(0, noise_px, there.shape)
        matches.append(Matches(a_yx=here, b_yx=seen, peak=ones, ratio=0 * ones))
    warps = solve_montage(CORNERS, [(SIZE, SIZE)] * 9, PAIRS, matches, tether_px=20.0).warps
    gaps = []
    for a, b in PAIRS:
        places = overlap(a, b, (5, 40))
        gaps.append(
            warps[a].apply(tile_point(a, places, bend_px)) - warps[b].apply(tile_point(b, places, bend_px))
        )
    return float(np.sqrt((np.concatenate(gaps) ** 2).sum(axis=1).mean()))


def test_few_matches_do_not_bend_rigid_tiles_by_their_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = seam_error((1, 7), noise_px=0.1, bend_px=0.0)
    monkeypatch.setattr(montage, "FREEDOMS", FREEDOMS[-1:])
    assert chosen < 0.09 < 0.85 * seam_error((1, 7), noise_px=0.1, bend_px=0.0)


def test_many_matches_are_followed_where_tiles_are_bent(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = seam_error((2, 25), noise_px=0.1, bend_px=1.5)
    monkeypatch.setattr(montage, "FREEDOMS", FREEDOMS[:1])
    assert chosen < 0.1 < 0.2 * seam_error((2, 25), noise_px=0.1, bend_px=1.5)


def test_noisy_matches_are_no_evidence_of_bending(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = seam_error((2, 25), noise_px=0.5, bend_px=0.0)
    monkeypatch.setattr(montage, "FREEDOMS", FREEDOMS[-1:])
    assert chosen < 0.7 * seam_error((2, 25), noise_px=0.5, bend_px=0.0)


def test_the_evidence_is_that_of_the_gaussian_it_stands_for() -> None:
    """Against the density of the targets written out: N(0, noise + D prior^-1 D') on both axes."""
    rng = np.random.default_rng(3)
    knots, tiles = (4, 4), 2
    priors = [prior_of(f, knots, tether_px=5.0, lens_weight=0.0) for f in FREEDOMS]
    unknowns = tiles * priors[0].tile.shape[0] + 16
    design = sparse.csr_matrix(rng.normal(0, 0.3, (40, unknowns)))
    for true in range(len(FREEDOMS)):
        full = priors[true].of(tiles).toarray()
        target = design @ rng.multivariate_normal(np.zeros(unknowns), np.linalg.inv(full), 2).T
        target = target + rng.normal(0, 1.0, target.shape)
        expected = [_density(design.toarray(), target, p, tiles) for p in priors]
        found = most_probable(priors, design, target, np.ones(40), tiles=tiles)
        assert found == int(np.argmax(expected))


def _density(design: Floats, target: Floats, prior: Prior, tiles: int) -> float:
    shape = np.eye(len(design)) + design @ np.linalg.inv(prior.of(tiles).toarray()) @ design.T
    square = float((target * np.linalg.solve(shape, target)).sum())
    noise = max(1.0, square / target.size)
    return -len(design) * np.log(noise) - square / (2 * noise) - float(np.linalg.slogdet(shape)[1])


def test_without_matches_tiles_stay_stiff() -> None:
    priors = [prior_of(f, (4, 4), tether_px=5.0, lens_weight=0.0) for f in FREEDOMS]
    design = sparse.csr_matrix((0, 2 * 19 + 16))
    assert most_probable(priors, design, np.zeros((0, 2)), np.zeros(0), tiles=2) == 0
    assert len(solve_robust(design, np.zeros((0, 2)), weight=np.zeros(0), prior=priors[0].of(2)).weight) == 0
