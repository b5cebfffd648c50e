"""How two sections lie on each other: rotation scan on thumbnails, affine refinement, then a block-wise flow.

Maps lead from the pixels of section a to those of section b. Where folds or cracks part a section, each
region is matched by itself, so that no patch and no smooth map straddles a line.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from functions.model.parameters import AlignParameters
from functions.model.regions import Regions
from functions.model.transform import Warp
from functions.registration.cuts import region_level
from functions.registration.filters import CPU
from functions.registration.flow import (
    MIN_INLIERS,
    fit_warp,
    flow,
    refine_affine,
    typical_contrast,
    warp_level,
)
from functions.registration.masks import require_gray
from functions.registration.overlaps import NO_MATCHES, Matches, join
from functions.registration.planes import Plane, Reduced, hold
from functions.registration.rotation import Guess, Level, scan_rotations

Floats = NDArray[np.float64]
Levels = dict[int, tuple[Level, Level]]
THUMBNAIL_PX = 96
MIN_GOOD_SHARE = 0.25
"""Sections of different tissue keep up to 0.18 of their patches, and score up to 0.18, by chance."""
MIN_GOOD_SCORE = 0.2
MIN_FAR_SHARE = 0.4
MIN_FAR_SCORE = 0.3
MIN_FAR_MARGIN = 0.35
"""A far pair is not needed and must not be wrong: it has to be clear of what chance gives (scores up to 0.23,
margins up to 0.3), at every step."""
SCALES = (0.9, 0.95, 1.05, 1.1)
"""Sizes of a section against the one before that are tried where the same size does not fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairMatch:
    """What is known about a pair: the affine map a -> b, matches of the flow, their residual to a
    smooth map."""

    affine: Floats
    score: float
    margin: float
    matches: Matches = NO_MATCHES
    residual_px_p95: float | None = None
    tried: int = 0
    far: bool = False

    @property
    def good(self) -> bool:
        """Whether the pair may pull on the stack."""
        share = len(self.matches) / max(1, self.tried)
        if self.far:
            clear = self.score >= MIN_FAR_SCORE and self.margin >= MIN_FAR_MARGIN
            return len(self.matches) >= MIN_INLIERS and share >= MIN_FAR_SHARE and clear
        sure = self.score >= MIN_GOOD_SCORE or share >= 2 * MIN_GOOD_SHARE
        return len(self.matches) >= MIN_INLIERS and share >= MIN_GOOD_SHARE and sure


def register_sections(
    a: Plane,
    mask_a: Plane,
    b: Plane,
    mask_b: Plane,
    parameters: AlignParameters,
    *,
    regions_a: Regions | None = None,
    regions_b: Regions | None = None,
    far: bool = False,
    device: torch.device = CPU,
) -> PairMatch:
    """Register section b with section a. Without a common pattern the result has no matches (`good` is
    False).

    Args:
        a: 8 bits (Y, X): an array, or what reads one box by box.
        regions_a: regions of a that folds and cracks part; None where nothing does.
        far: stop at half resolution, try near rotations and one scale only: enough for what holds a stack
            straight, and may fail.

    Raises:
        TypeError: a section is not of 8 bits.
    """
    require_gray(a)
    require_gray(b)
    factor = 1
    while min(*a.shape, *b.shape) // (2 * factor) >= THUMBNAIL_PX:
        factor *= 2
    finest = 2 if far and factor > 1 else 1
    factors = [f for f in _powers(factor) if f >= finest]
    both = [reduce_levels(i, m, factors, parameters.window_px, device) for i, m in ((a, mask_a), (b, mask_b))]
    levels = {f: (both[0][f], both[1][f]) for f in factors}
    regions = (regions_a, regions_b)
    thumbnails, widest = levels[factor], parameters.max_rotation_deg
    guess = scan_rotations(*thumbnails, max_rotation_deg=widest, all_round=not far)
    found = replace(_register_from(levels, guess, parameters, regions), far=far)
    if found.good or far:
        return found
    guess = _scan_scales(*thumbnails, max_rotation_deg=widest)
    other = _register_from(levels, guess, parameters, regions)
    return other if other.good else found


def _scan_scales(a: Level, b: Level, *, max_rotation_deg: float) -> Guess | None:
    """The best of some scales of b and near rotations."""
    guesses = []
    for scale in SCALES:
        stretch = Warp(affine=np.diag([scale, scale, 0.0])[:2])
        rows, columns = (round((n - 1) / scale) + 1 for n in b.image.shape)
        image, mask = warp_level(b, (rows, columns), stretch)
        guess = scan_rotations(
            a, replace(b, image=image, mask=mask), max_rotation_deg=max_rotation_deg, all_round=False
        )
        if guess is not None:
            guesses.append(replace(guess, affine=scale * guess.affine))
    return max(guesses, key=lambda guess: guess.score, default=None)


def _register_from(
    levels: Levels,
    guess: Guess | None,
    parameters: AlignParameters,
    regions: tuple[Regions | None, Regions | None],
) -> PairMatch:
    """Refine a guess to an affine map, level by level, and then to the flow of each pair of regions."""
    if guess is None:
        return PairMatch(affine=np.eye(2, 3), score=0.0, margin=0.0)
    warp = Warp(affine=guess.affine)
    for f in levels:
        refined = refine_affine(*levels[f], warp, window_px=parameters.window_px)
        if refined is None:
            return PairMatch(affine=warp.affine, score=guess.score, margin=guess.margin)
        warp = refined
        if f == 2:
            break
    fine = {f: pair for f, pair in levels.items() if f <= 2}
    parts = [
        _flow_of_regions(_of_regions(fine, (k, m), regions), warp, parameters)
        for k, m in np.ndindex(*(1 if r is None else r.count for r in regions))
    ]
    residual = np.concatenate([r for _, _, r in parts])
    return PairMatch(
        affine=warp.affine,
        score=guess.score,
        margin=guess.margin,
        matches=join([found for found, _, _ in parts]),
        residual_px_p95=round(float(np.percentile(residual, 95)), 4) if len(residual) else None,
        tried=sum(tried for _, tried, _ in parts),
    )


def _of_regions(
    levels: Levels, region: tuple[int, int], regions: tuple[Regions | None, Regions | None]
) -> Levels:
    return {
        f: (region_level(a, regions[0], region[0]), region_level(b, regions[1], region[1]))
        for f, (a, b) in levels.items()
    }


def _flow_of_regions(
    levels: Levels, affine: Warp, parameters: AlignParameters
) -> tuple[Matches, int, Floats]:
    """Matches between a region of a and one of b, how many patches were tried, and the residuals."""
    spacing = float(parameters.mesh_spacing_px)
    warp, reach = affine, parameters.reach_px
    found, tried, residual = NO_MATCHES, 0, np.zeros(0)
    for f, (a, _) in levels.items():
        shape = (f * a.shape_yx[0], f * a.shape_yx[1])
        found, tried = flow(*levels[f], warp, parameters, reach_px=reach)
        if len(found) < MIN_INLIERS:
            return NO_MATCHES, tried, np.zeros(0)
        warp, weight, residual = fit_warp(found, affine.affine, spacing_px=spacing, shape_yx=shape)
        found, residual = found.take(weight > 0), residual[weight > 0]
        reach = max(6, parameters.reach_px // 2)
    return found, tried, residual


def reduce_levels(
    image: Plane, mask: Plane, factors: list[int], window_px: int, device: torch.device
) -> dict[int, Level]:
    """A section reduced by each factor. Levels that fill no more than a window are held; of larger ones,
    windows are made when they are asked for."""
    planes = {
        f: [Reduced(source=image, factor=f, is_mask=False), Reduced(source=mask, factor=f, is_mask=True)]
        for f in factors
    }
    small = [f for f in factors if np.prod(planes[f][0].shape) <= window_px**2]
    images, masks = (hold([planes[f][k] for f in small], window_px**2) for k in range(2))
    held: dict[int, tuple[Plane, Plane]] = dict(zip(small, zip(images, masks, strict=True), strict=True))
    levels = {}
    for f in factors:
        at_hand = held.get(f, (planes[f][0], planes[f][1]))
        levels[f] = Level(image=at_hand[0], mask=at_hand[1], factor=f, device=device)
    return {f: replace(level, contrast=typical_contrast(level)) for f, level in levels.items()}


def _powers(factor: int) -> list[int]:
    """factor, factor / 2, ..., 1."""
    return [factor >> k for k in range(factor.bit_length())]
