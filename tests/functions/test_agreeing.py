"""Consensus within a subvolume: what one segmentation merges stays apart if another does not."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ffn.masks import Masks
from functions import segment
from functions.agreeing import AgreeingSegmenter, segmenter_of
from functions.model.errors import VolumeError
from functions.segmenters import FfnSegmenter, Flooded
from functions.store.cells import Cell
from functions.store.labels import read_local
from functions.store.presence import myself
from functions.store.progress import ProgressFile
from functions.tasks import Problem
from tests.functions.test_segment_progress import slabs_run, unit_of

SHAPE = (6, 10, 20)


class Fixed:
    """Says the same of every image and counts how often it is asked."""

    def __init__(self, labels: np.ndarray, radius: int = 2) -> None:
        self.labels, self.asked = labels.astype(np.uint32), 0
        self.radius_zyx = (radius, 3, 3)

    def __call__(self, image: np.ndarray, masks: Masks) -> Flooded:
        self.asked += 1
        problem = Problem(code="same", subject="both say it")
        return Flooded(labels=self.labels, fovs=10, network_seconds=0.5, problems=(problem,))


def merged_and_apart() -> tuple[Fixed, Fixed]:
    merged = np.zeros(SHAPE)
    merged[:, :, 2:] = 5
    apart = merged.copy()
    apart[:, :, 11:] = 9
    return Fixed(merged), Fixed(apart, radius=4)


def agreeing(tmp_path: Path, *segmenters: Fixed, min_voxels: int = 0) -> AgreeingSegmenter:
    kept = tuple(ProgressFile.of(Cell(tmp_path), f"u-{i}-done") for i in range(len(segmenters)))
    return AgreeingSegmenter(segmenters=segmenters, kept=kept, min_voxels=min_voxels)


def test_a_merger_of_one_is_undone_by_the_other(tmp_path: Path) -> None:
    found = agreeing(tmp_path, *merged_and_apart())
    result = found(np.zeros(SHAPE, np.uint8), Masks())
    assert result.labels[0, 0].tolist() == [0] * 2 + [1] * 9 + [2] * 9
    assert (result.fovs, result.network_seconds) == (20, 1.0)
    assert len(result.problems) == 1
    assert found.radius_zyx == (4, 3, 3)


def test_small_pieces_and_masked_voxels_stay_empty(tmp_path: Path) -> None:
    allowed = np.ones(SHAPE, bool)
    allowed[:, :, 3] = False
    first, second = merged_and_apart()
    second.labels[:, :, 11:18] = 5
    result = agreeing(tmp_path, first, second, min_voxels=200)(
        np.zeros(SHAPE, np.uint8), Masks(labels=allowed)
    )
    assert result.labels[0, 0].tolist() == [0, 0, 1, 0] + [1] * 14 + [0] * 2


def test_what_is_done_is_not_flooded_again(tmp_path: Path) -> None:
    """Killed during the second: the first is read from where it was kept, counts included."""
    first, second = merged_and_apart()

    class KilledError(Exception):
        pass

    class Dies(Fixed):
        def __call__(self, image: np.ndarray, masks: Masks) -> Flooded:
            raise KilledError

    with pytest.raises(KilledError):
        agreeing(tmp_path, first, Dies(second.labels))(np.zeros(SHAPE, np.uint8), Masks())
    result = agreeing(tmp_path, first, second)(np.zeros(SHAPE, np.uint8), Masks())
    assert (first.asked, second.asked, result.fovs) == (1, 1, 20)


def other_arrays(path: Path) -> None:
    np.savez(path, labels=np.zeros((1, 1, 3), np.uint32))


@pytest.mark.parametrize("spoil", [lambda path: path.write_bytes(b"nonsense"), other_arrays])
def test_a_segmentation_that_is_kept_damaged_is_made_again_and_told(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    first, second = merged_and_apart()
    agreeing(tmp_path, first, second)(np.zeros(SHAPE, np.uint8), Masks())
    path = ProgressFile.of(Cell(tmp_path), "u-0-done").path
    spoil(path)
    again = agreeing(tmp_path, first, second)(np.zeros(SHAPE, np.uint8), Masks())
    assert (again.fovs, first.asked, second.asked) == (20, 2, 1)
    assert [problem.code for problem in again.problems] == ["progress_unusable", "same"]
    assert "u-0-done.npz: damaged" in again.problems[0].subject
    spoil(path)
    with pytest.raises(VolumeError, match="damaged, like the one before it"):
        agreeing(tmp_path, first, second)(np.zeros(SHAPE, np.uint8), Masks())


def test_a_run_floods_once_more_in_each_order_and_leaves_nothing_behind(tmp_path: Path) -> None:
    alone = slabs_run(tmp_path)
    assert isinstance(segmenter_of(alone, unit_of(alone)), FfnSegmenter)
    single = segment.compute(alone, unit_of(alone))
    run = slabs_run(tmp_path, consensus_orders=("reversed",), min_segment_voxels=10)
    assert run.segment_key != alone.segment_key
    report = segment.compute(run, unit_of(run))
    assert report.figures["fovs"] > 1.5 * single.figures["fovs"]
    (subvolume,) = segment.grid_of(run)
    assert np.unique(read_local(run, subvolume)).size == np.unique(read_local(alone, subvolume)).size
    assert list(run.cell("segment").file("progress").rglob("*.npz")) == []


def test_a_subvolume_that_is_killed_in_its_last_segmentation_got_further(tmp_path: Path) -> None:
    run = slabs_run(tmp_path, consensus_orders=("reversed",))
    unit, cell = unit_of(run), run.cell("segment")
    cell.ledger.number([unit], size=1)
    tries = []
    for epoch, name in enumerate((unit, f"{unit}-0-done", f"{unit}-1", f"{unit}-1")):
        claim = cell.ledger.lot(0).take_next(myself())
        claim.begin(unit, reached=segment.reached(run, unit))
        tries.append(claim.standing(unit).tries)
        ProgressFile.of(cell, name).write({"moves": np.arange(epoch + 1)})  # and then it is killed
        claim.release()
    assert tries == [1, 1, 1, 1]


def test_a_full_disk_does_not_throw_a_segmentation_away(tmp_path: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ProgressFile, "write", full)
    result = agreeing(tmp_path, *merged_and_apart())(np.zeros(SHAPE, np.uint8), Masks())
    assert result.labels[0, 0].tolist() == [0] * 2 + [1] * 9 + [2] * 9
    assert [problem.code for problem in result.problems] == ["same", "progress_not_kept"]
