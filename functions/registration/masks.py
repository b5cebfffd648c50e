"""Which pixels may be used, and the band of spatial frequencies in which images are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from functions.registration.filters import CPU, band
from functions.registration.morphology import grown, opened, touching_border

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]
Gray = NDArray[np.uint8]

CELL_PX = 8
DARK_GRAY = 4.0
DARK_SHARE = 0.12
FLAT_STD = 0.6
RESIN_SHARE = 0.35
NOISE_SAMPLES = 200_000


class Typed(Protocol):
    """An array, or what reads one."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the pixels."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TileMasks:
    """Masks on cells of 8 x 8 px, (ceil(H / 8), ceil(W / 8)).

    `usable`: a real picture (no black margin, no saturated or dead area): rendered.
    `textured`: usable and with something to see (no empty resin): compared.
    """

    usable: Mask
    textured: Mask


def require_gray(image: Typed) -> None:
    """Refuse anything but 8 bits: other ranges, and NaN, would be taken for black, saturated or no texture.

    Raises:
        TypeError: another type.
    """
    if image.dtype != np.uint8:
        raise TypeError(f"image: {image.dtype}, expected uint8; see contrast.to_eight_bit for 16 bits")


def reduce_mean(image: NDArray[np.generic], factor: int) -> Image:
    """Means of factor x factor blocks; the last block of an axis may be partial (edge pixels repeated)."""
    if factor == 1:
        return image.astype(np.float32)
    # two bytes hold sums of 8 bits; a whole image is not copied for the sake of its last rows and columns
    narrow = image.dtype.itemsize == 1 and factor <= 256
    rows = _run_sums(image, factor, 0, np.dtype(np.uint16 if narrow else np.float32))
    out = _run_sums(rows, factor, 1, np.dtype(np.float32))
    out /= np.float32(factor * factor)
    return out


def _run_sums(values: NDArray[Any], size: int, axis: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Sums of every `size` along an axis; the last value is repeated until the last run is full."""
    along = np.moveaxis(values, axis, 0)
    whole = len(along) - len(along) % size
    total = along[:whole:size].astype(dtype)
    for k in range(1, size):
        total += along[k:whole:size]
    if whole < len(along):
        last = along[whole:].sum(axis=0, dtype=dtype) + (whole + size - len(along)) * along[-1].astype(dtype)
        total = np.concatenate([total, last[None]])
    return np.moveaxis(total, 0, axis)


def reduce_all(mask: Mask, factor: int) -> Mask:
    """Blocks that are True in every pixel."""
    return reduce_mean(mask, factor) > 0.999


def enlarge(cells: Mask, shape_yx: tuple[int, int], factor: int = CELL_PX) -> Mask:
    """Cells back to pixels."""
    out: Mask = np.repeat(np.repeat(cells, factor, axis=0), factor, axis=1)[: shape_yx[0], : shape_yx[1]]
    return out


def tile_masks(image: Gray) -> TileMasks:
    """Find black margins, saturated or dead areas, and empty resin (little local variance)."""
    mean = reduce_mean(image, CELL_PX)
    square = reduce_mean(np.square(image, dtype=np.uint16), CELL_PX)
    std = np.sqrt(np.maximum(square - mean**2, 0.0))
    dark = mean < max(DARK_GRAY, DARK_SHARE * float(np.median(mean)))
    margin = touching_border(_broad(dark))
    dead = opened(std < FLAT_STD, 2)
    bad = margin | dead
    if margin.any():
        # the cell at the rim of a margin mixes black with tissue
        bad |= grown(margin, 1)
    usable = ~bad
    local = np.sqrt(ndimage.uniform_filter(np.where(usable, std, 0.0) ** 2, 5))
    level = float(np.percentile(local[usable], 75)) if usable.any() else 0.0
    textured = usable & (local > RESIN_SHARE * level)
    return TileMasks(usable=usable, textured=opened(textured, 3))


def noise_std(image: Gray, mask: Mask) -> float:
    """Standard deviation of pixel noise in grey levels: median of mixed second differences, which shading and
    edges hardly touch (Immerkaer, 1996). Every so many rows suffice: the median of 2e5 is good to 0.3 %."""
    tops = np.arange(0, image.shape[0] - 2, max(1, image.shape[0] * image.shape[1] // NOISE_SAMPLES))
    above, here, below = (image[tops + k].astype(np.int16) for k in range(3))
    rows = above - 2 * here + below
    mixed = np.abs(rows[:, :-2] - 2 * rows[:, 1:-1] + rows[:, 2:])
    inner = mask[tops, :-2] & mask[tops + 2, 2:] & mask[tops + 1, 1:-1]
    below_or_at = np.bincount(mixed.ravel() if inner.all() else mixed[inner]).cumsum()
    if not len(below_or_at) or not below_or_at[-1]:
        return 0.0
    middle = (int(below_or_at[-1]) - 1) // 2, int(below_or_at[-1]) // 2
    return float(np.searchsorted(below_or_at, middle, side="right").mean()) / (6.0 * 0.6745)


def black_margin(image: Gray) -> Mask:
    """Pixels of exactly 0 that are connected to the border by at least a few pixels: outside of an image."""
    rim = (image[0], image[-1], image[:, 0], image[:, -1])
    if all(side.all() for side in rim):
        return np.zeros(image.shape, dtype=np.bool_)
    if all(side.any() for side in rim):
        return touching_border(opened(image == 0, 3))
    return touching_border(image == 0)


def _broad(cells: Mask) -> Mask:
    """A mask without bands thinner than 3 cells, but with whatever lies along the border: a fold that runs
    into the border is no margin."""
    padded = np.pad(cells, 3, mode="edge")
    return opened(padded, 3)[3:-3, 3:-3]


def band_pass(
    image: NDArray[np.generic],
    mask: Mask,
    *,
    fine_px: float,
    coarse_px: float,
    contrast: float | None = None,
    device: torch.device = CPU,
) -> Image:
    """Take away noise below `fine_px` and shading above `coarse_px`, and even out local contrast.

    Masked pixels do not leak into their neighbours and are 0 in the result. `contrast` is the typical local
    variance of all of which the image may be a window; None takes its own.
    """
    gray = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32)).to(device)
    usable = torch.from_numpy(np.ascontiguousarray(mask)).to(device)
    out = band(gray, usable, fine_px=fine_px, coarse_px=coarse_px, contrast=contrast)
    return np.asarray(out.cpu().numpy(), dtype=np.float32)
