"""From local labels to global ids, in numbers that grow with what was joined, not with what there is.

Objects are numbered 1..n in the order of their smallest members: by subvolume, then local label. Most
labels are the smallest member of their object, so their ids just count up from where their subvolume
starts; only the others, the *exceptions*, are written down.

    local label    1   2   3   4   5          start 70; exceptions: 2 is object 12, 4 is dropped
    global id     71  12  72   0  73
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from functions.agglomeration.hierarchy import labels_of, positions_of

Integers = NDArray[np.int64]
Ids = NDArray[np.uint32]
MOST_OBJECTS = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockTable:
    """Global ids of the local labels of a block's subvolumes, in z, y, x order.

    `starts`: objects numbered before those of each subvolume; `labels`: its local labels. Its exceptions are
    `exceptions[offsets[i] : offsets[i + 1]]`, ascending, and `ids` are theirs; 0 is dropped.
    """

    starts: Integers
    labels: Integers
    offsets: Integers
    exceptions: Ids
    ids: Ids

    def lookup(self, rank: int) -> Ids:
        """Array to index with the local labels of the block's subvolume `rank`; 0 stays 0."""
        own = np.ones(int(self.labels[rank]) + 1, bool)
        own[0] = False
        here = slice(int(self.offsets[rank]), int(self.offsets[rank + 1]))
        own[self.exceptions[here]] = False
        ids: Ids = (self.starts[rank] + np.cumsum(own)).astype(np.uint32)
        ids[self.exceptions[here]] = self.ids[here]
        ids[0] = 0
        return ids

    def in_pieces(self) -> Ids:
        """Ids of objects that hold more than one label of one subvolume, ascending."""
        subvolume = np.repeat(np.arange(self.labels.size), np.diff(self.offsets))
        ends = self.starts + self.labels - np.diff(self.offsets)
        ids = self.ids.astype(np.int64)
        here = (ids > self.starts[subvolume]) & (ids <= ends[subvolume])
        order = np.lexsort((ids, subvolume))
        twice = (np.diff(ids[order]) == 0) & (np.diff(subvolume[order]) == 0) & (ids[order][1:] > 0)
        return np.unique(np.concatenate([ids[here], ids[order][1:][twice]])).astype(np.uint32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exceptions:
    """Labels of a block that are not the smallest member of a kept object; keys ascending.

    `component`: which component of the block has the id; -1 for a dropped label that equals no other.
    """

    keys: Integers
    component: Integers

    def of(self, positions: Integers) -> Integers:
        """Where the exceptions of each subvolume begin, and the end of the last."""
        return np.searchsorted(self.keys, np.append(positions, positions[-1] + 1) << 32)


def own_ids(keys: Integers, *, exceptions: Exceptions, positions: Integers, starts: Integers) -> Integers:
    """Ids of labels (ascending keys, none an exception) that are the smallest members of their objects."""
    rank = np.searchsorted(positions, positions_of(keys))
    before = np.searchsorted(exceptions.keys, keys) - exceptions.of(positions)[rank]
    return np.asarray(starts[rank] + labels_of(keys) - before, np.int64)


def table(
    exceptions: Exceptions,
    component_ids: Integers,
    *,
    positions: Integers,
    starts: Integers,
    labels: Integers,
) -> BlockTable:
    """The table of a block whose components have these ids."""
    ids = np.append(component_ids, 0)[exceptions.component]  # -1 takes the last
    return BlockTable(
        starts=starts,
        labels=labels,
        offsets=exceptions.of(positions),
        exceptions=labels_of(exceptions.keys).astype(np.uint32),
        ids=ids.astype(np.uint32),
    )


def require_countable(objects: int) -> None:
    """Check that ids fit.

    Raises:
        ValueError: they need more than 32 bits.
    """
    if objects > MOST_OBJECTS:
        raise ValueError(f"{objects} objects do not fit 32-bit ids; drop small ones with min_object_voxels")
