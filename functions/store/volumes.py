"""Zarr arrays of the run directory: created whole, opened checked, read and written by boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray

from functions.model.errors import VolumeError
from functions.model.geometry import Box
from functions.model.volume import VolumeRef
from functions.store.chunks import holds_whole_chunks, write_chunks, zstd_of
from functions.store.files import atomic_path

AnyArray = NDArray[np.generic]


class Volume:
    """A 3-d zarr array (z, y, x) named by a `VolumeRef`."""

    def __init__(self, ref: VolumeRef, array: zarr.Array, folder: Path) -> None:
        self.ref = ref
        self._array = array
        self._folder = folder
        self._zstd = zstd_of(array)

    @classmethod
    def create(cls, work: Path, ref: VolumeRef) -> Volume:
        """Create the array with nothing in it; one of the same shape and type is opened instead."""
        path = work / ref.path
        if not path.exists():
            with atomic_path(path, keep_older=True) as partial:  # several workers may get here at once
                zarr.create_array(
                    store=str(partial),
                    shape=ref.shape_zyx,
                    chunks=ref.chunk_zyx,
                    dtype=ref.dtype,
                    fill_value=0,
                    compressors=zarr.codecs.ZstdCodec(level=1),
                )
        return cls.open(work, ref)

    @classmethod
    def open(cls, work: Path, ref: VolumeRef) -> Volume:
        """Open an array and check it against its reference.

        Raises:
            VolumeError: missing, or of another shape or type.
        """
        path = work / ref.path
        try:
            array = zarr.open_array(str(path), mode="r+")
        except (FileNotFoundError, ValueError, KeyError) as error:
            raise VolumeError(f"{path}: no array ({error})", remedy="run the step that writes it") from None
        if tuple(array.shape) != ref.shape_zyx or str(array.dtype) != ref.dtype:
            raise VolumeError(
                f"{path}: shape {array.shape} {array.dtype}, expected {ref.shape_zyx} {ref.dtype}",
                remedy="remove the array and run the step that writes it again",
            )
        return cls(ref, array, path)

    def read(self, box: Box) -> AnyArray:
        """The voxels of a box that lies inside the volume.

        Raises:
            VolumeError: the box leaves the volume, or a chunk is damaged.
        """
        self._check(box)
        try:
            return np.asarray(self._array[box.slices])
        except (RuntimeError, ValueError, OSError) as error:
            raise VolumeError(
                f"{self.ref.path}: box {box.id}: damaged chunk ({error})",
                remedy="run the step that writes it again",
            ) from None

    def write(self, box: Box, data: AnyArray) -> None:
        """Write a box. Two writers must never share a chunk; steps choose their write boxes so."""
        self._check(box)
        whole = data.shape == box.shape_zyx and str(data.dtype) == self.ref.dtype
        if self._zstd and whole and holds_whole_chunks(box, self.ref.shape_zyx, self.ref.chunk_zyx):
            write_chunks(self._folder, self._zstd, box, data, self.ref.chunk_zyx)
        else:
            self._array[box.slices] = data

    def _check(self, box: Box) -> None:
        if not self.ref.box.contains(box):
            raise VolumeError(
                f"{self.ref.path}: box {box} leaves the volume {self.ref.shape_zyx}", remedy="fix the plan"
            )
