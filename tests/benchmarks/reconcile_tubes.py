"""Equalities of any number of subvolumes that need no voxels and whose truth is known: tubes, made by
hashing.

Every subvolume is crossed by `tubes` straight tubes along each axis, and by as many stairs that step along
x and y by turns. A tube ends at an overlap if a hash of the place says so, one time in `LENGTH`. Names are
scrambled:
local labels are as good as random, and most of a subvolume's `LABELS` objects touch no overlap.

What the ids must be follows from the construction alone, one section of subvolumes after the other: nothing
of the code under test is used, and nothing is held but one section.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from functions.agglomeration.blocks import AXES, Block, Hierarchy
from functions.agglomeration.hierarchy import node_keys
from functions.agglomeration.reduction import Leaf
from functions.model.geometry import ZYX

Integers = NDArray[np.int64]

LABELS = 1000
LENGTH = 25
STAIRS = 3
"""The fourth kind of tube, after those along z, y and x."""
SPREAD = 37
"""Has no factor in common with `LABELS`."""


def scrambled(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele et al. 2014): 64 bits that look random."""
    v = values + np.uint64(0x9E3779B97F4A7C15)
    v = (v ^ (v >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    v = (v ^ (v >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return v ^ (v >> np.uint64(31))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tubes:
    """A source of equalities for the reduction. Slot `kind * tubes + i` is tube i of a kind."""

    counts_zyx: ZYX
    tubes: int = 8

    @property
    def slots(self) -> int:
        """Tubes that cross each subvolume."""
        return 4 * self.tubes

    def labels(self, positions: Integers) -> Integers:
        """The local labels (positions, slots) of the tubes."""
        start = (scrambled(positions.astype(np.uint64)) % np.uint64(LABELS)).astype(np.int64)
        return 1 + (start[:, None] + SPREAD * np.arange(self.slots)) % LABELS

    def goes_on(self, positions: Integers, axis: int) -> NDArray[np.bool_]:
        """Which tubes (positions, slots) of a subvolume go on into the next one along an axis."""
        _, y, x = np.unravel_index(positions, self.counts_zyx)
        z_index = np.unravel_index(positions, self.counts_zyx)[axis]
        kind = np.repeat(np.arange(4), self.tubes)
        stairs_axis = np.where((x - y) % 2 == 0, 2, 1)
        fits = (kind == axis) | ((kind == STAIRS) & (stairs_axis[:, None] == axis))
        code = (positions[:, None] * 3 + axis) * self.slots + np.arange(self.slots)
        lives = scrambled(code.astype(np.uint64)) % np.uint64(LENGTH) > 0
        return fits & lives & (z_index[:, None] + 1 < self.counts_zyx[axis])

    def leaf(self, block: Block, hierarchy: Hierarchy) -> Leaf:
        """The equalities of one block."""
        mine = hierarchy.positions(block)
        step = (self.counts_zyx[1] * self.counts_zyx[2], self.counts_zyx[2], 1)
        index = np.unravel_index(mine, self.counts_zyx)
        ranges = hierarchy.ranges(block)
        firsts, seconds, sides = [], [], []
        for axis in AXES:
            low_side = mine[(index[axis] == ranges[axis].start) & (index[axis] > 0)]
            _, entering = self._rows(low_side - step[axis], axis, step[axis])
            outermost = index[axis] + 1 == ranges[axis].stop
            leaving, _ = self._rows(mine[outermost], axis, step[axis])
            sides += [entering, leaving]
            first, second = self._rows(mine[~outermost], axis, step[axis])
            firsts.append(first)
            seconds.append(second)
        first = np.concatenate(firsts)
        return Leaf(
            first=first,
            second=np.concatenate(seconds),
            iou=np.ones(first.size),
            sides=tuple(sides),
            labels=np.full(mine.size, LABELS, np.int64),
            owned_voxels=np.ones(mine.size * LABELS, np.int64),
        )

    def _rows(self, low: Integers, axis: int, step: int) -> tuple[Integers, Integers]:
        """Keys of both labels of every equality between subvolumes and the next ones along an axis."""
        at, slot = np.nonzero(self.goes_on(low, axis))
        first = node_keys(low[at], self.labels(low)[at, slot])
        return first, node_keys(low[at] + step, self.labels(low + step)[at, slot])

    def expected(self) -> Iterator[tuple[Integers, Integers]]:
        """Section by section of subvolumes: positions, and the true ids (positions, slots) of their tubes."""
        _, ny, nx = self.counts_zyx
        section = ny * nx
        before, came = np.zeros((section, self.slots), np.int64), np.zeros((section, self.slots), bool)
        objects = 0
        for z in range(self.counts_zyx[0]):
            here = np.arange(z * section, (z + 1) * section)
            onward = {axis: self.goes_on(here, axis) for axis in AXES}
            arrives = came.copy()  # from the section above
            arrives.reshape(ny, nx, -1)[1:] |= onward[1].reshape(ny, nx, -1)[:-1]
            arrives.reshape(ny, nx, -1)[:, 1:] |= onward[2].reshape(ny, nx, -1)[:, :-1]
            own = self._own_ids(here, arrives, objects)
            ids = np.where(came, before, own).reshape(ny, nx, -1)
            self._carry(ids, {axis: onward[axis].reshape(ny, nx, -1) for axis in (1, 2)})
            objects += LABELS * section - int(arrives.sum())
            before, came = ids.reshape(section, -1).copy(), onward[0]
            yield here, before

    def _own_ids(self, here: Integers, arrives: NDArray[np.bool_], objects: int) -> Integers:
        """The id of each label if it is the smallest of its object: labels that are not are passed over."""
        labels = self.labels(here)
        order = np.argsort(labels, axis=1)
        passed = np.take_along_axis(arrives, order, axis=1)
        before = np.empty_like(labels)
        np.put_along_axis(before, order, np.cumsum(passed, axis=1) - passed, axis=1)
        counts = LABELS - arrives.sum(axis=1)
        starts = objects + np.cumsum(counts) - counts
        return np.asarray(starts[:, None] + labels - before, np.int64)

    def _carry(self, ids: Integers, onward: dict[int, NDArray[np.bool_]]) -> None:
        """Pass ids on inside a section, in place, along y and x and down the stairs."""
        _, ny, nx = self.counts_zyx
        even = (np.arange(nx)[None, :] - np.arange(ny)[:, None]) % 2 == 0
        for y in range(ny):
            if y:  # along y, and the stairs' steps in y
                ids[y] = np.where(onward[1][y - 1], ids[y - 1], ids[y])
            steps = onward[2][y] & even[y][:, None]  # the stairs' steps in x come from where y has been done
            stairs = slice(STAIRS * self.tubes, None)
            ids[y, 1:, stairs] = np.where(steps[:-1, stairs], ids[y, :-1, stairs], ids[y, 1:, stairs])
        straight = slice(2 * self.tubes, STAIRS * self.tubes)
        for x in range(1, nx):
            ids[:, x, straight] = np.where(
                onward[2][:, x - 1, straight], ids[:, x - 1, straight], ids[:, x, straight]
            )
