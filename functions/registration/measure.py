"""What the overlaps of a section's tiles say: by the stage, and by the images where the stage lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from functions.model.parameters import StitchParameters
from functions.registration.correlation import Shift
from functions.registration.filters import CPU
from functions.registration.keeping import in_turn
from functions.registration.montage import Pair, Placement, groups_of, place_tiles
from functions.registration.overlaps import (
    Matches,
    ReducedTile,
    candidate_pairs,
    choose_factor,
    coarse_offset,
    overlap_extent,
)
from functions.registration.search import FINE_REACH_PX, agreeing, join_loose, match_pair, reduced_tile
from functions.registration.views import Reader, TileView, Upright, view_tile

Floats = NDArray[np.float64]
CONFIRM_SHARE = 0.35
"""So many patches of an overlap at least are near their median: tiles are little turned or bent; by chance it
would be one in fourteen."""
CLEAR = 0.25
"""Correlation times margin of a whole overlap that needs no patches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The tiles of a section as seen, and what their overlaps say: input of the solve.

    `frames` (N, 2, 3) map raw to upright tiles, whose corners `placement` gives; `matches` are in raw pixels.
    """

    views: tuple[TileView, ...]
    frames: Floats
    pairs: tuple[Pair, ...]
    offsets: tuple[Shift | None, ...]
    placement: Placement
    matches: tuple[Matches, ...]
    stage_error_px: float
    """How far off the stage was on the tiles that hold together: 95th percentile."""


def measure_tiles(
    stage_yx_px: Floats,
    read: Reader,
    parameters: StitchParameters,
    *,
    uncertainty_px: float,
    linear: Sequence[Floats] | None = None,
    device: torch.device = CPU,
) -> Measured:
    """Register the overlaps of a section of N tiles.

    Args:
        stage_yx_px: positions (N, 2) of the tiles' upper left corners, good to `uncertainty_px`.
        read: gives tile k; called several times for each.
        linear: rotation and scale (2, 2) of each tile against the section, as far as they are known.
        device: where images are compared.
    """
    views = [view_tile(read(k)) for k in range(len(stage_yx_px))]
    tiles = Upright(read, views, linear or [np.eye(2)] * len(views))
    corners = tiles.corners(stage_yx_px)
    pairs = candidate_pairs(corners, tiles.shapes, reach_px=uncertainty_px)
    offsets = _coarse(corners, tiles, pairs, uncertainty_px, device)
    placement = place_tiles(corners, pairs, offsets, uncertainty_px=uncertainty_px)
    matches = _fine(tiles, pairs, placement, parameters, device)
    believed = _believed(offsets, placement, matches)
    moved = bool((placement.kept & ~believed).any())
    if moved:
        offsets = [o if good else None for o, good in zip(offsets, believed, strict=True)]
        placement = place_tiles(corners, pairs, offsets, uncertainty_px=uncertainty_px)
    if placement.loose.any():
        tiles, found = join_loose(
            tiles, stage_yx_px, placement, pairs, parameters, uncertainty_px=uncertainty_px, device=device
        )
        if found:
            moved = True
            corners = tiles.corners(stage_yx_px)
            known = {**dict(zip(pairs, offsets, strict=True)), **found}
            pairs, offsets = list(known), list(known.values())
            placement = place_tiles(corners, pairs, offsets, uncertainty_px=uncertainty_px)
            pairs, offsets = _again(tiles, placement, pairs, offsets, parameters, device)
            placement = place_tiles(corners, pairs, offsets, uncertainty_px=uncertainty_px)
    if moved:
        matches = _fine(tiles, pairs, placement, parameters, device)
    return Measured(
        views=tuple(views),
        frames=np.array(tiles.frames),
        pairs=tuple(pairs),
        offsets=tuple(offsets),
        placement=placement,
        matches=tuple(matches),
        stage_error_px=_stage_error(corners, placement),
    )


def _believed(
    offsets: Sequence[Shift | None], placement: Placement, matches: Sequence[Matches]
) -> NDArray[np.bool_]:
    """Kept pairs (E,) whose patches bear out the offset of the whole overlap, or where it leaves no doubt."""
    borne_out = [len(agreeing(m, share=CONFIRM_SHARE)) > 0 for m in matches]
    clear = [o is not None and o.peak * o.margin >= CLEAR for o in offsets]
    return np.asarray(placement.kept & (np.array(borne_out, bool) | np.array(clear, bool)), dtype=np.bool_)


def _stage_error(corners: Floats, placement: Placement) -> float:
    tied = ~placement.loose
    if tied.sum() < 2:
        return 0.0
    off = placement.positions_yx[tied] - corners[tied]
    return float(np.percentile(np.linalg.norm(off - np.median(off, axis=0), axis=1), 95))


def _again(
    tiles: Upright,
    placement: Placement,
    pairs: Sequence[Pair],
    offsets: Sequence[Shift | None],
    parameters: StitchParameters,
    device: torch.device,
) -> tuple[list[Pair], list[Shift | None]]:
    """Pairs after tiles have been found elsewhere: those that overlap now, whatever the stage said."""
    places, shapes = placement.positions_yx, tiles.shapes
    group = groups_of(len(places), pairs, placement.kept)
    known: dict[Pair, Shift | None] = {}
    for k, (a, b) in enumerate(pairs):
        apart = overlap_extent(places[b] - places[a], shapes[a], shapes[b]).min() <= 0
        if placement.kept[k] or group[a] != group[b] or not apart:
            known[a, b] = offsets[k]
    near = candidate_pairs(places, shapes, reach_px=0.0)
    fresh = [p for p in near if known.get(p) is None and group[p[0]] == group[p[1]]]
    reach = float(parameters.reach_px + FINE_REACH_PX)
    known.update(zip(fresh, _coarse(places, tiles, fresh, reach, device), strict=True))
    return list(known), list(known.values())


def _coarse(
    places: Floats, tiles: Upright, pairs: Sequence[Pair], reach_px: float, device: torch.device
) -> list[Shift | None]:
    """Offset of each pair by its whole overlap, on reduced images."""
    shapes = tiles.shapes
    factor = choose_factor(places, shapes, pairs)

    def reduced(index: int) -> ReducedTile:
        return reduced_tile(tiles, index, factor, device=device)

    return [
        coarse_offset(
            first,
            second,
            offset_yx_px=places[b] - places[a],
            shape_a=shapes[a],
            shape_b=shapes[b],
            reach_px=reach_px,
            device=device,
        )
        for (a, b), (first, second) in zip(pairs, in_turn(pairs, reduced), strict=True)
    ]


def _fine(
    tiles: Upright,
    pairs: Sequence[Pair],
    placement: Placement,
    parameters: StitchParameters,
    device: torch.device,
) -> list[Matches]:
    """Patches of each pair, also where the whole overlap was rejected: those get a second chance."""
    out = []
    for k, (a, b) in enumerate(pairs):
        offset = placement.positions_yx[b] - placement.positions_yx[a]
        found = match_pair(tiles, (a, b), offset, parameters, device=device)
        found = found if placement.kept[k] else agreeing(found)
        out.append(replace(found, a_yx=tiles.back(a, found.a_yx), b_yx=tiles.back(b, found.b_yx)))
    return out
