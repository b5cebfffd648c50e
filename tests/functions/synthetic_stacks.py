"""Stacks of sections with known maps and the matches that a registration of their pairs would find."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from functions.model.parameters import AlignParameters
from functions.model.transform import Sheet, Warp, sheet_shape
from functions.registration.overlaps import Matches
from functions.registration.stack import StackPair, StackSection

Floats = NDArray[np.float64]
SPACING_PX = 80.0
DISTORTION_CELL_PX = 160.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticStack:
    """Sections, pairs, and the true maps from section px to the scene."""

    sections: list[StackSection]
    pairs: list[StackPair]
    truth: list[Warp]

    def first(self, count: int) -> tuple[list[StackSection], list[StackPair]]:
        """What is known when so many sections have arrived."""
        return self.sections[:count], [p for p in self.pairs if p.b < count]


def steps() -> list[int]:
    """How far apart sections of a pair are, by default."""
    align = AlignParameters()
    return [*range(1, align.neighbours + 1), *align.far_neighbours]


def some_warp(rng: np.random.Generator, shape: tuple[int, int], bend_px: float) -> Warp:
    """A turn by about 2 degrees, a move by up to 20 px, and a smooth distortion."""
    angle = rng.normal(0, 0.03)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = (np.array(shape) - 1) / 2
    move = middle - turn @ middle + rng.uniform(-20, 20, 2)
    knots = sheet_shape(shape, DISTORTION_CELL_PX)
    sheet = Sheet(spacing_px=DISTORTION_CELL_PX, coefficients=rng.normal(0, bend_px, (2, *knots)))
    return Warp(affine=np.concatenate([turn, move[:, None]], axis=1), sheet=sheet)


def synthetic_stack(
    count: int,
    *,
    apart: Sequence[int] = (1, 2),
    shape: tuple[int, int] = (320, 320),
    grid: int = 8,
    bend_px: float = 2.0,
    pair_sigma_px: float = 0.0,
    match_sigma_px: float = 0.1,
    seed: int = 0,
) -> SyntheticStack:
    """Pairs have a grid of matches, each off by `match_sigma_px`, all together by `pair_sigma_px`."""
    rng = np.random.default_rng(seed)
    truth = [some_warp(rng, shape, bend_px) for _ in range(count)]
    axes = [np.linspace(10, n - 11, grid) for n in shape]
    scene = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    pairs = []
    for a in range(count):
        for b in (a + step for step in apart if a + step < count):
            here = truth[a].inverse(scene)
            there = truth[b].inverse(scene + rng.normal(0, pair_sigma_px, 2))
            pairs.append(
                StackPair(a=a, b=b, matches=matches(here, there + noise(rng, there, match_sigma_px)))
            )
    sections = [StackSection(z=z, shape_yx=shape) for z in range(count)]
    return SyntheticStack(sections=sections, pairs=pairs, truth=truth)


def noise(rng: np.random.Generator, like: Floats, sigma: float) -> Floats:
    return rng.normal(0, sigma, like.shape)


def matches(a_yx: Floats, b_yx: Floats) -> Matches:
    """Equally good matches."""
    return Matches(a_yx=a_yx, b_yx=b_yx, peak=np.full(len(a_yx), 0.6), ratio=np.full(len(a_yx), 0.5))


def fibre(stack: SyntheticStack, warps: Sequence[Warp], scene_yx: tuple[float, float]) -> Floats:
    """Where each section (N, 2) puts one point of the scene: a straight fibre across all sections."""
    point = np.array([scene_yx], dtype=np.float64)
    return np.array([w.apply(t.inverse(point))[0] for w, t in zip(warps, stack.truth, strict=True)])


def apart_px(a: Sequence[Warp], b: Sequence[Warp], sections: Sequence[StackSection]) -> Floats:
    """Distances (N, 400) between where two solutions put points of each section."""
    rows = []
    for one, other, section in zip(a, b, sections, strict=True):
        points = section.grid(20)
        rows.append(np.linalg.norm(one.apply(points) - other.apply(points), axis=1))
    return np.array(rows)
