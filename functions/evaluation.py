"""How good a segmentation is against ground truth, with the treatment of unlabelled voxels in every name.

Letters as in `ffn.metrics`: A keeps 0 as a segment, B counts only voxels that both label, D fills 0 with the
nearest segment (the figure that cannot be improved by leaving voxels empty).

Voxels that nobody can judge (under a fold or crack, outside of every picture) may be excluded: they are in no
figure, and how many they are is a figure itself.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from ffn import metrics
from functions.evaluation_parts import Source, Volumes, count_pairs, skeletons_of
from functions.model.errors import VolumeError
from functions.model.geometry import ZYX


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
    segmentation: Source,
    truth: Source,
    *,
    voxel_size_zyx_nm: tuple[float, float, float],
    rim_zyx_px: ZYX = (0, 0, 0),
    background_counts: bool = True,
    min_skeleton_voxels: int | None = 1000,
    merge_threshold_nodes: int = 0,
    excluded: Source | None = None,
    room_mib: float | None = None,
) -> Evaluation:
    """Compare labels (Z, Y, X) of one shape; 0 = unlabelled, in the truth background.

    Args:
        rim_zyx_px: voxels left out at each face. Filling sees them: it happens before the rim is cut.
        background_counts: whether voxels of the truth's 0 count, as one more object. Without, they are left
            out, as for a truth whose 0 means membrane or unknown.
        min_skeleton_voxels: true objects from this size on get a skeleton for `erl_um`; None skips it.
        merge_threshold_nodes: skeleton nodes of a second object that a segment may hold before it counts as a
            merger in `erl_um`. At 0, the definition, one node on the wrong side of a membrane costs both.
        excluded: voxels that do not count: their labels fill nothing either; nodes of a skeleton in them, and
            edges to them, are not scored, so that an object followed across them keeps its run.
        room_mib: how much may be held at a time; the figures do not depend on it. None: all.

    Raises:
        VolumeError: the shapes differ, or rim and mask leave nothing.
        MemoryBudgetError: what is far from any label, or the box of a true object, does not fit.
    """
    for name, other in (("segmentation", segmentation), ("mask", excluded)):
        if other is not None and tuple(other.shape) != tuple(truth.shape):
            raise VolumeError(
                f"{name} {tuple(other.shape)}, truth {tuple(truth.shape)}: shapes differ",
                remedy="crop them to one box, or give --mask none"
                if name == "mask"
                else "crop them to one box",
            )
    volumes = Volumes(
        segmentation=segmentation,
        truth=truth,
        excluded=excluded,
        voxel_size_zyx_nm=voxel_size_zyx_nm,
        rim_zyx_px=rim_zyx_px,
        room_mib=room_mib,
    )
    seen, filled, objects = count_pairs(volumes)
    total = int(seen.voxels.sum())
    if not total:
        raise VolumeError("mask: it leaves no voxel to compare", remedy="give another mask, or --mask none")
    length_nm = None
    if min_skeleton_voxels is not None:
        skeletons, segments = skeletons_of(volumes, objects, min_voxels=min_skeleton_voxels)
        length_nm = metrics.run_length(skeletons, segments, merge_threshold=merge_threshold_nodes)
    counted = seen.second > 0
    in_truth = int(seen.voxels[counted].sum())
    labelled_there = int(seen.voxels[counted & (seen.first > 0)].sum())
    kept = seen if background_counts else seen.where(counted)
    tables = {
        "keep": kept.contingency,
        "labelled": seen.where(counted & (seen.first > 0)).contingency,
        "fill": (filled if background_counts else filled.where(filled.second > 0)).contingency,
    }
    voi = {name: table.voi() for name, table in tables.items()}
    return Evaluation(
        voxels=total,
        masked_fraction=1.0 - total / volumes.inner.voxels,
        objects=int(np.count_nonzero(np.unique(seen.first))),
        true_objects=int(np.count_nonzero(np.unique(seen.second))),
        labelled_fraction=labelled_there / in_truth if in_truth else float("nan"),
        voi_split_keep=voi["keep"].split,
        voi_merge_keep=voi["keep"].merge,
        voi_split_labelled=voi["labelled"].split,
        voi_merge_labelled=voi["labelled"].merge,
        voi_split_fill=voi["fill"].split,
        voi_merge_fill=voi["fill"].merge,
        rand_error_keep=tables["keep"].rand_error(),
        rand_error_labelled=tables["labelled"].rand_error(),
        rand_error_fill=tables["fill"].rand_error(),
        erl_um=None if length_nm is None else length_nm / 1000.0,
    )
