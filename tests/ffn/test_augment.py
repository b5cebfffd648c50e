"""Augmentation changes the view, never the truth."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from ffn.augment import AugmentConfig, augment
from ffn.config import ConfigError

PLAIN = AugmentConfig(flip=False, swap_axes="", contrast=0.0, brightness=0.0, noise=0.0)
GEOMETRY = AugmentConfig(contrast=0.0, brightness=0.0, noise=0.0)


def cube(seed: int = 0, n: int = 9) -> tuple[np.ndarray, np.ndarray]:
    labels = np.random.default_rng(seed).integers(0, 5, (n, n, n)).astype(np.uint32)
    return labels.astype(np.float32) * 40, labels


def test_plain_changes_nothing() -> None:
    image, labels = cube()
    seen, truth = augment(image, labels, config=PLAIN, rng=np.random.default_rng(0))
    np.testing.assert_allclose(seen, image, atol=1e-4)
    np.testing.assert_array_equal(truth, labels)


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_geometry_moves_image_and_labels_together(seed: int) -> None:
    image, labels = cube(seed)
    seen, truth = augment(image, labels, config=GEOMETRY, rng=np.random.default_rng(seed))
    np.testing.assert_allclose(seen, truth.astype(np.float32) * 40, atol=1e-3)
    np.testing.assert_array_equal(np.bincount(truth.ravel()), np.bincount(labels.ravel()))
    assert truth[4, 4, 4] == labels[4, 4, 4]


def test_yx_never_touches_the_section_axis() -> None:
    image = np.broadcast_to(np.arange(5, dtype=np.float32)[:, None, None], (5, 5, 5)).copy()
    config = AugmentConfig(flip=False, swap_axes="yx", contrast=0.0, brightness=0.0, noise=0.0)
    for seed in range(10):
        seen, _ = augment(image, image.astype(np.uint32), config=config, rng=np.random.default_rng(seed))
        np.testing.assert_allclose(seen, image, atol=1e-5)


def test_accidents_spare_the_seed_and_shift_the_truth_too() -> None:
    config = AugmentConfig(
        flip=False, swap_axes="", contrast=0.0, brightness=0.0, noise=0.0, shift_probability=1.0, max_shift=2
    )
    shifted = 0
    for seed in range(20):
        image, labels = cube(seed)
        seen, truth = augment(image, labels, config=config, rng=np.random.default_rng(seed))
        np.testing.assert_allclose(seen, truth.astype(np.float32) * 40, atol=1e-3)
        np.testing.assert_array_equal(truth[4], labels[4])
        shifted += int((truth != labels).any())
    assert shifted > 10


def plain(**changes: object) -> AugmentConfig:
    return dataclasses.replace(PLAIN, **changes)  # type: ignore[arg-type]


def ball(n: int = 33) -> tuple[np.ndarray, np.ndarray]:
    """A bright ball (label 7) off the centre, which it contains, in dark surroundings (label 3)."""
    z, y, x = np.indices((n, n, n)) - n // 2
    inside = (z - 2) ** 2 + (y + 3) ** 2 + x**2 < (n // 3) ** 2
    return np.where(inside, 200, 50).astype(np.float32), np.where(inside, 7, 3).astype(np.uint32)


@given(st.integers(0, 10_000), st.floats(0.5, 3.0))
@settings(max_examples=25, deadline=None)
def test_elastic_deformation_moves_image_and_labels_together(seed: int, amplitude: float) -> None:
    image, labels = ball()
    config = plain(elastic_probability=1.0, elastic_amplitude_zyx=(amplitude,) * 3, elastic_scale=12.0)
    seen, truth = augment(image, labels, config=config, rng=np.random.default_rng(seed))
    assert truth.dtype == labels.dtype
    assert truth[16, 16, 16] == labels[16, 16, 16] == 7
    assert set(np.unique(truth)) == {3, 7}
    assert 50 <= seen.min() <= seen.max() <= 200
    by_image = np.where(seen > 125, 7, 3)  # linear against nearest: they differ within half a voxel at most
    far = ndimage.distance_transform_edt(truth == 7) > 1.5
    far |= ndimage.distance_transform_edt(truth == 3) > 1.5
    np.testing.assert_array_equal(by_image[far], truth[far])
    moved = ndimage.distance_transform_edt(labels == labels[16, 16, 16])[truth == 3]
    assert moved.max() <= np.sqrt(3) * amplitude + 1.5  # nothing went farther than was asked


def test_elastic_deformation_bends_and_can_spare_an_axis() -> None:
    image, labels = ball()
    config = plain(elastic_probability=1.0, elastic_amplitude_zyx=(0.0, 3.0, 3.0), elastic_scale=12.0)
    layers = np.broadcast_to(np.arange(33, dtype=np.float32)[:, None, None], (33, 33, 33)).copy()
    changed = 0
    for seed in range(10):
        _, truth = augment(image, labels, config=config, rng=np.random.default_rng(seed))
        changed += int((truth != labels).sum() > 200)
        assert 0.7 < (truth == 7).sum() / (labels == 7).sum() < 1.4
        kept, _ = augment(layers, labels, config=config, rng=np.random.default_rng(seed))
        np.testing.assert_allclose(kept, layers, atol=1e-3)
    assert changed >= 7


def test_a_missing_section_looks_like_its_neighbour_and_keeps_its_labels() -> None:
    image, labels = cube(n=11)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        seen, truth = augment(image, labels, config=plain(missing_probability=1.0), rng=rng)
        np.testing.assert_array_equal(truth, labels)
        (replaced,) = np.flatnonzero((np.abs(seen - image) > 1e-3).any(axis=(1, 2)))
        assert replaced != 5
        neighbour = replaced - 1 if replaced > 0 else 1
        np.testing.assert_allclose(seen[replaced], image[neighbour], atol=1e-3)


def test_one_section_is_out_of_focus() -> None:
    image, labels = cube(n=11)
    rng = np.random.default_rng(1)
    seen, truth = augment(image, labels, config=plain(out_of_focus_probability=1.0), rng=rng)
    np.testing.assert_array_equal(truth, labels)
    (blurred,) = np.flatnonzero((np.abs(seen - image) > 1e-3).any(axis=(1, 2)))
    assert seen[blurred].std() < 0.6 * image[blurred].std()
    assert seen[blurred].mean() == pytest.approx(image[blurred].mean(), abs=3)


def test_every_section_may_be_stained_otherwise() -> None:
    image, labels = cube(n=15)
    config = plain(section_contrast=0.3, section_brightness=8.0)
    seen, truth = augment(image, labels, config=config, rng=np.random.default_rng(3))
    np.testing.assert_array_equal(truth, labels)
    gains = [float(np.polyfit(a.ravel(), b.ravel(), 1)[0]) for a, b in zip(image, seen, strict=True)]
    assert 0.69 < min(gains) < 0.9 < 1.1 < max(gains) < 1.31


def test_the_same_generator_gives_the_same_example() -> None:
    image, labels = ball()
    config = AugmentConfig(elastic_probability=0.5, shift_probability=0.5, blur_probability=0.5)
    for seed in range(5):
        a, b = (augment(image, labels, config=config, rng=np.random.default_rng(seed)) for _ in range(2))
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[1], b[1])


def test_grey_values_stay_within_what_was_asked() -> None:
    image, labels = cube()
    config = AugmentConfig(flip=False, swap_axes="", contrast=0.2, brightness=10.0, noise=0.0)
    for seed in range(20):
        seen, truth = augment(image, labels, config=config, rng=np.random.default_rng(seed))
        assert abs(float(seen.mean() - image.mean())) <= 10.01
        assert 0.79 <= float(seen.std() / image.std()) <= 1.21
        np.testing.assert_array_equal(truth, labels)


def test_config_errors_name_the_field() -> None:
    with pytest.raises(ConfigError, match="swap_axes"):
        AugmentConfig(swap_axes="xz")
    with pytest.raises(ConfigError, match="shift_probability"):
        AugmentConfig(shift_probability=1.5)
    with pytest.raises(ConfigError, match="elastic_amplitude_zyx: must lie between 0 and a quarter"):
        AugmentConfig(elastic_amplitude_zyx=(0.0, 5.0, 5.0), elastic_scale=16.0)
    with pytest.raises(ConfigError, match="section_contrast"):
        AugmentConfig(section_contrast=1.0)
