"""All figures of an evaluation as `ffn.metrics` defines them, of whole arrays at once: those that
`functions.evaluation` counts slab by slab are equal to them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ffn import metrics
from functions.evaluation import Evaluation
from functions.model.geometry import ZYX

Labels = NDArray[np.integer]


def evaluate_whole(
    segmentation: Labels,
    truth: Labels,
    *,
    voxel_size_zyx_nm: tuple[float, float, float],
    rim_zyx_px: ZYX = (0, 0, 0),
    background_counts: bool = True,
    min_skeleton_voxels: int | None = 1000,
    merge_threshold_nodes: int = 0,
    excluded: NDArray[np.bool_] | None = None,
) -> Evaluation:
    """See `functions.evaluation.evaluate`."""
    if excluded is not None:
        segmentation = np.where(excluded, 0, segmentation)
    inner = tuple(slice(r, n - r) for r, n in zip(rim_zyx_px, truth.shape, strict=True))
    filled = metrics.fill_nearest(segmentation, voxel_size_zyx_nm=voxel_size_zyx_nm)[inner]
    segmentation, truth = segmentation[inner], truth[inner]
    counted = np.ones(truth.shape, np.bool_) if excluded is None else ~excluded[inner]
    ignored = () if background_counts else (0,)
    run_length_nm = None
    if min_skeleton_voxels is not None:
        skeletons = metrics.skeletonise(
            truth, voxel_size_zyx_nm=voxel_size_zyx_nm, min_voxels=min_skeleton_voxels
        )
        seen = skeletons.restrict(counted[tuple(skeletons.nodes_zyx.T)])
        run_length_nm = metrics.expected_run_length(seen, segmentation, merge_threshold=merge_threshold_nodes)
    segmentation, filled, truth = segmentation[counted], filled[counted], truth[counted]

    def voi(labels: Labels, treatment: metrics.Treatment) -> metrics.VariationOfInformation:
        return metrics.variation_of_information(labels, truth, treatment=treatment, ignore_truth=ignored)

    def rand(labels: Labels, treatment: metrics.Treatment) -> float:
        return metrics.adapted_rand_error(labels, truth, treatment=treatment, ignore_truth=ignored)

    keep, labelled, fill = voi(segmentation, "keep"), voi(segmentation, "labelled"), voi(filled, "keep")
    return Evaluation(
        voxels=truth.size,
        masked_fraction=1.0 - truth.size / counted.size,
        objects=_count(segmentation),
        true_objects=_count(truth),
        labelled_fraction=metrics.labelled_fraction(segmentation, foreground=truth > 0),
        voi_split_keep=keep.split,
        voi_merge_keep=keep.merge,
        voi_split_labelled=labelled.split,
        voi_merge_labelled=labelled.merge,
        voi_split_fill=fill.split,
        voi_merge_fill=fill.merge,
        rand_error_keep=rand(segmentation, "keep"),
        rand_error_labelled=rand(segmentation, "labelled"),
        rand_error_fill=rand(filled, "keep"),
        erl_um=None if run_length_nm is None else run_length_nm / 1000.0,
    )


def _count(labels: Labels) -> int:
    return int(np.count_nonzero(np.unique(labels)))
