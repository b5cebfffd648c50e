"""Sections that are read window by window: whole, reduced, or one region of them.

A plane is anything with a shape that gives the pixels of a box, `plane[rows, columns]`: an array does, and so
does what the store reads. Planes on planes read no more than what a box of them needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from functions.model.regions import REGION_CELL_PX, Regions
from functions.registration.masks import reduce_mean

USABLE_SHARE = 0.8
"""A block of pixels is usable when more of it is."""
Boxed = tuple[slice, slice]


class Plane(Protocol):
    """Pixels (Y, X) that need not be in memory."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Height and width."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the pixels."""
        ...

    def __getitem__(self, box: Boxed, /) -> NDArray[Any]:
        """The pixels of a box."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduced:
    """Means of factor x factor px of a grey plane; or, of a mask, where enough of them are usable."""

    source: Plane
    factor: int
    is_mask: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """The last block of an axis may be partial."""
        return tuple(-(-n // self.factor) for n in self.source.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what is read."""
        return np.dtype(np.bool_ if self.is_mask else np.float32)

    def __getitem__(self, box: Boxed, /) -> NDArray[Any]:
        f = self.factor
        rows, columns = (slice(*s.indices(n)) for s, n in zip(box, self.shape, strict=True))
        means = reduce_mean(
            self.source[rows.start * f : rows.stop * f, columns.start * f : columns.stop * f], f
        )
        return means > USABLE_SHARE if self.is_mask else means


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionMask:
    """Where a mask of a level of factor `factor` is usable and in one region; what lies on a line is not."""

    mask: Plane
    regions: Regions
    region: int
    factor: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the mask."""
        return self.mask.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what is read."""
        return np.dtype(np.bool_)

    def __getitem__(self, box: Boxed, /) -> NDArray[Any]:
        rows, columns = (
            np.arange(*s.indices(n)) * self.factor // REGION_CELL_PX
            for s, n in zip(box, self.shape, strict=True)
        )
        here = self.regions.labels[np.ix_(rows, columns)] == self.region
        return np.asarray(self.mask[box] & here)


def hold(planes: list[Reduced], limit_px: int) -> list[NDArray[Any]]:
    """Planes of one section as arrays, read in strips of about `limit_px` pixels of their source."""
    if not planes:
        return []
    out = [np.zeros(p.shape, p.dtype) for p in planes]
    largest = max(p.factor for p in planes)
    height, width = planes[0].source.shape[:2]
    step = largest * max(1, limit_px // (width * largest))
    for top in range(0, height, step):
        strip = planes[0].source[top : min(height, top + step), :]
        for plane, held in zip(planes, out, strict=True):
            first = top // plane.factor
            part = Reduced(source=strip, factor=plane.factor, is_mask=plane.is_mask)[:, :]
            held[first : first + len(part)] = part
    return out
