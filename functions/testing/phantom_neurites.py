"""Centre lines of densely packed neurites, grown one step at a time into the free space.

A neurite is a branching chain of balls. It starts where there is room, walks with a persistent direction and
turns where the clearance is best, so neighbours keep apart without lying on a lattice. The power
diagram of the balls then divides all of space between them (`phantom.py`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class CentreLines:
    """Balls of all neurites: `points_zyx` (N, 3) and `radius` (N,) in voxels, `neurite` (N,) from 1 up.

    `parent` (N,) is the index of the ball before it on the line, -1 at a neurite's first ball.
    """

    points_zyx: Float
    radius: Float
    neurite: NDArray[np.int32]
    parent: NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthConfig:
    """How neurites grow; lengths in voxels."""

    radius_range: tuple[float, float] = (4.5, 14.0)
    step: float = 4.0
    turn: float = 0.22
    branch_probability: float = 0.012
    min_start_clearance: float = 5.5
    min_clearance: float = 3.0
    min_balls: int = 8
    calibre_variation: float = 0.25


class _Growth:
    """The balls placed so far, in arrays that double when full."""

    def __init__(
        self, shape_zyx: tuple[int, int, int], config: GrowthConfig, rng: np.random.Generator
    ) -> None:
        self.low = np.full(3, -2 * config.step)
        self.high = np.asarray(shape_zyx, float) + 2 * config.step
        self.config, self.rng = config, rng
        self.count = 0
        self.points = np.empty((1024, 3))
        self.radius = np.empty(1024)
        self.neurite = np.zeros(1024, np.int32)
        self.parent = np.zeros(1024, np.int32)

    def add(self, point: Float, radius: float, neurite: int, parent: int) -> int:
        if self.count == len(self.points):
            self.points = np.concatenate([self.points, np.empty_like(self.points)])
            self.radius = np.concatenate([self.radius, np.empty_like(self.radius)])
            self.neurite = np.concatenate([self.neurite, np.zeros_like(self.neurite)])
            self.parent = np.concatenate([self.parent, np.zeros_like(self.parent)])
        i = self.count
        self.points[i], self.radius[i], self.neurite[i], self.parent[i] = point, radius, neurite, parent
        self.count += 1
        return i

    def clearance(self, candidates: Float, ignore_from: int = -1, ignore_neurite: int = 0) -> Float:
        """Distance (K,) from each candidate to the nearest ball, `ignore_neurite`'s last ones left out."""
        if self.count == 0:
            return np.full(len(candidates), 1e3)
        points = self.points[: self.count]
        squared = (candidates**2).sum(1)[:, None] - 2 * candidates @ points.T + (points**2).sum(1)[None]
        gap = np.sqrt(np.maximum(squared, 0)) - self.radius[: self.count]
        if ignore_neurite:
            own = self.neurite[: self.count] == ignore_neurite
            own &= np.arange(self.count) >= ignore_from
            gap[:, own] = 1e3
        return np.asarray(gap.min(1))

    def inside(self, point: Float) -> bool:
        return bool(((point >= self.low) & (point < self.high)).all())

    def walk(self, start: int, direction: Float, target_radius: float) -> list[tuple[int, Float]]:
        """Grows from ball `start` until the border or a dead end; returns where it branches and whither."""
        config, rng = self.config, self.rng
        neurite, heading, here, radius = int(self.neurite[start]), direction, start, target_radius
        branches: list[tuple[int, Float]] = []
        phase = rng.uniform(0, 2 * np.pi)
        for i in range(400):
            turns = rng.normal(0, config.turn * np.linspace(0, 2.5, 10)[:, None], (10, 3))
            headings = heading + turns
            headings /= np.linalg.norm(headings, axis=1, keepdims=True)
            candidates = self.points[here] + config.step * headings
            room = self.clearance(candidates, max(start, self.count - 8), neurite)
            score = np.minimum(room / radius, 1.1) + 0.6 * (headings @ direction)
            best = int(np.argmax(np.where(room >= config.min_clearance, score, -10)))
            if room[best] < config.min_clearance or not self.inside(candidates[best]):
                break
            swell = 1 + config.calibre_variation * np.sin(phase + 0.35 * i)
            radius = float(np.clip(0.7 * radius + 0.3 * target_radius * swell, 3.0, room[best]))
            here = self.add(candidates[best], radius, neurite, here)
            heading = headings[best]
            direction = direction + 0.1 * heading
            direction = direction / np.linalg.norm(direction)
            if rng.random() < config.branch_probability:
                branches.append((here, _unit(rng)))
        return branches


def _unit(rng: np.random.Generator) -> Float:
    v = rng.normal(size=3)
    return np.asarray(v / np.linalg.norm(v))


def grow_neurites(
    *, shape_zyx: tuple[int, int, int], config: GrowthConfig, rng: np.random.Generator
) -> CentreLines:
    """Fills the box with neurites until no start has the clearance asked for."""
    growth = _Growth(shape_zyx, config, rng)
    neurite, failures = 0, 0
    while failures < 12:
        starts = rng.uniform(growth.low, growth.high, (64, 3))
        room = growth.clearance(starts)
        best = int(np.argmax(room))
        if room[best] < config.min_start_clearance:
            failures += 1
            continue
        neurite += 1
        low, high = config.radius_range
        target = float(min(low * (high / low) ** rng.beta(1.2, 1.6), room[best]))
        first = growth.add(starts[best], target, neurite, -1)
        direction = _unit(rng)
        branches = growth.walk(first, direction, target) + growth.walk(first, -direction, target)
        for at, whither in branches:
            growth.walk(at, whither, 0.75 * target)
        if growth.count - first < config.min_balls:
            growth.count = first
            neurite -= 1
            failures += 1
    n = growth.count
    return CentreLines(
        points_zyx=growth.points[:n].copy(),
        radius=growth.radius[:n].copy(),
        neurite=growth.neurite[:n].copy(),
        parent=growth.parent[:n].copy(),
    )
