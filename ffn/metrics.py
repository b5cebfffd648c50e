"""How good a segmentation is: variation of information, adapted Rand error, expected run length.

Say with every figure how unlabelled voxels (segment 0) were treated, and the labelled fraction:

    "keep"      A  0 is one more segment; every voxel counts
    "labelled"  B  only voxels with a segment and a true object; flattered by leaving the hard ones empty
    "fill"      D  0 takes the nearest segment; every voxel counts; nothing to gain by leaving voxels empty
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ffn.skeletons import Skeletons, skeletonise

__all__ = [
    "Contingency",
    "MetricError",
    "Skeletons",
    "Treatment",
    "VariationOfInformation",
    "adapted_rand_error",
    "expected_run_length",
    "fill_nearest",
    "labelled_fraction",
    "skeletonise",
    "tabulate",
    "variation_of_information",
]

Labels = NDArray[np.integer]
Treatment = Literal["keep", "labelled", "fill"]


class MetricError(ValueError):
    """The arrays cannot be compared; the message names them and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariationOfInformation:
    """Conditional entropies in bits: `split` = H(segmentation | truth), `merge` = H(truth | segmentation)."""

    split: float
    merge: float

    @property
    def sum(self) -> float:
        return self.split + self.merge


def variation_of_information(
    segmentation: Labels, truth: Labels, *, treatment: Treatment = "fill", ignore_truth: Sequence[int] = ()
) -> VariationOfInformation:
    """Variation of information (Meila 2007) of two label arrays of one shape.

    `ignore_truth`: true labels whose voxels do not count, such as the 0 of voxels without truth. Both figures
    are NaN when no voxel counts. With "keep" it equals `skimage.metrics.variation_of_information`.
    """
    return tabulate(segmentation, truth, treatment=treatment, ignore_truth=ignore_truth).voi()


def adapted_rand_error(
    segmentation: Labels, truth: Labels, *, treatment: Treatment = "fill", ignore_truth: Sequence[int] = ()
) -> float:
    """One minus the F-score of pairs of voxels that belong together (Arganda-Carreras et al. 2015).

    Equals the first value of `skimage.metrics.adapted_rand_error` with "keep" and `ignore_truth=(0,)`, its
    default. NaN when no pair counts.
    """
    return tabulate(segmentation, truth, treatment=treatment, ignore_truth=ignore_truth).rand_error()


def labelled_fraction(segmentation: Labels, *, foreground: NDArray[np.bool_] | None = None) -> float:
    """Which part of the voxels (of `foreground`, when given) has a segment; NaN for no voxels."""
    labelled = segmentation > 0
    if foreground is not None:
        labelled = labelled[foreground]
    return float(labelled.mean()) if labelled.size else float("nan")


def fill_nearest(
    labels: Labels, *, voxel_size_zyx_nm: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> Labels:
    """`labels` (Z, Y, X) with every 0 replaced by the nearest segment; all 0 stays all 0."""
    empty = labels == 0
    if empty.all() or not empty.any():
        return labels.copy()
    nearest = ndimage.distance_transform_edt(
        empty, sampling=voxel_size_zyx_nm, return_distances=False, return_indices=True
    )
    filled: Labels = labels[tuple(nearest)]
    return filled


def fill_planes(
    labels: Labels, planes: slice, *, voxel_size_zyx_nm: tuple[float, float, float]
) -> tuple[Labels, float]:
    """Some planes of `labels` (Z, Y, X) as `fill_nearest` fills them, and how far the farthest fill is, nm.

    Of a larger volume they are filled alike if so much of it lies above and below. Without any label nothing
    is filled, and the distance is infinite.
    """
    part = labels[planes]
    if not (part == 0).any():
        return part, 0.0
    if not labels.any():
        return part, float("inf")
    nearest = ndimage.distance_transform_edt(
        labels == 0, sampling=voxel_size_zyx_nm, return_distances=False, return_indices=True
    )
    nearest = nearest[:, planes]
    square = np.zeros(part.shape)
    for axis, (place, size) in enumerate(zip(nearest, voxel_size_zyx_nm, strict=True)):
        here = np.arange(part.shape[axis]) + (planes.start if axis == 0 else 0)
        square += ((place - here.reshape([-1 if a == axis else 1 for a in range(3)])) * size) ** 2
    filled: Labels = labels[tuple(nearest)]
    return filled, float(square.max() ** 0.5)


def expected_run_length(skeletons: Skeletons, segmentation: Labels, *, merge_threshold: int = 0) -> float:
    """The length in nm over which the segmentation follows the truth from a random point of a skeleton.

    The definition of funlib.evaluate (Januszewski et al. 2018): an edge counts when both its nodes lie in one
    segment that is not 0 and holds nodes of one skeleton only (more than `merge_threshold` nodes of a second
    make it a merger, and its edges count 0). ERL = sum over skeletons and segments of (counted length)^2,
    divided by the length of all skeletons; 0 for skeletons without length.
    """
    segments = segmentation[tuple(skeletons.nodes_zyx.T)].astype(np.int64)
    return run_length(skeletons, segments, merge_threshold=merge_threshold)


def run_length(skeletons: Skeletons, segments: NDArray[np.int64], *, merge_threshold: int = 0) -> float:
    """As `expected_run_length`, of the segments (N,) at the nodes."""
    total = skeletons.total_length_nm
    if total == 0:
        return 0.0
    merged = _merged_nodes(skeletons.node_object, segments, merge_threshold)
    u, v = skeletons.edges.T
    correct = (segments[u] == segments[v]) & (segments[u] != 0) & ~merged[u]
    runs = np.column_stack([skeletons.node_object[u], segments[u]])[correct]
    if not len(runs):
        return 0.0
    _, run = np.unique(runs, axis=0, return_inverse=True)
    length = np.bincount(run.ravel(), weights=skeletons.edge_length_nm[correct])
    return float(np.sum(length**2) / total)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contingency:
    """Voxels per (segment, object) pair that occurs, and the sizes of both; all that VOI and Rand depend on.

    `segment` and `object` of each pair count from 0; `segments` are the labels of the former, ascending.
    """

    segments: NDArray[np.integer]
    segment: NDArray[np.int64]
    object: NDArray[np.int64]
    counts: NDArray[np.int64]
    segment_sizes: NDArray[np.int64]
    object_sizes: NDArray[np.int64]

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    @classmethod
    def of_pairs(cls, segments: Labels, objects: Labels, counts: NDArray[np.int64]) -> "Contingency":
        """Of the labels of pairs that occur, each once and in ascending order, and their voxels."""
        found, segment = np.unique(segments, return_inverse=True)
        known, obj = np.unique(objects, return_inverse=True)
        segment_sizes, object_sizes = np.zeros(len(found), np.int64), np.zeros(len(known), np.int64)
        np.add.at(segment_sizes, segment, counts)
        np.add.at(object_sizes, obj, counts)
        return cls(
            segments=found,
            segment=segment,
            object=obj,
            counts=counts,
            segment_sizes=segment_sizes,
            object_sizes=object_sizes,
        )

    def rand_error(self) -> float:
        """One minus the F-score of pairs of voxels that belong together; NaN when no pair counts."""
        both = _pairs(self.counts)
        in_truth, in_segmentation = _pairs(self.object_sizes), _pairs(self.segment_sizes)
        if in_truth + in_segmentation == 0:
            return float("nan")
        return 1.0 - both / (0.5 * in_truth + 0.5 * in_segmentation)

    def voi(self) -> VariationOfInformation:
        """Variation of information; NaN when no voxel counts."""
        if self.total == 0:
            return VariationOfInformation(split=float("nan"), merge=float("nan"))
        p = self.counts / self.total
        by_segment = self.segment_sizes[self.segment] / self.total
        by_object = self.object_sizes[self.object] / self.total
        split = -float(np.sum(p * np.log2(p / by_object)))
        merge = -float(np.sum(p * np.log2(p / by_segment)))
        return VariationOfInformation(split=max(split, 0.0), merge=max(merge, 0.0))

    def relabelled(self, labels: NDArray[np.integer]) -> "Contingency":
        """The same after every one of `segments` got a new label; equal ones become one segment."""
        segments, new = np.unique(labels, return_inverse=True)
        objects = len(self.object_sizes)
        pairs, index = np.unique(new[self.segment] * objects + self.object, return_inverse=True)
        counts, sizes = np.zeros(len(pairs), np.int64), np.zeros(len(segments), np.int64)
        np.add.at(counts, index, self.counts)
        np.add.at(sizes, new, self.segment_sizes)
        return Contingency(
            segments=segments,
            segment=pairs // objects,
            object=pairs % objects,
            counts=counts,
            segment_sizes=sizes,
            object_sizes=self.object_sizes,
        )


def tabulate(
    segmentation: Labels, truth: Labels, *, treatment: Treatment = "fill", ignore_truth: Sequence[int] = ()
) -> Contingency:
    """Counts which voxels two label arrays of one shape have in common.

    Raises MetricError for arrays of different shapes.
    """
    if segmentation.shape != truth.shape:
        raise MetricError(f"segmentation {segmentation.shape}, truth {truth.shape}: crop them to one box")
    if treatment == "fill":
        segmentation = fill_nearest(segmentation)
    counted = np.isin(truth, list(ignore_truth), invert=True)
    if treatment == "labelled":
        counted &= (segmentation > 0) & (truth > 0)
    segments, segment = np.unique(segmentation[counted], return_inverse=True)
    objects, obj = np.unique(truth[counted], return_inverse=True)
    pairs, counts = np.unique(segment.ravel() * max(len(objects), 1) + obj.ravel(), return_counts=True)
    return Contingency(
        segments=segments,
        segment=pairs // max(len(objects), 1),
        object=pairs % max(len(objects), 1),
        counts=counts,
        segment_sizes=np.bincount(segment.ravel(), minlength=len(segments)),
        object_sizes=np.bincount(obj.ravel(), minlength=len(objects)),
    )


def _pairs(sizes: NDArray[np.int64]) -> float:
    """Ordered pairs of different voxels within groups of these sizes."""
    values = sizes.astype(np.float64)
    return float(values @ values - values.sum())


def _merged_nodes(
    owners: NDArray[np.int64], segments: NDArray[np.int64], merge_threshold: int
) -> NDArray[np.bool_]:
    """Whether each node lies in a merging segment and belongs to a skeleton that a merger touches."""
    pairs, counts = np.unique(np.column_stack([owners, segments]), axis=0, return_counts=True)
    pairs = pairs[counts > merge_threshold]
    values, skeleton_count = np.unique(pairs[:, 1], return_counts=True)
    merging = values[skeleton_count > 1]
    merged_skeletons = np.unique(pairs[np.isin(pairs[:, 1], merging), 0])
    merged: NDArray[np.bool_] = np.isin(segments, merging) & np.isin(owners, merged_skeletons)
    return merged
