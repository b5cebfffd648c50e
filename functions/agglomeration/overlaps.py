"""Which labels of two overlapping segmentations are the same object: mutual best overlap.

Both inputs show the same voxels. Voxels that either leaves unlabelled say nothing (each subvolume sees badly
near its own border), so overlap fractions count only voxels that both label.

    first    a a a a . b b        a ~ p   best for each other: joined
    second   p p p p q q q        b ~ q   joined; (a, q), (b, p) do not meet

Splits are kept: if `second` cuts `a` into p and r, only the larger piece is joined, never both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.unsignedinteger]
Integers = NDArray[np.int64]

BLOCK_VOXELS = 1 << 18
ACCEPTED, NOT_MUTUAL, FEW_VOXELS, LOW_IOU = 0, 1, 2, 3


def over_union(voxels: Integers, first_voxels: Integers, second_voxels: Integers) -> NDArray[np.float64]:
    """Shared voxels over the union of both labels."""
    return np.asarray(voxels / np.maximum(first_voxels + second_voxels - voxels, 1), np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlaps:
    """Pairs of labels that share voxels, ascending in (first, second); all arrays have one entry a pair."""

    first: Integers
    second: Integers
    voxels: Integers
    """Voxels that carry both labels."""
    first_voxels: Integers
    """Voxels of `first` that the other segmentation labels, whatever the label."""
    second_voxels: Integers

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of each pair, among voxels that both label."""
        return over_union(self.voxels, self.first_voxels, self.second_voxels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """A verdict (`ACCEPTED` or the reason of refusal) for each pair of `overlaps`."""

    overlaps: Overlaps
    verdict: NDArray[np.uint8]

    @property
    def accepted(self) -> NDArray[np.bool_]:
        """Which pairs are called equal; each label is in at most one of them."""
        return np.equal(self.verdict, ACCEPTED)


def overlaps(first: Labels, second: Labels) -> Overlaps:
    """Count which labels meet. Arrays of one shape, 0 = unlabelled; labels below 2^32.

    Raises:
        ValueError: the shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"second: shape {second.shape} must equal first's {first.shape}")
    pairs, voxels = _meetings(first.reshape(-1), second.reshape(-1))
    a = (pairs >> np.uint64(32)).astype(np.int64)
    b = (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64)
    return Overlaps(
        first=a, second=b, voxels=voxels, first_voxels=_totals(a, voxels), second_voxels=_totals(b, voxels)
    )


def _meetings(first: Labels, second: Labels) -> tuple[NDArray[np.uint64], Integers]:
    """Pairs of labels packed into one number, ascending, and how many voxels carry both.

    Block by block: packed and sorted a voxel takes 30 bytes.
    """
    found, counts = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for start in range(0, first.size, BLOCK_VOXELS):
        a, b = first[start : start + BLOCK_VOXELS], second[start : start + BLOCK_VOXELS]
        both = (a > 0) & (b > 0)
        packed = (a[both].astype(np.uint64) << np.uint64(32)) | b[both].astype(np.uint64)
        keys, voxels = np.unique(packed, return_counts=True)
        found.append(keys)
        counts.append(voxels.astype(np.int64))
    pairs, place = np.unique(np.concatenate(found), return_inverse=True)
    total = np.zeros(pairs.size, np.int64)
    np.add.at(total, place, np.concatenate(counts))
    return pairs, total


def decide(counts: Overlaps, *, min_iou: float, min_voxels: int) -> Decisions:
    """Call pairs equal that are each other's best overlap (ties: the lower label) and pass the thresholds."""
    mutual = _is_best(counts.first, counts.second, counts.voxels)
    mutual &= _is_best(counts.second, counts.first, counts.voxels)
    verdict = np.full(counts.first.shape, ACCEPTED, np.uint8)
    verdict[counts.iou < min_iou] = LOW_IOU
    verdict[counts.voxels < min_voxels] = FEW_VOXELS
    verdict[~mutual] = NOT_MUTUAL
    return Decisions(overlaps=counts, verdict=verdict)


def _totals(labels: Integers, voxels: Integers) -> Integers:
    """For each entry the sum of `voxels` over all entries of the same label."""
    _, inverse = np.unique(labels, return_inverse=True)
    sums = np.zeros(int(inverse.max()) + 1 if inverse.size else 0, np.int64)
    np.add.at(sums, inverse, voxels)
    return sums[inverse]


def _is_best(own: Integers, other: Integers, voxels: Integers) -> NDArray[np.bool_]:
    """Marks, for each label of `own`, the entry with most voxels."""
    order = np.lexsort((other, -voxels, own))
    leads = np.ones(order.shape, bool)
    leads[1:] = own[order][1:] != own[order][:-1]
    best = np.zeros(order.shape, bool)
    best[order[leads]] = True
    return best
