"""Match: equalities and refusals of one overlap, as files."""

from pathlib import Path

import numpy as np

from ffn.masks import Masks
from functions import match
from functions.agglomeration.overlaps import ACCEPTED, NOT_MUTUAL
from functions.segment import Flooded
from functions.store.equalities import OVERLAP, match_path, read_records
from functions.store.labels import grid_of
from tests.functions.aligned_runs import ScrambledTruth, make_run, segment_all, voronoi

TWO = {"subvolume_zyx_px": (8, 16, 16), "overlap_zyx_px": (0, 0, 8)}


def test_every_object_of_the_overlap_is_joined_once(tmp_path: Path) -> None:
    image = voronoi((8, 16, 24), 10, seed=5)
    run = make_run(tmp_path, image, segment=TWO, reconcile={"min_voxels": 1})
    segment_all(run, ScrambledTruth())
    (unit,) = match.units(run)
    report = match.compute(run, unit)
    assert report.status == "ok"
    assert report.figures["equalities"] == len(np.unique(image[:, :, 8:16]))
    assert report.figures["refused"] == 0
    assert report.figures["agreement"] == 1.0
    assert report.figures["labelled_by_both"] == report.figures["overlap_voxels"] == 8 * 16 * 8


def test_a_false_merger_joins_one_object_and_is_reported(tmp_path: Path) -> None:
    class MergesOnTheRight(ScrambledTruth):
        """Calls everything one object where the grey value 9 is in sight."""

        def __call__(self, image: np.ndarray, masks: Masks) -> Flooded:
            return super().__call__(np.full_like(image, 1) if (image == 9).any() else image, masks)

    image = np.repeat(np.arange(1, 9, dtype=np.uint8), 2)[None, :, None] * np.ones((8, 16, 24), np.uint8)
    image[:, :, 23] = 9
    run = make_run(tmp_path, image, segment=TWO, reconcile={"min_voxels": 1, "min_iou": 0.1})
    segment_all(run, MergesOnTheRight())
    (pair,) = grid_of(run).neighbours()
    report = match.compute(run, pair.id)
    assert report.figures["equalities"] == 1
    assert report.figures["refused"] == 7
    assert report.status == "look"
    assert report.problems[0]["code"] == "overlap_disagrees"
    assert "12%" in report.problems[0]["subject"]
    verdict = read_records(match_path(run, pair), OVERLAP)["verdict"]
    assert sorted(verdict.tolist()) == [ACCEPTED] + [NOT_MUTUAL] * 7
