"""Which unknown of a stack is what: sections' sheets, plate by plate, and one offset a pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from functions.model.transform import Warp, sheet_shape
from functions.registration.common import FrameSheet
from functions.registration.robust import Sparse
from functions.registration.stack import Pair, StackSection

Integers = NDArray[np.int64]
GROUP_UNKNOWNS = 4096
"""Sections of few knots are put into groups of about so many, so that a group is worth the handling."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plates:
    """Where the unknowns are: section by section its plates (a plate is a region of a section that is not
    locked; knots row by row), then the offsets of its pairs. The frame's sheet, if there is one, is the plate
    of a section that follows the last.

    `knots`: (gy, gx) of the plates of each section. `first`: its first plate. `start`: first unknown of each
    plate. `bounds`: first unknown of each section. `offset`: unknown of each pair. `owner`: section of each
    plate. `groups`: first section of each group. `first`, `bounds` and `groups` end with the number of all.
    """

    knots: tuple[tuple[int, int], ...]
    first: Integers
    start: Integers
    bounds: Integers
    offset: Integers
    owner: Integers
    groups: Integers

    @property
    def size(self) -> int:
        """Number of unknowns."""
        return int(self.bounds[-1])

    def of(self, section: int) -> range:
        """The plates of a section."""
        return range(int(self.first[section]), int(self.first[section + 1]))

    def range_of(self, plate: int) -> slice:
        """The unknowns of a plate."""
        start, (gy, gx) = int(self.start[plate]), self.knots[self.owner[plate]]
        return slice(start, start + gy * gx)

    def offsets_of(self, section: int) -> int:
        """How many offsets follow the plates of a section."""
        end = self.range_of(self.of(section)[-1]).stop if self.of(section) else self.bounds[section]
        return int(self.bounds[section + 1] - end)


def lay_plates(
    sections: Sequence[StackSection],
    pairs: Sequence[Pair],
    spacing_px: float,
    locked: Mapping[int, Warp],
    frame: FrameSheet | None = None,
) -> Plates:
    """Number the unknowns. Each pair holds a section that is not locked, and one of these has its offset."""
    knots = [sheet_shape(s.shape_yx, spacing_px) for s in sections]
    counts = [
        0 if k in locked else 1 if s.regions is None else s.regions.count for k, s in enumerate(sections)
    ]
    if frame is not None:
        knots.append(frame.knots)
        counts.append(1)
    sizes = np.prod(np.array(knots, dtype=np.int64).reshape(-1, 2), axis=1)
    free = np.array([p.b if p.a in locked else p.a for p in pairs], dtype=np.int64)
    offsets = np.bincount(free, minlength=len(knots))
    bounds = _cumulative(sizes * counts + offsets)
    first = _cumulative(np.array(counts))
    owner = np.repeat(np.arange(len(knots)), counts)
    rank = np.arange(len(owner)) - first[owner]
    before = bounds[:-1] + sizes * counts
    order = np.argsort(free, kind="stable")
    offset = np.empty(len(free), np.int64)
    offset[order] = before[free[order]] + np.arange(len(free)) - _cumulative(offsets)[free[order]]
    return Plates(
        knots=tuple(knots),
        first=first,
        start=bounds[owner] + rank * sizes[owner],
        bounds=bounds,
        offset=offset,
        owner=owner,
        groups=_groups(bounds, alone=() if frame is None else (len(sections),)),
    )


def coarse_modes(plates: Plates) -> Sparse:
    """Modes (P, Q) of sections as a whole: each plate moved and stretched, each pair's offset."""
    blocks: list[Any] = []
    for section, (gy, gx) in enumerate(plates.knots):
        y, x = np.mgrid[-1.0 : 1.0 : gy * 1j, -1.0 : 1.0 : gx * 1j]
        plate = np.stack([np.ones(gy * gx), y.ravel(), x.ravel()], axis=1)
        blocks += [plate] * len(plates.of(section))
        if plates.offsets_of(section):
            blocks.append(sparse.identity(plates.offsets_of(section)))
    return sparse.block_diag(blocks, format="csr")


def _groups(bounds: Integers, *, alone: Sequence[int]) -> Integers:
    """Each holds unknowns: a locked section, which has none, never makes up a group by itself."""
    out = [0]
    for section in range(1, len(bounds) - 1):
        full = bounds[section + 1] - bounds[out[-1]] > GROUP_UNKNOWNS
        if (full or section in alone) and bounds[out[-1]] < bounds[section] < bounds[section + 1]:
            out.append(section)
    return np.array([*out, len(bounds) - 1], dtype=np.int64)


def _cumulative(counts: Integers) -> Integers:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
