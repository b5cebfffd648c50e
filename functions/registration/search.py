"""Find by their images the tiles that the stage has put in the wrong place, or that are turned.

A tile that no overlap ties to the others is compared, on thumbnails, with all others at all shifts; if that
shows nothing, with its neighbours by stage at angles of a few degrees. What stands out is believed only when
patches at full resolution agree on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from functions.model.parameters import StitchParameters
from functions.model.transform import Warp
from functions.registration.correlation import Shift, find_shift
from functions.registration.masks import Image, Mask, band_pass, reduce_mean
from functions.registration.montage import Pair, Placement, groups_of
from functions.registration.overlaps import Matches, ReducedTile, fine_matches
from functions.registration.views import Upright, is_plain, rotation
from functions.registration.warp import dense_coordinates, sample

Floats = NDArray[np.float64]

THUMBNAIL_PX = 320
MAX_SEARCHED = 600
"""Pairs compared at all shifts in one section (about 0.1 s each); nearest by stage first."""
MIN_TEXTURE = 0.05
MIN_MARGIN = 0.15
MIN_COMMON = 0.01
SAME_PLACE = 0.1
"""Tiles that seem to lie closer than this share of their side show the camera's own pattern."""
VERIFIED = 4
FINE_REACH_PX = 6
MIN_MATCHES = 4
MIN_VERIFIED_MATCHES = 6
AGREE_PX = 3.0
ANGLES_DEG = np.arange(-6.0, 6.01, 1.0)
REFINE_DEG = (0.5, 0.25)


def match_pair(
    tiles: Upright,
    pair: Pair,
    offset_yx_px: Floats,
    parameters: StitchParameters,
    *,
    extra_px: int = 0,
    device: torch.device,
) -> Matches:
    """Patches of an overlap, in upright pixels."""
    a, b = pair
    return fine_matches(
        tiles.image(a),
        tiles.textured(a),
        tiles.image(b),
        tiles.textured(b),
        offset_yx_px=offset_yx_px,
        patch_px=parameters.patch_px,
        reach_px=parameters.reach_px + extra_px,
        min_peak=parameters.min_correlation,
        max_ratio=parameters.max_second_peak,
        device=device,
    )


def reduced_tile(tiles: Upright, index: int, factor: int, *, device: torch.device) -> ReducedTile:
    """An upright tile for the coarse search, in blocks of a power of two px."""
    mask = tiles.textured_blocks(index, factor)
    small = reduce_mean(tiles.image(index), factor)
    image = band_pass(small, mask, fine_px=1.0, coarse_px=8.0, device=device)
    return ReducedTile(image=image, mask=mask, factor=factor)


def agreeing(found: Matches, *, at_least: int = MIN_MATCHES, share: float = 0.5) -> Matches:
    """Matches near their median, if they are several and a large enough share of all; otherwise none."""
    none = np.zeros(len(found), dtype=np.bool_)
    if len(found) < at_least:
        return found.take(none)
    shift = found.b_yx - found.a_yx
    near = np.linalg.norm(shift - np.median(shift, axis=0), axis=1) <= AGREE_PX
    enough = near.sum() >= max(at_least, share * len(near))
    return found.take(near if enough else none)


def join_loose(
    tiles: Upright,
    stage_yx_px: Floats,
    placement: Placement,
    pairs: Sequence[Pair],
    parameters: StitchParameters,
    *,
    uncertainty_px: float,
    device: torch.device,
) -> tuple[Upright, dict[Pair, Shift]]:
    """Tie tiles outside the largest group to others. Returns the tiles (some turned now) and new offsets."""
    count = len(stage_yx_px)
    group = groups_of(count, pairs, placement.kept)
    rich = [float(view.textured.mean()) >= MIN_TEXTURE for view in tiles.views]
    loose = [k for k in range(count) if placement.loose[k] and rich[k]]
    thumbs = _thumbnails(tiles, [k for k in range(count) if rich[k]], device) if loose else {}
    found: dict[Pair, Shift] = {}
    centres = stage_yx_px + np.array([v.shape_yx for v in tiles.views]) / 2.0
    wanted: set[Pair] = {(min(k, j), max(k, j)) for k in loose for j in thumbs if group[j] != group[k]}
    nearest: list[Pair] = sorted(
        wanted, key=lambda p: (float(np.linalg.norm(centres[p[1]] - centres[p[0]])), p)
    )
    guesses: dict[int, list[tuple[float, Pair, Shift]]] = {k: [] for k in loose}
    for a, b in nearest[:MAX_SEARCHED]:
        guess = _anywhere(thumbs[a], thumbs[b], tiles.shapes[a], tiles.shapes[b], device)
        for k in (a, b):
            if guess is not None and k in guesses:
                guesses[k].append((guess.peak * guess.margin, (a, b), guess))
    for k in loose:
        for _, pair, guess in sorted(guesses[k], key=lambda g: (-g[0], g[1]))[:VERIFIED]:
            sure = found.get(pair) or _verified(tiles, pair, guess, parameters, device)
            if sure is not None:
                found[pair] = sure
    tied = {k for pair in found for k in pair}
    for k in loose:
        near = [
            p for p in pairs if k in p and group[p[0]] != group[p[1]] and p[0] in thumbs and p[1] in thumbs
        ]
        if k not in tied and near and is_plain(tiles.frames[k]):
            turned = _turned(tiles, k, near, thumbs, stage_yx_px, parameters, uncertainty_px, device)
            if turned is not None:
                tiles = turned[0]
                found.update(turned[1])
    return tiles, found


def _thumbnails(tiles: Upright, which: Sequence[int], device: torch.device) -> dict[int, ReducedTile]:
    """Band-passed tiles of at most 320 px, all reduced by the same factor."""
    longest = max(max(shape) for shape in tiles.shapes)
    factor = 1
    while longest / factor > THUMBNAIL_PX:
        factor *= 2
    return {k: reduced_tile(tiles, k, factor, device=device) for k in which}


def _anywhere(
    a: ReducedTile, b: ReducedTile, shape_a: tuple[int, int], shape_b: tuple[int, int], device: torch.device
) -> Shift | None:
    """The offset of b against a, of all there are, that stands out; None if none does."""
    sides = np.array(a.image.shape) + np.array(b.image.shape)
    found = find_shift(
        a.image, a.mask, b.image, b.mask, expected_yx_px=(0.0, 0.0),
        reach_yx_px=(float(sides[0]), float(sides[1])), min_common=MIN_COMMON, device=device,
    )  # fmt: skip
    if found is None or found.margin < MIN_MARGIN:
        return None
    offset = -np.array(found.shift_yx_px) * a.factor
    smaller = np.minimum(shape_a, shape_b)
    if (np.abs(offset) < SAME_PLACE * smaller).all():
        return None
    return replace(found, shift_yx_px=(float(offset[0]), float(offset[1])))


def _verified(
    tiles: Upright, pair: Pair, guess: Shift, parameters: StitchParameters, device: torch.device
) -> Shift | None:
    """The offset that patches agree on near a guess."""
    kept = _agreed(tiles, pair, guess, parameters, device)
    if not len(kept):
        return None
    exact = np.median(kept.a_yx - kept.b_yx, axis=0)
    # believed by its patches, whatever the thumbnails' correlation was
    peak = float(np.median(kept.peak))
    return replace(guess, shift_yx_px=(float(exact[0]), float(exact[1])), peak=peak, second=0.5 * peak)


def _agreed(
    tiles: Upright, pair: Pair, guess: Shift, parameters: StitchParameters, device: torch.device
) -> Matches:
    offset = np.array(guess.shift_yx_px)
    matches = match_pair(tiles, pair, offset, parameters, extra_px=FINE_REACH_PX, device=device)
    return agreeing(matches, at_least=MIN_VERIFIED_MATCHES)


def _turned(
    tiles: Upright,
    index: int,
    near: Sequence[Pair],
    thumbs: dict[int, ReducedTile],
    stage_yx_px: Floats,
    parameters: StitchParameters,
    uncertainty_px: float,
    device: torch.device,
) -> tuple[Upright, dict[Pair, Shift]] | None:
    """Turn tile `index` by the angle at which it fits a neighbour best; None if it fits at none."""

    def fit(degrees: float) -> float:
        found = [
            _at_angle(index, degrees, pair, thumbs, stage_yx_px, uncertainty_px, device) for pair in near
        ]
        return max((f.peak for f in found if f is not None), default=0.0)

    angle = max(ANGLES_DEG.tolist(), key=fit)
    for step in REFINE_DEG:
        angle = max((angle, angle - step, angle + step), key=fit)
    turned = tiles.turned(index, rotation(angle))
    guesses = {
        pair: guess
        for pair in near
        if (guess := _at_angle(index, angle, pair, thumbs, stage_yx_px, uncertainty_px, device)) is not None
    }
    kept = {
        p: _agreed(turned, p, _off(turned, stage_yx_px, p, g), parameters, device) for p, g in guesses.items()
    }
    rest = _angle_left(index, kept)
    if rest is None:
        return None
    turned = tiles.turned(index, rotation(angle + rest))
    out = {}
    for pair, guess in guesses.items():
        sure = _verified(turned, pair, _off(turned, stage_yx_px, pair, guess), parameters, device)
        if sure is not None:
            out[pair] = sure
    return (turned, out) if out else None


def _off(tiles: Upright, stage_yx_px: Floats, pair: Pair, guess: Shift) -> Shift:
    """An offset from how far a pair is off its place by stage: thumbnails turn about the same centre."""
    corners = tiles.corners(stage_yx_px)
    offset = corners[pair[1]] - corners[pair[0]] + np.array(guess.shift_yx_px)
    return replace(guess, shift_yx_px=(float(offset[0]), float(offset[1])))


def _angle_left(index: int, kept: dict[Pair, Matches]) -> float | None:
    """By how many degrees tile `index` must still be turned to fit the matches; None without any."""
    cross = dot = 0.0
    for pair, matches in kept.items():
        if len(matches):
            own, other = (m - m.mean(axis=0) for m in (matches.a_yx, matches.b_yx))
            if pair[1] == index:
                own, other = other, own
            cross += float((own[:, 0] * other[:, 1] - own[:, 1] * other[:, 0]).sum())
            dot += float((own * other).sum())
    return float(np.rad2deg(np.arctan2(cross, dot))) if dot > 0 else None


def _at_angle(
    index: int,
    degrees: float,
    pair: Pair,
    thumbs: dict[int, ReducedTile],
    stage_yx_px: Floats,
    uncertainty_px: float,
    device: torch.device,
) -> Shift | None:
    """How far the second tile of a pair is off its place by stage when tile `index` is turned; full px."""
    a, b = pair
    f = thumbs[a].factor
    (image_a, mask_a), (image_b, mask_b) = (
        _turn(thumbs[k].image, thumbs[k].mask, degrees if k == index else 0.0) for k in pair
    )
    offset = (stage_yx_px[b] - stage_yx_px[a]) / f
    reach = 2.0 * uncertainty_px / f + 2.0
    found = find_shift(
        image_a, mask_a, image_b, mask_b, expected_yx_px=(float(-offset[0]), float(-offset[1])),
        reach_yx_px=(reach, reach), device=device,
    )  # fmt: skip
    if found is None or found.margin < MIN_MARGIN / 2:
        return None
    off = (-np.array(found.shift_yx_px) - offset) * f
    return replace(found, shift_yx_px=(float(off[0]), float(off[1])))


def _turn(image: Image, mask: Mask, degrees: float) -> tuple[Image, Mask]:
    """A thumbnail turned about its centre, in its own frame."""
    if degrees == 0.0:
        return image, mask
    centre = (np.array(image.shape) - 1) / 2.0
    linear = rotation(degrees)
    affine = np.concatenate([linear, (centre - linear @ centre)[:, None]], axis=1)
    where = dense_coordinates(
        Warp(affine=affine).inverse, (0, 0), (image.shape[0], image.shape[1]), step_px=32
    )
    inside = np.ones(image.shape, dtype=np.bool_)
    for c, n in zip(where, image.shape, strict=True):
        inside &= (c >= 0) & (c <= n - 1)
    inside &= sample(mask.astype(np.float32), where, cubic=False) > 0.99
    return np.where(inside, sample(image, where), 0.0).astype(np.float32), inside
