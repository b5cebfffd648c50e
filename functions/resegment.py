"""Resegment: flood both objects of candidate pairs again at their decision points; a batch of pairs a unit.

image and global labels around the points -> mirrored at the volume's faces -> network -> evidence

Pairs that lie near each other are read together, as many as there is room for. What a pair is shown does not
depend on the others. Nothing is decided here (`functions.agglomerate`): other thresholds do not flood again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ffn.evidence import PairEvidence, Reflooding
from functions.budget import reflooding_pieces
from functions.model.geometry import ZYX, Box
from functions.segmenters import FfnSegmenter
from functions.shown import cut, mirror_margins, padded, permissions, read, shown_to
from functions.store.cells import UnitReport
from functions.store.edges import batch_of, batches_of, evidence_path, pack_evidence, unpack_points
from functions.store.equalities import Records, write_records
from functions.store.labels import labels_ref
from functions.store.run import Run
from functions.store.volumes import Volume

if TYPE_CHECKING:
    from ffn.resegmentation import ResegmentationConfig


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
    z, y, x = segmenter.radius_zyx
    at_once, most = reflooding_pieces(run, (2 * z + 1, 2 * y + 1, 2 * x + 1))
    by_row: dict[int, PairEvidence] = {}
    for rows in groups(points, settings.radius_zyx, most_voxels=most):
        evidence = reflood(run, points[rows], segmenter, settings, at_once=at_once)
        by_row |= dict(zip(rows, evidence, strict=True))
    found = [by_row[row] for row in range(len(points))]
    write_records(evidence_path(run, unit), pack_evidence(found))
    return UnitReport(
        figures={
            "pairs": len(found),
            "fovs": sum(e.moves for e in found),
            "one_object": sum(e.iou > 0.5 for e in found),
        }
    )


def reflood(
    run: Run,
    points: Records,
    segmenter: FfnSegmenter,
    settings: ResegmentationConfig,
    *,
    at_once: int | None,
) -> list[PairEvidence]:
    """The evidence of pairs whose surroundings are read together, at most `at_once` in progress at a time."""
    p, volume = run.parameters.segment, run.aligned.volume
    box = box_around(points, settings.radius_zyx).intersect(volume.box)
    filled_by = (p.fill_gap_sections + p.fill_avoided_sections, 0, 0)
    seen = box.grow(filled_by).intersect(volume.box)
    shown = cut(shown_to(p, *read(run, seen)), box.relative_to(seen))
    margins = mirror_margins(run, box, segmenter.radius_zyx)
    labels = np.asarray(Volume.open(run.work, labels_ref(run)).read(box), np.uint32)
    z, y, x = (before - offset for (before, _), offset in zip(margins, box.offset_zyx, strict=True))
    evidence = segmenter.reflood(
        padded(shown.image, margins),
        padded(labels, margins),
        [replace(point, point_zyx=_plus(point.point_zyx, (z, y, x))) for point in unpack_points(points)],
        masks=permissions(shown, margins),
        settings=settings,
        voxel_size_zyx_nm=volume.voxel_size_zyx_nm,
        at_once=at_once,
    )
    return [moved(e, (-z, -y, -x)) for e in evidence]


def groups(points: Records, radius_zyx: ZYX, *, most_voxels: int) -> Iterator[list[int]]:
    """Rows of points whose cubes lie in one box of at most so many voxels; of those beyond each by itself."""
    group: list[int] = []
    for row in np.lexsort((points["x"], points["y"], points["z"])).tolist():
        if group and box_around(points[[*group, row]], radius_zyx).voxels > most_voxels:
            yield group
            group = []
        group.append(row)
    if group:
        yield group


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
