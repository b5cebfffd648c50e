"""Measure how neighbouring tiles of a section overlap: first whole overlaps, then many patches of each.

   offset_yx = position(b) - position(a)
┌─────────┐
│ a   ┌───┼─────┐     a shows at p what b shows at p - offset
│     │   │   b │
└─────┼───┘     │
      └─────────┘
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from functions.registration.correlation import Shift, find_shift, match_patches
from functions.registration.filters import CPU
from functions.registration.masks import Gray, Image, Mask, band_pass

Floats = NDArray[np.float64]
MIN_THICKNESS_PX = 16
MIN_SIDE_SHARE = 0.25
ENOUGH = 20
"""Patches behind each other along a thick overlap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReducedTile:
    """A tile for the coarse search: band-passed, means of factor x factor px, with its mask."""

    image: Image
    mask: Mask
    factor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Matches:
    """N points seen in both tiles of a pair (N, 2), with correlation and ratio of second to first peak
    (N,)."""

    a_yx: Floats
    b_yx: Floats
    peak: Floats
    ratio: Floats

    def __len__(self) -> int:
        return len(self.peak)

    def take(self, which: Mask) -> Matches:
        """The matches for which `which` (N,) is True."""
        return Matches(
            a_yx=self.a_yx[which], b_yx=self.b_yx[which], peak=self.peak[which], ratio=self.ratio[which]
        )


def join(parts: Sequence[Matches]) -> Matches:
    """All matches of several lists."""
    return Matches(
        a_yx=np.concatenate([m.a_yx for m in parts]),
        b_yx=np.concatenate([m.b_yx for m in parts]),
        peak=np.concatenate([m.peak for m in parts]),
        ratio=np.concatenate([m.ratio for m in parts]),
    )


NO_MATCHES = Matches(a_yx=np.zeros((0, 2)), b_yx=np.zeros((0, 2)), peak=np.zeros(0), ratio=np.zeros(0))


def overlap_extent(offset_yx: Floats, shape_a: Sequence[int], shape_b: Sequence[int]) -> Floats:
    """Height and width of the common rectangle in px; negative where the tiles are apart."""
    a, b = np.asarray(shape_a, float), np.asarray(shape_b, float)
    return np.asarray(np.minimum(a, offset_yx + b) - np.maximum(0.0, offset_yx), dtype=np.float64)


def candidate_pairs(
    stage_yx_px: Floats, shapes_yx: Sequence[tuple[int, int]], *, reach_px: float
) -> list[tuple[int, int]]:
    """Pairs that may overlap along a side, given stage positions good to `reach_px`; corners are left out."""
    pairs = []
    shapes = np.asarray(shapes_yx, dtype=np.float64).reshape(-1, 2)
    for a in range(len(shapes)):
        offset = stage_yx_px[a + 1 :] - stage_yx_px[a]
        extent = np.minimum(shapes[a], offset + shapes[a + 1 :]) - np.maximum(0.0, offset)
        share = extent / np.minimum(shapes[a], shapes[a + 1 :])
        near = (extent + reach_px >= MIN_THICKNESS_PX).all(axis=1) & (share.max(axis=1) >= MIN_SIDE_SHARE)
        pairs += [(a, a + 1 + int(k)) for k in np.flatnonzero(near)]
    return pairs


def choose_factor(
    stage_yx_px: Floats, shapes_yx: Sequence[tuple[int, int]], pairs: Sequence[tuple[int, int]]
) -> int:
    """Reduction for the coarse search: the overlaps keep about 24 px of thickness."""
    if not pairs:
        return 4
    thickness = [
        overlap_extent(stage_yx_px[b] - stage_yx_px[a], shapes_yx[a], shapes_yx[b]).min() for a, b in pairs
    ]
    typical = float(np.median(thickness))
    return next((f for f in (4, 2) if typical / f >= 24), 1)


def _crops(
    offset_yx: Floats, shape_a: Sequence[int], shape_b: Sequence[int], grow_px: float, factor: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The overlap in pixels of a and of b, grown on all sides, corners on multiples of `factor`."""
    cuts: list[tuple[slice, slice]] = []
    for sign, own, other in ((1.0, shape_a, shape_b), (-1.0, shape_b, shape_a)):
        axes = []
        for k in range(2):
            start = max(0.0, sign * offset_yx[k] - grow_px)
            stop = min(float(own[k]), sign * offset_yx[k] + other[k] + grow_px)
            axes.append(slice(int(start // factor) * factor, max(0, int(np.ceil(stop)))))
        cuts.append((axes[0], axes[1]))
    return cuts[0], cuts[1]


def coarse_offset(
    a: ReducedTile,
    b: ReducedTile,
    *,
    offset_yx_px: Floats,
    shape_a: Sequence[int],
    shape_b: Sequence[int],
    reach_px: float,
    device: torch.device = CPU,
) -> Shift | None:
    """Find the offset of b against a within `reach_px` of the expected one; `shift_yx_px` is that offset."""
    f = a.factor
    cut_a, cut_b = _crops(offset_yx_px, shape_a, shape_b, reach_px, f)
    small_a = tuple(slice(s.start // f, -(-s.stop // f)) for s in cut_a)
    small_b = tuple(slice(s.start // f, -(-s.stop // f)) for s in cut_b)
    fixed, moving = a.image[small_a], b.image[small_b]
    if min(*fixed.shape, *moving.shape) < 4:
        return None
    corner = np.array([s.start for s in small_a]) - np.array([s.start for s in small_b])
    expected = -np.asarray(offset_yx_px) / f + corner
    reach = reach_px / f + 1.0
    found = find_shift(
        fixed,
        a.mask[small_a],
        moving,
        b.mask[small_b],
        expected_yx_px=(float(expected[0]), float(expected[1])),
        reach_yx_px=(reach, reach),
        device=device,
    )
    if found is None:
        return None
    offset = (corner - np.asarray(found.shift_yx_px)) * f
    return Shift(
        shift_yx_px=(float(offset[0]), float(offset[1])),
        peak=found.peak,
        second=found.second,
        pixels=found.pixels * f * f,
    )


def fine_matches(
    image_a: Gray,
    mask_a: Mask,
    image_b: Gray,
    mask_b: Mask,
    *,
    offset_yx_px: Floats,
    patch_px: int,
    reach_px: int,
    min_peak: float,
    max_ratio: float,
    device: torch.device = CPU,
) -> Matches:
    """Match patches all along an overlap whose offset is known to a few px.

    In a thin overlap the patches are longer along the seam, at equal area, but short enough for several.
    """
    extent = overlap_extent(offset_yx_px, image_a.shape, image_b.shape)
    if extent.min() < MIN_THICKNESS_PX:
        return NO_MATCHES
    cut_a, cut_b = _crops(offset_yx_px, image_a.shape, image_b.shape, reach_px + 24, 1)
    pad = [np.array([s.start for s in cut]) for cut in (cut_a, cut_b)]
    a, b = (
        band_pass(i[c], m[c], fine_px=1.0, coarse_px=10.0, device=device)
        for i, m, c in ((image_a, mask_a, cut_a), (image_b, mask_b, cut_b))
    )
    start, extent = _common_box(mask_a, mask_b, offset_yx_px, extent)
    if extent.min() < MIN_THICKNESS_PX:
        return NO_MATCHES
    across = int(np.clip(extent.min() - 6, 12, patch_px))
    along = int(min(2 * patch_px, patch_px * patch_px // across, max(across, extent.max() / 4)))
    patch = (across, along) if extent[0] <= extent[1] else (along, across)
    corners = _grid(start, extent, patch, step=_step(extent, patch))
    if not len(corners):
        return NO_MATCHES
    shift = np.rint(-offset_yx_px).astype(np.int64)
    found = match_patches(
        a,
        mask_a[cut_a],
        b,
        mask_b[cut_b],
        fixed_corner_yx=corners - pad[0],
        moving_corner_yx=corners + shift - pad[1],
        patch_yx_px=patch,
        reach_px=reach_px,
        min_cover=0.65,
        device=device,
    )
    ratio = np.maximum(found.second, 0.0) / np.maximum(found.peak, 1e-6)
    good = found.valid & (found.peak >= min_peak) & (ratio <= max_ratio)
    centre = corners + (np.array(patch) - 1) / 2.0
    return Matches(
        a_yx=centre[good],
        b_yx=(centre + shift + found.shift_yx_px)[good],
        peak=found.peak[good],
        ratio=ratio[good],
    )


def _common_box(mask_a: Mask, mask_b: Mask, offset_yx: Floats, extent: Floats) -> tuple[Floats, Floats]:
    """Corner and extent, in a, of the part of an overlap that both tiles have usable: margins are left
    out."""
    corner = np.ceil(np.maximum(0.0, offset_yx)).astype(int)
    there = np.maximum(0, corner - np.rint(offset_yx).astype(int))
    size = np.minimum(np.floor(extent).astype(int) - 1, np.array(mask_b.shape) - there)
    both = (
        mask_a[corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]]
        & mask_b[there[0] : there[0] + size[0], there[1] : there[1] + size[1]]
    )
    start, found = corner.astype(np.float64), np.zeros(2)
    for axis in range(2):
        share = both.mean(axis=1 - axis)
        rows = np.flatnonzero(share > 0.25 * share.max(initial=0.0))
        if len(rows) == 0:
            return start, np.zeros(2)
        start[axis] += rows[0]
        found[axis] = rows[-1] - rows[0] + 1
    return start, found


def _step(extent: Floats, patch: tuple[int, int]) -> tuple[int, int]:
    """How far apart patches lie: half their side, but along a thick and long overlap as far as their side.

    Sheets bend on a fifth of a tile: where several rows of patches lie side by side, and `ENOUGH` behind each
    other, more of them say nothing new.
    """
    along = int(extent[1] > extent[0])
    step = [patch[0] // 2, patch[1] // 2]
    if extent[1 - along] >= patch[1 - along] + step[1 - along]:
        step[along] = int(np.clip(extent[along] / ENOUGH, step[along], patch[along]))
    return step[0], step[1]


def _grid(start: Floats, extent: Floats, patch: tuple[int, int], step: tuple[int, int]) -> NDArray[np.int64]:
    """Corners (N, 2) of patches spread evenly over a rectangle, about `step` apart."""
    axes = []
    for k in range(2):
        first, room = int(np.ceil(start[k])), int(np.floor(extent[k])) - patch[k] - 1
        if room < 0:
            return np.zeros((0, 2), dtype=np.int64)
        count = max(1, round(room / step[k]) + 1)
        spread = np.linspace(0, room, count) if count > 1 else np.array([room / 2])
        axes.append(first + np.rint(spread).astype(np.int64))
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
