"""Segment: flood each overlapping subvolume of the aligned volume, alone, into labels of its own.

image, mask, artefact codes (read box) -> gaps filled, artefacts bridged or avoided -> network -> local
labels 1..n (`functions.agglomeration.gaps` says what is shown and labelled where)

A subvolume takes minutes to hours: what it has reached is kept beside the results until it is done, so that a
killed process costs minutes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ffn.masks import Masks
from functions.agglomeration.gaps import Mask, Shown, label_bridges, show
from functions.model.artefacts import NAMES, RESIN
from functions.model.errors import ModelError, VolumeError
from functions.model.parameters import SegmentParameters
from functions.model.subvolumes import Subvolume
from functions.segmenters import FfnSegmenter, Flooded, Image, Segmenter
from functions.store.artefacts import Codes, open_artefacts
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
from functions.store.progress import ProgressFile
from functions.store.run import Run
from functions.store.transforms import aligned_volume_ref
from functions.store.volumes import Volume
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


def compute(run: Run, unit: str, *, segmenter: Segmenter | None = None) -> UnitReport:
    """Segment one subvolume and write its local labels."""
    subvolume = grid_of(run).get(unit)
    parameters = run.parameters.segment
    progress = ProgressFile.of(run.cell("segment"), unit)
    if not read_tissue(run, subvolume).any():
        return leave_empty(run, subvolume)
    segmenter = segmenter or FfnSegmenter(run.model_path, parameters, progress=progress, stop=run.stop)
    problems = look_at(run, subvolume, segmenter)
    shown = shown_to(parameters, *read(run, subvolume))
    tissue = shown.tissue & ~shown.resin
    flooded = Flooded(labels=np.zeros(tissue.shape, np.uint32))
    if tissue.any():
        margins = mirror_margins(run, subvolume, segmenter) if parameters.mirror_border else ((0, 0),) * 3
        flooded = segmenter(np.pad(shown.image, margins, mode="reflect"), permissions(shown, margins))
        flooded = replace(flooded, labels=crop(flooded.labels, margins))
    labels = label_bridges(np.where(tissue, flooded.labels, np.uint32(0)), shown)
    local = pack_local(labels, subvolume=subvolume)
    forget_overlaps(run, subvolume)
    write_local(local_path(run, subvolume), local)
    progress.remove()
    figures = figures_of(flooded, local, shown)
    problems += flooded.problems
    if tissue.mean() > 0.5 and figures["labelled_fraction"] < parameters.labelled_to_look:
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


def read(run: Run, subvolume: Subvolume) -> tuple[Image, Mask, Codes]:
    """The aligned image, its tissue mask and its artefact codes in the subvolume's read box.

    Raises:
        VolumeError: an array is missing or of an older version, or the image is not of 8 bits.
    """
    tissue, ref = read_tissue(run, subvolume), run.aligned.volume
    image = np.asarray(Volume.open(run.work, ref).read(subvolume.read), np.uint8)
    return image, tissue, np.asarray(open_artefacts(run).read(subvolume.read), np.uint8)


def read_tissue(run: Run, subvolume: Subvolume) -> Mask:
    """Where there is tissue in the subvolume's read box.

    Raises:
        VolumeError: the mask is missing, or the image is not of 8 bits.
    """
    ref = run.aligned.volume
    if ref.dtype != "uint8":
        raise VolumeError(
            f"{ref.path}: {ref.dtype}, the network reads uint8", remedy="start the run at stitch"
        )
    return Volume.open(run.work, aligned_volume_ref(run.aligned, "mask")).read(subvolume.read).astype(bool)


def shown_to(parameters: SegmentParameters, image: Image, tissue: Mask, codes: Codes) -> Shown:
    """The subvolume as the network is shown it, under the run's parameters."""
    avoided = [NAMES.index(name) for name in parameters.avoid]
    return show(
        image,
        tissue,
        resin=np.isin(codes, [code for code in avoided if code == RESIN]),
        artefact=np.isin(codes, [code for code in avoided if code != RESIN]),
        fill_gap=parameters.fill_gap_sections,
        fill_avoided=parameters.fill_avoided_sections,
    )


def permissions(shown: Shown, margins: tuple[tuple[int, int], ...]) -> Masks:
    """Where objects may start, move and be labelled, mirrored at the volume's faces as the image is."""

    def padded(mask: Mask) -> Mask | None:
        return np.pad(mask, margins, mode="reflect") if mask.any() else None

    missing = padded(~shown.tissue)
    return Masks.combine(
        tissue=None if missing is None else ~missing,
        resin=padded(shown.resin),
        artefact=padded(shown.artefact),
    )


def mirror_margins(
    run: Run, subvolume: Subvolume, segmenter: Segmenter
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """How far to mirror the image at each face of the read box: a radius where it is a face of the volume."""
    extent = run.aligned.volume.shape_zyx
    start, end, radius = subvolume.read.offset_zyx, subvolume.read.end_zyx, segmenter.radius_zyx
    z, y, x = ((radius[a] if start[a] == 0 else 0, radius[a] if end[a] == extent[a] else 0) for a in range(3))
    return z, y, x


def crop(labels: NDArray[np.uint32], margins: tuple[tuple[int, int], ...]) -> NDArray[np.uint32]:
    """Undo `np.pad`."""
    return labels[tuple(slice(a, n - b) for (a, b), n in zip(margins, labels.shape, strict=True))]


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
    if isinstance(segmenter, FfnSegmenter):
        problems += segmenter.look_at(run.aligned.volume.voxel_size_zyx_nm)
    return problems
