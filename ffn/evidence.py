"""What a resegmentation says about two segments being one: the numbers that decisions are made from.

Names as in google/ffn's `PairResegmentationResult`: A and B are the two original segments, "from A" is the
object flooded from a seed in A. All numbers are of the analysis box around the decision point.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ffn.config import Triple

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reflooding:
    """The object flooded from inside one of the two segments.

    `recovered_first`, `recovered_second`: the fraction of each original segment's voxels that the object has.
    `foreign_fraction`: the part of the object inside other segments. `deleted_voxels`: voxels that left the
    object again while it grew (belief from .8 or more to below .5 in one move), summed over the moves in the
    box. `attempts`: seeds tried; `moves`: of all of them, in the whole cube. `seed_zyx`: in the volume.
    """

    seed_zyx: Triple
    attempts: int
    moves: int
    voxels: int
    recovered_first: float
    recovered_second: float
    foreign_fraction: float
    deleted_voxels: int
    max_edt_nm: float

    @property
    def deletion_fraction(self) -> float:
        """Deleted voxels per voxel of the object: how confused the network was."""
        return self.deleted_voxels / max(self.voxels, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairEvidence:
    """What became of two segments `first` < `second` at one decision point.

    `from_first`, `from_second`: None where no seed had room for a field of view (or, stopping early, where
    the other one settled it). `iou`: Jaccard index of the two objects, 0 without both. `max_edt_*_nm`: how
    far the deepest voxel of each original segment lies from its border.
    """

    first: int
    second: int
    point_zyx: Triple
    voxels_first: int
    voxels_second: int
    max_edt_first_nm: float
    max_edt_second_nm: float
    from_first: Reflooding | None
    from_second: Reflooding | None
    iou: float

    @property
    def moves(self) -> int:
        """What it cost, in fields of view."""
        return sum(r.moves for r in (self.from_first, self.from_second) if r is not None)


def recovered_fraction(found: Mask, original: Mask) -> float:
    """The fraction of the original's voxels that were found; 0 for an empty original."""
    voxels = int(np.count_nonzero(original))
    return int(np.count_nonzero(found & original)) / voxels if voxels else 0.0


def jaccard(one: Mask, other: Mask) -> float:
    """Intersection over union; 0 when both are empty."""
    union = int(np.count_nonzero(one | other))
    return int(np.count_nonzero(one & other)) / union if union else 0.0


def max_edt_nm(mask: Mask, voxel_size_zyx_nm: tuple[float, float, float]) -> float:
    """The largest distance of a voxel from the outside; 0 for an empty mask, the diagonal for a full one."""
    if not mask.any():
        return 0.0
    if mask.all():
        sides = np.multiply(mask.shape, voxel_size_zyx_nm)
        return float(np.sqrt(sides @ sides))
    return float(ndimage.distance_transform_edt(mask, sampling=voxel_size_zyx_nm).max())
