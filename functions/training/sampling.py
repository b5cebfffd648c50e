"""Coarser copies of a volume, and one id for each connected piece. Arrays are (Z, Y, X)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage import measure

from functions.model.geometry import ZYX

Image = NDArray[np.generic]
Labels = NDArray[np.integer]


def downsample_image(image: Image, factor_zyx: ZYX) -> Image:
    """The mean of every block, in the image's own type; what does not fill a block at the end is cut off."""
    if factor_zyx == (1, 1, 1):
        return image
    means: NDArray[np.float32] = _blocks(image, factor_zyx).mean(axis=-1, dtype=np.float32)
    return (np.rint(means) if image.dtype.kind in "ui" else means).astype(image.dtype)


def downsample_labels(labels: Labels, factor_zyx: ZYX) -> Labels:
    """The commonest label of every block, of several the lowest."""
    if factor_zyx == (1, 1, 1):
        return labels
    values = np.sort(_blocks(labels, factor_zyx), axis=-1)
    commonest = values[..., 0].copy()
    run = np.ones(commonest.shape, np.int32)
    longest = run.copy()
    for i in range(1, values.shape[-1]):
        run = np.where(values[..., i] == values[..., i - 1], run + 1, 1)
        longer = run > longest
        commonest[longer], longest[longer] = values[..., i][longer], run[longer]
    return commonest


def upsample_labels(labels: Labels, factor_zyx: ZYX) -> Labels:
    """Every voxel repeated, the inverse of `downsample_labels` for whole blocks."""
    for axis, factor in enumerate(factor_zyx):
        labels = np.repeat(labels, factor, axis=axis)
    return labels


def split_pieces(labels: Labels) -> NDArray[np.uint32]:
    """Ids 1..n, one for each piece of an object that is connected through faces; 0 stays 0."""
    pieces = measure.label(labels, background=0, connectivity=1)
    return np.asarray(pieces, np.uint32)


def whole_blocks(shape_zyx: ZYX, factor_zyx: ZYX) -> tuple[slice, slice, slice]:
    """The part of a volume that blocks of this factor fill."""
    z, y, x = (slice(0, n // f * f) for n, f in zip(shape_zyx, factor_zyx, strict=True))
    return z, y, x


def _blocks(array: NDArray[np.generic], factor_zyx: ZYX) -> NDArray[np.generic]:
    """(Z, Y, X) -> (Z / fz, Y / fy, X / fx, fz * fy * fx)."""
    fz, fy, fx = factor_zyx
    z, y, x = array.shape
    whole = array[whole_blocks((z, y, x), factor_zyx)]
    cut = whole.reshape(z // fz, fz, y // fy, fy, x // fx, fx)
    return cut.transpose(0, 2, 4, 1, 3, 5).reshape(z // fz, y // fy, x // fx, fz * fy * fx)
