"""Files of the distributed segmentation: local labels, and where the global ones are.

All are .npz without objects, written whole; equal content means equal bytes (numpy stores no clock in them).
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from functions.model.errors import UpstreamError, VolumeError
from functions.model.geometry import Box
from functions.model.subvolumes import Subvolume, SubvolumeGrid
from functions.model.volume import VolumeRef
from functions.store.files import atomic_path, reading_arrays
from functions.store.mending import computed_again
from functions.store.run import Run
from functions.store.spread import spread
from functions.store.traffic import note_read, note_written

Array = NDArray[np.generic]
Labels = NDArray[np.uint32]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalLabels:
    """The objects of one subvolume, numbered 1..n without gaps."""

    labels: Labels
    """(Z, Y, X) over the read box; 0 = none."""
    owned_voxels: Integers
    """(n,) voxels of each object inside the write box."""


def grid_of(run: Run) -> SubvolumeGrid:
    """The subvolumes of the aligned volume under the run's parameters."""
    p = run.parameters.segment
    overlap = tuple(min(o, s - 1) for o, s in zip(p.overlap_zyx_px, p.subvolume_zyx_px, strict=True))
    return SubvolumeGrid(
        shape_zyx=run.aligned.volume.shape_zyx,
        size_zyx=p.subvolume_zyx_px,
        overlap_zyx=(overlap[0], overlap[1], overlap[2]),
    )


def labels_ref(run: Run) -> VolumeRef:
    """Name of the global labels, in the cell of relabel."""
    image = run.aligned.volume
    z, y, x = (min(c, n) for c, n in zip(run.parameters.reconcile.chunk_zyx_px, image.shape_zyx, strict=True))
    return VolumeRef(
        path=str(run.cell("relabel").file("labels.zarr").relative_to(run.work)),
        kind="labels",
        shape_zyx=image.shape_zyx,
        chunk_zyx=(z, y, x),
        dtype="uint32",
        voxel_size_zyx_nm=image.voxel_size_zyx_nm,
    )


def prepared_labels(run: Run) -> VolumeRef:
    """The array of global labels that reconcile prepared, and relabel fills.

    Raises:
        UpstreamError: reconcile has not run.
    """
    path = run.cell("relabel").file("labels.json")
    try:
        return VolumeRef.parse(path.read_bytes(), source=str(path))
    except FileNotFoundError:
        raise UpstreamError(f"{path}: there are no labels", remedy="start the run at reconcile") from None


def local_path(run: Run, subvolume: Subvolume) -> Path:
    """Where the local labels of a subvolume are."""
    return spread(run.cell("segment").file("subvolumes"), f"{subvolume.id}.npz")


def pack_local(labels: NDArray[np.unsignedinteger], *, subvolume: Subvolume) -> LocalLabels:
    """Number objects 1..n without gaps, in the order of their labels, and count what they own."""
    values = np.unique(np.concatenate([np.zeros(1, labels.dtype), *(np.unique(plane) for plane in labels)]))
    dense, owned = np.empty(labels.shape, np.uint32), np.zeros(values.size, np.int64)
    for numbered, plane in zip(dense, labels, strict=True):  # by planes: an index takes 8 bytes a voxel
        numbered[:] = np.searchsorted(values, plane)
    for plane in dense[subvolume.write.relative_to(subvolume.read).slices]:
        owned += np.bincount(plane.ravel(), minlength=values.size)
    return LocalLabels(labels=dense, owned_voxels=owned[1:])


def write_local(path: Path, local: LocalLabels) -> None:
    """Write the local labels of a subvolume; where there are none, no voxels either."""
    labels = local.labels if local.owned_voxels.size else np.zeros((0, 0, 0), np.uint32)
    write_arrays(path, {"labels": labels, "owned_voxels": local.owned_voxels})


def write_no_labels(run: Run, subvolume: Subvolume) -> None:
    """Say that a subvolume has no labels."""
    nothing = LocalLabels(labels=np.zeros((0, 0, 0), np.uint32), owned_voxels=np.zeros(0, np.int64))
    write_local(local_path(run, subvolume), nothing)


def read_local(run: Run, subvolume: Subvolume, box: Box | None = None) -> Labels:
    """The local labels of a subvolume, or of the part of it in `box` (volume coordinates), plane by plane.

    Raises:
        VolumeError: missing, damaged, or of another shape than the plan's.
    """
    with computed_again(run, "segment", subvolume.id):
        return _read_local(run, subvolume, box)


def _read_local(run: Run, subvolume: Subvolume, box: Box | None) -> Labels:
    path, wanted = local_path(run, subvolume), (box or subvolume.read).relative_to(subvolume.read)
    part: Labels = np.empty(wanted.shape_zyx, np.uint32)
    with reading_arrays(path), zipfile.ZipFile(path) as archive, archive.open("labels.npy") as member:
        shape, dtype = _header_of(member)
        if 0 in shape:  # without tissue
            return np.zeros(wanted.shape_zyx, np.uint32)
        if shape != subvolume.read.shape_zyx:
            raise VolumeError(
                f"{path}: labels: shape {shape}, planned {subvolume.read.shape_zyx}",
                remedy="remove the file and its done mark, and segment again",
            )
        size = shape[1] * shape[2] * dtype.itemsize
        rows, columns = wanted.slices[1:]
        for z in range(shape[0]):  # to the end, whatever is wanted: the checksum is looked at there
            plane = np.frombuffer(member.read(size), dtype).reshape(shape[1:])
            if wanted.slices[0].start <= z < wanted.slices[0].stop:
                part[z - wanted.slices[0].start] = plane[rows, columns]
        if member.read(1):
            raise ValueError("more voxels than its header says")
    note_read(stored=path.stat().st_size, raw=size * shape[0])
    return part


def _header_of(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    """Shape and type of an array in C order that is read from its beginning."""
    if np.lib.format.read_magic(member) != (1, 0):
        raise ValueError("not of version 1.0")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
    if fortran or dtype.hasobject:
        raise ValueError(f"{dtype} in an order that is not written here")
    return shape, dtype


def read_owned(run: Run, subvolume: Subvolume) -> Integers:
    """Voxels each local object owns; does not read the labels themselves."""
    with computed_again(run, "segment", subvolume.id):
        return read_arrays(local_path(run, subvolume), ("owned_voxels",))["owned_voxels"].astype(np.int64)


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write named arrays to one compressed .npz, atomically."""
    with atomic_path(path) as partial, open(partial, "wb") as handle:
        np.savez_compressed(handle, allow_pickle=False, **arrays)
        note_written(stored=handle.tell(), raw=sum(array.nbytes for array in arrays.values()))


def read_arrays(path: Path, names: tuple[str, ...]) -> dict[str, Array]:
    """Read some arrays of an .npz.

    Raises:
        VolumeError: the file or one of the arrays is missing or damaged.
    """
    with reading_arrays(path), open(path, "rb") as handle, np.load(handle, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in names}
    note_read(stored=path.stat().st_size, raw=sum(array.nbytes for array in arrays.values()))
    return arrays
