"""Windows of placed images: a misplacement is measured, resin and chance are not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from functions.model.transform import Warp
from functions.registration.evidence import (
    NO_WINDOWS,
    Windows,
    compare,
    coverage,
    seam_windows,
    section_factor,
    section_plane,
    tile_plane,
)
from functions.registration.masks import reduce_mean
from tests.functions.registration_scenes import scene

SHAPE = (320, 340)


def noisy(image: NDArray[np.floating], seed: int) -> NDArray[np.float64]:
    return image + np.random.default_rng(seed).normal(0, 5, image.shape)


def measured(
    a: NDArray[np.floating],
    b: NDArray[np.floating],
    *,
    factor: int = 1,
    mask: NDArray[np.bool_] | None = None,
) -> Windows:
    """Windows of two images that are said to lie on each other."""
    use = np.ones(a.shape, dtype=bool) if mask is None else mask
    planes = [section_plane(reduce_mean(p, factor), reduce_mean(use, factor) > 0.8, factor) for p in (a, b)]
    return compare(planes[0].image, planes[0].mask, planes[1].image, planes[1].mask, factor=factor)


def moved(image: NDArray[np.floating], shift_yx: tuple[float, float]) -> NDArray[np.float64]:
    """Content that lies `shift_yx` further."""
    return np.asarray(ndimage.shift(image.astype(float), shift_yx, order=3, mode="reflect"))


@settings(max_examples=8, deadline=None)
@given(dy=st.floats(-20, 20), dx=st.floats(-20, 20), factor=st.sampled_from([1, 2]))
def test_a_misplacement_is_measured(dy: float, dx: float, factor: int) -> None:
    image = scene(SHAPE, 3)
    windows = measured(noisy(image, 1), noisy(moved(image, (dy, dx)), 2), factor=factor)
    assert len(windows) >= 20
    assert windows.shift_px is not None
    np.testing.assert_allclose(
        np.median(windows.shift_yx_px[windows.sure], axis=0), (dy, dx), atol=0.25 * factor
    )
    length = float(np.hypot(dy, dx))
    share = windows.displaced(4.0).mean()
    if length > 5:
        assert share > 0.6
    if length < 3:
        assert share < 0.05


def test_foreign_images_are_unlike_and_not_displaced() -> None:
    windows = measured(noisy(scene(SHAPE, 3), 1), noisy(scene(SHAPE, 900), 2))
    assert windows.unlike(0.8).mean() > 0.9
    assert windows.displaced(4.0).mean() < 0.1


def test_empty_resin_is_not_compared() -> None:
    image = scene(SHAPE, 3)
    image[:, 170:] = 130.0
    windows = measured(noisy(image, 1), noisy(image, 2))
    assert len(windows) >= 15
    assert windows.centre_yx[:, 1].max() < 200
    assert windows.median_ncc is not None
    assert windows.median_ncc > 0.8


def test_masked_pixels_are_not_compared() -> None:
    image = scene(SHAPE, 3)
    mask = np.ones(SHAPE, dtype=bool)
    mask[:, :150] = False
    windows = measured(noisy(image, 1), noisy(image, 2), mask=mask)
    assert len(windows)
    assert windows.centre_yx[:, 1].min() > 140


def test_a_small_displaced_part_is_found_where_it_is() -> None:
    image = scene(SHAPE, 3)
    other = image.copy()
    other[:, 200:] = moved(image, (14.0, 0.0))[:, 200:]
    windows = measured(noisy(image, 1), noisy(other, 2))
    displaced = windows.displaced(4.0)
    assert 0.2 < displaced.mean() < 0.5
    assert windows.centre_yx[displaced, 1].min() > 170
    assert windows.shift_px is not None
    assert windows.shift_px < 1.0  # most of the section fits


def test_a_lone_window_with_a_better_place_is_chance() -> None:
    n = 9
    grid = np.stack(np.meshgrid(np.arange(3.0), np.arange(3.0), indexing="ij"), -1).reshape(-1, 2) * 32
    shift = np.zeros((n, 2))
    shift[4] = (20, 0)
    windows = Windows(
        centre_yx=grid,
        ncc=np.full(n, 0.5),
        peak=np.full(n, 0.6),
        shift_yx_px=shift,
        sure=np.ones(n, dtype=bool),
    )
    assert not windows.displaced(4.0).any()
    shift[5] = (18, 3)
    assert windows.displaced(4.0).sum() == 2
    assert NO_WINDOWS.shift_px is None
    assert not NO_WINDOWS.displaced(1.0).any()


def test_a_seam_is_compared_where_two_tiles_overlap() -> None:
    image = scene((200, 300), 5)
    a, b = noisy(image[:, :170], 1), noisy(image[:, 130:], 2)
    planes = [tile_plane(reduce_mean(p, 1), np.ones(p.shape, dtype=bool), 1) for p in (a, b)]

    def at(y: float, x: float) -> Warp:
        return Warp(affine=np.array([[1.0, 0.0, y], [0.0, 1.0, x]]))

    right = seam_windows(planes[0], at(0, 0), planes[1], at(0, 130))
    assert len(right) >= 5
    assert right.shift_px == pytest.approx(0, abs=0.2)
    assert ((right.centre_yx[:, 1] > 130) & (right.centre_yx[:, 1] < 170)).all()
    wrong = seam_windows(planes[0], at(0, 0), planes[1], at(7, 124))
    assert wrong.shift_px == pytest.approx(np.hypot(7, 6), abs=0.3)
    assert len(seam_windows(planes[0], at(0, 0), planes[1], at(0, 165))) == 0  # 5 px: nothing to see
    assert len(seam_windows(planes[0], at(0, 0), planes[1], at(0, 900))) == 0


def test_sections_are_compared_at_about_12_nm() -> None:
    assert section_factor((880, 900), 4.6) == 3
    assert section_factor((880, 900), 10.0) == 1
    assert section_factor((300, 260), 4.0) == 1  # small: as it is
    assert section_factor((20_000, 30_000), 4.0) == 20


def test_coverage_is_the_share_of_windows_with_a_match_near_by() -> None:
    centres = np.array([[0.0, 0.0], [0.0, 100.0], [100.0, 0.0], [100.0, 100.0]])
    points = np.array([[5.0, 5.0], [95.0, 90.0]])
    assert coverage(centres, points, reach_px=20.0) == 0.5
    assert coverage(centres, np.zeros((0, 2)), reach_px=20.0) == 0.0
    assert coverage(np.zeros((0, 2)), points, reach_px=20.0) is None
