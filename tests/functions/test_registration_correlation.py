"""Shifts are found where they are, to a fraction of a pixel, and are not made up where nothing is to be
seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from functions.registration.correlation import find_shift, masked_correlation, match_patches


def texture(shape: tuple[int, int], seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=shape)
    image = ndimage.gaussian_filter(noise, 2.0)
    return (image / image.std()).astype(np.float32)


def test_masked_correlation_equals_its_definition() -> None:
    rng = np.random.default_rng(0)
    f, m = rng.normal(size=(7, 6)).astype(np.float32), rng.normal(size=(5, 8)).astype(np.float32)
    fm, mm = rng.random((7, 6)) > 0.3, rng.random((5, 8)) > 0.3
    ncc, count = masked_correlation(f, fm, m, mm)
    for dy, dx in ((0, 0), (-2, 1), (1, 3), (-3, -2)):
        pairs = [
            (f[y, x], m[y + dy, x + dx])
            for y in range(7)
            for x in range(6)
            if 0 <= y + dy < 5 and 0 <= x + dx < 8 and fm[y, x] and mm[y + dy, x + dx]
        ]
        a, b = np.array(pairs).T
        assert count[6 + dy, 5 + dx] == len(pairs)
        assert ncc[6 + dy, 5 + dx] == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-5)


@settings(max_examples=15, deadline=None)
@given(dy=st.integers(-9, 9), dx=st.integers(-9, 9), seed=st.integers(0, 3))
def test_a_shift_under_masks_is_found(dy: int, dx: int, seed: int) -> None:
    scene = texture((120, 120), seed)
    fixed, moving = scene[20:84, 20:100], scene[20 - dy : 84 - dy, 20 - dx : 100 - dx].copy()
    mask = np.ones(moving.shape, dtype=bool)
    mask[:, :15] = False
    moving[:, :15] = 50.0  # a bright margin that must not matter
    found = find_shift(
        fixed, np.ones(fixed.shape, dtype=bool), moving, mask, expected_yx_px=(0, 0), reach_yx_px=(12, 12)
    )
    assert found is not None
    assert found.shift_yx_px == pytest.approx((dy, dx), abs=0.3)
    assert found.peak > 0.7
    assert found.margin > 0.3


def test_nothing_in_common_has_no_margin() -> None:
    full = np.ones((64, 80), dtype=bool)
    found = find_shift(
        texture((64, 80), 1), full, texture((64, 80), 2), full, expected_yx_px=(0, 0), reach_yx_px=(10, 10)
    )
    assert found is None or found.peak < 0.5


def test_constant_images_give_no_shift() -> None:
    full = np.ones((40, 40), dtype=bool)
    flat = np.full((40, 40), 7, np.float32)
    assert find_shift(flat, full, flat, full, expected_yx_px=(0, 0), reach_yx_px=(5, 5)) is None


@settings(max_examples=10, deadline=None)
@given(dy=st.floats(-3, 3), dx=st.floats(-3, 3))
def test_patches_find_subpixel_shifts(dy: float, dx: float) -> None:
    scene = texture((160, 160), 5)
    moved = ndimage.shift(scene, (dy, dx), order=3, mode="nearest").astype(np.float32)
    full = np.ones(scene.shape, dtype=bool)
    corners = np.array([[40, 40], [60, 80], [30, 90]])
    found = match_patches(
        scene,
        full,
        moved,
        full,
        fixed_corner_yx=corners,
        moving_corner_yx=corners,
        patch_yx_px=(40, 32),
        reach_px=6,
    )
    assert found.valid.all()
    np.testing.assert_allclose(found.shift_yx_px, [[dy, dx]] * 3, atol=0.15)


def test_masked_patches_are_not_valid() -> None:
    scene = texture((100, 100), 1)
    full, none = np.ones(scene.shape, dtype=bool), np.zeros(scene.shape, dtype=bool)
    corner = np.array([[30, 30]])
    found = match_patches(
        scene,
        full,
        scene,
        none,
        fixed_corner_yx=corner,
        moving_corner_yx=corner,
        patch_yx_px=(32, 32),
        reach_px=5,
    )
    assert not found.valid.any()
