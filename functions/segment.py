"""Segment: flood each overlapping subvolume of the aligned volume, alone, into labels of its own.

image, mask, artefact codes (read box) -> gaps filled, artefacts bridged or avoided -> network -> local
labels 1..n (`functions.agglomeration.gaps` says what is shown and labelled where)

A subvolume takes minutes to hours: what it has reached is kept beside the results until it is done, so that a
killed process costs minutes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from functions.agglomeration.gaps import Shown, label_bridges
from functions.agreeing import AgreeingSegmenter, forget_progress, reached_of, segmenter_of
from functions.budget import subvolumes_at_once
from functions.model.errors import ModelError
from functions.model.subvolumes import Subvolume
from functions.overlap import computing
from functions.segmenters import FfnSegmenter, Flooded, Segmenter
from functions.shown import crop, mirror_margins, padded, permissions, read, read_tissue, shown_to
from functions.store.cells import UnitReport
from functions.store.equalities import forget_overlaps
from functions.store.labels import (
    LocalLabels,
    grid_of,
    local_path,
    pack_local,
    write_local,
    write_no_labels,
)
from functions.store.run import Run
from functions.tasks import Problem

COUNTED = (
    "fovs", "rejected_fovs", "skipped_moves", "discarded_fovs", "calls", "seeds", "attempts", "weak", "small",
    "segments", "tissue_voxels", "avoided_voxels", "bridged_voxels", "labelled_voxels", "labelled_fraction",
    "network_seconds", "host_seconds", "voxels_per_second",
)  # fmt: skip
"""Figures that are 0 where nothing was flooded."""

__all__ = ["FfnSegmenter", "Flooded", "Segmenter", "compute", "units"]


def units(run: Run) -> list[str]:
    """Ids of all subvolumes, in z, y, x order."""
    return [subvolume.id for subvolume in grid_of(run)]


def at_once(run: Run) -> int:
    """How many units a worker computes at the same time, in threads of its own."""
    return subvolumes_at_once(run)


def reached(run: Run, unit: str) -> str:
    """Differs whenever a unit that is not done got further."""
    return reached_of(run, unit)


def compute(run: Run, unit: str, *, segmenter: Segmenter | None = None) -> UnitReport:
    """Segment one subvolume and write its local labels."""
    subvolume = grid_of(run).get(unit)
    parameters = run.parameters.segment
    if not read_tissue(run, subvolume.read).any():
        return leave_empty(run, subvolume)
    shown = shown_to(parameters, *read(run, subvolume.read))
    with computing():
        segmenter = segmenter or segmenter_of(run, unit)
        problems = look_at(run, subvolume, segmenter)
        flooded = flood(run, subvolume, segmenter, shown)
    local = pack_local(label_bridges(flooded.labels, shown), subvolume=subvolume)
    forget_overlaps(run, subvolume)
    write_local(local_path(run, subvolume), local)
    forget_progress(run, unit)
    figures = figures_of(flooded, local, shown)
    problems += flooded.problems
    tissue = np.count_nonzero(shown.tissue & ~shown.resin) / shown.tissue.size
    if tissue > 0.5 and figures["labelled_fraction"] < parameters.labelled_to_look:
        problems.append(
            Problem(
                code="labelled_low",
                subject=f"{unit}: {figures['labelled_fraction']:.1%} of the tissue is labelled",
                remedy="look whether contrast and voxel size are those the network was trained on",
            )
        )
    return UnitReport(
        status="look" if problems else "ok",
        figures=figures,
        problems=tuple(problem.to_json() for problem in problems),
    )


def flood(run: Run, subvolume: Subvolume, segmenter: Segmenter, shown: Shown) -> Flooded:
    """What the segmenter finds in the tissue."""
    tissue = shown.tissue & ~shown.resin
    if not tissue.any():
        return Flooded(labels=np.zeros(tissue.shape, np.uint32))
    mirrored = run.parameters.segment.mirror_border
    margins = mirror_margins(run, subvolume.read, segmenter.radius_zyx if mirrored else (0, 0, 0))
    flooded = segmenter(padded(shown.image, margins), permissions(shown, margins))
    labels = crop(flooded.labels, margins)
    return replace(flooded, labels=np.where(tissue, labels, np.uint32(0)))


def leave_empty(run: Run, subvolume: Subvolume) -> UnitReport:
    """A subvolume without tissue has no labels; nothing but its mask, of which no chunk was written, is
    read."""
    abandon(run, subvolume.id)
    counts = dict.fromkeys(COUNTED, 0.0)
    return UnitReport(figures={**counts, "voxels": subvolume.read.voxels, "empty": 1})


def abandon(run: Run, unit: str) -> None:
    """What stands in for a subvolume in quarantine: no labels, so that all steps behind go on without it."""
    subvolume = grid_of(run).get(unit)
    forget_overlaps(run, subvolume)
    write_no_labels(run, subvolume)


def figures_of(flooded: Flooded, local: LocalLabels, shown: Shown) -> dict[str, float]:
    """What a subvolume's mark tells; `functions.runtime.segment_totals` adds them up."""
    labelled, inside = int(np.count_nonzero(local.labels)), int(np.count_nonzero(shown.tissue & ~shown.resin))
    seconds = flooded.network_seconds + flooded.host_seconds
    return {
        "fovs": flooded.fovs,
        "rejected_fovs": flooded.rejected_fovs,
        "skipped_moves": flooded.skipped_moves,
        "discarded_fovs": flooded.discarded_fovs,
        "calls": flooded.calls,
        "seeds": flooded.seeds,
        "attempts": flooded.attempts,
        "weak": flooded.weak,
        "small": flooded.small,
        "segments": len(local.owned_voxels),
        "voxels": local.labels.size,
        "tissue_voxels": inside,
        "avoided_voxels": int(np.count_nonzero(shown.resin | shown.artefact)),
        "bridged_voxels": int(np.count_nonzero(shown.bridged)),
        "labelled_voxels": labelled,
        "labelled_fraction": round(labelled / max(inside, 1), 4),
        "network_seconds": round(flooded.network_seconds, 6),
        "host_seconds": round(flooded.host_seconds, 6),
        "voxels_per_second": round(local.labels.size / seconds, 1) if seconds else 0.0,
    }


def look_at(run: Run, subvolume: Subvolume, segmenter: Segmenter) -> list[Problem]:
    """What does not stop the step but that a person should know.

    Raises:
        ModelError: the network's field of view is larger than what it is given.
    """
    p, radius = run.parameters.segment, segmenter.radius_zyx
    problems: list[Problem] = []
    fov = tuple(2 * r + 1 for r in radius)
    if not p.mirror_border and any(n < f for n, f in zip(subvolume.read.shape_zyx, fov, strict=True)):
        raise ModelError(
            f"{subvolume.id}: field of view {fov} is larger than the subvolume {subvolume.read.shape_zyx}",
            remedy="take more sections, set segment.subvolume_zyx_px larger or segment.mirror_border=true",
        )
    counts = grid_of(run).counts_zyx
    if any(n > 1 and o < 2 * r for n, o, r in zip(counts, p.overlap_zyx_px, radius, strict=True)):
        problems.append(
            Problem(
                code="overlap_small",
                subject=f"segment.overlap_zyx_px {p.overlap_zyx_px} is below the field of view {fov} - 1",
                remedy="set it larger, or voxels near seams are visited by neither side",
            )
        )
    if isinstance(segmenter, FfnSegmenter | AgreeingSegmenter):
        problems += segmenter.look_at(run.aligned.volume.voxel_size_zyx_nm)
    return problems
