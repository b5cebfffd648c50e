"""Labels and images as people have them: .npy, .npz, a zarr array or an OME-Zarr group, whole or one box."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from functions.model.errors import VolumeError
from functions.model.geometry import Box

LABEL_NAMES = ("labels", "segmentation", "seg", "stack", "main", "data", "truth", "gt")
IMAGE_NAMES = ("raw", "image", "data", "volume")
MOST_VOXELS = 2**28
"""Read at once."""
LABEL_FOLDERS = ("volume.zarr/labels/segmentation", "labels/segmentation")
IMAGE_FOLDERS = ("volume.zarr",)
"""Where a published volume keeps them."""

Labels = NDArray[np.integer]


def read_labels(path: Path, *, box: Box | None = None) -> Labels:
    """Labels (Z, Y, X) of a file or folder; 64-bit ids are renumbered to fit int64, 0 stays 0.

    Of an .npz the first of `LABEL_NAMES` is taken, or the only integer array of three axes; of an OME-Zarr
    group the finest level; of a published volume its label image.

    Raises:
        VolumeError: not such a file, not three axes of integers, too large, or the box leaves it.
    """
    labels: Labels = _read(path, LABEL_NAMES, box, inner=LABEL_FOLDERS)
    if labels.dtype != np.uint64:
        return labels
    values, inverse = np.unique(labels, return_inverse=True)
    return inverse.reshape(labels.shape) + int(values[0] != 0)


def read_image(path: Path, *, box: Box | None = None) -> Labels:
    """Grey values (Z, Y, X) of a file or folder, of whole numbers.

    Of an .npz the first of `IMAGE_NAMES` is taken, or the only integer array of three axes; of an OME-Zarr
    group the finest level; of a published volume its image.

    Raises:
        VolumeError: not such a file, not three axes of integers, too large, or the box leaves it.
    """
    return _read(path, IMAGE_NAMES, box, inner=IMAGE_FOLDERS)


def _read(path: Path, names: tuple[str, ...], box: Box | None, *, inner: tuple[str, ...]) -> Labels:
    try:
        array = _open(path, names, inner)
        if array.ndim != 3 or not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"{array.ndim} axes of {array.dtype}, expected three of integers")
        z, y, x = array.shape
        whole = Box(offset_zyx=(0, 0, 0), shape_zyx=(z, y, x))
        taken = box or whole
        if not whole.contains(taken):
            raise VolumeError(
                f"{path}: box {taken.offset_zyx} to {taken.end_zyx} leaves the shape {whole.shape_zyx}",
                remedy="give a box inside it",
            )
        if taken.voxels > MOST_VOXELS:
            raise ValueError(f"{taken.voxels} voxels, at most {MOST_VOXELS} are read at once; give a box")
        values: Labels = np.asarray(array[taken.slices])
    except VolumeError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, zipfile.BadZipFile) as error:
        raise VolumeError(
            f"{path}: {error}",
            remedy="give images and labels as .npy, .npz, zarr array or published volume",
        ) from None
    return values


def _open(path: Path, names: tuple[str, ...], inner: tuple[str, ...]) -> Any:
    """Something with shape, dtype and slices."""
    if not path.exists():
        raise OSError("no such file or folder")
    if path.suffix == ".npy":
        return np.lib.format.open_memmap(path, mode="r")  # never reads pickles
    if path.suffix == ".npz":
        return _of_archive(path, names)
    if not path.is_dir():
        raise OSError("not a known kind of file")
    return _of_zarr(path, inner)


def _of_archive(path: Path, names: tuple[str, ...]) -> Any:
    with np.load(path, allow_pickle=False) as archive:
        for name in names:
            if name in archive.files:
                return archive[name]
        arrays = {name: archive[name] for name in archive.files}
    fitting = [a for a in arrays.values() if a.ndim == 3 and np.issubdtype(a.dtype, np.integer)]
    if len(fitting) != 1:
        raise ValueError(f"arrays {', '.join(arrays)}: none is called {' or '.join(names)}")
    return fitting[0]


def _of_zarr(path: Path, inner: tuple[str, ...]) -> Any:
    folder = next((path / name for name in inner if (path / name).is_dir()), path)
    return finest_level(zarr.open(str(folder), mode="r"))


def finest_level(node: Any) -> Any:
    """The array itself, or of an OME-Zarr image the level of the full resolution."""
    if isinstance(node, zarr.Array):
        return node
    return node[node.attrs["ome"]["multiscales"][0]["datasets"][0]["path"]]
