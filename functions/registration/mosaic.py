"""From tiles with stage positions to a solved section: measure, place, refine, even out the grey values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from functions.model.parameters import StitchParameters
from functions.model.transform import ContrastMap, Warp
from functions.registration.blend import PlacedTile, frame
from functions.registration.contrast import equalise_tiles, histogram, section_contrast
from functions.registration.correlation import Shift
from functions.registration.filters import CPU
from functions.registration.masks import (
    CELL_PX,
    Gray,
    Mask,
    band_pass,
    enlarge,
    reduce_all,
    reduce_mean,
    tile_masks,
)
from functions.registration.montage import Montage, Pair, Placement, place_tiles, solve_montage
from functions.registration.overlaps import (
    Matches,
    ReducedTile,
    candidate_pairs,
    choose_factor,
    coarse_offset,
    fine_matches,
)

Floats = NDArray[np.float64]
Reader = Callable[[int], Gray]
MIN_MATCHES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class TileView:
    """What is kept of a tile while others are read: cells of 8 x 8 px and a histogram of its texture."""

    shape_yx: tuple[int, int]
    usable: Mask
    textured: Mask
    cells: NDArray[np.float32]
    counts: NDArray[np.int64]

    def textured_px(self) -> Mask:
        """`textured` in pixels."""
        return enlarge(self.textured, self.shape_yx)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeamMeasure:
    """One overlap after the solve; `centre_yx` in section px."""

    pair: Pair
    verdict: Literal["ok", "look", "rejected", "unmatched"]
    residual_px: float | None
    residual_px_p95: float | None
    matches: int
    confidence: float
    centre_yx: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mosaic:
    """A solved section. `tiles` carry the final grey mapping, `gains` (N, 2) only that between tiles."""

    tiles: tuple[PlacedTile, ...]
    gains: Floats
    held: tuple[bool, ...]
    """Whether an overlap ties the tile to the others (True for a single tile)."""
    seams: tuple[SeamMeasure, ...]
    shape_yx: tuple[int, int]
    origin_yx_px: tuple[float, float]
    residual_px_p95: float | None
    contrast: ContrastMap


def view_tile(image: Gray) -> TileView:
    """Masks, cell means and histogram of a tile."""
    masks = tile_masks(image)
    shape = (int(image.shape[0]), int(image.shape[1]))
    textured = enlarge(masks.textured, shape)
    return TileView(
        shape_yx=shape,
        usable=masks.usable,
        textured=masks.textured,
        cells=reduce_mean(image, CELL_PX),
        counts=histogram(image, textured),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The tiles of a section as seen, and what their overlaps say: input of the solve."""

    views: tuple[TileView, ...]
    pairs: tuple[Pair, ...]
    offsets: tuple[Shift | None, ...]
    placement: Placement
    matches: tuple[Matches, ...]
    uncertainty_px: float
    """How exact the stage is."""


def stitch_tiles(
    stage_yx_px: Floats,
    read: Reader,
    parameters: StitchParameters,
    *,
    uncertainty_px: float,
    device: torch.device = CPU,
) -> Mosaic:
    """Solve a section of N tiles: `measure_tiles`, then `solve_tiles`."""
    measured = measure_tiles(stage_yx_px, read, parameters, uncertainty_px=uncertainty_px, device=device)
    return solve_tiles(measured, parameters)


def measure_tiles(
    stage_yx_px: Floats,
    read: Reader,
    parameters: StitchParameters,
    *,
    uncertainty_px: float,
    device: torch.device = CPU,
) -> Measured:
    """Register the overlaps of a section of N tiles.

    Args:
        stage_yx_px: positions (N, 2) of the tiles' upper left corners, good to `uncertainty_px`.
        read: gives tile k; called several times for each.
        device: where images are compared.
    """
    views = [view_tile(read(k)) for k in range(len(stage_yx_px))]
    pairs = candidate_pairs(stage_yx_px, [v.shape_yx for v in views], reach_px=uncertainty_px)
    offsets = _coarse(stage_yx_px, read, views, pairs, uncertainty_px, device)
    placement = place_tiles(stage_yx_px, pairs, offsets, uncertainty_px=uncertainty_px)
    matches = _fine(read, views, pairs, placement, parameters, device)
    return Measured(
        views=tuple(views),
        pairs=tuple(pairs),
        offsets=tuple(offsets),
        placement=placement,
        matches=tuple(matches),
        uncertainty_px=uncertainty_px,
    )


def solve_tiles(measured: Measured, parameters: StitchParameters) -> Mosaic:
    """Place the tiles of a section, judge its seams and even out its grey values."""
    m = measured
    shapes = [view.shape_yx for view in m.views]
    montage = solve_montage(m.placement.positions_yx, shapes, m.pairs, m.matches, tether_px=m.uncertainty_px)
    seams = [
        _seam(k, pair, m.offsets[k], m.placement, m.matches[k], montage, parameters)
        for k, pair in enumerate(m.pairs)
    ]
    return _finish(m.views, montage, seams, parameters)


def _coarse(
    stage: Floats,
    read: Reader,
    views: Sequence[TileView],
    pairs: Sequence[Pair],
    reach_px: float,
    device: torch.device,
) -> list[Shift | None]:
    """Offset of each pair by its whole overlap, on reduced images."""
    factor = choose_factor(stage, [v.shape_yx for v in views], pairs)
    reduced: dict[int, ReducedTile] = {}
    for index in sorted({k for pair in pairs for k in pair}):
        small = reduce_mean(read(index), factor)
        mask = reduce_all(views[index].textured_px(), factor)
        image = band_pass(small, mask, fine_px=1.0, coarse_px=8.0, device=device)
        reduced[index] = ReducedTile(image=image, mask=mask, factor=factor)
    return [
        coarse_offset(
            reduced[a],
            reduced[b],
            offset_yx_px=stage[b] - stage[a],
            shape_a=views[a].shape_yx,
            shape_b=views[b].shape_yx,
            reach_px=reach_px,
            device=device,
        )
        for a, b in pairs
    ]


def _fine(
    read: Reader,
    views: Sequence[TileView],
    pairs: Sequence[Pair],
    placement: Placement,
    parameters: StitchParameters,
    device: torch.device,
) -> list[Matches]:
    """Patches of each pair, also where the whole overlap was rejected: those get a second chance."""
    out = []
    for k, (a, b) in enumerate(pairs):
        found = fine_matches(
            read(a),
            views[a].textured_px(),
            read(b),
            views[b].textured_px(),
            offset_yx_px=placement.positions_yx[b] - placement.positions_yx[a],
            patch_px=parameters.patch_px,
            reach_px=parameters.reach_px,
            min_peak=parameters.min_correlation,
            max_ratio=parameters.max_second_peak,
            device=device,
        )
        out.append(found if placement.kept[k] else _agreeing(found))
    return out


def _agreeing(found: Matches) -> Matches:
    """Matches of a pair without a coarse offset count only where several agree with their median."""
    if len(found) < MIN_MATCHES:
        return found.take(np.zeros(len(found), dtype=np.bool_))
    shift = found.b_yx - found.a_yx
    near = np.linalg.norm(shift - np.median(shift, axis=0), axis=1) <= 3.0
    enough = near.sum() >= max(MIN_MATCHES, 0.5 * len(near))
    return found.take(near if enough else np.zeros(len(found), dtype=np.bool_))


def _seam(
    index: int,
    pair: Pair,
    offset: Shift | None,
    placement: Placement,
    matches: Matches,
    montage: Montage,
    parameters: StitchParameters,
) -> SeamMeasure:
    """The verdict on one overlap."""
    a, b = pair
    weight, residual = montage.weights[index], montage.residuals_px[index]
    alive = weight > 0
    if alive.any():
        centre = montage.warps[a].apply(matches.a_yx[alive]).mean(axis=0)
    else:
        centre = (placement.positions_yx[a] + placement.positions_yx[b]) / 2.0
    p95 = float(np.percentile(residual[alive], 95)) if alive.any() else None
    verdict: Literal["ok", "look", "rejected", "unmatched"]
    if alive.sum() >= MIN_MATCHES and p95 is not None:
        clear = p95 <= parameters.max_residual_px and alive.sum() >= 0.5 * len(alive)
        verdict = "ok" if clear else "look"
    else:
        verdict = "unmatched" if offset is None or len(matches) == 0 else "rejected"
    return SeamMeasure(
        pair=pair,
        verdict=verdict,
        residual_px=round(float(np.median(residual[alive])), 4) if alive.any() else None,
        residual_px_p95=round(p95, 4) if p95 is not None else None,
        matches=int(alive.sum()),
        confidence=round(float(np.median(matches.peak[alive])), 4) if alive.any() else 0.0,
        centre_yx=(float(centre[0]), float(centre[1])),
    )


def _finish(
    views: Sequence[TileView], montage: Montage, seams: Sequence[SeamMeasure], parameters: StitchParameters
) -> Mosaic:
    """Grey values, and the frame: section pixel (0, 0) is the corner of the box that holds all tiles."""
    good = [s.pair for s in seams if s.verdict in ("ok", "look")]
    gains = equalise_tiles(
        good, [v.cells for v in views], [v.usable for v in views], montage.warps, cell_px=CELL_PX
    )
    contrast = section_contrast(
        [v.counts for v in views], gains, target_mean=parameters.target_mean, target_std=parameters.target_std
    )
    if not parameters.normalise:
        contrast = contrast.model_copy(update={"gain": 1.0, "offset": 0.0})
    tiles = [
        PlacedTile(
            warp=warp,
            shape_yx=view.shape_yx,
            usable=view.usable,
            gain=float(gain[0] * contrast.gain),
            offset=float(gain[1] * contrast.gain + contrast.offset),
        )
        for warp, view, gain in zip(montage.warps, views, gains, strict=True)
    ]
    corner, shape = frame(tiles)
    origin = np.array(corner, dtype=np.float64)
    moved = [replace(t, warp=_moved(t.warp, -origin)) for t in tiles]
    alive = [r[w > 0] for r, w in zip(montage.residuals_px, montage.weights, strict=True)]
    flat = np.concatenate(alive) if alive else np.zeros(0)
    return Mosaic(
        tiles=tuple(moved),
        gains=gains,
        held=_held(len(views), good),
        seams=tuple(
            replace(s, centre_yx=(round(s.centre_yx[0] - corner[0], 1), round(s.centre_yx[1] - corner[1], 1)))
            for s in seams
        ),
        shape_yx=shape,
        origin_yx_px=(float(corner[0]), float(corner[1])),
        residual_px_p95=round(float(np.percentile(flat, 95)), 4) if len(flat) else None,
        contrast=contrast,
    )


def _moved(warp: Warp, by_yx: Floats) -> Warp:
    affine = warp.affine.copy()
    affine[:, 2] += by_yx
    return Warp(affine=affine, sheet=warp.sheet)


def _held(count: int, good: Sequence[Pair]) -> tuple[bool, ...]:
    """Tiles in the largest group that good overlaps hold together."""
    group = list(range(count))
    for _ in range(count):
        before = list(group)
        for a, b in good:
            group[a] = group[b] = min(group[a], group[b])
        if group == before:
            break
    largest = max(range(count), key=lambda k: (group.count(group[k]), -group[k]))
    return tuple(g == group[largest] for g in group)
