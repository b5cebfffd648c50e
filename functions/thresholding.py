"""Choosing the threshold of agglomeration on ground truth: the edge list decided again at every score.

supervoxels and truth -> one table of shared voxels      edges -> decisions at a score -> which rows are one
                     └──────────────────► VOI of every score ◄──────────────────┘

No voxel is looked at twice, so a sweep takes seconds. What is chosen was chosen on this truth: another volume
has to say how good it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ffn.evidence import PairEvidence, Reflooding
from ffn.metrics import Contingency, fill_nearest, tabulate
from functions.agglomeration.decisions import Agglomeration, DecisionParameters, agglomerate
from functions.model.errors import VolumeError
from functions.model.geometry import ZYX, Box
from functions.store.edge_list import Edge, read_edges
from functions.store.files import sha256_file
from functions.store.label_files import read_labels
from functions.store.thresholds import Thresholds

Seeds = Literal["both", "either"]
Labels = NDArray[np.integer]
SCORES = tuple(round(0.05 * i, 2) for i in range(1, 20))
SUPERVOXELS = ("volume.zarr/labels/supervoxels", "labels/supervoxels")
_UNIT = 10_000
"""The voxels of an object that stands for its scores, which are kept to four places."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What a threshold makes of the volume; VOI in bits, unlabelled voxels take the nearest segment."""

    seeds: Seeds
    min_score: float
    merges: int
    objects: int
    voi_split: float
    voi_merge: float

    @property
    def voi_sum(self) -> float:
        """Split and merge together."""
        return self.voi_split + self.voi_merge


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """All trials, the state before any merge, and the best."""

    before: Trial
    trials: tuple[Trial, ...]
    best: Trial


def read_agglomerated(bundle: Path, *, box: Box | None = None) -> tuple[Labels, list[Edge]]:
    """Supervoxels and edge list of a published volume, or of a box of it.

    Raises:
        VolumeError: it was not agglomerated, or a file is damaged.
    """
    folder = next((bundle / name for name in SUPERVOXELS if (bundle / name).is_dir()), None)
    if folder is None or not (bundle / "edges.csv").is_file():
        raise VolumeError(
            f"{bundle}: no supervoxels and edges.csv",
            remedy="give a published volume of a run with candidates.sources",
        )
    return read_labels(folder, box=box), read_edges(bundle / "edges.csv")


def sweep(
    supervoxels: Labels,
    truth: Labels,
    edges: Sequence[Edge],
    *,
    voxel_size_zyx_nm: tuple[float, float, float],
    rim_zyx_px: ZYX = (0, 0, 0),
    background_counts: bool = True,
    limits: DecisionParameters | None = None,
) -> Sweep:
    """Decide at every score of `SCORES`, by both objects and by either; the best has the least VOI sum.

    Of equals the one that merges least. `limits`: guards beside the score, and its `min_recovered` by both.

    Raises:
        VolumeError: the shapes differ, or the rim leaves nothing.
    """
    if supervoxels.shape != truth.shape:
        raise VolumeError(
            f"supervoxels {supervoxels.shape}, truth {truth.shape}: shapes differ",
            remedy="give the truth of the same voxels, or a --box that lies in both",
        )
    inner = tuple(slice(r, n - r) for r, n in zip(rim_zyx_px, truth.shape, strict=True))
    if truth[inner].size == 0:
        raise VolumeError(f"rim_zyx_px: {rim_zyx_px} leaves no voxel", remedy="take a smaller rim")
    ids, voxels = np.unique(supervoxels[supervoxels > 0], return_counts=True)
    filled = fill_nearest(supervoxels, voxel_size_zyx_nm=voxel_size_zyx_nm)[inner]
    ignored = () if background_counts else (0,)
    table = tabulate(filled, truth[inner], treatment="keep", ignore_truth=ignored)
    known = [edge for edge in edges if np.isin([edge.first_id, edge.second_id], ids).all()]
    guards = limits or DecisionParameters()

    def trial(seeds: Seeds, score: float) -> Trial:
        found = agglomerate(
            [evidence_of(edge, seeds) for edge in known],
            segments=ids.astype(np.uint64),
            voxels=voxels.astype(np.int64),
            parameters=replace(guards, seeds=seeds).at_score(score),
        )
        return _trial(found, table, seeds=seeds, score=score)

    trials = tuple(trial(seeds, score) for seeds in get_args(Seeds) for score in SCORES)
    before = trial("both", 1.0)  # nothing agrees by more
    best = min((before, *trials), key=lambda t: (round(t.voi_sum, 6), t.merges))
    return Sweep(before=before, trials=trials, best=best)


def evidence_of(edge: Edge, seeds: Seeds) -> PairEvidence:
    """Evidence with the scores of an edge: all that decisions look at."""

    def side(recovered: float) -> Reflooding:
        return Reflooding(
            seed_zyx=(0, 0, 0),
            attempts=1,
            moves=0,
            voxels=_UNIT,
            recovered_first=recovered,
            recovered_second=recovered,
            foreign_fraction=edge.foreign,
            deleted_voxels=round(edge.deleted * _UNIT),
            max_edt_nm=0.0,
        )

    found = side(edge.recovered if seeds == "both" else edge.speculative)
    return PairEvidence(
        first=edge.first_id,
        second=edge.second_id,
        point_zyx=(edge.z, edge.y, edge.x),
        voxels_first=edge.voxels_first,
        voxels_second=edge.voxels_second,
        max_edt_first_nm=0.0,
        max_edt_second_nm=0.0,
        from_first=found,
        from_second=found,
        iou=edge.agreement,
    )


def thresholds_of(found: Sweep, *, model: Path, truth: str) -> Thresholds:
    """The best of a sweep, as `agglomerate.thresholds` takes it."""
    best, before = found.best, found.before
    return Thresholds(
        model_sha256=sha256_file(model),
        seeds=best.seeds,
        min_score=best.min_score,
        truth=truth,
        voi_split=round(best.voi_split, 4),
        voi_merge=round(best.voi_merge, 4),
        voi_split_before=round(before.voi_split, 4),
        voi_merge_before=round(before.voi_merge, 4),
    )


def _trial(found: Agglomeration, table: Contingency, *, seeds: Seeds, score: float) -> Trial:
    at = np.minimum(np.searchsorted(found.segments, table.segments), max(found.segments.size - 1, 0))
    labels = table.segments.astype(np.uint64)
    if found.segments.size:
        labels = np.where(found.segments[at] == labels, found.representative[at], labels)
    voi = table.relabelled(labels).voi()
    return Trial(
        seeds=seeds,
        min_score=score,
        merges=found.segments.size - found.objects,
        objects=found.objects,
        voi_split=voi.split,
        voi_merge=voi.merge,
    )
