"""Resegment: flood both objects of candidate pairs again at their decision points; a batch of pairs a unit.

image and global labels around the points -> mirrored at the volume's faces -> network -> evidence

Nothing is decided here (`functions.agglomerate`): other thresholds do not flood again.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ffn.evidence import PairEvidence, Reflooding
from functions.model.geometry import ZYX, Box
from functions.segmenters import FfnSegmenter
from functions.shown import mirror_margins, permissions, read, shown_to
from functions.store.cells import UnitReport
from functions.store.edges import batch_of, batches_of, evidence_path, pack_evidence, unpack_points
from functions.store.equalities import Records, write_records
from functions.store.labels import labels_ref
from functions.store.run import Run
from functions.store.volumes import Volume


def units(run: Run) -> list[str]:
    """Ids of the batches, block by block; none where agglomeration is off."""
    return [unit for unit, _ in batches_of(run)]


def compute(run: Run, unit: str, *, segmenter: FfnSegmenter | None = None) -> UnitReport:
    """Flood the pairs of one batch again."""
    segmenter = segmenter or FfnSegmenter(run.model_path, run.parameters.segment)
    points = batch_of(run, unit)
    settings = replace(
        segmenter.resegmentation,
        max_attempts=run.parameters.resegment.max_attempts,
        stop_early=run.parameters.resegment.stop_early,
    )
    box = box_around(points, settings.radius_zyx).intersect(run.aligned.volume.box)
    margins = mirror_margins(run, box, segmenter.radius_zyx)
    shown = shown_to(run.parameters.segment, *read(run, box))
    labels = np.asarray(Volume.open(run.work, labels_ref(run)).read(box), np.uint32)
    z, y, x = (before - offset for (before, _), offset in zip(margins, box.offset_zyx, strict=True))
    evidence = segmenter.reflood(
        np.pad(shown.image, margins, mode="reflect"),
        np.pad(labels, margins, mode="reflect"),
        [replace(p, point_zyx=_plus(p.point_zyx, (z, y, x))) for p in unpack_points(points)],
        masks=permissions(shown, margins),
        settings=settings,
        voxel_size_zyx_nm=run.aligned.volume.voxel_size_zyx_nm,
    )
    found = [moved(e, (-z, -y, -x)) for e in evidence]
    write_records(evidence_path(run, unit), pack_evidence(found))
    return UnitReport(
        figures={
            "pairs": len(found),
            "fovs": sum(e.moves for e in found),
            "one_object": sum(e.iou > 0.5 for e in found),
        }
    )


def box_around(points: Records, radius_zyx: ZYX) -> Box:
    """The box of all cubes of this radius."""
    low = [int(points[axis].min()) - r for axis, r in zip("zyx", radius_zyx, strict=True)]
    high = [int(points[axis].max()) + r + 1 for axis, r in zip("zyx", radius_zyx, strict=True)]
    z, y, x = (b - a for a, b in zip(low, high, strict=True))
    return Box(offset_zyx=(low[0], low[1], low[2]), shape_zyx=(z, y, x))


def moved(evidence: PairEvidence, by: ZYX) -> PairEvidence:
    """Evidence in voxels of the volume; a seed in the mirror image lies outside of it."""

    def side(found: Reflooding | None) -> Reflooding | None:
        return None if found is None else replace(found, seed_zyx=_plus(found.seed_zyx, by))

    return replace(
        evidence,
        point_zyx=_plus(evidence.point_zyx, by),
        from_first=side(evidence.from_first),
        from_second=side(evidence.from_second),
    )


def _plus(place: ZYX, by: ZYX) -> ZYX:
    return place[0] + by[0], place[1] + by[1], place[2] + by[2]
