"""A crew: several units at once in one process, the same results, the same faults."""

from __future__ import annotations

import errno
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from functions import networks, segment
from functions.crew import Crew, crew_of
from functions.model.errors import MemoryBudgetError, WorkerError
from functions.needs import BASE_MIB, geometry_of, needs
from functions.stopping import Stopping
from functions.store.cells import UnitReport
from functions.store.labels import grid_of, read_local
from functions.store.run import Run
from functions.tasks import ShardManifest
from functions.worker import Worker
from tests.functions.test_segment_progress import slabs_run
from tests.functions.test_worker import ExpendableStep, FakeStep, fail, ledger_of, names, planned


@dataclass(slots=True)
class MeetingStep(FakeStep):
    """Units wait until `together` of them are in progress."""

    together: threading.Barrier | None = None

    def compute(self, run: Run, unit: str) -> UnitReport:
        if self.together is not None:
            self.together.wait(timeout=30)
        return FakeStep.compute(self, run, unit)


def crew(manifest: ShardManifest, module: FakeStep, size: int, stopping: Stopping | None = None) -> Crew:
    stopping = stopping or Stopping()
    run = Run(manifest.run, stop=stopping.asked)
    return Crew(manifest, 0, module, stopping=stopping, run=run, size=size)


def test_units_are_computed_side_by_side_and_each_once(tmp_path: Path) -> None:
    manifest, module = planned(tmp_path, 12), MeetingStep(together=threading.Barrier(3))
    mine = crew(manifest, module, 3)
    assert sorted(mark.unit for mark in mine.work()) == names(12)
    assert sorted(module.computed) == names(12)
    assert (mine.left(), mine.account.computed, mine.account.voxels) == (0, 12, 12e6)


def test_units_that_were_dealt_are_shared(tmp_path: Path) -> None:
    planned_run = planned(tmp_path, 6)
    manifest = planned_run.model_copy(update={"shards": 2, "dealt": ((0, 2, 4), (1, 3, 5))})
    mine = crew(manifest, FakeStep(), 2)
    assert sorted(mark.unit for mark in mine.work()) == ["u000", "u002", "u004"]
    assert mine.left() == 0


def test_a_poison_unit_is_put_aside_and_the_others_go_on(tmp_path: Path) -> None:
    manifest = planned(tmp_path, 8, max_attempts=2)
    mine = crew(manifest, ExpendableStep(orders={"u003": fail}), 3)
    assert sorted(mark.unit for mark in mine.work()) == [name for name in names(8) if name != "u003"]
    assert [found.unit for found in mine.account.quarantined] == ["u003"]
    assert [found.unit for found in ledger_of(manifest).quarantined()] == ["u003"]


def test_a_full_disk_ends_all_of_them_and_no_unit_is_blamed(tmp_path: Path) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    manifest, stopping = planned(tmp_path, 40), Stopping()
    mine = crew(manifest, FakeStep(orders={"u001": full}), 2, stopping)
    with pytest.raises(WorkerError, match="No space left on device"):
        list(mine.work())
    assert stopping.asked()
    assert ledger_of(manifest).quarantined() == []
    assert 0 < mine.left() < 40


def test_subvolumes_flooded_at_once_are_those_flooded_alone(tmp_path: Path) -> None:
    small = {"subvolume_zyx_px": (26, 16, 16), "overlap_zyx_px": (8, 8, 8)}
    alone = slabs_run(tmp_path / "alone", **small)
    for unit in segment.units(alone):
        segment.compute(alone, unit)
    together = slabs_run(tmp_path / "together", at_once=3, **small)
    assert together.segment_key == alone.segment_key
    board = together.board("segment")
    board.ledger.number(segment.units(together), size=1)
    manifest = ShardManifest(package="", run=together.spec, step="segment", shards=1)
    mine = crew_of(manifest, 0, segment, stopping=Stopping(), run=together)
    assert isinstance(mine, Crew)
    assert sorted(mark.unit for mark in mine.work()) == sorted(segment.units(together))
    for subvolume in grid_of(alone):
        labels = read_local(alone, subvolume)
        assert np.array_equal(labels, read_local(together, subvolume))
    assert any(read_local(alone, subvolume).any() for subvolume in grid_of(alone))


def test_on_a_cpu_one_unit_is_computed_at_a_time(tmp_path: Path) -> None:
    run = slabs_run(tmp_path)
    manifest = ShardManifest(package="", run=run.spec, step="segment", shards=1)
    assert isinstance(crew_of(manifest, 0, segment, stopping=Stopping(), run=run), Worker)


def test_memory_that_the_crew_was_refused_ends_it_and_no_unit_is_blamed(tmp_path: Path) -> None:
    def refused() -> None:
        raise MemoryError("Unable to allocate 4 GiB")

    manifest, stopping = planned(tmp_path, 40), Stopping()
    manifest = manifest.model_copy(update={"run": manifest.run.model_copy(update={"memory_gib": 64.0})})
    mine = crew(manifest, ExpendableStep(orders={"u001": refused}), 2, stopping)
    with pytest.raises(MemoryBudgetError, match="u001: asked for more than its 64 GiB"):
        list(mine.work())
    assert ledger_of(manifest).quarantined() == []


def test_a_crew_that_nobody_asks_for_more_puts_away_what_it_has(tmp_path: Path) -> None:
    manifest = planned(tmp_path, 40)
    before = threading.active_count()
    marks = crew(manifest, FakeStep(orders=dict.fromkeys(names(40), lambda: time.sleep(0.02))), 2).work()
    next(marks)
    marks.close()
    assert threading.active_count() == before
    assert ledger_of(manifest).census().open > 0


def test_on_an_accelerator_as_many_units_at_once_as_there_is_room_for(tmp_path: Path, monkeypatch) -> None:
    run = slabs_run(tmp_path)
    monkeypatch.setattr(networks, "choose", lambda _: torch.device("meta"))
    assert segment.at_once(run) == networks.AT_ONCE
    (need,) = [need for need in needs(geometry_of(run)) if need.step == "segment"]
    for units in (1, 3):
        gib = (BASE_MIB + need.mib * (units + 0.5)) / 1024
        assert segment.at_once(Run(run.spec.model_copy(update={"memory_gib": gib}))) == units


def test_a_crew_that_fails_at_everything_ends_before_it_blames_all_units(tmp_path: Path) -> None:
    """Each of four seats sees three units fail: together they know that it is not the units."""
    manifest = planned(tmp_path, 12)
    mine = crew(manifest, ExpendableStep(orders=dict.fromkeys(names(12), fail)), 4)
    with pytest.raises(WorkerError, match=r"1\d units failed one after the other"):
        list(mine.work())
    assert ledger_of(manifest).census().quarantined < 12
