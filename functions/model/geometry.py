"""Boxes in voxel space. Axis order is z, y, x everywhere; a box is half-open: [offset, offset + shape)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

ZYX = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Box:
    """A half-open box of voxels; a zero in `shape_zyx` makes it empty, a negative shape is refused."""

    offset_zyx: ZYX
    shape_zyx: ZYX

    def __post_init__(self) -> None:
        if any(n < 0 for n in self.shape_zyx):
            raise ValueError(f"shape_zyx: {self.shape_zyx} has a negative extent")

    @property
    def end_zyx(self) -> ZYX:
        """First voxel behind the box on each axis."""
        o, n = self.offset_zyx, self.shape_zyx
        return o[0] + n[0], o[1] + n[1], o[2] + n[2]

    @property
    def voxels(self) -> int:
        """Number of voxels inside."""
        return self.shape_zyx[0] * self.shape_zyx[1] * self.shape_zyx[2]

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index of the box in an array whose voxel (0, 0, 0) is the origin."""
        o, e = self.offset_zyx, self.end_zyx
        return slice(o[0], e[0]), slice(o[1], e[1]), slice(o[2], e[2])

    def relative_to(self, outer: Box) -> Box:
        """The same box, measured from the corner of `outer`."""
        o, p = self.offset_zyx, outer.offset_zyx
        return Box(offset_zyx=(o[0] - p[0], o[1] - p[1], o[2] - p[2]), shape_zyx=self.shape_zyx)

    def grow(self, margin_zyx: ZYX) -> Box:
        """Add `margin_zyx` voxels on both sides of each axis."""
        o, n, m = self.offset_zyx, self.shape_zyx, margin_zyx
        return Box(
            offset_zyx=(o[0] - m[0], o[1] - m[1], o[2] - m[2]),
            shape_zyx=(n[0] + 2 * m[0], n[1] + 2 * m[1], n[2] + 2 * m[2]),
        )

    def intersect(self, other: Box) -> Box:
        """The common part; empty (zero voxels) where the boxes do not meet."""
        start = [max(a, b) for a, b in zip(self.offset_zyx, other.offset_zyx, strict=True)]
        end = [min(a, b) for a, b in zip(self.end_zyx, other.end_zyx, strict=True)]
        shape = [max(0, e - s) for s, e in zip(start, end, strict=True)]
        return Box(offset_zyx=(start[0], start[1], start[2]), shape_zyx=(shape[0], shape[1], shape[2]))

    def contains(self, other: Box) -> bool:
        """Whether `other` lies inside."""
        return self.intersect(other) == other

    @property
    def id(self) -> str:
        """Name derived from geometry, e.g. `z00000_y00128_x00256`: sorts in z, y, x order."""
        z, y, x = self.offset_zyx
        return f"z{z:05d}_y{y:05d}_x{x:05d}"


def tile_axis(extent: int, size: int, overlap: int) -> list[tuple[int, int]]:
    """Cover [0, extent) by intervals (start, stop) of `size` that overlap by at least `overlap`.

    All intervals have the same size (an axis shorter than `size` gets one short interval). They are spread
    evenly, so the last one ends at `extent` without a sliver.
    """
    if not 0 <= overlap < size:
        raise ValueError(f"overlap: {overlap} must be at least 0 and below the size {size}")
    if extent <= size:
        return [(0, extent)]
    count = -(-(extent - overlap) // (size - overlap))
    return [(s, s + size) for s in (round(i * (extent - size) / (count - 1)) for i in range(count))]


def tile_box(shape_zyx: ZYX, size_zyx: ZYX, overlap_zyx: ZYX) -> Iterator[Box]:
    """Overlapping boxes that cover a volume, in z, y, x order (see `tile_axis`)."""
    axes = [tile_axis(n, min(s, n), min(o, min(s, n) - 1)) for n, s, o in
            zip(shape_zyx, size_zyx, overlap_zyx, strict=True)]  # fmt: skip
    for z0, z1 in axes[0]:
        for y0, y1 in axes[1]:
            for x0, x1 in axes[2]:
                yield Box(offset_zyx=(z0, y0, x0), shape_zyx=(z1 - z0, y1 - y0, x1 - x0))


def cut_box(shape_zyx: ZYX, size_zyx: ZYX) -> Iterator[Box]:
    """Boxes of `size_zyx` from the origin on that partition a volume; the last on each axis is cut short."""
    up = [-(-n // s) * s for n, s in zip(shape_zyx, size_zyx, strict=True)]
    whole = Box(offset_zyx=(0, 0, 0), shape_zyx=shape_zyx)
    for box in tile_box((up[0], up[1], up[2]), size_zyx, (0, 0, 0)):
        yield box.intersect(whole)


def find_box(name: str, shape_zyx: ZYX, size_zyx: ZYX) -> Box:
    """The box of that name among those of `cut_box`, without looking at all others.

    Raises:
        KeyError: there is none.
    """
    digits = [int(found) for found in re.findall(r"\d+", name)]
    z, y, x = [*digits, -1, -1, -1][:3]
    if all(0 <= o < n and o % s == 0 for o, n, s in zip((z, y, x), shape_zyx, size_zyx, strict=True)):
        whole = Box(offset_zyx=(0, 0, 0), shape_zyx=shape_zyx)
        box = Box(offset_zyx=(z, y, x), shape_zyx=size_zyx).intersect(whole)
        if box.id == name:
            return box
    raise KeyError(name)
