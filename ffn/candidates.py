"""Which segments might be one: pairs that come near each other, and the point where they are nearest.

    a a a a . . b b b     both are grown until they meet; where they meet nearest is the decision point
    a a a a a|b b b b     (google/ffn, `find_decision_points`; Januszewski et al. 2018)

Growing stops at `max_distance_nm`, so a pair further apart than twice that is no candidate.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ffn.config import Triple

Labels = NDArray[np.unsignedinteger]


class CandidateError(ValueError):
    """The volume cannot be searched as given; the message names the argument and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class DecisionPoint:
    """Where two segments (`first` < `second`) are nearest; both lie about `distance_nm` from the point."""

    first: int
    second: int
    point_zyx: Triple
    distance_nm: float


def find_decision_points(
    labels: Labels,
    *,
    voxel_size_zyx_nm: tuple[float, float, float],
    max_distance_nm: float,
    core: tuple[slice, slice, slice] | None = None,
    min_voxels: int = 0,
) -> list[DecisionPoint]:
    """One decision point for every pair of segments of `labels` (Z, Y, X; 0 = none) that come near, sorted.

    Of the points where a pair is nearest it is the one most in their middle. `core`: only points in there
    count, so that overlapping volumes share the work without doing any twice; a pair that is near in several
    has a point in each. Segments below `min_voxels` in the volume are passed over.

    Raises CandidateError for another number of axes, signed labels or sizes that are not positive.
    """
    _check(labels, voxel_size_zyx_nm, max_distance_nm)
    seeds = _without_dust(labels, min_voxels)
    if not seeds.any():
        return []
    grown, distance = _grow(seeds, voxel_size_zyx_nm, max_distance_nm)
    contacts = [_touching(grown, distance, core, step) for step in _half_neighbourhood()]
    first, second, distances, points = (np.concatenate(parts) for parts in zip(*contacts, strict=True))
    order = np.lexsort((distances, second, first))
    first, second, distances, points = first[order], second[order], distances[order], points[order]
    edges = np.flatnonzero((np.diff(first) != 0) | (np.diff(second) != 0)) + 1
    bounds = [0, *edges.tolist(), len(first)] if len(first) else [0]
    return [
        DecisionPoint(
            first=int(first[a]),
            second=int(second[a]),
            point_zyx=_middle(points[a:b][distances[a:b] == distances[a]]),
            distance_nm=float(distances[a]),
        )
        for a, b in itertools.pairwise(bounds)
    ]


def _check(labels: Labels, voxel_size_zyx_nm: Sequence[float], max_distance_nm: float) -> None:
    if labels.ndim != 3:
        raise CandidateError(f"labels: expected three axes z, y, x, found shape {labels.shape}")
    if labels.dtype.kind != "u":
        raise CandidateError(f"labels: expected unsigned integers, found {labels.dtype}; convert them first")
    if min(voxel_size_zyx_nm) <= 0:
        raise CandidateError(f"voxel_size_zyx_nm: {voxel_size_zyx_nm} must be positive")
    if max_distance_nm < 0:
        raise CandidateError(f"max_distance_nm: {max_distance_nm} must be >= 0")


def _without_dust(labels: Labels, min_voxels: int) -> Labels:
    if min_voxels <= 1:
        return labels
    ids, voxels = np.unique(labels, return_counts=True)
    kept: Labels = np.where(np.isin(labels, ids[voxels < min_voxels]), labels.dtype.type(0), labels)
    return kept


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
    core: tuple[slice, slice, slice] | None,
    step: Triple,
) -> tuple[Labels, Labels, NDArray[np.float64], NDArray[np.int64]]:
    """Segments (lower, higher) at voxels `step` apart: ids, mean distance in nm, first voxel (n, 3)."""
    here = tuple(slice(max(-s, 0), n - max(s, 0)) for s, n in zip(step, grown.shape, strict=True))
    there = tuple(slice(max(s, 0), n - max(-s, 0)) for s, n in zip(step, grown.shape, strict=True))
    a, b = grown[here], grown[there]
    touching = (a > 0) & (b > 0) & (a != b)
    corner = np.array([s.start for s in here], np.int64)
    points: NDArray[np.int64] = np.argwhere(touching) + corner
    a, b = a[touching], b[touching]
    mean = (distance[here][touching] + distance[there][touching]) / 2
    if core is not None:
        bounds = [s.indices(n)[:2] for s, n in zip(core, grown.shape, strict=True)]
        low, high = np.array(bounds).T
        inside = ((points >= low) & (points < high)).all(axis=1)
        a, b, mean, points = a[inside], b[inside], mean[inside], points[inside]
    lower: Labels = np.minimum(a, b)
    higher: Labels = np.maximum(a, b)
    return lower, higher, mean, points


def _middle(points: NDArray[np.int64]) -> Triple:
    """The point nearest to the centroid; of several the first in raster order."""
    off = ((points - points.mean(axis=0)) ** 2).sum(axis=1)
    z, y, x = min(map(tuple, points[off <= off.min() + 1e-9].tolist()))
    return z, y, x


def in_raster_order(points: Sequence[DecisionPoint]) -> Iterator[DecisionPoint]:
    """Points that lie near each other near each other in the order too: cubes come from few chunks."""
    yield from sorted(points, key=lambda p: (p.point_zyx, p.first, p.second))
