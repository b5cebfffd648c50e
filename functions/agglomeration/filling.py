"""Give voxels that a consensus left empty to the piece beside them, where no segmentation contradicts.

Only voxels that some segmentation labels are filled. So what lies under an artefact stays as the
segmentations left it: see `functions.agglomeration.gaps` for what they label there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pieces = NDArray[np.uint32]
Ids = NDArray[np.uint64]

_NONE = np.uint32(np.iinfo(np.uint32).max)


def fill_uncontradicted(pieces: Pieces, read: list[Ids], members: Ids, *, rounds: int) -> Pieces:
    """`pieces` (Z, Y, X) grown into empty voxels across faces, one voxel a round.

    An empty voxel that any input (`read`, one array an input, 0 = unlabelled) labels takes the lowest piece
    of its face neighbours whose label (`members`, (inputs, pieces)) differs from the voxel's in no input that
    has one there. The result within `rounds` voxels of the array's border needs what lies beyond.
    """
    somewhere = np.any([r > 0 for r in read], axis=0)
    for _ in range(rounds):
        empty = np.flatnonzero((pieces == 0) & somewhere)
        best = _best_neighbour(empty, pieces, [r.ravel()[empty] for r in read], members)
        taken = best != _NONE
        if not taken.any():
            break
        pieces = pieces.copy()
        pieces.ravel()[empty[taken]] = best[taken]
    return pieces


def _best_neighbour(
    empty: NDArray[np.int64], pieces: Pieces, here: list[Ids], members: Ids
) -> NDArray[np.uint32]:
    where = np.stack(np.unravel_index(empty, pieces.shape))
    best = np.full(empty.size, _NONE, np.uint32)
    for axis in range(3):
        for step in (-1, 1):
            there = where.copy()
            there[axis] += step
            inside = (there[axis] >= 0) & (there[axis] < pieces.shape[axis])
            piece = np.zeros(empty.size, np.uint32)
            piece[inside] = pieces[tuple(there[:, inside])]
            agrees = piece > 0
            for values, member in zip(here, members, strict=True):
                agrees &= (values == 0) | (values == member[np.maximum(piece, 1) - 1])
            best = np.where(agrees, np.minimum(best, piece), best)
    return best
