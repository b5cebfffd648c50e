"""Which segments might be one: pairs that come near each other, and the point where they are nearest.

    a a a a . . b b b     both are grown until they meet; where they meet nearest is the decision point
    a a a a a|b b b b     (google/ffn, `find_decision_points`; Januszewski et al. 2018)

Growing stops at `max_distance_nm`, so a pair further apart than twice that is no candidate. It is also as far
as growing has to see: some planes are grown at a time, with so many around them, and what they say is added
up in whole numbers, so that the answer does not depend on how many they are.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ffn.config import Triple

Labels = NDArray[np.unsignedinteger]
Integers = NDArray[np.int64]
Slices = tuple[slice, slice, slice]
_COUNTED = 1 << 18
"""Voxels or rows that are sorted at a time: it takes as much again."""


class CandidateError(ValueError):
    """The volume cannot be searched as given; the message names the argument and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class DecisionPoint:
    """Where two segments (`first` < `second`) are nearest; both lie about `distance_nm` from the point."""

    first: int
    second: int
    point_zyx: Triple
    distance_nm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """How two segments touch, both grown until they meet; cheap to know of all pairs, before any is flooded.

    `faces`: voxel faces between them. `share`: part that these are of all faces which the segment with fewer
    of them has with others: 1 is enclosed. `grey`: mean of the image at the faces, in standard deviations
    from the mean of what is labelled; a membrane is dark. NaN without faces or without an image.
    """

    point: DecisionPoint
    faces: int
    share: float
    grey: float


def find_contacts(
    labels: Labels,
    *,
    voxel_size_zyx_nm: tuple[float, float, float],
    max_distance_nm: float,
    image: NDArray[np.integer] | None = None,
    core: Slices | None = None,
    min_voxels: int = 0,
    planes: int | None = None,
) -> list[Contact]:
    """One contact for every pair of segments of `labels` (Z, Y, X; 0 = none) that come near, sorted.

    Of the points where a pair is nearest its decision point is the one most in their middle. `core`: only
    contacts in there count, so that overlapping volumes share the work without doing any twice; a pair that
    is near in several has one in each. Segments below `min_voxels` in the volume are passed over. `image`
    (Z, Y, X) shows the same voxels. `planes` of the core are grown at a time (None: all), which takes 80
    bytes for each voxel of them and of `reach_zyx` around them, and changes nothing else.

    Raises CandidateError for another number of axes, signed labels, an image of fractions, or sizes that are
    not positive.
    """
    _check(labels, voxel_size_zyx_nm, max_distance_nm, image)
    ids, voxels = count_voxels(labels)
    kept = ids[(ids > 0) & (voxels >= min_voxels)]
    if not kept.size:
        return []
    everything = core or (slice(None),) * 3
    z, y, x = (slice(*part.indices(n)) for part, n in zip(everything, labels.shape, strict=True))
    reach, step = reach_zyx(voxel_size_zyx_nm, max_distance_nm)[0], planes or labels.shape[0]
    parts, sums = [], _NO_FACES
    for start in range(z.start, z.stop, step):
        stop = min(start + step, z.stop)
        seen = slice(max(start - reach, 0), min(stop + reach, labels.shape[0]))
        seeds = _numbered(labels[seen], kept)
        if not seeds.any():
            continue
        grown, distance = _grow(seeds, voxel_size_zyx_nm, max_distance_nm)
        inside = (slice(start - seen.start, stop - seen.start), y, x)
        grey = None if image is None else image[seen]
        near = _NONE_NEAR
        for towards in _half_neighbourhood():
            here, faces = _touching(grown, distance, grey, inside, towards, len(kept))
            near, sums = _nearest([near, here]), _summed([sums, faces])
        parts.append(near._replace(point=near.point + seen.start * labels[0].size))
    mean_and_std = None if image is None else _moments(image, labels)
    some = _by_pairs(parts)
    return [c for near in some for c in _contacts(near, sums, kept, labels.shape, mean_and_std)]


def reach_zyx(voxel_size_zyx_nm: Sequence[float], max_distance_nm: float) -> Triple:
    """How far around a voxel one has to see to know what it grows into, and its neighbour."""
    z, y, x = (int(max_distance_nm / size) + 1 for size in voxel_size_zyx_nm)
    return z, y, x


def count_voxels(labels: Labels) -> tuple[Labels, Integers]:
    """The labels there are (0 among them), ascending, and how many voxels each has."""
    step = max(1, _COUNTED * len(labels) // max(1, labels.size))
    counted = [np.unique(labels[z : z + step], return_counts=True) for z in range(0, len(labels), step)]
    if not counted:
        return labels.ravel(), np.zeros(0, np.int64)
    ids, index = np.unique(np.concatenate([ids for ids, _ in counted]), return_inverse=True)
    voxels = np.zeros(ids.size, np.int64)
    np.add.at(voxels, index, np.concatenate([counts for _, counts in counted]))
    return ids, voxels


class _Near(NamedTuple):
    """Voxels at which pairs are nearest, one row each: by pair (the first's number times how many segments
    there are, plus the second's), then in C order. `times`: to how many neighbours it is that near."""

    pair: Integers
    distance: NDArray[np.float64]
    point: Integers
    times: Integers


class _Faces(NamedTuple):
    """Of each pair that shares voxel faces, by pair: how many, and the sum of the image on both sides."""

    pair: Integers
    faces: Integers
    grey: Integers


_NOTHING = np.zeros(0, np.int64)
_NONE_NEAR = _Near(_NOTHING, np.zeros(0), _NOTHING, _NOTHING)
_NO_FACES = _Faces(_NOTHING, _NOTHING, _NOTHING)


def _by_pairs(parts: Sequence[_Near]) -> Iterator[_Near]:
    """The rows of several parts as one, some pairs at a time: as few copies are held."""
    found = [part.pair[_changes(part.pair)] for part in parts]
    pairs, rows = np.unique(np.concatenate([_NOTHING, *found])), sum(part.pair.size for part in parts)
    for some in np.array_split(pairs, 1 + rows // _COUNTED):
        if some.size:
            ends = [np.searchsorted(part.pair, (some[0], some[-1] + 1)) for part in parts]
            yield _nearest(
                [_Near._make(c[a:b] for c in part) for part, (a, b) in zip(parts, ends, strict=True)]
            )


def _contacts(
    near: _Near,
    sums: _Faces,
    ids: Labels,
    shape_zyx: tuple[int, ...],
    mean_and_std: tuple[float, float] | None,
) -> Iterator[Contact]:
    """A contact of each pair, whose two are numbers of `ids`."""
    total = np.zeros(len(ids), np.int64)
    for side in divmod(sums.pair, len(ids)):
        np.add.at(total, side, sums.faces)
    faces_of = dict(
        zip(sums.pair.tolist(), zip(sums.faces.tolist(), sums.grey.tolist(), strict=True), strict=True)
    )
    starts = np.flatnonzero(_changes(near.pair))
    for a, b in itertools.pairwise([*starts.tolist(), len(near.pair)]):
        pair = int(near.pair[a])
        first, second = divmod(pair, len(ids))
        faces, grey = faces_of.get(pair, (0, 0))
        bright = float("nan")
        if faces and mean_and_std is not None:
            mean, std = mean_and_std
            bright = (grey / (2 * faces) - mean) / std
        points = np.stack(np.unravel_index(near.point[a:b], shape_zyx), axis=1)
        yield Contact(
            point=DecisionPoint(
                first=int(ids[first]),
                second=int(ids[second]),
                point_zyx=_middle(points, near.times[a:b]),
                distance_nm=float(near.distance[a]),
            ),
            faces=faces,
            share=faces / max(int(min(total[first], total[second])), 1),
            grey=bright,
        )


def _nearest(parts: Sequence[_Near]) -> _Near:
    """The rows of several parts as one; those where a pair is not nearest are left out."""
    rows = _Near._make(np.concatenate(columns) for columns in zip(*parts, strict=True))
    if not rows.pair.size:
        return rows
    order = np.lexsort((rows.point, rows.distance, rows.pair))
    new_pair = _changes(pair := rows.pair[order])
    distance = rows.distance[order]
    nearest = distance == distance[new_pair][np.cumsum(new_pair) - 1]
    order = order[nearest]
    new = new_pair[nearest] | _changes(rows.point[order])
    return _Near(
        pair=pair[nearest][new],
        distance=distance[nearest][new],
        point=rows.point[order][new],
        times=np.add.reduceat(rows.times[order], np.flatnonzero(new)),
    )


def _summed(parts: Sequence[_Faces]) -> _Faces:
    """The rows of several parts as one."""
    rows = _Faces._make(np.concatenate(columns) for columns in zip(*parts, strict=True))
    pair, index = np.unique(rows.pair, return_inverse=True)
    faces, grey = np.zeros(pair.size, np.int64), np.zeros(pair.size, np.int64)
    np.add.at(faces, index, rows.faces)
    np.add.at(grey, index, rows.grey)
    return _Faces(pair, faces, grey)


def _changes(column: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Where a value differs from the one before it; the first does."""
    changed = np.ones(column.size, np.bool_)
    changed[1:] = column[1:] != column[:-1]
    return changed


def _moments(image: NDArray[np.integer], labels: Labels) -> tuple[float, float]:
    """Mean and standard deviation of the image where it is labelled, from sums of whole numbers."""
    count = total = squares = 0
    for plane, ids in zip(image, labels, strict=True):
        inside = plane[ids > 0].astype(np.int64)
        count += inside.size
        total += int(inside.sum())
        squares += int(inside @ inside)
    variance = (count * squares - total**2) / count**2
    return total / count, max(variance**0.5, 1e-6)


def _check(
    labels: Labels,
    voxel_size_zyx_nm: Sequence[float],
    max_distance_nm: float,
    image: NDArray[np.integer] | None,
) -> None:
    if labels.ndim != 3:
        raise CandidateError(f"labels: expected three axes z, y, x, found shape {labels.shape}")
    if labels.dtype.kind != "u":
        raise CandidateError(f"labels: expected unsigned integers, found {labels.dtype}; convert them first")
    if image is not None and image.dtype.kind not in "ui":
        raise CandidateError(f"image: expected integers, found {image.dtype}; convert it first")
    if min(voxel_size_zyx_nm) <= 0:
        raise CandidateError(f"voxel_size_zyx_nm: {voxel_size_zyx_nm} must be positive")
    if max_distance_nm < 0:
        raise CandidateError(f"max_distance_nm: {max_distance_nm} must be >= 0")


def _numbered(labels: Labels, ids: Labels) -> Labels:
    """One more than the place of each segment in `ids` (ascending, not empty); 0 for all others."""
    at = np.minimum(np.searchsorted(ids, labels), len(ids) - 1)
    return np.where(ids[at] == labels, at + 1, 0).astype(np.uint32)


def _grow(
    labels: Labels, voxel_size_zyx_nm: Sequence[float], max_distance_nm: float
) -> tuple[Labels, NDArray[np.float64]]:
    """Every voxel within `max_distance_nm` of a segment takes the nearest; and how far that is, in nm."""
    distance, nearest = ndimage.distance_transform_edt(
        labels == 0, sampling=voxel_size_zyx_nm, return_indices=True
    )
    grown: Labels = labels[tuple(nearest)]
    grown[distance > max_distance_nm] = 0
    return grown, distance


def _half_neighbourhood() -> list[Triple]:
    """Thirteen of the 26 neighbours of a voxel, one of every opposite two."""
    steps = itertools.product((-1, 0, 1), repeat=3)
    return [(dz, dy, dx) for dz, dy, dx in steps if (dz, dy, dx) > (0, 0, 0)]


def _touching(
    grown: Labels,
    distance: NDArray[np.float64],
    image: NDArray[np.integer] | None,
    core: Slices,
    step: Triple,
    count: int,
) -> tuple[_Near, _Faces]:
    """Where two of `count` segments are at voxels `step` apart, the first of which lies in `core`.

    A row is of the first of the two voxels; distance is the mean of both.
    """
    bounds = [
        (max(-s, c.start, 0), min(n - max(s, 0), c.stop))
        for s, n, c in zip(step, grown.shape, core, strict=True)
    ]
    here = tuple(slice(a, max(a, b)) for a, b in bounds)
    there = tuple(slice(part.start + s, part.stop + s) for part, s in zip(here, step, strict=True))
    touching = np.zeros(grown.shape, np.bool_)
    touching[here] = (grown[here] > 0) & (grown[there] > 0) & (grown[here] != grown[there])
    at = np.flatnonzero(touching)
    beside = at + (step[0] * grown.shape[1] + step[1]) * grown.shape[2] + step[2]
    flat, far = grown.ravel(), distance.ravel()
    one, other = flat[at].astype(np.int64) - 1, flat[beside].astype(np.int64) - 1
    pair = np.minimum(one, other) * count + np.maximum(one, other)
    near = _nearest([_Near(pair, (far[at] + far[beside]) / 2, at, np.ones_like(at))])
    if sum(map(abs, step)) > 1:
        return near, _NO_FACES
    grey = np.zeros_like(at)
    if image is not None:
        grey += image.ravel()[at]
        grey += image.ravel()[beside]
    return near, _summed([_Faces(pair, np.ones_like(at), grey)])


def _middle(points: Integers, times: Integers) -> Triple:
    """The point (n, 3) nearest to the centroid, each counted so often; of several the first."""
    centroid = (points * times[:, None]).sum(axis=0) / times.sum()
    off = ((points - centroid) ** 2).sum(axis=1)
    z, y, x = points[int(np.argmax(off <= off.min() + 1e-9))].tolist()
    return z, y, x
