"""How good a segmentation is against ground truth, with the treatment of unlabelled voxels in every name.

Letters as in `ffn.metrics`: A keeps 0 as a segment, B counts only voxels that both label, D fills 0 with the
nearest segment (the figure that cannot be improved by leaving voxels empty).

Voxels that nobody can judge (under a fold or crack, outside of every picture) may be excluded: they are in no
figure, and how many they are is a figure itself.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from ffn import metrics
from functions.model.errors import VolumeError
from functions.model.geometry import ZYX

Labels = NDArray[np.integer]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Figures of one segmentation; entropies in bits, `split` = H(seg | truth), `merge` = H(truth | seg)."""

    voxels: int
    """Those that count: neither in the rim nor excluded."""
    masked_fraction: float = 0.0
    """Share of the voxels inside the rim that was excluded."""
    objects: int
    true_objects: int
    labelled_fraction: float
    """Of the voxels that belong to a true object."""
    voi_split_keep: float
    voi_merge_keep: float
    voi_split_labelled: float
    voi_merge_labelled: float
    voi_split_fill: float
    voi_merge_fill: float
    rand_error_keep: float
    rand_error_labelled: float
    rand_error_fill: float
    erl_um: float | None
    """Expected run length on skeletons of the truth; None when not asked for."""

    @property
    def voi_sum_fill(self) -> float:
        """D: split and merge together."""
        return self.voi_split_fill + self.voi_merge_fill

    def to_json(self) -> dict[str, float | int | None]:
        """All figures, rounded to what they can bear."""
        values = {**asdict(self), "voi_sum_fill": self.voi_sum_fill}
        return {k: round(v, 4) + 0.0 if isinstance(v, float) else v for k, v in values.items()}


def evaluate(
    segmentation: Labels,
    truth: Labels,
    *,
    voxel_size_zyx_nm: tuple[float, float, float],
    rim_zyx_px: ZYX = (0, 0, 0),
    background_counts: bool = True,
    min_skeleton_voxels: int | None = 1000,
    merge_threshold_nodes: int = 0,
    excluded: Mask | None = None,
) -> Evaluation:
    """Compare label arrays (Z, Y, X) of one shape; 0 = unlabelled, in the truth background.

    Args:
        rim_zyx_px: voxels left out at each face. Filling sees them: it happens before the rim is cut.
        background_counts: whether voxels of the truth's 0 count, as one more object. Without, they are left
            out, as for a truth whose 0 means membrane or unknown.
        min_skeleton_voxels: true objects from this size on get a skeleton for `erl_um`; None skips it.
        merge_threshold_nodes: skeleton nodes of a second object that a segment may hold before it counts as a
            merger in `erl_um`. At 0, the definition, one node on the wrong side of a membrane costs both.
        excluded: voxels that do not count (Z, Y, X): their labels fill nothing either; nodes of a skeleton in
            them, and edges to them, are not scored, so that an object followed across them keeps its run.

    Raises:
        VolumeError: the shapes differ, or rim and mask leave nothing.
    """
    if excluded is not None and excluded.shape != truth.shape:
        raise VolumeError(
            f"mask {excluded.shape}, truth {truth.shape}: shapes differ",
            remedy="give a mask of the same voxels, or --mask none",
        )
    if segmentation.shape != truth.shape:
        raise VolumeError(
            f"segmentation {segmentation.shape}, truth {truth.shape}: shapes differ",
            remedy="crop them to one box",
        )
    if excluded is not None:
        segmentation = np.where(excluded, 0, segmentation)
    inner = tuple(slice(r, n - r) for r, n in zip(rim_zyx_px, truth.shape, strict=True))
    filled = metrics.fill_nearest(segmentation, voxel_size_zyx_nm=voxel_size_zyx_nm)[inner]
    segmentation, truth = segmentation[inner], truth[inner]
    if truth.size == 0:
        raise VolumeError(f"rim_zyx_px: {rim_zyx_px} leaves no voxel", remedy="take a smaller rim")
    counted = np.ones(truth.shape, np.bool_) if excluded is None else ~excluded[inner]
    if not counted.any():
        raise VolumeError("mask: it leaves no voxel to compare", remedy="give another mask, or --mask none")
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
