"""The simple way: all labels and equalities of a volume in memory, joined at once.

It is what the hierarchical reduction is tested against, and the only way to limit how many labels of one
subvolume an object may hold: which joins are refused for that depends on all of them together.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from functions.agglomeration.hierarchy import labels_of, positions_of
from functions.agglomeration.reduction import Leaf, Summary
from functions.agglomeration.tables import BlockTable, require_countable
from functions.agglomeration.union_find import components, limited_components, ranks

Integers = NDArray[np.int64]


def join_at_once(leaf: Leaf, *, min_voxels: int, most: int | None) -> tuple[Summary, BlockTable]:
    """Join the whole volume, given as one block; at most `most` labels of a subvolume in an object."""
    ends = np.cumsum(leaf.labels)
    starts, size = ends - leaf.labels, leaf.owned_voxels.size
    first, second = (starts[positions_of(keys)] + labels_of(keys) - 1 for keys in (leaf.first, leaf.second))
    subvolume = np.repeat(np.arange(leaf.labels.size), leaf.labels)
    refused = np.zeros(first.shape, bool)
    if most is None:
        representative = components(size, first, second)
    else:
        representative, refused = limited_components(size, first, second, leaf.iou, subvolume, most=most)
    voxels = np.zeros(size, np.int64)
    np.add.at(voxels, representative, leaf.owned_voxels)
    kept = voxels[representative] >= min_voxels
    ids = ranks(representative, kept)
    excepted = np.flatnonzero(~kept | (representative != np.arange(size)))
    objects = int(ids.max(initial=0))
    require_countable(objects)
    offsets = np.searchsorted(excepted, np.append(starts, size))
    summary = Summary(
        labels=size,
        equalities=first.size,
        objects=objects,
        voxels=int(leaf.owned_voxels.sum()),
        largest_voxels=int(voxels.max(initial=0)),
        joins_refused=int(refused.sum()),
    )
    return summary, BlockTable(
        starts=np.cumsum(leaf.labels - np.diff(offsets)) - (leaf.labels - np.diff(offsets)),
        labels=leaf.labels,
        offsets=offsets,
        exceptions=(excepted - starts[subvolume[excepted]] + 1).astype(np.uint32),
        ids=ids[excepted],
    )
