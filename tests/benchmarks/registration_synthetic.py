"""Stacks that never were images: true motions, and matches that are off by known amounts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from functions.model.parameters import AlignParameters
from functions.model.transform import Warp
from functions.registration.overlaps import Matches
from functions.registration.stack import StackPair, StackSection

SHAPE_YX = (512, 512)
GRID = 12
"""Matches along each side of a section."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticStack:
    """Sections with their true motions, section px to a common frame, and what pairs measured."""

    sections: tuple[StackSection, ...]
    pairs: tuple[StackPair, ...]
    truth: tuple[Warp, ...]

    def fibre(self, at_yx: Sequence[float]) -> list[np.ndarray]:
        """Where a fibre that is upright in the true stack crosses each section: (1, 2) px of the section."""
        return [warp.inverse(np.array([at_yx], dtype=np.float64)) for warp in self.truth]


def synthetic_stack(
    count: int,
    *,
    seed: int,
    pair_error_px: float,
    match_error_px: float,
    shape_yx: tuple[int, int] = SHAPE_YX,
) -> SyntheticStack:
    """Sections turned by up to 2 degrees and moved by up to 20 px, paired as a run with default parameters
    pairs them.

    Args:
        pair_error_px: standard deviation, on each axis, of an error that all matches of a pair share.
        match_error_px: the same for an error of every single match.
    """
    rng = np.random.default_rng(seed)
    truth = [_motion(rng, shape_yx) for _ in range(count)]
    align = AlignParameters()
    steps = sorted({*range(1, align.neighbours + 1), *align.far_neighbours})
    axes = [np.linspace(20.0, n - 21.0, GRID) for n in shape_yx]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    pairs = []
    for a in range(count):
        for b in (a + step for step in steps if a + step < count):
            error = rng.normal(0, pair_error_px, 2) + rng.normal(0, match_error_px, points.shape)
            matches = Matches(
                a_yx=points,
                b_yx=truth[b].inverse(truth[a].apply(points)) + error,
                peak=np.full(len(points), 0.6),
                ratio=np.full(len(points), 0.5),
            )
            pairs.append(StackPair(a=a, b=b, matches=matches))
    sections = tuple(StackSection(z=z, shape_yx=shape_yx) for z in range(count))
    return SyntheticStack(sections=sections, pairs=tuple(pairs), truth=tuple(truth))


def _motion(rng: np.random.Generator, shape_yx: tuple[int, int]) -> Warp:
    t = np.deg2rad(rng.uniform(-2, 2))
    linear = np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
    centre = (np.array(shape_yx) - 1) / 2
    return Warp(
        affine=np.concatenate([linear, (centre - linear @ centre + rng.uniform(-20, 20, 2))[:, None]], axis=1)
    )


def fibre_figures(path_yx: np.ndarray) -> dict[str, float]:
    """How far a fibre (Z, 2) that should be upright strays: from its mean, from the best straight line."""
    z = np.arange(len(path_yx), dtype=np.float64)
    design = np.stack([np.ones_like(z), z], axis=1)
    line = design @ np.linalg.lstsq(design, path_yx, rcond=None)[0]
    from_mean = np.linalg.norm(path_yx - path_yx.mean(axis=0), axis=1)
    from_line = np.linalg.norm(path_yx - line, axis=1)
    return {
        "from_mean_px_max": round(float(from_mean.max()), 3),
        "from_line_px_max": round(float(from_line.max()), 3),
    }
