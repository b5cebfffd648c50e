"""Pairs of sections: any turn, some scale, folds; and what cannot be a pair is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from functions.model.artefacts import CRACK, FOLD, TISSUE
from functions.model.parameters import AlignParameters
from functions.model.regions import LINE, Regions
from functions.model.transform import Warp
from functions.registration.cuts import part_regions
from functions.registration.overlaps import Matches
from functions.registration.sections import PairMatch, register_sections
from functions.registration.views import view_tile
from functions.registration.warp import dense_coordinates, sample
from tests.functions.registration_scenes import scene

Gray = NDArray[np.uint8]
SIZE = 320
PLANE = scene((SIZE + 160, SIZE + 160), 4)
MIDDLE = (SIZE - 1) / 2


def turned(degrees: float, scale: float = 1.0) -> Warp:
    """From the pixels of a section to the scene's, about the middle of both."""
    t = np.deg2rad(degrees)
    linear = scale * np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
    move = np.full(2, MIDDLE + 80) - linear @ np.full(2, MIDDLE)
    return Warp(affine=np.concatenate([linear, move[:, None]], axis=1))


def picture(warp: Warp, seed: int = 0, plane: NDArray[np.float32] = PLANE) -> Gray:
    """What a section mapped so shows, with noise of its own."""
    pixels = sample(plane, dense_coordinates(warp.apply, (0, 0), (SIZE, SIZE)))
    pixels = pixels + np.random.default_rng(seed).normal(0, 6, pixels.shape)
    return np.clip(np.rint(pixels), 1, 255).astype(np.uint8)


def register(a: Gray, b: Gray, **regions: Regions | None) -> PairMatch:
    whole = np.ones((SIZE, SIZE), dtype=bool)
    return register_sections(a, whole, b, whole, AlignParameters(), **regions)


def errors(found: PairMatch, a: Warp, b: Warp) -> NDArray[np.float64]:
    """How far apart the two points of each match lie in the scene."""
    return np.linalg.norm(a.apply(found.matches.a_yx) - b.apply(found.matches.b_yx), axis=1)


@pytest.mark.parametrize(
    ("degrees", "scale"), [(0.0, 1.0), (9.0, 1.0), (180.0, 1.0), (-95.0, 1.0), (2.0, 1.1), (-3.0, 0.9)]
)
def test_any_turn_and_a_drift_of_scale_are_found(degrees: float, scale: float) -> None:
    a, b = turned(0.0), turned(degrees, scale)
    found = register(picture(a), picture(b, 1))
    assert found.good
    assert np.median(errors(found, a, b)) < 0.3


def test_a_mirrored_section_is_refused() -> None:
    assert not register(picture(turned(0.0)), picture(turned(3.0), 1)[:, ::-1]).good


def test_a_section_of_other_tissue_is_refused() -> None:
    other = scene(PLANE.shape, 900)
    assert not register(picture(turned(0.0)), picture(turned(0.0), 1, other)).good


def test_a_far_pair_that_is_clear_is_kept_and_one_of_other_tissue_is_not() -> None:
    a, b = turned(0.0), turned(2.0)
    whole = np.ones((SIZE, SIZE), dtype=bool)
    for plane, good in ((PLANE, True), (scene(PLANE.shape, 901), False)):
        there = picture(b, 1, plane)
        found = register_sections(picture(a), whole, there, whole, AlignParameters(), far=True)
        assert found.far
        assert found.good == good
        if good:
            assert np.median(errors(found, a, b)) < 1.0


@pytest.mark.parametrize(
    ("score", "margin", "good"), [(0.29, 0.6, False), (0.6, 0.3, False), (0.31, 0.36, True)]
)
def test_a_far_pair_needs_more_than_a_near_one(score: float, margin: float, good: bool) -> None:
    points = np.random.default_rng(0).uniform(0, 500, (60, 2))
    matches = Matches(a_yx=points, b_yx=points, peak=np.full(60, 0.5), ratio=np.full(60, 0.5))
    near = PairMatch(affine=np.eye(2, 3), score=score, margin=margin, matches=matches, tried=100)
    assert near.good
    assert replace(near, far=True).good == good


def test_inverted_contrast_is_refused() -> None:
    assert not register(picture(turned(0.0)), 255 - picture(turned(2.0), 1)).good


@pytest.mark.parametrize("gray", [0, 128, 255])
def test_a_section_that_shows_nothing_is_refused(gray: int) -> None:
    assert not register(picture(turned(0.0)), np.full((SIZE, SIZE), gray, np.uint8)).good


def test_a_saturated_half_leaves_the_other() -> None:
    a, b = turned(0.0), turned(3.0)
    half = picture(b, 1)
    half[:, SIZE // 2 :] = 255
    found = register(picture(a), half)
    assert len(found.matches) > 20
    assert np.median(errors(found, a, b)) < 0.3


def folded_picture() -> tuple[Gray, Regions]:
    """A section in which 24 px are hidden under a dark band of 12 px at x = 160."""
    image = picture(turned(0.0), 2)
    out = np.concatenate([image[:, :160], image[:, 184:], image[:, :24]], axis=1)
    out[:, 154:166] = 20
    codes = np.full((SIZE // 8, SIZE // 8), TISSUE, dtype=np.uint8)
    codes[:, 19:21] = FOLD
    codes[:, -3:] = CRACK
    regions = part_regions(codes)
    assert regions is not None
    return out, regions


def test_both_sides_of_a_fold_are_matched_up_to_it() -> None:
    folded, regions = folded_picture()
    assert regions.count == 2
    a = turned(1.0)
    found = register(picture(a), folded, regions_b=regions)
    assert found.good
    right = found.matches.b_yx[:, 1] > 160
    shown = found.matches.b_yx + np.stack([np.zeros(len(right)), 24.0 * right], axis=1)
    off = np.linalg.norm(a.apply(found.matches.a_yx) - turned(0.0).apply(shown), axis=1)
    assert np.percentile(off, 95) < 1.0
    for side in (right, ~right):
        near = np.abs(found.matches.b_yx[side, 1] - 160) < 40
        assert near.sum() >= 5


def test_small_pieces_and_lines_that_end_part_nothing() -> None:
    codes = np.full((40, 40), TISSUE, dtype=np.uint8)
    assert part_regions(codes) is None
    codes[:30, 20] = CRACK
    assert part_regions(codes) is None, "tissue goes on beyond the crack's end"
    codes[30:, 20] = FOLD
    codes[0:2, 20:23] = CRACK
    regions = part_regions(codes)
    assert regions is not None
    assert regions.count == 2
    codes[:] = TISSUE
    codes[7, :7] = codes[:7, 7] = FOLD
    assert part_regions(codes) is None, "a corner of 7 x 7 cells is no region"


def test_a_line_with_gaps_parts() -> None:
    codes = np.full((40, 40), TISSUE, dtype=np.uint8)
    codes[2:38, 20] = CRACK
    codes[10:14, 20] = TISSUE
    regions = part_regions(codes)
    assert regions is not None
    np.testing.assert_array_equal(regions.labels[:, :19], 0)
    np.testing.assert_array_equal(regions.labels[:, 22:], 1)
    np.testing.assert_array_equal(regions.labels == LINE, codes == CRACK)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_sections_of_other_than_eight_bits_are_refused(dtype: type[np.generic]) -> None:
    a = picture(turned(0.0))
    other = a.astype(dtype)
    if dtype is np.float32:
        other[5, 5] = np.nan
    for pair in ((a, other), (other, a)):
        with pytest.raises(TypeError, match=r"expected uint8; see contrast\.to_eight_bit"):
            register(*pair)
    with pytest.raises(TypeError, match=np.dtype(dtype).name):
        view_tile(other)
