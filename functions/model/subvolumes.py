"""The plan of overlapping subvolumes: a pure function of volume shape, subvolume size and overlap.

On each axis all subvolumes have the same size and overlap by at least `overlap`. Ownership changes in the
middle of an overlap: write boxes partition the volume, and every voxel is owned where it was seen deepest.

    read    |-------- a --------|
                         |-------- b --------|
                                      |-------- c --------|
    write   |----- a ------|---- b ------|------- c ------|
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, product
from math import prod

from functions.model.geometry import ZYX, Box, tile_axis

Interval = tuple[int, int]
AXES = (0, 1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subvolume:
    """One unit of segmentation: it reads `read` and owns `write`, which lies inside."""

    position: int
    """Rank in the grid's z, y, x order."""
    index_zyx: ZYX
    read: Box
    write: Box

    @property
    def id(self) -> str:
        """Name of the read box's corner, e.g. `z00000_y00128_x00256`."""
        return self.read.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """Two subvolumes that share a face of the grid, `first` before `second`."""

    first: Subvolume
    second: Subvolume

    @property
    def id(self) -> str:
        """Names of both, in grid order."""
        return f"{self.first.id}-{self.second.id}"

    @property
    def overlap(self) -> Box:
        """The voxels that both read."""
        return self.first.read.intersect(self.second.read)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubvolumeGrid:
    """All subvolumes of a volume, made on demand: a grid of millions costs a few numbers per axis."""

    shape_zyx: ZYX
    size_zyx: ZYX
    overlap_zyx: ZYX

    def __post_init__(self) -> None:
        for axis in AXES:
            if self.shape_zyx[axis] < 1 or not 0 <= self.overlap_zyx[axis] < self.size_zyx[axis]:
                raise ValueError(
                    f"overlap_zyx: {self.overlap_zyx} must be at least 0 and below the size "
                    f"{self.size_zyx}; the volume {self.shape_zyx} must not be empty"
                )

    def reads(self, axis: int) -> tuple[Interval, ...]:
        """Read intervals of an axis."""
        return _reads(self.shape_zyx[axis], self.size_zyx[axis], self.overlap_zyx[axis])

    def writes(self, axis: int) -> tuple[Interval, ...]:
        """Write intervals of an axis: cut in the middle of each overlap."""
        return _writes(self.shape_zyx[axis], self.size_zyx[axis], self.overlap_zyx[axis])

    @property
    def counts_zyx(self) -> ZYX:
        """Subvolumes along each axis."""
        return len(self.reads(0)), len(self.reads(1)), len(self.reads(2))

    def __len__(self) -> int:
        return prod(self.counts_zyx)

    def __iter__(self) -> Iterator[Subvolume]:
        return self._select(*(range(n) for n in self.counts_zyx))

    def get(self, unit: str) -> Subvolume:
        """The subvolume of that id.

        Raises:
            KeyError: the grid has no such subvolume.
        """
        offset = [int(digits) for digits in re.findall(r"\d+", unit)]
        starts = [[start for start, _ in self.reads(axis)] for axis in AXES]
        if len(offset) == 3 and all(o in s for o, s in zip(offset, starts, strict=True)):
            index = ([s.index(o)] for o, s in zip(offset, starts, strict=True))
            subvolume = next(self._select(*index))
            if subvolume.id == unit:
                return subvolume
        raise KeyError(unit)

    def reading(self, box: Box) -> list[Subvolume]:
        """Subvolumes whose read box meets `box`, in grid order."""
        return list(self._select(*(_meeting(self.reads(a), box.offset_zyx[a], box.end_zyx[a]) for a in AXES)))

    def neighbours(self) -> Iterator[Neighbours]:
        """Pairs that share a face of the grid and overlap.

        They are enough: what two other subvolumes share, a chain of face neighbours between them shares too.
        """
        for first in self:
            for axis in AXES:
                pair = self.above(first.index_zyx, axis)
                if pair is not None:
                    yield pair

    def block(self, z: range, y: range, x: range) -> Iterator[Subvolume]:
        """The subvolumes of these indices, in z, y, x order."""
        return self._select(z, y, x)

    def at(self, index_zyx: ZYX) -> Subvolume:
        """The subvolume of that index."""
        z, y, x = index_zyx
        return next(self._select([z], [y], [x]))

    def above(self, index_zyx: ZYX, axis: int) -> Neighbours | None:
        """A subvolume and the next on an axis, if there is one and both overlap."""
        z, y, x = (n + (a == axis) for a, n in enumerate(index_zyx))
        if (z, y, x)[axis] >= self.counts_zyx[axis]:
            return None
        pair = Neighbours(first=self.at(index_zyx), second=self.at((z, y, x)))
        return pair if pair.overlap.voxels else None

    def touching(self, subvolume: Subvolume) -> Iterator[Neighbours]:
        """The up to six pairs that a subvolume is in."""
        for axis in AXES:
            z, y, x = (n - (a == axis) for a, n in enumerate(subvolume.index_zyx))
            for pair in (
                self.above((z, y, x), axis) if (z, y, x)[axis] >= 0 else None,
                self.above(subvolume.index_zyx, axis),
            ):
                if pair is not None:
                    yield pair

    def pair(self, unit: str) -> Neighbours:
        """The neighbours of that id.

        Raises:
            KeyError: the grid has no such pair.
        """
        names = unit.split("-")
        if len(names) != 2:
            raise KeyError(unit)
        pair = Neighbours(first=self.get(names[0]), second=self.get(names[1]))
        steps = [b - a for a, b in zip(pair.first.index_zyx, pair.second.index_zyx, strict=True)]
        if sorted(steps) != [0, 0, 1] or not pair.overlap.voxels:
            raise KeyError(unit)
        return pair

    def overlap_factor(self) -> float:
        """Voxels read over voxels of the volume: what overlap costs."""
        read = prod(sum(end - start for start, end in self.reads(axis)) for axis in AXES)
        return read / prod(self.shape_zyx)

    def _select(self, *indices: range | list[int]) -> Iterator[Subvolume]:
        reads, writes = [self.reads(a) for a in AXES], [self.writes(a) for a in AXES]
        counts = self.counts_zyx
        for z, y, x in product(*indices):
            yield Subvolume(
                position=(z * counts[1] + y) * counts[2] + x,
                index_zyx=(z, y, x),
                read=_box(reads[0][z], reads[1][y], reads[2][x]),
                write=_box(writes[0][z], writes[1][y], writes[2][x]),
            )


@lru_cache(maxsize=64)
def _reads(extent: int, size: int, overlap: int) -> tuple[Interval, ...]:
    size = min(size, extent)
    return tuple(tile_axis(extent, size, min(overlap, size - 1)))


@lru_cache(maxsize=64)
def _writes(extent: int, size: int, overlap: int) -> tuple[Interval, ...]:
    reads = _reads(extent, size, overlap)
    cuts = [0, *((b[0] + a[1]) // 2 for a, b in pairwise(reads)), extent]
    return tuple(pairwise(cuts))


def _meeting(intervals: tuple[Interval, ...], start: int, end: int) -> list[int]:
    return [i for i, (a, b) in enumerate(intervals) if a < end and start < b]


def _box(z: Interval, y: Interval, x: Interval) -> Box:
    return Box(offset_zyx=(z[0], y[0], x[0]), shape_zyx=(z[1] - z[0], y[1] - y[0], x[1] - x[0]))
