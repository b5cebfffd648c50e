"""The equalities a block of subvolumes takes part in: those measured, less what could join two neurons.

Mutual best overlap joins a label to at most one label of each neighbour. That is not enough against a false
merger, which has several neighbours and can be joined to another neuron in each:

    subvolume p   m m m m m m m m      m covers a and b of q: it is *contested*
    subvolume q   a a a a b b b .      p may have merged, or q may have split
    subvolume r         b' b' b'       m ~ a and m ~ b' would join a and b through p

Splits are kept, so the doubt counts against joining: a contested label is joined once, where it shares most
voxels, and so is a dead end that no path leads through. What is refused stays on record as a candidate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from functions.agglomeration.blocks import SIDES
from functions.agglomeration.hierarchy import REFUSED
from functions.agglomeration.overlaps import over_union
from functions.agglomeration.reduction import Leaf

Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]
INSIDE = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Pairs of labels that share voxels, of all overlaps of a block's subvolumes, as node keys.

    `overlap`: a number that tells overlaps apart; `side`: the outer side that the overlap crosses, or
    `INSIDE`; `first` lies in the lower of both subvolumes. `first_voxels`, `second_voxels`: of each label,
    in this overlap; `accepted`: what the overlap alone says.
    """

    overlap: Integers
    side: Integers
    first: Integers
    second: Integers
    voxels: Integers
    first_voxels: Integers
    second_voxels: Integers
    accepted: Flags

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of each pair, among voxels that both label."""
        return over_union(self.voxels, self.first_voxels, self.second_voxels)


def leaf_of(
    rows: Rows, *, labels: Integers, owned_voxels: Integers, contested_share: float, min_voxels: int
) -> Leaf:
    """The equalities of a block of level 0. All overlaps of its subvolumes must be there.

    A label is contested if an overlap gives two labels of the other subvolume at least `contested_share` of
    its voxels, and `min_voxels`, each. Only the block of a label can tell, so across a side each block
    answers for its own label, and both must agree.
    """
    first_keeps, second_keeps = agreed(rows, share=contested_share, least=min_voxels)
    inside = (rows.side == INSIDE) & rows.accepted & first_keeps & second_keeps
    sides = []
    for side in SIDES:
        across = rows.accepted & (rows.side == side)
        own, kept = (rows.first, first_keeps) if side % 2 else (rows.second, second_keeps)
        sides.append(np.where(kept[across], own[across], REFUSED))
    return Leaf(
        first=rows.first[inside],
        second=rows.second[inside],
        iou=rows.iou[inside],
        sides=tuple(sides),
        labels=labels,
        owned_voxels=owned_voxels,
    )


def agreed(rows: Rows, *, share: float, least: int) -> tuple[Flags, Flags]:
    """Which rows the first label, and which the second, would be joined by; see `leaf_of`.

    A label is the first in overlaps to one side and the second in those to the other: both count together.
    """
    own, other = np.concatenate([rows.first, rows.second]), np.concatenate([rows.second, rows.first])
    voxels, overlap = np.tile(rows.voxels, 2), np.tile(rows.overlap, 2)
    accepted = np.tile(rows.accepted, 2)
    total = np.concatenate([rows.first_voxels, rows.second_voxels])
    large = (voxels >= least) & (voxels >= share * total)
    doubtful = np.isin(own, _named_twice(overlap[large], own[large]))
    tried = np.flatnonzero(doubtful & accepted)
    order = tried[np.lexsort((other[tried], -voxels[tried], own[tried]))]
    is_best = np.ones(order.size, bool)
    is_best[1:] = own[order][1:] != own[order][:-1]
    keeps = accepted & ~doubtful
    keeps[order[is_best]] = True
    return keeps[: rows.first.size], keeps[rows.first.size :]


def _named_twice(overlap: Integers, keys: Integers) -> Integers:
    """Keys that stand more than once in one overlap."""
    order = np.lexsort((keys, overlap))
    overlap, keys = overlap[order], keys[order]
    twice = (overlap[1:] == overlap[:-1]) & (keys[1:] == keys[:-1])
    return np.asarray(keys[1:][twice], np.int64)
