"""Zarr arrays of the run directory: created whole, opened checked, read and written by boxes.

A box that is written holds whole chunks, each of which is a file: so a file has one writer, and is written
once by a unit.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray

from functions.model.errors import VolumeError, is_of_the_site
from functions.model.geometry import Box, cut_box
from functions.model.volume import VolumeRef
from functions.store.chunks import chunk_path, holds_whole_chunks, write_chunks, zstd_of
from functions.store.counted import store_at
from functions.store.files import atomic_path
from functions.store.limits import is_out_of_memory
from functions.store.traffic import note_read, note_written

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
            array = zarr.open_array(store_at(path), mode="r+")
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
            OSError: the site does not let it be read now.
        """
        self._check(box)
        try:
            data = np.asarray(self._array[box.slices])
        except (RuntimeError, ValueError, OSError) as error:
            if is_out_of_memory(error):
                raise MemoryError(str(error)) from error
            if is_of_the_site(error):
                raise
            step = (
                "reconcile" if self.ref.kind == "labels" else Path(self.ref.path).parts[0]
            )  # which makes it
            raise VolumeError(
                f"{self.ref.path}: box {box.id}: damaged chunk ({error})",
                remedy=f"remove {self._folder.parent}, then `petavoxel run rerun RUN --start-at {step}"
                " --retry-quarantined`",
            ) from None
        note_read(raw=data.nbytes)
        return data

    def holds(self, box: Box) -> bool:
        """Whether anything in a box is not 0: chunks that are no file are not looked into, nor any behind the
        first that says so.

        Raises:
            VolumeError: the box leaves the volume, or a chunk is damaged.
        """
        self._check(box)
        size = self.ref.chunk_zyx
        first = [o // n * n for o, n in zip(box.offset_zyx, size, strict=True)]
        z, y, x = (end - start for end, start in zip(box.end_zyx, first, strict=True))
        for cell in cut_box((z, y, x), size):
            z, y, x = (o + start for o, start in zip(cell.offset_zyx, first, strict=True))
            if self._zstd and not chunk_path(self._folder, (z, y, x), size).exists():
                continue
            part = Box(offset_zyx=(z, y, x), shape_zyx=cell.shape_zyx).intersect(box)
            if self.read(part).any():
                return True
        return False

    def write(self, box: Box, data: AnyArray) -> None:
        """Write a box of whole chunks; at the volume's end they may be cut off.

        Raises:
            VolumeError: the box leaves the volume, or shares a chunk with what lies outside of it.
        """
        self._check(box)
        if not holds_whole_chunks(box, self.ref.shape_zyx, self.ref.chunk_zyx):
            raise VolumeError(
                f"{self.ref.path}: box {box} is not of whole chunks {self.ref.chunk_zyx}: two writers would"
                " share a file",
                remedy="fix the plan",
            )
        if self._zstd and data.shape == box.shape_zyx and str(data.dtype) == self.ref.dtype:
            write_chunks(self._folder, self._zstd, box, data, self.ref.chunk_zyx)
        else:
            self._array[box.slices] = data
        note_written(raw=data.nbytes)

    def _check(self, box: Box) -> None:
        if not self.ref.box.contains(box):
            raise VolumeError(
                f"{self.ref.path}: box {box} leaves the volume {self.ref.shape_zyx}", remedy="fix the plan"
            )
