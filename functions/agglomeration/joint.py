"""Connected sets of voxels that carry one tuple of labels in several segmentations, slab by slab."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label as connected_components

Integers = NDArray[np.int64]
Ids = NDArray[np.uint64]

_REACH = {6: 1, 18: 2, 26: 3}  # how many axes a step to a neighbour may change


@dataclass(frozen=True, slots=True, kw_only=True)
class JointSlab:
    """The components of one slab of sections.

    `pieces` int64 (Z, Y, X): 0 = none, 1..count in raster order of their first voxels; `members` uint64
    (inputs, count): the label of each in each input; `voxels` (count,): their sizes. `segments`: the labels
    that occur in each input, in a piece or not.
    """

    read: list[Ids]
    pieces: Integers
    members: Ids
    voxels: Integers
    segments: list[Ids]

    @property
    def count(self) -> int:
        return int(self.voxels.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """One section at a slab's face: its labels in every input, and its pieces, numbered over all slabs."""

    labels: list[Ids]
    pieces: Integers

    @classmethod
    def of(cls, slab: JointSlab, z: int, *, offset: int) -> Plane:
        """Section `z` of the slab, copied; `offset` pieces come before those of the slab."""
        pieces = np.where(slab.pieces[z] > 0, slab.pieces[z] + offset, 0)
        return cls(labels=[r[z].copy() for r in slab.read], pieces=pieces)


def joint_components(read: list[Ids], *, connectivity: int, first_alone: bool) -> JointSlab:
    """Finds the components of labels (Z, Y, X) uint64, one array an input; 0 = unlabelled.

    A piece lies where all inputs are labelled, or with `first_alone` where the first is; then 0 in the others
    is a label like any other. Components of each input come first: their small numbers pack into one integer,
    labels of 64 bits would not.
    """
    joint, _, labels = _components(read[0], connectivity)
    segments = [np.unique(labels)]
    for other in read[1:]:
        further, most, labels = _components(other, connectivity)
        segments.append(np.unique(labels))
        joint *= most + 1
        apart = joint == 0
        if not first_alone:
            apart |= further == 0
        joint += further
        joint[apart] = 0
        joint, _, _ = _components(joint, connectivity)
    voxels = np.bincount(joint.ravel())[1:]
    first = _first_voxels(joint, voxels.size)
    return JointSlab(
        read=read,
        pieces=joint,
        members=np.stack([r.ravel()[first] for r in read]),
        voxels=voxels,
        segments=segments,
    )


def joins(above: Plane, below: Plane, *, connectivity: int) -> Integers:
    """Pairs (n, 2) of pieces, from 1, that touch across two neighbouring sections with the same labels."""
    most = _REACH[connectivity] - 1
    pairs = []
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            if abs(dy) + abs(dx) > most:
                continue
            here, there = _apart(dy, dx)
            a, b = above.pieces[here], below.pieces[there]
            same = (a > 0) & (b > 0)
            for one, other in zip(above.labels, below.labels, strict=True):
                same &= one[here] == other[there]
            pairs.append(np.unique(np.stack([a[same], b[same]], axis=1), axis=0))
    return np.unique(np.concatenate(pairs), axis=0)


def _components(labels: NDArray[np.integer], connectivity: int) -> tuple[Integers, int, NDArray[np.integer]]:
    """Components of equal labels, numbered in raster order; how many; and the label of each."""
    found, count = connected_components(
        labels.astype(np.int64, copy=False), background=0, connectivity=_REACH[connectivity], return_num=True
    )
    pieces, first = np.asarray(found, np.int64), _first_voxels(found, int(count))
    if (np.diff(first) < 0).any():  # scikit-image scans volumes with an axis of length 1 in another order
        order = np.argsort(first)
        rank = np.zeros(first.size + 1, np.int64)
        rank[order + 1] = np.arange(1, first.size + 1)
        pieces, first = rank[pieces], first[order]
    return pieces, int(count), labels.ravel()[first]


def _first_voxels(pieces: Integers, count: int) -> Integers:
    """The flat index of the first voxel of each piece."""
    index = np.zeros(count + 1, np.int64)
    index[pieces.ravel()[::-1]] = np.arange(pieces.size)[::-1]  # of several, the last is kept
    return index[1:]


def _apart(dy: int, dx: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Slices of a section and of the next so that voxels (dy, dx) apart lie at one index."""
    up, all_, down = slice(1, None), slice(None), slice(None, -1)
    steps = {-1: (up, down), 0: (all_, all_), 1: (down, up)}
    return (steps[dy][0], steps[dx][0]), (steps[dy][1], steps[dx][1])
