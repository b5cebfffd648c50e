"""Training volumes made of phantoms: the kind `phantom` of a training recipe.

A network meets tissue after stitching, alignment and rendering: sections not quite in place, resampled,
brought to one mean and deviation. `as_rendered` does the same to a phantom, image and labels alike.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ffn.config import Triple, require
from ffn.examples import TrainingVolume
from functions.testing.phantom import Phantom, make_phantom
from functions.testing.phantom_render import PhantomConfig, smooth_noise


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomVolumes:
    """Which phantoms to train on, and how far each section strays. Shifts in pixels (sigma), greys 0..255."""

    seeds: tuple[int, ...]
    shape_zyx: Triple = (64, 224, 224)
    section_shift_px: float = 0.3
    section_warp_px: float = 0.3
    max_blur_px: float = 0.6
    shading_grey: float = 3.0
    section_mean_grey: float = 128.0
    section_std_grey: float = 33.0

    def __post_init__(self) -> None:
        require(len(self.seeds) > 0, "seeds", "give at least one")


def training_volumes(config: PhantomVolumes) -> list[TrainingVolume]:
    """One training volume per seed."""
    return [
        as_rendered(make_phantom(PhantomConfig(seed=seed, shape_zyx=config.shape_zyx)), config)
        for seed in config.seeds
    ]


def as_rendered(phantom: Phantom, config: PhantomVolumes) -> TrainingVolume:
    """The phantom as a pipeline would hand it on: every section resampled, its contrast drifting."""
    rng = np.random.default_rng([phantom.config.seed, 3])
    image = np.empty(phantom.image.shape, np.uint8)
    labels = np.empty_like(phantom.labels)
    blur = rng.uniform(0, config.max_blur_px)
    for z, (section, truth) in enumerate(zip(phantom.image, phantom.labels, strict=True)):
        where = _stray(section.shape, config, rng)
        seen = ndimage.map_coordinates(section.astype(np.float32), where, order=1, mode="nearest")
        seen = ndimage.gaussian_filter(seen, blur)
        seen += config.shading_grey * smooth_noise(section.shape, scale=120.0, rng=rng)
        gain = config.section_std_grey / seen.std()
        image[z] = np.clip(np.rint(config.section_mean_grey + (seen - seen.mean()) * gain), 0, 255)
        labels[z] = ndimage.map_coordinates(truth, where, order=0, mode="nearest")
    return TrainingVolume(image=image, labels=labels)


def _stray(
    shape: tuple[int, ...], config: PhantomVolumes, rng: np.random.Generator
) -> list[NDArray[np.float32]]:
    """Where each pixel of a section comes from: grid, one shift, and a smooth bend."""
    grid = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij")
    shift = rng.normal(0, config.section_shift_px, 2).astype(np.float32)
    bends = [config.section_warp_px * smooth_noise(shape, scale=60.0, rng=rng) for _ in range(2)]
    return [g + s + b for g, s, b in zip(grid, shift, bends, strict=True)]
