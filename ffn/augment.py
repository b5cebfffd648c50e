"""Random changes of a training example that leave its meaning alone.

Geometry (elastic deformation, shifted sections, flips, swapped axes) acts on image and labels alike; grey
values, noise, blur, and sections that are missing, out of focus or stained otherwise on the image. The
central voxel stays where it is: its object is what the example is about. Arrays are (Z, Y, X), sections lie
along z.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ffn.config import require

Image = NDArray[np.float32]
L = TypeVar("L", bound=np.integer)  # ids, or what a voxel is


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """Probabilities are per example; grey values those of the image; lengths voxels.

    `swap_axes` names the axes that look alike: "zyx" for isotropic data, "yx" for sections, "" for none.
    `contrast` and `brightness` change the whole example (gain within 1 +- contrast), `section_contrast` and
    `section_brightness` every section for itself. `elastic_amplitude_zyx`: how far a voxel may be displaced
    along each axis, by a displacement that changes over `elastic_scale` voxels.
    """

    flip: bool = True
    swap_axes: str = "zyx"
    contrast: float = 0.15
    brightness: float = 12.0
    section_contrast: float = 0.0
    section_brightness: float = 0.0
    noise: float = 6.0
    blur_probability: float = 0.0
    max_blur: float = 0.8
    shift_probability: float = 0.0
    max_shift: int = 1
    missing_probability: float = 0.0
    out_of_focus_probability: float = 0.0
    elastic_probability: float = 0.0
    elastic_amplitude_zyx: tuple[float, float, float] = (2.0, 2.0, 2.0)
    elastic_scale: float = 16.0

    def __post_init__(self) -> None:
        require(self.swap_axes in ("", "yx", "zyx"), "swap_axes", 'must be "", "yx" or "zyx"')
        for name in ("contrast", "section_contrast"):
            require(0 <= getattr(self, name) < 1, name, "must be at least 0 and below 1")
        for name in ("brightness", "section_brightness", "noise", "max_blur", "max_shift"):
            require(getattr(self, name) >= 0, name, "must be at least 0")
        require(self.elastic_scale >= 2, "elastic_scale", "must be at least 2 voxels")
        require(
            all(0 <= a <= self.elastic_scale / 4 for a in self.elastic_amplitude_zyx),
            "elastic_amplitude_zyx",
            "must lie between 0 and a quarter of elastic_scale, or tissue would fold",
        )
        for name in ("blur", "shift", "missing", "out_of_focus", "elastic"):
            value = getattr(self, f"{name}_probability")
            require(0 <= value <= 1, f"{name}_probability", "is a probability between 0 and 1")


def augment(
    image: Image, labels: NDArray[L], *, config: AugmentConfig, rng: np.random.Generator
) -> tuple[Image, NDArray[L]]:
    """Changed copies of image (float32 grey values) and labels; swapped axes swap the shape too."""
    if rng.random() < config.elastic_probability:
        image, labels = _deform(image, labels, config, rng)
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
    image: Image, labels: NDArray[L], config: AugmentConfig, rng: np.random.Generator
) -> tuple[Image, NDArray[L]]:
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
    image: Image, labels: NDArray[L], config: AugmentConfig, rng: np.random.Generator
) -> tuple[Image, NDArray[L]]:
    """What goes wrong with single sections; the central one, which holds the seed, is spared.

    A missing section is filled with its neighbour, as rendering does.
    """
    sections = len(image)
    if sections < 2:
        return image, labels
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
    if config.section_contrast > 0 or config.section_brightness > 0:
        image = _restain(image, config, rng)
    return image, labels


def _restain(image: Image, config: AugmentConfig, rng: np.random.Generator) -> Image:
    """Every section with a contrast and brightness of its own, around the mean of the example."""
    shape = len(image), 1, 1
    gain = rng.uniform(1 - config.section_contrast, 1 + config.section_contrast, shape).astype(np.float32)
    offset = rng.uniform(-config.section_brightness, config.section_brightness, shape).astype(np.float32)
    middle = image.mean()
    restained: Image = (image - middle) * gain + (middle + offset)
    return restained


def _deform(
    image: Image, labels: NDArray[L], config: AugmentConfig, rng: np.random.Generator
) -> tuple[Image, NDArray[L]]:
    """Both seen through a smooth displacement: the image linearly, labels by the nearest voxel."""
    shape = image.shape
    steps = [_spline_basis(n, config.elastic_scale) for n in shape]
    where = np.empty((3, *shape), np.float32)
    for axis, amplitude in enumerate(config.elastic_amplitude_zyx):
        knots = rng.uniform(-1, 1, [basis.shape[1] for basis in steps]).astype(np.float32)
        smooth = np.tensordot(steps[0], knots, (1, 0))  # (Z, gy, gx)
        smooth = np.tensordot(smooth, steps[1], (1, 1))  # (Z, gx, Y)
        smooth = np.tensordot(smooth, steps[2], (1, 1))  # (Z, Y, X)
        smooth -= smooth[tuple(n // 2 for n in shape)]
        smooth *= amplitude * rng.uniform() / max(float(np.abs(smooth).max()), 1e-6)
        grid = np.arange(shape[axis], dtype=np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        where[axis] = np.clip(grid + smooth, 0, shape[axis] - 1)
    nearest = np.rint(where).astype(np.intp)
    seen: Image = ndimage.map_coordinates(image, where, order=1, mode="nearest", prefilter=False)
    return seen, labels[nearest[0], nearest[1], nearest[2]]


def _spline_basis(extent: int, scale: float) -> Image:
    """Weights (extent, knots) of uniform cubic B-splines with knots every `scale` voxels; rows sum to 1."""
    knots = int(np.ceil((extent - 1) / scale)) + 4
    t = np.abs(np.arange(extent)[:, None] / scale - (np.arange(knots)[None, :] - 1))
    near, far = 2 / 3 - t**2 + t**3 / 2, np.clip(2 - t, 0, None) ** 3 / 6
    return np.where(t < 1, near, far).astype(np.float32)


def _shift_from(
    image: Image, labels: NDArray[L], z: int, max_shift: int, rng: np.random.Generator
) -> tuple[Image, NDArray[L]]:
    """Moves the sections from z to the end that lies away from the centre, as a misalignment does."""
    dy, dx = (int(v) for v in rng.integers(-max_shift, max_shift + 1, 2))
    moved = slice(z, None) if z > len(image) // 2 else slice(0, z + 1)
    labels = labels.copy()
    for volume in (image, labels):
        padded = np.pad(volume[moved], ((0, 0), (max_shift,) * 2, (max_shift,) * 2), mode="edge")
        ys, xs = max_shift + dy, max_shift + dx
        volume[moved] = padded[:, ys : ys + volume.shape[1], xs : xs + volume.shape[2]]
    return image, labels
