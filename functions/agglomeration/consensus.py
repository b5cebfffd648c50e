"""Oversegmentation consensus: two voxels stay together only where every segmentation keeps them together.

    first     a a a a a a . b b      mergers of one segmentation are undone by the others,
    second    p p p q q q q q q      splits of any of them are kept (agglomeration mends those);
    consensus 1 1 1 2 2 2 . 3 3      (Januszewski et al. 2018, doi 10.1038/s41592-018-0049-4, Methods)

Segmentations that differ in what they got wrong are worth it: seeds in raster order and in reverse, or two
checkpoints of the network. A piece is a connected set of voxels with one tuple of labels.

Volumes are read in slabs of sections, twice: `agree` finds the pieces (memory: one slab, and a row of numbers
per piece), `render` writes them. The thickness of the slabs does not change the result, ids included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ffn.config import require
from functions.agglomeration.filling import fill_uncontradicted
from functions.agglomeration.joint import JointSlab, Plane, joins, joint_components
from functions.agglomeration.union_find import components, ranks

Integers = NDArray[np.int64]
Ids = NDArray[np.uint64]
Labels = NDArray[np.unsignedinteger]


class Sections(Protocol):
    """Anything that is sliced like an array of labels (Z, Y, X) along z: numpy, memmap, zarr."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, key: slice, /) -> Labels: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsensusParameters:
    """How segmentations are brought to agreement.

    `min_voxels`: smaller pieces become unlabelled (1000 is what google/ffn's manual recommends).
    `labelled_by`: "all" keeps voxels that every segmentation labels; "first" keeps those of the first, and 0
    in another one is a label like any other (as in google/ffn).
    `connectivity`: voxels are neighbours across faces (6), edges too (18), or corners too (26).
    `fill_voxels`: so many times over, a voxel without a piece that some segmentation labels takes the piece
    of a face neighbour that no segmentation contradicts (0 says nothing); it mends frayed surfaces.
    `slab_sections`: at least so many sections are in memory at once, in about 80 bytes a voxel.
    """

    min_voxels: int = 1000
    labelled_by: Literal["all", "first"] = "all"
    connectivity: Literal[6, 18, 26] = 6
    fill_voxels: int = 0
    slab_sections: int = 32

    def __post_init__(self) -> None:
        require(self.min_voxels >= 0, "min_voxels", "must be >= 0")
        require(self.labelled_by in ("all", "first"), "labelled_by", "is all or first")
        require(self.connectivity in (6, 18, 26), "connectivity", "is 6, 18 or 26")
        require(self.fill_voxels >= 0, "fill_voxels", "must be >= 0")
        require(self.slab_sections >= 1, "slab_sections", "must be at least 1")
        require(self.slab_sections >= self.fill_voxels, "slab_sections", "must be at least fill_voxels")


@dataclass(frozen=True, slots=True, kw_only=True)
class InputStatistics:
    """What became of one segmentation: its segments and voxels, and how the others cut it.

    `cut_segments` are in more than one piece, into `cut_pieces` altogether: splits of another segmentation,
    or mergers of this one. `lost_segments` have no piece. `split_bits` is H(piece | segment) over voxels in
    pieces: what the variation of information gains in splits.
    """

    segments: int
    cut_segments: int
    cut_pieces: int
    lost_segments: int
    voxels: int
    dropped_voxels: int
    split_bits: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """The pieces of a consensus, before they are rendered.

    `ids` uint32: the piece of every provisional component in order of appearance, 0 = dropped for its size.
    `members` uint64 (inputs, pieces): the label of piece n (from 1) in each input, in column n - 1;
    `voxels` (pieces,): its size before filling. Statistics are those before filling, too.
    """

    ids: NDArray[np.uint32]
    members: Ids
    voxels: Integers
    small_pieces: int
    small_voxels: int
    inputs: tuple[InputStatistics, ...]

    @property
    def pieces(self) -> int:
        """How many pieces there are; their ids are 1..pieces in raster order of their first voxels."""
        return int(self.voxels.size)


def consensus(
    segmentations: Sequence[Labels], *, parameters: ConsensusParameters | None = None
) -> tuple[NDArray[np.uint32], Agreement]:
    """The consensus (Z, Y, X) uint32 of segmentations in memory, and the pieces it is made of.

    Raises:
        ValueError: fewer than two segmentations, other shapes or types, or pieces beyond 32 bits.
    """
    agreement = agree(segmentations, parameters=parameters)
    slabs = [slab for _, slab in render(segmentations, agreement, parameters=parameters)]
    return np.concatenate(slabs), agreement


def agree(segmentations: Sequence[Sections], *, parameters: ConsensusParameters | None = None) -> Agreement:
    """Finds the pieces of segmentations (Z, Y, X) of one shape; 0 = unlabelled, any unsigned integers.

    Raises:
        ValueError: fewer than two segmentations, other shapes or types, or pieces beyond 32 bits.
    """
    settings = parameters or ConsensusParameters()
    _check(segmentations)
    found = _Found(inputs=len(segmentations))
    for _, slab in _slabs(segmentations, settings):
        found.add(slab, connectivity=settings.connectivity)
    return found.settle(min_voxels=settings.min_voxels)


def render(
    segmentations: Sequence[Sections],
    agreement: Agreement,
    *,
    parameters: ConsensusParameters | None = None,
) -> Iterator[tuple[int, NDArray[np.uint32]]]:
    """Yields the consensus in slabs (first section, labels uint32), top to bottom, without a gap.

    Segmentations and parameters must be those of `agree`.

    Raises:
        ValueError: the segmentations hold other pieces than the agreement.
    """
    settings = parameters or ConsensusParameters()
    shape = _check(segmentations)
    reach = settings.fill_voxels
    nothing = np.zeros((0, *shape[1:]), np.uint32)
    before, start, current, seen = nothing, 0, nothing, 0
    for z, slab in _slabs(segmentations, settings):
        table = agreement.ids[seen : seen + slab.count]
        if table.size != slab.count:
            raise ValueError("agreement: belongs to other segmentations or parameters; make it anew")
        seen += slab.count
        following = np.concatenate([np.zeros(1, np.uint32), table])[slab.pieces]
        if len(current):
            yield start, _filled(segmentations, agreement, start, before, current, following[:reach], reach)
            before = current[len(current) - reach :]
        start, current = z, following
    if seen != agreement.ids.size:
        raise ValueError("agreement: belongs to other segmentations or parameters; make it anew")
    yield start, _filled(segmentations, agreement, start, before, current, nothing, reach)


def _check(segmentations: Sequence[Sections]) -> tuple[int, ...]:
    if len(segmentations) < 2:
        raise ValueError(f"segmentations: found {len(segmentations)}; a consensus needs at least 2")
    shape = tuple(segmentations[0].shape)
    if len(shape) != 3 or min(shape) == 0:
        raise ValueError(f"segmentations[0]: shape {shape}; give three axes z, y, x, none of them empty")
    for i, segmentation in enumerate(segmentations):
        other = tuple(segmentation.shape)
        if other != shape:
            raise ValueError(f"segmentations[{i}]: shape {other} must equal {shape}; crop them to one box")
    return shape


def _slabs(
    segmentations: Sequence[Sections], settings: ConsensusParameters
) -> Iterator[tuple[int, JointSlab]]:
    """Even slabs, none thinner than `slab_sections` where there are as many sections."""
    sections = segmentations[0].shape[0]
    count = max(1, sections // settings.slab_sections)
    for start, stop in pairwise(sections * i // count for i in range(count + 1)):
        read = [_read(s, start, stop, i) for i, s in enumerate(segmentations)]
        first_alone = settings.labelled_by == "first"
        yield (
            start,
            joint_components(read, connectivity=settings.connectivity, first_alone=first_alone),
        )


def _read(segmentation: Sections, start: int, stop: int, number: int) -> Ids:
    values = np.asarray(segmentation[start:stop])
    if values.dtype.kind != "u":
        raise ValueError(
            f"segmentations[{number}]: labels are {values.dtype}; convert them to unsigned integers"
        )
    return values.astype(np.uint64, copy=False)


class _Found:
    """Pieces of the slabs so far, not yet joined."""

    def __init__(self, *, inputs: int) -> None:
        self.count = 0
        self.sizes: list[Integers] = []
        self.members: list[Ids] = []
        self.joins: list[Integers] = [np.zeros((0, 2), np.int64)]
        self.segments = [np.zeros(0, np.uint64) for _ in range(inputs)]
        self.labelled = [0] * inputs
        self.above: Plane | None = None

    def add(self, slab: JointSlab, *, connectivity: int) -> None:
        """Takes the next slab."""
        self.sizes.append(slab.voxels)
        self.members.append(slab.members)
        for i, values in enumerate(slab.read):
            self.segments[i] = np.union1d(self.segments[i], slab.segments[i])
            self.labelled[i] += int(np.count_nonzero(values))
        if self.above is not None:
            top = Plane.of(slab, 0, offset=self.count)
            self.joins.append(joins(self.above, top, connectivity=connectivity) - 1)
        self.above = Plane.of(slab, -1, offset=self.count)
        self.count += slab.count

    def settle(self, *, min_voxels: int) -> Agreement:
        """Joins what touches across slabs, drops what is small, numbers the rest."""
        sizes, members = np.concatenate(self.sizes), np.concatenate(self.members, axis=1)
        edges = np.concatenate(self.joins)
        root = components(sizes.size, edges[:, 0], edges[:, 1])
        whole = np.zeros(sizes.size, np.int64)
        np.add.at(whole, root, sizes)
        big = whole >= max(min_voxels, 1)
        small = (whole > 0) & ~big
        kept, voxels = members[:, big], whole[big]
        return Agreement(
            ids=ranks(root, big[root]),
            members=kept,
            voxels=voxels,
            small_pieces=int(small.sum()),
            small_voxels=int(whole[small].sum()),
            inputs=tuple(
                _statistics(kept[i], voxels, segments=self.segments[i].size, labelled=self.labelled[i])
                for i in range(len(kept))
            ),
        )


def _statistics(labels: Ids, voxels: Integers, *, segments: int, labelled: int) -> InputStatistics:
    """`labels`: in which segment of this input each piece lies (0: in none)."""
    inside = labels > 0
    owners, owner, pieces = np.unique(labels[inside], return_inverse=True, return_counts=True)
    held = voxels[inside].astype(np.float64)
    whole = np.bincount(owner, weights=held, minlength=owners.size)
    return InputStatistics(
        segments=segments,
        cut_segments=int((pieces > 1).sum()),
        cut_pieces=int(pieces[pieces > 1].sum()),
        lost_segments=segments - owners.size,
        voxels=labelled,
        dropped_voxels=labelled - int(held.sum()),
        split_bits=float(held @ np.log2(whole[owner] / held) / held.sum()) if held.size else 0.0,
    )


def _filled(
    segmentations: Sequence[Sections],
    agreement: Agreement,
    start: int,
    before: NDArray[np.uint32],
    slab: NDArray[np.uint32],
    after: NDArray[np.uint32],
    reach: int,
) -> NDArray[np.uint32]:
    """The slab after filling; `before` and `after` are the `reach` sections on both sides of it."""
    if reach == 0 or agreement.pieces == 0:
        return slab
    around = np.concatenate([before, slab, after])
    first = start - len(before)
    read = [_read(s, first, first + len(around), i) for i, s in enumerate(segmentations)]
    grown = fill_uncontradicted(around, read, agreement.members, rounds=reach)
    return grown[len(before) : len(before) + len(slab)]
