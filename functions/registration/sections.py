"""How two sections lie on each other: rotation scan on thumbnails, affine refinement, then a block-wise flow.

Maps lead from the pixels of section a to those of section b. Where folds or cracks part a section, each
region is matched by itself, so that no patch and no smooth map straddles a line.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from functions.model.parameters import AlignParameters
from functions.model.regions import Regions
from functions.model.transform import Warp
from functions.registration.cuts import region_level
from functions.registration.filters import CPU
from functions.registration.flow import MIN_INLIERS, fit_warp, flow, refine_affine
from functions.registration.masks import Gray, Mask
from functions.registration.overlaps import NO_MATCHES, Matches, join
from functions.registration.rotation import Level, reduce_section, scan_rotations

Floats = NDArray[np.float64]
Levels = dict[int, tuple[Level, Level]]
THUMBNAIL_PX = 96
MIN_GOOD_SHARE = 0.25
"""Sections of different tissue keep up to 0.18 of their patches, and score up to 0.18, by chance."""
MIN_GOOD_SCORE = 0.2


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

    @property
    def good(self) -> bool:
        """Whether the pair may pull on the stack."""
        share = len(self.matches) / max(1, self.tried)
        sure = self.score >= MIN_GOOD_SCORE or share >= 2 * MIN_GOOD_SHARE
        return len(self.matches) >= MIN_INLIERS and share >= MIN_GOOD_SHARE and sure


def register_sections(
    a: Gray,
    mask_a: Mask,
    b: Gray,
    mask_b: Mask,
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
        regions_a: regions of a that folds and cracks part; None where nothing does.
        far: stop at half resolution; enough for what holds a stack straight.
    """
    factor = 1
    while min(*a.shape, *b.shape) // (2 * factor) >= THUMBNAIL_PX:
        factor *= 2
    finest = 2 if far and factor > 1 else 1
    levels = {
        f: (reduce_section(a, mask_a, f, device), reduce_section(b, mask_b, f, device))
        for f in _powers(factor)
        if f >= finest
    }
    guess = scan_rotations(*levels[factor], max_rotation_deg=parameters.max_rotation_deg)
    if guess is None:
        return PairMatch(affine=np.eye(2, 3), score=0.0, margin=0.0)
    warp = Warp(affine=guess.affine)
    for f in levels:
        refined = refine_affine(*levels[f], warp)
        if refined is None:
            return PairMatch(affine=warp.affine, score=guess.score, margin=guess.margin)
        warp = refined
        if f == 2:
            break
    parts = [
        _flow_of_regions(levels, warp, parameters, a.shape)
        if regions_a is None and regions_b is None
        else _flow_of_regions(
            {f: (region_level(levels[f][0], regions_a, k), region_level(levels[f][1], regions_b, m))
             for f in (2, 1) if f in levels}, warp, parameters, a.shape)
        for k in range(1 if regions_a is None else regions_a.count)
        for m in range(1 if regions_b is None else regions_b.count)
    ]  # fmt: skip
    residual = np.concatenate([r for _, _, r in parts])
    return PairMatch(
        affine=warp.affine,
        score=guess.score,
        margin=guess.margin,
        matches=join([found for found, _, _ in parts]),
        residual_px_p95=round(float(np.percentile(residual, 95)), 4) if len(residual) else None,
        tried=sum(tried for _, tried, _ in parts),
    )


def _flow_of_regions(
    levels: Levels, affine: Warp, parameters: AlignParameters, shape_yx: tuple[int, ...]
) -> tuple[Matches, int, Floats]:
    """Matches between a region of a and one of b, how many patches were tried, and the residuals."""
    spacing = float(parameters.mesh_spacing_px)
    warp, reach = affine, parameters.reach_px
    found, tried, residual = NO_MATCHES, 0, np.zeros(0)
    for f in (2, 1):
        if f not in levels:
            continue
        found, tried = flow(*levels[f], warp, parameters, reach_px=reach)
        if len(found) < MIN_INLIERS:
            return NO_MATCHES, tried, np.zeros(0)
        warp, weight, residual = fit_warp(found, affine.affine, spacing_px=spacing, shape_yx=shape_yx)
        found, residual = found.take(weight > 0), residual[weight > 0]
        reach = max(6, parameters.reach_px // 2)
    return found, tried, residual


def _powers(factor: int) -> list[int]:
    """factor, factor / 2, ..., 1."""
    return [factor >> k for k in range(factor.bit_length())]
