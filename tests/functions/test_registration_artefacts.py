"""Folds, cracks, charging and resin are found where they were drawn, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from functions.model.artefacts import CHARGING, CRACK, FOLD, OUTSIDE, RESIN, TISSUE
from functions.registration.artefacts import (
    _line_opening,
    _median_of_five,
    classify,
    summarise,
)
from functions.registration.masks import enlarge, noise_std
from tests.functions.registration_scenes import scene

SHAPE = (512, 640)


def tissue(seed: int = 0, noise: float = 6.0) -> NDArray[np.float64]:
    return scene(SHAPE, seed) + np.random.default_rng(seed).normal(0, noise, SHAPE)


def band(angle_deg: float, width: float) -> NDArray[np.bool_]:
    """Pixels of a straight band through the middle."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] - np.array(SHAPE)[:, None, None] / 2.0
    angle = np.deg2rad(angle_deg)
    return np.asarray(np.abs(np.cos(angle) * y - np.sin(angle) * x) <= width / 2)


def as_gray(image: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def detect_artefacts(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return classify([summarise(image, mask)])


def codes_of(image: NDArray[np.float64]) -> NDArray[np.uint8]:
    return detect_artefacts(as_gray(image), np.ones(SHAPE, bool))


@pytest.mark.parametrize("seed", range(4))
def test_plain_tissue_is_nothing_else(seed: int) -> None:
    assert (codes_of(tissue(seed)) == TISSUE).all()


@pytest.mark.parametrize("angle", [3.0, 40.0, 77.0, 120.0, 160.0])
@pytest.mark.parametrize(("gray", "code"), [(14.0, FOLD), (236.0, CRACK)])
def test_bands_of_any_direction_are_found(angle: float, gray: float, code: int) -> None:
    truth = band(angle, 14)
    image = np.where(truth, gray + np.random.default_rng(1).normal(0, 6, SHAPE), tissue(2))
    codes = codes_of(image)
    found = enlarge(codes == code, SHAPE)
    assert found[truth].mean() > 0.9
    assert band(angle, 14 + 2 * 14)[found].mean() > 0.97
    assert set(np.unique(codes)) == {TISSUE, code}


def test_short_or_broad_dark_areas_are_no_folds() -> None:
    image = tissue(3)
    image[100:112, 200:300] = 12.0
    image[260:420, 300:520] = 12.0
    assert not np.isin(codes_of(image), [FOLD, CRACK]).any()


def test_resin_saturation_streaks_and_outside() -> None:
    image = tissue(4)
    rng = np.random.default_rng(5)
    image[:256, :256] = rng.normal(185, 6, (256, 256))
    image[360:420, 100:180] = 255.0
    image[470:472] += 45.0
    mask = np.ones(SHAPE, bool)
    mask[:, 600:] = False
    codes = detect_artefacts(as_gray(image), mask)
    assert (codes[3:28, 3:28] == RESIN).mean() > 0.95
    assert (codes[46:52, 14:22] == CHARGING).all()
    assert (codes[58, 26:48] == CHARGING).all()
    assert (codes[:, 75:] == OUTSIDE).all()
    assert (codes[:, :75] != OUTSIDE).all()
    assert (codes[4:44, 40:72] == TISSUE).all()


def test_strips_give_what_the_whole_gives() -> None:
    image = as_gray(np.where(band(70.0, 14), 14.0, tissue(6)))
    mask = np.ones(SHAPE, bool)
    strips = [summarise(image[t : t + 128], mask[t : t + 128]) for t in range(0, SHAPE[0], 128)]
    whole = detect_artefacts(image, mask)
    assert (classify(strips) == whole).mean() > 0.999
    assert (whole == FOLD).any()


@pytest.mark.parametrize("gray", [0, 128, 255])
def test_constant_images_have_no_bands(gray: int) -> None:
    codes = detect_artefacts(np.full((100, 90), gray, np.uint8), np.ones((100, 90), bool))
    assert codes.shape == (13, 12)
    assert not np.isin(codes, [FOLD, CRACK]).any()
    assert not (codes == TISSUE).any()
    assert (detect_artefacts(np.zeros((64, 64), np.uint8), np.zeros((64, 64), bool)) == OUTSIDE).all()


def test_noise_is_told_from_structure() -> None:
    image = np.clip(scene(SHAPE, 1) + np.random.default_rng(0).normal(0, 8, SHAPE), 0, 255)
    assert noise_std(image, np.ones(SHAPE, bool)) == pytest.approx(8, rel=0.15)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_noise_is_the_median_of_mixed_second_differences(share: float) -> None:
    rng = np.random.default_rng(4)
    image, mask = rng.integers(0, 256, (57, 64)).astype(np.uint8), rng.random((57, 64)) < np.sqrt(share)
    rows = np.diff(image.astype(np.float64), 2, axis=0)
    inner = mask[:-2, :-2] & mask[2:, 2:] & mask[1:-1, 1:-1]
    mixed = np.abs(np.diff(rows, 2, axis=1))[inner]
    expected = np.median(mixed) / (6.0 * 0.6745) if len(mixed) else 0.0
    assert noise_std(image, mask) == pytest.approx(expected, abs=1e-12)


def test_the_median_of_five_rows_is_that_of_scipy() -> None:
    rows = np.random.default_rng(3).normal(size=(40, 33)).astype(np.float32)
    assert np.array_equal(_median_of_five(rows), ndimage.median_filter(rows, size=(5, 1)))


def test_lines_fit_whole_parts_only() -> None:
    cells = np.zeros((60, 60), bool)
    cells[5:9, 5:40] = True
    cells[30:50, 10:20] = True
    wide = np.add.outer(np.arange(60), -np.arange(60))
    cells |= (np.abs(wide) <= 1) & (np.add.outer(np.arange(60), np.arange(60)) > 70)
    lines = _line_opening(cells, 24)
    assert lines[6, 5:40].all()
    assert not lines[30:50, 10:20].any()
    assert lines[45, 45]
    assert not (lines & ~cells).any()
