"""Whole chunks of an array, written as the files that they are.

zarr hands each chunk from thread to thread three times, which costs ten times what its compression does. By
the Zarr v3 specification a chunk (i, j, k) of an array of zstd-compressed bytes is one zstd frame in the file
`c/i/j/k`, and one of nothing but the fill value is no file.
"""

from __future__ import annotations

import os
import uuid
from itertools import product
from pathlib import Path

import numpy as np
import zarr
from numcodecs import Zstd  # type: ignore[import-untyped]
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, ZstdCodec
from zarr.core.metadata import ArrayV3Metadata

from functions.model.geometry import ZYX, Box
from functions.store.traffic import note_written

AnyArray = NDArray[np.generic]


def zstd_of(array: zarr.Array) -> Zstd | None:
    """The compressor of an array whose chunks are files of plain zstd frames, 0 where nothing is; or None."""
    meta = array.metadata
    if (
        not isinstance(meta, ArrayV3Metadata)
        or meta.fill_value != 0
        or meta.encode_chunk_key((0, 1)) != "c/0/1"
    ):
        return None
    if len(meta.codecs) != 2:
        return None
    plain, packed = meta.codecs
    if not isinstance(plain, BytesCodec) or not isinstance(packed, ZstdCodec):
        return None
    return Zstd(level=packed.level, checksum=packed.checksum)


def holds_whole_chunks(box: Box, shape_zyx: ZYX, chunk_zyx: ZYX) -> bool:
    """Whether a box shares no chunk of a volume with what lies outside it."""
    axes = zip(box.offset_zyx, box.end_zyx, shape_zyx, chunk_zyx, strict=True)
    return all(start % size == 0 and (stop % size == 0 or stop == n) for start, stop, n, size in axes)


def chunk_path(folder: Path, corner_zyx: ZYX, chunk_zyx: ZYX) -> Path:
    """The file of the chunk in which a voxel lies."""
    return folder.joinpath("c", *(str(c // n) for c, n in zip(corner_zyx, chunk_zyx, strict=True)))


def write_chunks(folder: Path, compressor: Zstd, box: Box, data: AnyArray, chunk_zyx: ZYX) -> None:
    """Write a box that holds whole chunks of the array in `folder`; `data` is of the array's type."""
    corners = [range(0, n, size) for n, size in zip(box.shape_zyx, chunk_zyx, strict=True)]
    for corner in product(*corners):
        part = data[tuple(slice(c, c + size) for c, size in zip(corner, chunk_zyx, strict=True))]
        z, y, x = (o + c for o, c in zip(box.offset_zyx, corner, strict=True))
        path = chunk_path(folder, (z, y, x), chunk_zyx)
        if not part.any():
            path.unlink(missing_ok=True)
            continue
        if part.shape != chunk_zyx:
            part = np.pad(part, [(0, size - n) for n, size in zip(part.shape, chunk_zyx, strict=True)])
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
        try:
            packed = compressor.encode(np.ascontiguousarray(part))
            partial.write_bytes(packed)
            os.replace(partial, path)
            note_written(stored=len(packed))
        finally:
            partial.unlink(missing_ok=True)
