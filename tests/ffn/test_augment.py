"""Augmentation changes the view, never the truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
