import dataclasses

import numpy as np
import pytest
from scipy import ndimage
from skimage.feature import peak_local_max

from ffn.config import ConfigError, SeedConfig
from ffn.seeds import find_interior, find_peaks


def cells(shape: tuple[int, int, int], *, period: int) -> np.ndarray:
    """Bright cubes of side period - 2 between dark membranes 2 voxels thick."""
    axes = [np.arange(n) % period >= 2 for n in shape]
    return np.where(axes[0][:, None, None] & axes[1][:, None] & axes[2], 1.0, -1.0).astype(np.float32)


def test_peaks_are_those_of_google_ffn() -> None:
    image = np.random.default_rng(1).normal(size=(40, 44, 48)).astype(np.float32)
    image = ndimage.gaussian_filter(image, 2)
    edges = ndimage.generic_gradient_magnitude(image, ndimage.sobel)
    threshold = ndimage.gaussian_filter(edges, 49 / 6, mode="reflect")
    depth = ndimage.distance_transform_edt(1 - (edges > threshold)).astype(np.float32)
    state = np.random.RandomState(42)
    peaks = peak_local_max(
        depth + state.random_sample(depth.shape) * 1e-4, min_distance=3, threshold_abs=0, threshold_rel=0
    )
    config = SeedConfig()
    seeds = find_peaks(find_interior(image, config=config), config=config, inside_only=False)
    assert len(seeds) > 50
    assert seeds.tolist() == sorted(peaks.tolist())


def test_distance_finds_the_middle_of_every_cell() -> None:
    image = cells((46, 46, 46), period=11)
    config = SeedConfig(
        policy="distance",
        sigma_zyx=(6, 6, 6),
        smooth_zyx=(0, 0, 0),
        min_distance=4,
        min_depth=3,
        order="depth",
    )
    interior = find_interior(image, config=config)
    assert np.array_equal(interior, image > 0)
    seeds = find_peaks(interior, config=config)
    assert {tuple(s) for s in (seeds // 11).tolist()} == set(np.ndindex(4, 4, 4))
    assert len(seeds) == 64
    depth = ndimage.distance_transform_edt(interior)[tuple(seeds.T)]
    assert (np.diff(depth) <= 0).all()


def test_the_reversed_order_is_the_raster_order_backwards() -> None:
    image = cells((46, 46, 46), period=11)
    forward = SeedConfig(policy="distance", sigma_zyx=(6, 6, 6), smooth_zyx=(0, 0, 0), min_distance=4)
    backward = dataclasses.replace(forward, order="reversed")
    interior = find_interior(image, config=forward)
    seeds = find_peaks(interior, config=forward).tolist()
    assert seeds == sorted(seeds)
    assert len(seeds) > 50
    assert find_peaks(interior, config=backward).tolist() == seeds[::-1]


def test_spacing_makes_thick_sections_count() -> None:
    interior = np.zeros((9, 31, 31), bool)
    interior[2:7, 8:23, 8:23] = True
    seeds = find_peaks(interior, config=SeedConfig(spacing_zyx=(4.0, 1.0, 1.0), min_distance=3))
    assert [4, 15, 15] in [[z, y, x] for z, y, x in seeds.tolist()]


def test_seeds_keep_to_the_mask() -> None:
    image = cells((33, 33, 33), period=11)
    allowed = np.zeros(image.shape, bool)
    allowed[:, :, :16] = True
    config = SeedConfig(policy="distance", sigma_zyx=(6, 6, 6), smooth_zyx=(0, 0, 0), min_distance=4)
    seeds = find_peaks(find_interior(image, config=config, allowed=allowed), config=config)
    assert len(seeds) > 0
    assert allowed[tuple(seeds.T)].all()


@pytest.mark.parametrize("policy", ["peaks", "distance"])
def test_a_constant_image_has_no_seeds(policy: str) -> None:
    config = SeedConfig(policy=policy)  # type: ignore[arg-type]
    seeds = find_peaks(find_interior(np.full((20, 20, 20), 0.5, np.float32), config=config), config=config)
    assert seeds.shape == (0, 3)


def test_a_wrong_parameter_is_named() -> None:
    with pytest.raises(ConfigError, match="min_distance: must be at least 1"):
        SeedConfig(min_distance=0)
    with pytest.raises(ConfigError, match="order: is raster, reversed or depth"):
        SeedConfig(order="random")  # type: ignore[arg-type]
