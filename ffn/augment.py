"""Random changes of a training example that leave its meaning alone.

Geometry (flips, swapped axes) acts on image and labels; grey values, noise, blur and the accidents of serial
sections (missing, out of focus) on the image, a shift on both. Arrays are (Z, Y, X); sections lie along z.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ffn.config import require

Image = NDArray[np.float32]
Labels = NDArray[np.uint32]


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """Probabilities are per example; grey values 0..255; lengths voxels.

    `swap_axes` names the axes that look alike: "zyx" for isotropic data, "yx" for sections, "" for none.
    """

    flip: bool = True
    swap_axes: str = "zyx"
    contrast: float = 0.15
    brightness: float = 12.0
    noise: float = 6.0
    blur_probability: float = 0.0
    max_blur: float = 0.8
    shift_probability: float = 0.0
    max_shift: int = 1
    missing_probability: float = 0.0
    out_of_focus_probability: float = 0.0

    def __post_init__(self) -> None:
        require(self.swap_axes in ("", "yx", "zyx"), "swap_axes", 'must be "", "yx" or "zyx"')
        require(0 <= self.contrast < 1, "contrast", "must be at least 0 and below 1")
        for name in ("brightness", "noise", "max_blur", "max_shift"):
            require(getattr(self, name) >= 0, name, "must be at least 0")
        for name in ("blur", "shift", "missing", "out_of_focus"):
            value = getattr(self, f"{name}_probability")
            require(0 <= value <= 1, f"{name}_probability", "is a probability between 0 and 1")


def augment(
    image: Image, labels: Labels, *, config: AugmentConfig, rng: np.random.Generator
) -> tuple[Image, Labels]:
    """Changed copies of image (float32 grey values) and labels; swapped axes swap the shape too."""
    image, labels = _accidents(image, labels, config, rng)
    image, labels = _reorient(image, labels, config, rng)
    if rng.random() < config.blur_probability:
        image = ndimage.gaussian_filter(image, rng.uniform(0, config.max_blur))
    gain = np.float32(rng.uniform(1 - config.contrast, 1 + config.contrast))
    offset = np.float32(rng.uniform(-config.brightness, config.brightness))
    middle = image.mean()
    image = (image - middle) * gain + (middle + offset)
    if config.noise > 0:
        image += np.float32(rng.uniform(0, config.noise)) * rng.standard_normal(image.shape, np.float32)
    return image, labels


def _reorient(
    image: Image, labels: Labels, config: AugmentConfig, rng: np.random.Generator
) -> tuple[Image, Labels]:
    axes = [0, 1, 2]
    if config.swap_axes == "zyx":
        axes = [int(a) for a in rng.permutation(3)]
    elif config.swap_axes == "yx" and rng.random() < 0.5:
        axes = [0, 2, 1]
    image, labels = image.transpose(axes), labels.transpose(axes)
    if config.flip:
        steps = tuple(slice(None, None, int(s)) for s in rng.choice((-1, 1), 3))
        image, labels = image[steps], labels[steps]
    return np.ascontiguousarray(image), np.ascontiguousarray(labels)


def _accidents(
    image: Image, labels: Labels, config: AugmentConfig, rng: np.random.Generator
) -> tuple[Image, Labels]:
    """What goes wrong with single sections; the central one, which holds the seed, is spared."""
    sections = len(image)
    others = np.delete(np.arange(sections), sections // 2)
    image = image.copy()
    if rng.random() < config.shift_probability:
        image, labels = _shift_from(image, labels, int(rng.choice(others)), config.max_shift, rng)
    if rng.random() < config.out_of_focus_probability:
        z = int(rng.choice(others))
        image[z] = ndimage.gaussian_filter(image[z], rng.uniform(1.0, 2.5))
    if rng.random() < config.missing_probability:
        z = int(rng.choice(others))
        image[z] = image[z - 1] if z > 0 else image[z + 1]
    return image, labels


def _shift_from(
    image: Image, labels: Labels, z: int, max_shift: int, rng: np.random.Generator
) -> tuple[Image, Labels]:
    """Moves the sections from z to the end that lies away from the centre, as a misalignment does."""
    dy, dx = (int(v) for v in rng.integers(-max_shift, max_shift + 1, 2))
    moved = slice(z, None) if z > len(image) // 2 else slice(0, z + 1)
    labels = labels.copy()
    for volume in (image, labels):
        padded = np.pad(volume[moved], ((0, 0), (max_shift,) * 2, (max_shift,) * 2), mode="edge")
        ys, xs = max_shift + dy, max_shift + dx
        volume[moved] = padded[:, ys : ys + volume.shape[1], xs : xs + volume.shape[2]]
    return image, labels
