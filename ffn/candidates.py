"""Which segments might be one: pairs that come near each other, and the point where they are nearest.

    a a a a . . b b b     both are grown until they meet; where they meet nearest is the decision point
    a a a a a|b b b b     (google/ffn, `find_decision_points`; Januszewski et al. 2018)

Growing stops at `max_distance_nm`, so a pair further apart than twice that is no candidate.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ffn.config import Triple

Labels = NDArray[np.unsignedinteger]
Slices = tuple[slice, slice, slice]


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
    image: NDArray[np.generic] | None = None,
    core: Slices | None = None,
    min_voxels: int = 0,
) -> list[Contact]:
    """One contact for every pair of segments of `labels` (Z, Y, X; 0 = none) that come near, sorted.

    Of the points where a pair is nearest its decision point is the one most in their middle. `core`: only
    contacts in there count, so that overlapping volumes share the work without doing any twice; a pair that
    is near in several has one in each. Segments below `min_voxels` in the volume are passed over. `image`
    (Z, Y, X) shows the same voxels.

    Raises CandidateError for another number of axes, signed labels or sizes that are not positive.
    """
    _check(labels, voxel_size_zyx_nm, max_distance_nm)
    seeds = _without_dust(labels, min_voxels)
    if not seeds.any():
        return []
    grown, distance = _grow(seeds, voxel_size_zyx_nm, max_distance_nm)
    grey = None if image is None else _standardised(image, labels > 0)
    parts = [_touching(grown, distance, grey, core, step) for step in _half_neighbourhood()]
    found = _Touching._make(np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.lexsort((found.distance, found.higher, found.lower))
    found = _Touching._make(column[order] for column in found)
    starts = np.flatnonzero((np.diff(found.lower, prepend=0) != 0) | (np.diff(found.higher, prepend=0) != 0))
    bounds = [*starts.tolist(), len(found.lower)]
    total = _faces_of_segments(found)
    contacts = []
    for a, b in itertools.pairwise(bounds):
        first, second, faces = int(found.lower[a]), int(found.higher[a]), int(found.face[a:b].sum())
        contacts.append(
            Contact(
                point=DecisionPoint(
                    first=first,
                    second=second,
                    point_zyx=_middle(found.point[a:b][found.distance[a:b] == found.distance[a]]),
                    distance_nm=float(found.distance[a]),
                ),
                faces=faces,
                share=faces / max(min(total[first], total[second]), 1),
                grey=float(found.grey[a:b][found.face[a:b]].mean()) if faces else float("nan"),
            )
        )
    return contacts


class _Touching(NamedTuple):
    """Neighbouring voxels of two segments, one row each; `face`: whether they share one."""

    lower: Labels
    higher: Labels
    distance: NDArray[np.float64]
    point: NDArray[np.int64]
    grey: NDArray[np.float32]
    face: NDArray[np.bool_]


def _standardised(image: NDArray[np.generic], labelled: NDArray[np.bool_]) -> NDArray[np.float32]:
    inside = image[labelled].astype(np.float32)
    grey: NDArray[np.float32] = (image.astype(np.float32) - inside.mean()) / max(float(inside.std()), 1e-6)
    return grey


def _faces_of_segments(found: _Touching) -> dict[int, int]:
    both = np.concatenate([found.lower[found.face], found.higher[found.face]])
    ids, counts = np.unique(both, return_counts=True)
    faces = dict.fromkeys(np.union1d(found.lower, found.higher).tolist(), 0)
    return faces | dict(zip(ids.tolist(), counts.tolist(), strict=True))


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
    grey: NDArray[np.float32] | None,
    core: Slices | None,
    step: Triple,
) -> _Touching:
    """Segments at voxels `step` apart: ids, mean distance in nm, first voxel (n, 3), mean grey."""
    here = tuple(slice(max(-s, 0), n - max(s, 0)) for s, n in zip(step, grown.shape, strict=True))
    there = tuple(slice(max(s, 0), n - max(-s, 0)) for s, n in zip(step, grown.shape, strict=True))
    a, b = grown[here], grown[there]
    touching = (a > 0) & (b > 0) & (a != b)
    if core is not None:
        outside = np.ones(grown.shape, np.bool_)
        outside[core] = False
        touching &= ~outside[here]
    a, b = a[touching], b[touching]
    corner = np.array([s.start for s in here], np.int64)
    none = np.full(a.shape, np.nan, np.float32)
    return _Touching(
        lower=np.minimum(a, b),
        higher=np.maximum(a, b),
        distance=(distance[here][touching] + distance[there][touching]) / 2,
        point=np.argwhere(touching) + corner,
        grey=none if grey is None else (grey[here][touching] + grey[there][touching]) / 2,
        face=np.full(a.shape, sum(map(abs, step)) == 1),
    )


def _middle(points: NDArray[np.int64]) -> Triple:
    """The point nearest to the centroid; of several the first in raster order."""
    off = ((points - points.mean(axis=0)) ** 2).sum(axis=1)
    z, y, x = min(map(tuple, points[off <= off.min() + 1e-9].tolist()))
    return z, y, x
