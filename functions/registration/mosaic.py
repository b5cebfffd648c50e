"""From tiles with stage positions to a solved section: measure, place, refine, even out the grey values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from functions.model.parameters import StitchParameters
from functions.model.shading import Shading
from functions.model.transform import ContrastMap, Sheet, Warp
from functions.registration.blend import PlacedTile, frame
from functions.registration.contrast import SharedCells, equalise_tiles, section_contrast, shared_cells
from functions.registration.focus import leads_px
from functions.registration.lens import LensPrior
from functions.registration.masks import CELL_PX
from functions.registration.measure import Measured
from functions.registration.montage import Montage, Pair, groups_of, solve_montage, turn_frames
from functions.registration.overlaps import Matches, overlap_extent
from functions.registration.search import MIN_MATCHES
from functions.registration.shading import alike, believed, estimate_shading, joined, sum_of, usual_shape
from functions.registration.views import TileView

Floats = NDArray[np.float64]
BIN_PX = 96.0
MIN_SHARE = 0.25
"""A pair of whose matches fewer go with the solution is rejected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeamMeasure:
    """One overlap after the solve; `centre_yx` in section px."""

    pair: Pair
    verdict: Literal["ok", "look", "rejected", "unmatched"]
    residual_px: float | None
    residual_px_p95: float | None
    matches: int
    confidence: float
    measured_share: float
    centre_yx: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mosaic:
    """A solved section. `tiles` carry the final grey mapping, `gains` (N, 2) only that between tiles."""

    tiles: tuple[PlacedTile, ...]
    gains: Floats
    held: tuple[bool, ...]
    """Whether an overlap ties the tile to the others (True for a single tile)."""
    stage_uncertainty_px: float
    """How far off a tile that is not held may be: as stated, or as seen on the tiles that are."""
    seams: tuple[SeamMeasure, ...]
    shape_yx: tuple[int, int]
    origin_yx_px: tuple[float, float]
    residual_px_p95: float | None
    contrast: ContrastMap
    lens: Sheet | None
    """What the tiles share, see `Montage`; None where no overlap is good."""
    shading: Shading | None
    """The shading that the tiles show by themselves; None of too few tiles."""
    flat: Shading | None
    """What the tiles are divided by before they are drawn, that of the lens included; None: nothing."""
    refined: bool
    """Whether that is something else than the lens's alone."""


def solve_tiles(
    measured: Measured,
    parameters: StitchParameters,
    *,
    uncertainty_px: float,
    lens: LensPrior | None = None,
) -> Mosaic:
    """Place the tiles of a section, judge its seams and even out its grey values."""
    m = measured
    shapes = [view.shape_yx for view in m.views]
    montage = solve_montage(
        m.placement.positions_yx,
        shapes,
        m.pairs,
        m.matches,
        tether_px=uncertainty_px,
        frames=turn_frames(m.frames, shapes, m.pairs, m.matches),
        lens=lens,
    )
    seams = [_seam(k, pair, m, montage, parameters) for k, pair in enumerate(m.pairs)]
    stage_uncertainty_px = round(max(uncertainty_px, m.stage_error_px), 1)
    return _finish(m.views, montage, seams, parameters, stage_uncertainty_px, lens)


def _seam(
    index: int,
    pair: Pair,
    m: Measured,
    montage: Montage,
    parameters: StitchParameters,
) -> SeamMeasure:
    """The verdict on one overlap."""
    (a, b), placement, matches, offset = pair, m.placement, m.matches[index], m.offsets[index]
    weight, residual = montage.weights[index], montage.residuals_px[index]
    alive = weight > 0
    if alive.any():
        centre = montage.warps[a].apply(matches.a_yx[alive]).mean(axis=0)
    else:
        centre = (placement.positions_yx[a] + placement.positions_yx[b]) / 2.0
    p95 = float(np.percentile(residual[alive], 95)) if alive.any() else None
    verdict: Literal["ok", "look", "rejected", "unmatched"]
    if p95 is not None and alive.sum() >= max(MIN_MATCHES, MIN_SHARE * len(alive)):
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
        measured_share=round(_measured_share(m, pair, matches.take(alive)), 3),
        centre_yx=(float(centre[0]), float(centre[1])),
    )


def _measured_share(measured: Measured, pair: Pair, matches: Matches) -> float:
    """Share of an overlap's length, in pieces of `BIN_PX`, that has matches."""
    a, b = pair
    places = measured.placement.positions_yx
    shapes = [measured.views[k].shape_yx for k in pair]
    extent = np.maximum(overlap_extent(places[b] - places[a], *shapes), 1.0)
    axis = int(np.argmax(extent))
    bins = max(1, int(extent[axis] // BIN_PX))
    start = max(0.0, float(places[b][axis] - places[a][axis]))
    index = np.floor((matches.a_yx[:, axis] - start) / extent[axis] * bins).astype(int)
    return len(np.unique(np.clip(index, 0, bins - 1))) / bins


def _finish(
    views: Sequence[TileView],
    montage: Montage,
    seams: Sequence[SeamMeasure],
    parameters: StitchParameters,
    stage_uncertainty_px: float,
    lens: LensPrior | None,
) -> Mosaic:
    """Grey values, and the frame: section pixel (0, 0) is the corner of the box that holds all tiles."""
    good = [s.pair for s in seams if s.verdict in ("ok", "look")]
    usable = [v.usable for v in views]
    shared = [shared_cells(pair, usable, montage.warps, cell_px=CELL_PX) for pair in good]
    brightness = _brightness(views, shared, lens)
    gains = equalise_tiles(shared, brightness.cells, usable)
    leads = leads_px(shared, [v.fine for v in views], gains)
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
            lead_px=round(float(lead), 1),
        )
        for warp, view, gain, lead in zip(montage.warps, views, gains, leads, strict=True)
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
        stage_uncertainty_px=stage_uncertainty_px,
        seams=tuple(
            replace(s, centre_yx=(round(s.centre_yx[0] - corner[0], 1), round(s.centre_yx[1] - corner[1], 1)))
            for s in seams
        ),
        shape_yx=shape,
        origin_yx_px=(float(corner[0]), float(corner[1])),
        residual_px_p95=round(float(np.percentile(flat, 95)), 4) if len(flat) else None,
        contrast=contrast,
        lens=montage.lens if good else None,
        shading=brightness.shown,
        flat=brightness.flat,
        refined=brightness.refined,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Brightness:
    """The shading that a section shows, what its tiles are to be divided by, and their cells then."""

    shown: Shading | None
    flat: Shading | None
    refined: bool
    cells: list[NDArray[np.float32]]


def _brightness(
    views: Sequence[TileView], shared: Sequence[SharedCells], lens: LensPrior | None
) -> _Brightness:
    """What the tiles show beyond the lens's shading, which they have been divided by, is taken together with
    it."""
    cells, shapes = [v.cells for v in views], [v.shape_yx for v in views]
    usual = usual_shape(shapes)
    known = None if lens is None else lens.shading
    flat = believed(known, usual)
    rest = estimate_shading(shared, cells, [v.usable for v in views], shapes)
    shown = None if rest is None else sum_of(rest, flat)
    better = believed(joined([known, shown]), usual)
    change = sum_of(better, flat, sign=-1.0)
    if change is None or alike(better, flat):
        return _Brightness(shown=shown, flat=flat, refined=False, cells=cells)
    centres = [
        CELL_PX * np.arange(n, dtype=np.float64) + (CELL_PX - 1) / 2.0
        for n in cells[shapes.index(usual)].shape
    ]
    by = np.exp(-change.on_grid(centres[0], centres[1])).astype(np.float32)
    return _Brightness(
        shown=shown,
        flat=better,
        refined=True,
        cells=[own * by if s == usual else own for own, s in zip(cells, shapes, strict=True)],
    )


def _moved(warp: Warp, by_yx: Floats) -> Warp:
    affine = warp.affine.copy()
    affine[:, 2] += by_yx
    return Warp(affine=affine, sheet=warp.sheet)


def _held(count: int, good: Sequence[Pair]) -> tuple[bool, ...]:
    """Tiles in the largest group that good overlaps hold together."""
    group = groups_of(count, good, np.ones(len(good), dtype=np.bool_))
    return tuple(bool(g) for g in group == np.argmax(np.bincount(group)))
