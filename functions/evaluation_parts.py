"""What `functions.evaluation` counts, of volumes that need not fit memory: slab by slab, to the last bit.

    slab of planes -> voxels of each pair (segment, object), as it is and filled -> summed -> VOI, Rand

All that VOI and Rand depend on is how many voxels each pair has, and these add up. Filling an unlabelled
voxel needs its nearest label, which may lie outside of the slab: so much is seen above and below as the
farthest fill is long (`ffn.metrics.fill_planes`), or as there is. A slab is begun again where that was too
little.
Skeletons are made object by object, each from its own box.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ffn import metrics
from ffn.metrics import Contingency, Skeletons
from ffn.skeletons import join, skeleton_of
from functions.model.errors import MemoryBudgetError, VolumeError
from functions.model.geometry import ZYX, Box
from functions.model.volume import MOST_VOXELS
from functions.needs import BASE_MIB

Labels = NDArray[np.integer]
Mask = NDArray[np.bool_]
MIB = 1 << 20
SLAB_BYTES = 48
"""For each voxel of a slab with what is seen around it: labels, and distances while they are filled."""
PLANES = 32
"""Are read at a time where the whole slab is not needed: chunks are about as deep."""
OBJECT_BYTES = 16
"""For each voxel of the box of an object that gets a skeleton."""


def room_of(memory_gib: float | None) -> float | None:
    """MiB beside interpreter and libraries; None where no budget is given."""
    return None if memory_gib is None else max(0.0, 1024 * memory_gib - BASE_MIB)


def require_whole(voxels: int, name: str) -> None:
    """Refuse what is too large to be compared at once.

    Raises:
        VolumeError: with its size and a remedy.
    """
    if voxels > MOST_VOXELS:
        raise VolumeError(
            f"{name}: {voxels} voxels are too many to compare at once",
            remedy=f"give --memory-gib, or a --box of at most {MOST_VOXELS} voxels",
        )


class Source(Protocol):
    """Voxels (Z, Y, X) that need not be in memory: an array, or what reads a box of a file."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, box: tuple[slice, slice, slice], /) -> NDArray[np.generic]: ...


@dataclass(slots=True, eq=False)
class PairCounts:
    """How many voxels two labels have in common, one row a pair, ascending."""

    first: Labels = field(default_factory=lambda: np.zeros(0, np.int64))
    second: Labels = field(default_factory=lambda: np.zeros(0, np.int64))
    voxels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def add(self, first: Labels, second: Labels) -> None:
        """Count the voxels of two arrays (N,)."""
        if not first.size:
            return
        ids, index = np.unique(first, return_inverse=True)
        others, other = np.unique(second, return_inverse=True)
        codes, voxels = np.unique(index * len(others) + other, return_counts=True)
        rows = (ids[codes // len(others)], others[codes % len(others)], voxels.astype(np.int64))
        if self.voxels.size:
            known = (self.first, self.second, self.voxels)
            rows = tuple(np.concatenate(both) for both in zip(known, rows, strict=True))  # type: ignore[assignment]
        order = np.lexsort((rows[1], rows[0]))
        self.first, self.second = rows[0][order], rows[1][order]
        new = np.ones(order.size, np.bool_)
        new[1:] = (self.first[1:] != self.first[:-1]) | (self.second[1:] != self.second[:-1])
        self.first, self.second = self.first[new], self.second[new]
        self.voxels = np.add.reduceat(rows[2][order], np.flatnonzero(new))

    def where(self, kept: Mask) -> PairCounts:
        """Some of the rows."""
        return PairCounts(self.first[kept], self.second[kept], self.voxels[kept])

    @property
    def contingency(self) -> Contingency:
        """All that VOI and Rand depend on."""
        return Contingency.of_pairs(self.first, self.second, self.voxels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Volumes:
    """What is compared, and how much of it is held at a time: `room_mib`, None for all."""

    segmentation: Source
    truth: Source
    excluded: Source | None
    voxel_size_zyx_nm: tuple[float, float, float]
    rim_zyx_px: ZYX
    room_mib: float | None

    @property
    def inner(self) -> Box:
        """What counts: without the rim."""
        z, y, x = (n - 2 * r for n, r in zip(self.truth.shape, self.rim_zyx_px, strict=True))
        if min(z, y, x) < 1:
            raise VolumeError(f"rim_zyx_px: {self.rim_zyx_px} leaves no voxel", remedy="take a smaller rim")
        return Box(offset_zyx=self.rim_zyx_px, shape_zyx=(z, y, x))

    def most_planes(self) -> int:
        """Planes that are held at a time, those around a slab with them."""
        depth, height, width = self.truth.shape
        if self.room_mib is None:
            return depth
        return min(depth, int(self.room_mib * MIB / (SLAB_BYTES * height * width)))

    def seen(self, planes: slice) -> Labels:
        """Whole planes of the segmentation, without what is excluded."""
        box = (planes, slice(None), slice(None))
        labels: Labels = np.asarray(self.segmentation[box])
        if self.excluded is None:
            return labels
        return np.where(np.asarray(self.excluded[box], np.bool_), labels.dtype.type(0), labels)

    def left_out(self, box: tuple[slice, slice, slice]) -> Mask:
        """Which voxels of a box do not count."""
        if self.excluded is None:
            return np.zeros([part.stop - part.start for part in box], np.bool_)
        return np.asarray(self.excluded[box], np.bool_)

    def slabs(self) -> Iterator[tuple[int, Labels, Labels]]:
        """First plane, labels and filled labels of one slab after the other, all planes of the rim cut off.

        Raises:
            MemoryBudgetError: what must be seen around a plane does not fit.
        """
        depth, most, around = self.truth.shape[0], self.most_planes(), 0
        first, end = self.inner.offset_zyx[0], self.inner.end_zyx[0]
        while first < end:
            if most < min(depth, 2 * around + 1):
                raise MemoryBudgetError(
                    f"evaluate: unlabelled voxels lie {around} planes or more from a label, and {most} planes"
                    f" of {' x '.join(map(str, self.truth.shape[1:]))} px fit the memory",
                    remedy="give more (--memory-gib), or a smaller --box",
                )
            last = end if most >= depth else min(end, first + most - 2 * around)
            above, below = (depth, depth) if most >= depth else (around, around)
            seen = slice(max(0, first - above), min(depth, last + below))
            labels = self.seen(seen)
            core = slice(first - seen.start, last - seen.start)
            filled, far_nm = metrics.fill_planes(labels, core, voxel_size_zyx_nm=self.voxel_size_zyx_nm)
            needed = depth if np.isinf(far_nm) else int(far_nm / self.voxel_size_zyx_nm[0]) + 1
            enough = (seen.start == 0 or first - seen.start >= needed) and (
                seen.stop == depth or seen.stop - last >= needed
            )
            if far_nm > 0 and not enough:
                around = min(needed, 2 * around + 1) if np.isinf(far_nm) else needed
                continue
            yield first, labels[core], filled
            first = last


@dataclass(slots=True)
class TrueObject:
    """Where an object of the truth lies, and how large it is; in the whole volume."""

    low_zyx: NDArray[np.int64]
    high_zyx: NDArray[np.int64]
    voxels: int


def count_pairs(volumes: Volumes) -> tuple[PairCounts, PairCounts, dict[int, TrueObject]]:
    """Voxels of each pair as it is and filled, and the true objects, of all that is inside the rim."""
    seen, filled, objects = PairCounts(), PairCounts(), dict[int, TrueObject]()
    rows, columns = volumes.inner.slices[1:]
    for first, labels, full in volumes.slabs():
        box = (slice(first, first + len(labels)), rows, columns)
        truth: Labels = np.asarray(volumes.truth[box])
        left_out = volumes.left_out(box)
        for number, (plane, filled_plane) in enumerate(zip(labels, full, strict=True)):
            _note(objects, truth[number], (first + number, rows.start, columns.start))
            counts = ~left_out[number]
            seen.add(plane[rows, columns][counts], truth[number][counts])
            filled.add(filled_plane[rows, columns][counts], truth[number][counts])
    return seen, filled, objects


def _note(objects: dict[int, TrueObject], truth: Labels, corner_zyx: ZYX) -> None:
    """Take up the true objects of a plane (Y, X) whose first voxel is `corner_zyx`."""
    ids, index, voxels = np.unique(truth, return_inverse=True, return_counts=True)
    boxes = ndimage.find_objects(index.reshape(truth.shape).astype(np.int32) + 1)
    for owner, count, (rows, columns) in zip(ids.tolist(), voxels.tolist(), boxes, strict=True):
        low = np.add(corner_zyx, (0, rows.start, columns.start))
        high = np.add(corner_zyx, (1, rows.stop, columns.stop))
        if owner > 0:
            known = objects.setdefault(owner, TrueObject(low, high, 0))
            known.low_zyx, known.high_zyx = np.minimum(known.low_zyx, low), np.maximum(known.high_zyx, high)
            known.voxels += count


def skeletons_of(
    volumes: Volumes, objects: dict[int, TrueObject], *, min_voxels: int
) -> tuple[Skeletons, NDArray[np.int64]]:
    """Skeletons of the true objects without what is excluded, and the segments at their nodes, renumbered."""
    found = []
    for owner in sorted(objects):
        if objects[owner].voxels >= min_voxels:
            mask = _mask_of(volumes, owner, objects[owner])
            low = objects[owner].low_zyx
            found.append(
                skeleton_of(mask, owner, corner_zyx=low, voxel_size_zyx_nm=volumes.voxel_size_zyx_nm)
            )
    skeletons = join(found)
    counted = np.ones(len(skeletons.nodes_zyx), np.bool_)
    labels = np.zeros(len(skeletons.nodes_zyx), np.uint64)
    depth, height, width = volumes.truth.shape
    for planes in _some(depth, min(PLANES, volumes.most_planes())):
        here = np.flatnonzero(
            (skeletons.nodes_zyx[:, 0] >= planes.start) & (skeletons.nodes_zyx[:, 0] < planes.stop)
        )
        if here.size:
            at = tuple((skeletons.nodes_zyx[here] - (planes.start, 0, 0)).T)
            box = (planes, slice(0, height), slice(0, width))
            labels[here] = np.asarray(volumes.segmentation[box])[at]
            counted[here] = ~volumes.left_out(box)[at]
    values, numbers = np.unique(labels[counted], return_inverse=True)
    return skeletons.restrict(counted), numbers + int(values.size > 0 and values[0] != 0)


def _mask_of(volumes: Volumes, owner: int, found: TrueObject) -> Mask:
    """Where an object is in its box, some planes read at a time.

    Raises:
        MemoryBudgetError: the box does not fit.
    """
    shape = (found.high_zyx - found.low_zyx).tolist()
    mib = OBJECT_BYTES * float(np.prod(shape)) / MIB
    if volumes.room_mib is not None and mib > volumes.room_mib:
        raise MemoryBudgetError(
            f"evaluate: the skeleton of true object {owner} takes {mib:.1f} MiB, its box is"
            f" {' x '.join(map(str, shape))}",
            remedy="give more (--memory-gib), a smaller --box, or --no-skeletons",
        )
    mask = np.zeros(shape, np.bool_)
    (z0, _), (y0, y1), (x0, x1) = zip(found.low_zyx.tolist(), found.high_zyx.tolist(), strict=True)
    for planes in _some(shape[0], PLANES):
        box = (slice(z0 + planes.start, z0 + planes.stop), slice(y0, y1), slice(x0, x1))
        mask[planes] = np.asarray(volumes.truth[box]) == owner
    return mask


def _some(count: int, step: int) -> Iterator[slice]:
    """Planes, some at a time."""
    for start in range(0, count, max(1, step)):
        yield slice(start, min(start + max(1, step), count))
