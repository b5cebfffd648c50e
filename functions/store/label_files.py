"""Labels and images as people have them: .npy, .npz, a zarr array or an OME-Zarr group, whole or one box."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from functions.model.errors import VolumeError
from functions.model.geometry import Box
from functions.model.volume import MOST_VOXELS

LABEL_NAMES = ("labels", "segmentation", "seg", "stack", "main", "data", "truth", "gt")
IMAGE_NAMES = ("raw", "image", "data", "volume")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelBox:
    """Labels (Z, Y, X) of a box of a file or folder, read as they are asked for and as they are stored."""

    path: Path
    array: Any
    box: Box

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the box."""
        return self.box.shape_zyx

    def __getitem__(self, part: tuple[slice, slice, slice], /) -> Labels:
        axes = zip(part, self.box.offset_zyx, self.box.shape_zyx, strict=True)
        ranges = [(offset, slice(*s.indices(n))) for s, offset, n in axes]
        with _named(self.path):
            return np.asarray(self.array[tuple(slice(o + s.start, o + s.stop) for o, s in ranges)])


def open_labels(path: Path, *, box: Box | None = None) -> LabelBox:
    """As `read_labels`, but nothing is read yet, however large it is. An .npz is unpacked into memory.

    Raises:
        VolumeError: not such a file, not three axes of integers, or the box leaves it.
    """
    return _boxed(path, LABEL_NAMES, box, inner=LABEL_FOLDERS)


def _read(path: Path, names: tuple[str, ...], box: Box | None, *, inner: tuple[str, ...]) -> Labels:
    found = _boxed(path, names, box, inner=inner)
    if found.box.voxels > MOST_VOXELS:
        with _named(path):
            raise ValueError(f"{found.box.voxels} voxels, at most {MOST_VOXELS} are read at once; give a box")
    return found[:, :, :]


def _boxed(path: Path, names: tuple[str, ...], box: Box | None, *, inner: tuple[str, ...]) -> LabelBox:
    with _named(path):
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
    return LabelBox(path=path, array=array, box=taken)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """What goes wrong with a file, with its name."""
    try:
        yield
    except VolumeError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, zipfile.BadZipFile) as error:
        raise VolumeError(
            f"{path}: {error}",
            remedy="give images and labels as .npy, .npz, zarr array or published volume",
        ) from None


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
