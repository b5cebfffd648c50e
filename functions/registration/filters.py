"""Box sums, blurs and the band-pass as float32 tensors (..., Y, X): the same on CPU, CUDA and XPU.

Running sums would need float64. Sums by doubling do not: they add pairs, pairs of pairs, and so on, so
rounding grows with the logarithm of the width alone, however wide the image is.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad

CPU = torch.device("cpu")
CPU_STRIP_PX = 1 << 20
DEVICE_STRIP_PX = 1 << 26
MEDIAN_PX = 1 << 16
BLOCK_PX = 4
"""Side of the blocks on which local contrast is measured."""


def box_sums(values: Tensor, size: int, dim: int) -> Tensor:
    """Sums over all runs of `size` along an axis, which becomes `size` - 1 shorter.

    Runs of 1, 2, 4, ... are built from each other, and those that are the binary digits of `size` are joined.
    """
    length = values.shape[dim] - size + 1
    run, width, start = values, 1, 0
    total: Tensor | None = None
    while True:
        if size & width:
            part = run.narrow(dim, start, length)
            total = part if total is None else total + part
            start += width
        if 2 * width > size:
            assert total is not None
            return total
        rest = run.shape[dim] - width
        run = run.narrow(dim, 0, rest) + run.narrow(dim, width, rest)
        width *= 2


def box_blur(values: Tensor, size: int) -> Tensor:
    """Two box filters of an odd size on both axes, zeros outside: close to a Gaussian, at little cost."""
    return _box_axis(_box_axis(values, size, -2), size, -1).mul_(float(size) ** -4)


def _box_axis(values: Tensor, size: int, dim: int) -> Tensor:
    for _ in range(2):
        values = box_sums(_padded(values, size // 2, dim), size, dim)
    return values


def _padded(values: Tensor, by: int, dim: int) -> Tensor:
    return pad(values, (0, 0, by, by) if dim == -2 else (by, by))


def smooth(values: Tensor, sigma_px: float) -> Tensor:
    """A Gaussian, cut off at 3 sigma, zeros outside."""
    radius = _radius(sigma_px)
    weights = [math.exp(-0.5 * (k / sigma_px) ** 2) for k in range(-radius, radius + 1)]
    for dim in (-2, -1):
        wide, length = _padded(values, radius, dim), values.shape[dim]
        values = wide.narrow(dim, 0, length) * (weights[0] / sum(weights))
        for k, weight in enumerate(weights[1:], start=1):
            values.add_(wide.narrow(dim, k, length), alpha=weight / sum(weights))
    return values


def _radius(sigma_px: float) -> int:
    return int(3.0 * sigma_px + 0.5)


def band(
    image: Tensor, mask: Tensor, *, fine_px: float, coarse_px: float, contrast: float | None = None
) -> Tensor:
    """`masks.band_pass` of one image (Y, X) of float32 and its mask; strip by strip, but for the typical
    contrast (None: the image's own)."""
    if not bool(mask.any()):
        return torch.zeros_like(image)
    flat, local = _flat_and_local(image, mask, fine_px, coarse_px)
    level = _median(_some(local if bool(mask.all()) else local[mask])) if contrast is None else contrast
    return flat.div_(local.add_(0.25 * level + 1e-3).sqrt_())


def local_contrasts(image: Tensor, mask: Tensor, *, fine_px: float, coarse_px: float) -> Tensor:
    """Local variance at the usable pixels (N,) of an image; the median of all is a typical contrast."""
    return _flat_and_local(image, mask, fine_px, coarse_px)[1][mask] if bool(mask.any()) else image[:0, 0]


def halo_px(*, fine_px: float, coarse_px: float) -> int:
    """How far beyond a pixel an image counts for it; whole blocks."""
    size = _band_size(coarse_px)
    local = BLOCK_PX * (2 * (_local_blocks(size) // 2) + 2)
    return -(-(2 * (size // 2) + local + _radius(fine_px)) // BLOCK_PX) * BLOCK_PX


def _band_size(coarse_px: float) -> int:
    return max(3, 2 * round(coarse_px) + 1)


def _flat_and_local(image: Tensor, mask: Tensor, fine_px: float, coarse_px: float) -> tuple[Tensor, Tensor]:
    """Image without noise and shading, and its local variance."""
    size = _band_size(coarse_px)
    # against the mean, sums stay small, and so does their rounding
    full = bool(mask.all())
    mean = image.mean() if full else image.masked_select(mask).mean()
    flat, local = torch.empty_like(image), torch.empty_like(image)
    halo = halo_px(fine_px=fine_px, coarse_px=coarse_px)
    for rows, wider in strips(image.shape, halo, image.device):
        part = slice(rows.start - wider.start, rows.stop - wider.start)
        found = _flattened(image[wider] - mean, mask[wider], fine_px, size)
        flat[rows], local[rows] = (values[part] for values in found)
    return flat, local


def strips(shape_yx: tuple[int, ...], halo_px: int, device: torch.device) -> list[tuple[slice, slice]]:
    """Rows of each strip that a large image is worked on in; and these with a halo on both sides.

    On a CPU strips stay in its caches, which is three times faster than going through the whole each time.
    With a halo of whole blocks they begin where blocks do.
    """
    limit_px = CPU_STRIP_PX if device.type == "cpu" else DEVICE_STRIP_PX
    step = max(limit_px // max(1, shape_yx[1]) // BLOCK_PX * BLOCK_PX, 2 * halo_px)
    starts = range(0, shape_yx[0], step)
    stops = [min(shape_yx[0], start + step) for start in starts]
    return [
        (slice(a, b), slice(max(0, a - halo_px), min(shape_yx[0], b + halo_px)))
        for a, b in zip(starts, stops, strict=True)
    ]


def _flattened(gray: Tensor, mask: Tensor, fine_px: float, size: int) -> tuple[Tensor, Tensor]:
    """Image without noise and shading, and its local variance; `gray` is about 0 on average."""
    full = bool(mask.all())
    gray = _inside(gray, mask, full)
    flat = _inside(gray - box_blur(gray, size).div_(_share(mask, size, full)), mask, full)
    if fine_px > 0:
        flat = _inside(smooth(flat, fine_px), mask, full)
    return flat, _local_means(flat * flat, mask, size, full)


def _local_means(values: Tensor, mask: Tensor, size: int, full: bool) -> Tensor:
    """Means of values (Y, X), 0 where masked, over about twice `size` px: on blocks, and linear between their
    middles. What is that smooth shows no blocks, and costs a tenth."""
    wide = _local_blocks(size)
    blocks = box_blur(_block_means(values), wide)
    if full:
        rows, columns = (_full_blocks_share(n, wide, mask.device) for n in mask.shape)
        share = (rows[:, None] * columns).clamp(min=1e-3)
    else:
        share = box_blur(_block_means(mask.to(torch.float32)), wide).clamp(min=1e-3)
    for dim, length in zip((-2, -1), values.shape, strict=True):
        blocks, share = (_between_blocks(part, length, dim) for part in (blocks, share))
    return blocks.div_(share)


def _local_blocks(size: int) -> int:
    """Width, in blocks, of the boxes of `_local_means`."""
    return 2 * round(size / BLOCK_PX) + 1


def _block_means(values: Tensor) -> Tensor:
    """Means of `BLOCK_PX` x `BLOCK_PX` px; beyond the border all is 0."""
    for dim in (-2, -1):
        over = -values.shape[dim] % BLOCK_PX
        wide = pad(values, (0, 0, 0, over) if dim == -2 else (0, over)) if over else values
        parts = [wide[k::BLOCK_PX] if dim == -2 else wide[:, k::BLOCK_PX] for k in range(BLOCK_PX)]
        values = (parts[0] + parts[1]).add_(parts[2] + parts[3])
    return values.mul_(1.0 / BLOCK_PX**2)


@lru_cache(maxsize=64)
def _full_blocks_share(length: int, size: int, device: torch.device) -> Tensor:
    """How much of the boxes about each block of a full line is there. Shared: not to be changed."""
    full = torch.ones(-(-length // BLOCK_PX), device=device)
    full[-1] -= (-length % BLOCK_PX) / BLOCK_PX
    return _box_axis(full[None], size, -1)[0] / size**2


def _between_blocks(blocks: Tensor, length: int, dim: int) -> Tensor:
    """Values at `length` px from those in the middles of blocks, by linear interpolation; the rim goes on."""
    first, last = blocks.narrow(dim, 0, 1), blocks.narrow(dim, -1, 1)
    wide = torch.cat([first, blocks, last], dim=dim)
    part = (torch.arange(BLOCK_PX, dtype=blocks.dtype, device=blocks.device) + 0.5) / BLOCK_PX
    start, step = wide.narrow(dim, 0, wide.shape[dim] - 1), wide.diff(dim=dim)
    if dim == -2:
        dense = torch.addcmul(start[:, None], step[:, None], part[:, None]).flatten(0, 1)
    else:
        dense = torch.addcmul(start[..., None], step[..., None], part).flatten(-2)
    return dense.narrow(dim, BLOCK_PX // 2, length)


def _some(values: Tensor) -> Tensor:
    """Pixels enough for a median, spread evenly."""
    return values.flatten()[:: max(1, values.numel() // MEDIAN_PX)]


def _median(values: Tensor) -> Tensor:
    """With the mean of the two middle values where their number is even; torch alone takes the lower."""
    return (values.median() - values.neg().median()) / 2


def _inside(values: Tensor, mask: Tensor, full: bool) -> Tensor:
    return values if full else values * mask


def _share(mask: Tensor, size: int, full: bool) -> Tensor:
    """How much of each blur's reach is usable. That of a full mask is a product of two lines."""
    if full:
        rows, columns = (_full_share(n, size, mask.device) for n in mask.shape)
        return (rows[:, None] * columns).clamp(min=1e-3)
    return box_blur(mask.to(torch.float32), size).clamp(min=1e-3)


@lru_cache(maxsize=64)
def _full_share(length: int, size: int, device: torch.device) -> Tensor:
    """That of a line (length,) without gaps. Shared: not to be changed."""
    return _box_axis(torch.ones((1, length), device=device), size, -1)[0] / size**2
