"""Registration in float32 tensors comes to what plain numpy and scipy in float64 come to, on every device."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from functions.model.parameters import AlignParameters
from functions.model.transform import Warp
from functions.registration.correlation import find_shift, masked_correlation, match_patches
from functions.registration.filters import CPU, box_sums
from functions.registration.flow import _centroids
from functions.registration.masks import band_pass, reduce_mean
from functions.registration.rotation import Level, scan_rotations
from functions.registration.sections import flow, reduce_levels
from tests.functions import reference_correlation as reference
from tests.functions.registration_scenes import scene

DEVICES = [
    pytest.param(torch.device("cpu"), id="cpu"),
    pytest.param(
        torch.device("cuda"),
        id="cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    ),
    pytest.param(
        torch.device("xpu"),
        id="xpu",
        marks=pytest.mark.skipif(not torch.xpu.is_available(), reason="no XPU device"),
    ),
]
Image = NDArray[np.float32]
Mask = NDArray[np.bool_]


def holes(shape: tuple[int, int], seed: int, share: float) -> Mask:
    """A mask with blobs cut out of it: about `share` is lost."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 5.0)
    return np.asarray(noise >= np.quantile(noise, share), dtype=np.bool_)


def two_views(
    shape: tuple[int, int], shift: tuple[float, float], seed: int, *, lost: float = 0.0
) -> tuple[Image, Mask, Image, Mask]:
    """Noisy images of one scene, the second showing at p + shift what the first shows at p; their masks."""
    rng = np.random.default_rng(seed)
    plane = scene((shape[0] + 40, shape[1] + 40), seed)
    moved = ndimage.shift(plane, shift, order=3, mode="nearest")
    fixed, moving = ((p[20:-20, 20:-20] + rng.normal(0, 5, shape)).astype(np.float32) for p in (plane, moved))
    return fixed, holes(shape, seed + 1, lost), moving, holes(shape, seed + 2, lost)


@settings(max_examples=25, deadline=None)
@given(size=st.integers(1, 70), length=st.integers(70, 90), dim=st.sampled_from([-2, -1]))
def test_sums_by_doubling_are_sums(size: int, length: int, dim: int) -> None:
    values = np.random.default_rng(size).integers(0, 255, (length, length)).astype(np.float32)
    found = box_sums(torch.from_numpy(values), size, dim).numpy()
    windows = np.lib.stride_tricks.sliding_window_view(values, size, axis=dim)
    np.testing.assert_array_equal(found, windows.sum(axis=-1))


def test_sums_of_wide_images_do_not_drift() -> None:
    """A running sum in float32 is off by more than a grey level here."""
    values = np.full((1, 200_000), 200.1, np.float32)
    found = box_sums(torch.from_numpy(values), 25, -1).numpy()
    np.testing.assert_allclose(found, 25 * np.float64(np.float32(200.1)), rtol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=15, deadline=None)
@given(
    shape=st.tuples(st.integers(20, 90), st.integers(20, 90)),
    lost=st.sampled_from([0.0, 0.2, 0.6, 1.0]),
    fine=st.sampled_from([0.0, 1.0, 1.5]),
    coarse=st.sampled_from([6.0, 10.0, 12.0]),
)
def test_band_pass(
    device: torch.device, shape: tuple[int, int], lost: float, fine: float, coarse: float
) -> None:
    image = scene(shape, shape[0])
    mask = holes(shape, shape[1], lost) if lost < 1 else np.zeros(shape, dtype=np.bool_)
    found = band_pass(image, mask, fine_px=fine, coarse_px=coarse, device=device)
    wanted = reference.band_pass(image, mask, fine_px=fine, coarse_px=coarse)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("lost", [0.0, 0.3])
def test_strips_do_not_show_in_a_band_pass(monkeypatch: pytest.MonkeyPatch, lost: float) -> None:
    image, mask = scene((700, 60), 3), holes((700, 60), 4, lost)
    whole = band_pass(image, mask, fine_px=1.5, coarse_px=12.0)
    monkeypatch.setattr("functions.registration.filters.CPU_STRIP_PX", 1)
    found = band_pass(image, mask, fine_px=1.5, coarse_px=12.0)
    np.testing.assert_allclose(found, whole, atol=2e-5)
    np.testing.assert_allclose(
        found, reference.band_pass(image, mask, fine_px=1.5, coarse_px=12.0), atol=1e-4
    )


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=15, deadline=None)
@given(
    fixed=st.tuples(st.integers(5, 40), st.integers(5, 40)),
    moving=st.tuples(st.integers(5, 40), st.integers(5, 40)),
    lost=st.sampled_from([0.0, 0.3]),
    part=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_masked_correlation(
    device: torch.device,
    fixed: tuple[int, int],
    moving: tuple[int, int],
    lost: float,
    part: tuple[float, float],
) -> None:
    """All shifts, and a few of them by shorter transforms."""
    f, m = scene(fixed, 1), scene(moving, 2)
    masks = holes(fixed, 3, lost), holes(moving, 4, lost)
    wanted, wanted_count = reference.masked_correlation(f, masks[0], m, masks[1])
    ncc, count = masked_correlation(f, masks[0], m, masks[1], device=device)
    np.testing.assert_array_equal(count, wanted_count)
    np.testing.assert_allclose(ncc[count > 4], wanted[count > 4], atol=1e-4)
    first = [1 - h + int(p * (h + n - 2)) for h, n, p in zip(fixed, moving, part, strict=True)]
    last = [min(n - 1, a + 6) for n, a in zip(moving, first, strict=True)]
    window = tuple(slice(a + h - 1, b + h) for a, b, h in zip(first, last, fixed, strict=True))
    some, some_count = masked_correlation(
        f, masks[0], m, masks[1], lags_yx=((first[0], last[0]), (first[1], last[1])), device=device
    )
    np.testing.assert_array_equal(some_count, wanted_count[window])
    np.testing.assert_allclose(some[some_count > 4], wanted[window][some_count > 4], atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=15, deadline=None)
@given(
    shift=st.tuples(st.floats(-7, 7), st.floats(-7, 7)),
    expected=st.tuples(st.integers(-3, 3), st.integers(-3, 3)),
    lost=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 50),
)
def test_find_shift(
    device: torch.device,
    shift: tuple[float, float],
    expected: tuple[int, int],
    lost: float,
    seed: int,
) -> None:
    views = two_views((60, 76), shift, seed, lost=lost)
    found = find_shift(*views, expected_yx_px=expected, reach_yx_px=(9, 11), device=device)
    wanted = reference.find_shift(*views, expected_yx_px=expected, reach_yx_px=(9, 11))
    assert found is not None
    assert wanted is not None
    assert found.shift_yx_px == pytest.approx(wanted.shift_yx_px, abs=0.01)
    assert (found.peak, found.second) == pytest.approx((wanted.peak, wanted.second), abs=1e-4)
    assert found.pixels == wanted.pixels


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=15, deadline=None)
@given(
    shift=st.tuples(st.floats(-4, 4), st.floats(-4, 4)),
    patch=st.tuples(st.integers(12, 48), st.integers(12, 48)),
    reach=st.integers(5, 12),
    lost=st.sampled_from([0.0, 0.15]),
    seed=st.integers(0, 50),
)
def test_match_patches(
    device: torch.device,
    shift: tuple[float, float],
    patch: tuple[int, int],
    reach: int,
    lost: float,
    seed: int,
) -> None:
    """Also templates whose windows hang over the border, and some that are expected far outside."""
    fixed, fixed_mask, moving, moving_mask = two_views((110, 120), shift, seed, lost=lost)
    fixed = band_pass(fixed, fixed_mask, fine_px=1.0, coarse_px=10.0)
    moving = band_pass(moving, moving_mask, fine_px=1.0, coarse_px=10.0)
    rng = np.random.default_rng(seed)
    corner = np.stack([rng.integers(0, n - p, 25) for n, p in zip(fixed.shape, patch, strict=True)], axis=1)
    there = corner.copy()
    there[:3] += rng.integers(-400, 400, (3, 2))
    there[3] = (2000, 30)  # in a band of rows that the image does not have
    arguments = (fixed, fixed_mask, moving, moving_mask)
    geometry = {"fixed_corner_yx": corner, "moving_corner_yx": there, "patch_yx_px": patch}
    found = match_patches(*arguments, **geometry, reach_px=reach, min_cover=0.6501, device=device)
    wanted = reference.match_patches(*arguments, **geometry, reach_px=reach, min_cover=0.6501)
    np.testing.assert_array_equal(found.valid, wanted.valid)
    good = wanted.valid
    np.testing.assert_allclose(found.peak, wanted.peak, atol=1e-4)
    np.testing.assert_allclose(found.second[good], wanted.second[good], atol=1e-4)
    np.testing.assert_allclose(found.shift_yx_px[good], wanted.shift_yx_px[good], atol=0.01)


def test_block_means_of_partial_blocks() -> None:
    image = np.arange(7 * 9, dtype=np.uint8).reshape(7, 9)
    full = np.pad(image, ((0, 1), (0, 3)), mode="edge").astype(np.float64)
    np.testing.assert_allclose(reduce_mean(image, 4), full.reshape(2, 4, 3, 4).mean(axis=(1, 3)))


@pytest.mark.parametrize("true_px", [0.0, 0.25, 0.5, -0.25])
def test_the_parabola_is_hardly_biased(true_px: float) -> None:
    """A shift by exactly a quarter of a pixel, made in the Fourier domain, comes back to 0.02 px."""
    rng = np.random.default_rng(8)
    image = ndimage.gaussian_filter(rng.normal(size=(256, 256)), 1.2, mode="wrap")
    moved = np.fft.ifft2(ndimage.fourier_shift(np.fft.fft2(image), (true_px, -true_px))).real
    full = np.ones(image.shape, dtype=np.bool_)
    views = [
        band_pass((40 * v / image.std() + 128).astype(np.float32), full, fine_px=1.0, coarse_px=10.0)
        for v in (image, moved)
    ]
    axis = np.arange(20, 172, 24)
    corner = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    found = match_patches(
        views[0], full, views[1], full,
        fixed_corner_yx=corner, moving_corner_yx=corner, patch_yx_px=(64, 64), reach_px=10,
    )  # fmt: skip
    assert found.valid.all()
    np.testing.assert_allclose(found.shift_yx_px.mean(axis=0), (true_px, -true_px), atol=0.02)
    whole = find_shift(views[0], full, views[1], full, expected_yx_px=(0, 0), reach_yx_px=(6, 6))
    assert whole is not None
    assert whole.shift_yx_px == pytest.approx((true_px, -true_px), abs=0.03)


def reduced(
    image: NDArray[np.uint8], mask: NDArray[np.bool_], factor: int, device: torch.device = CPU
) -> Level:
    """A section at one level, as align_pairs has it."""
    return reduce_levels(image, mask, [factor], 2048, device)[factor]


@pytest.mark.parametrize("factor", [2, 4])
def test_levels_keep_pixel_centres(factor: int) -> None:
    """Turned by 180 degrees, half a pixel of error at a level would count twice, times the factor."""
    image = scene((320, 256), 3)
    turned = np.ascontiguousarray(image[::-1, ::-1])
    full = np.ones(image.shape, dtype=np.bool_)
    a, b = (reduced(i.astype(np.uint8), full, factor) for i in (image, turned))
    guess = scan_rotations(a, b, max_rotation_deg=12.0)
    assert guess is not None
    assert guess.score > 0.9
    truth = np.array([[-1.0, 0, 319], [0, -1, 255]])
    np.testing.assert_allclose(guess.affine, truth, atol=factor / 2)  # shifts are whole pixels of the level
    found, _ = flow(a, b, Warp(affine=truth), AlignParameters(), reach_px=8)
    assert len(found) > 4
    error = found.b_yx + found.a_yx - np.array([319, 255])
    assert np.abs(error).max() < 0.05 * factor
    assert np.abs(error.mean(axis=0)).max() < 0.01 * factor


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("degrees", [-9.3, 4.6, 101.0])
def test_rotations_are_found_under_masks(device: torch.device, degrees: float) -> None:
    plane = scene((400, 400), 5)
    t = np.deg2rad(degrees)
    linear = np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
    middle = np.full(2, 199.5)
    move = middle - linear @ middle + np.array([9.0, -14.0])
    b = plane[100:300, 90:310]
    image = ndimage.affine_transform(plane, linear, move, order=3)[100:300, 90:310]  # a(p) = plane(L p + m)
    truth = linear @ np.array([100.0, 90.0]) + move - np.array([100.0, 90.0])
    mask = np.ones(b.shape, dtype=np.bool_)
    mask[:, :40] = False
    guess = scan_rotations(
        reduced(image.astype(np.uint8), np.ones(image.shape, dtype=np.bool_), 2, device),
        reduced(np.where(mask, b, 250).astype(np.uint8), mask, 2, device),
        max_rotation_deg=12.0,
    )
    assert guess is not None
    assert guess.score > 0.4
    corners = np.array([[20.0, 20.0], [20.0, 200.0], [180.0, 110.0]])
    there = corners @ guess.affine[:, :2].T + guess.affine[:, 2]
    np.testing.assert_allclose(there, corners @ linear.T + truth, atol=2.5)


def test_bands_of_rows_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image of many bands, in any order of the templates, as one that is done at once."""
    fixed, fixed_mask, moving, moving_mask = two_views((300, 90), (2.4, -1.3), 1, lost=0.1)
    corner = np.random.default_rng(0).integers(0, (268, 58), (60, 2))
    geometry = {"fixed_corner_yx": corner, "moving_corner_yx": corner, "patch_yx_px": (32, 32)}
    arguments = (fixed - 128, fixed_mask, moving - 128, moving_mask)
    whole = match_patches(*arguments, **geometry, reach_px=6)
    monkeypatch.setattr("functions.registration.correlation.MIN_BAND_PX", 40)
    monkeypatch.setattr("functions.registration.filters.CPU_STRIP_PX", 1)
    banded = match_patches(*arguments, **geometry, reach_px=6)
    assert whole.valid.sum() > 20
    np.testing.assert_array_equal(banded.valid, whole.valid)
    np.testing.assert_allclose(banded.shift_yx_px, whole.shift_yx_px, atol=1e-3)
    np.testing.assert_allclose(banded.peak, whole.peak, atol=1e-5)


def test_no_templates_give_no_shifts() -> None:
    image, full = np.zeros((20, 20), np.float32), np.ones((20, 20), dtype=np.bool_)
    none = np.zeros((0, 2), dtype=np.int64)
    found = match_patches(
        image, full, image, full, fixed_corner_yx=none, moving_corner_yx=none, patch_yx_px=(8, 8), reach_px=3
    )
    assert found.shift_yx_px.shape == (0, 2)
    assert len(found.peak) == len(found.valid) == 0


def test_a_match_is_about_the_middle_of_what_its_patch_shows() -> None:
    mask = holes((90, 80), 5, 0.4)
    mask[:30, :30] = False
    corner = np.random.default_rng(0).integers(14, (70, 60), (40, 2))
    corner[0] = (3, 4)  # shows nothing
    found = _centroids(mask, corner, 20)
    for (top, left), middle in zip(corner[1:], found[1:], strict=True):
        y, x = np.nonzero(mask[top : top + 20, left : left + 20])
        np.testing.assert_allclose(middle, (top + y.mean(), left + x.mean()))
    np.testing.assert_array_equal(found[0], 0.0)
