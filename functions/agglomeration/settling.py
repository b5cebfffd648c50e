"""Which merges are taken, of verdicts on pairs that were each given by itself: strongest first, guarded.

One pair after the other, with a few bytes for each segment: pairs may come from files, in order
(`functions.agglomeration.ordering`), more than would fit into memory.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.uint32]
NOBODY = -1


class Refusal(NamedTuple):
    """Why a merge is not taken: `unknown`, one of the two (`which`: 0 or 1) is no segment; `bridge`, it is
    small and has joined a better partner."""

    verdict: Literal["unknown", "bridge"]
    which: int


class Settling:
    """Merges taken in the order in which they are given, between segments that are numbered from 0 on.

    A segment of fewer than `min_bridge_voxels` joins one partner only: its best, if the strongest merges come
    first. 9 bytes a segment, of which 4 are the caller's `voxels`.
    """

    def __init__(self, voxels: NDArray[np.integer], *, min_bridge_voxels: int) -> None:
        """`voxels` of each segment, of which there are fewer than 2**32."""
        self._voxels, self._least = voxels, min_bridge_voxels
        self._above = np.arange(voxels.size, dtype=np.uint32)
        self._joined = np.zeros(voxels.size, np.bool_)
        self.joins = 0
        """Merges of two that were not one already: so many objects fewer."""

    def take(self, first: int, second: int) -> Refusal | None:
        """Make two segments one, unless that is refused; `NOBODY` stands for one that is not there.

        Of several points of one pair one merge is enough, so what is one already changes nothing.
        """
        pair = (first, second)
        if NOBODY in pair:
            return Refusal("unknown", pair.index(NOBODY))
        low, high = sorted(map(self._lowest, pair))
        if low == high:
            return None
        for which, segment in enumerate(pair):
            if self._joined[segment] and self._voxels[segment] < self._least:
                return Refusal("bridge", which)
        self._above[high] = low
        self._joined[[first, second]] = True
        self.joins += 1
        return None

    def objects(self, start: int = 0, stop: int | None = None) -> Places:
        """The lowest segment of the object of each segment from `start` up to `stop`.

        Whoever asks for all, part by part, asks in ascending order: what lies below is then one step away.
        """
        part = self._above[start:stop]
        while True:
            found: Places = self._above[part]
            if np.array_equal(found, part):
                return found
            part[:] = found  # chains of segments become half as long

    def _lowest(self, segment: int) -> int:
        above = self._above
        while (parent := int(above[segment])) != segment:
            above[segment] = above[parent]
            segment = int(above[segment])
        return segment
