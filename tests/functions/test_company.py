"""Units beside each other in a process: whose fault it is when that ends, or an accelerator is full."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import log2
from pathlib import Path

import pytest
import torch

from functions.blame import is_accelerator_full
from functions.company import Company
from functions.crew import crew_of
from functions.model.errors import WorkerError
from functions.plan import perform
from functions.runtime import Answer
from functions.stopping import Stopping
from functions.store.cells import UnitReport
from functions.store.files import write_json
from functions.store.lots import Standing
from functions.store.marks import Attempt
from functions.store.presence import myself
from functions.store.run import Run
from functions.tasks import PlanTask, ShardManifest
from functions.worker import Worker
from tests.functions.test_worker import ExpendableStep, FakeStep, ledger_of, names, planned, worker
from tests.functions.worlds import ingested


def test_units_that_ended_a_process_together_are_tried_in_ever_smaller_company() -> None:
    standing, companies = Standing(), []
    while standing.tries < 3:
        company = min(32, standing.company_at_most(reached="") or 32)
        standing.take({"do": "begin", "unit": "u", "reached": "", "company": company})  # and it is killed
        companies.append(company)
    assert companies == [32, 16, 8, 4, 2, 1, 1, 1]
    assert standing.lost == 8


def test_what_got_on_meanwhile_is_no_suspect() -> None:
    standing = Standing()
    for reached in ("", "k1", "k1"):
        standing.take({"do": "begin", "unit": "u", "reached": reached, "company": 32})
    assert (standing.company_at_most(reached="k1"), standing.company_at_most(reached="k2")) == (16, None)
    standing.take({"do": "begin", "unit": "u", "reached": "k2", "company": 32})
    standing.take({"do": "kept", "unit": "u"})
    assert not standing.suspect


def test_each_process_that_ends_is_told_whichever_unit_was_in_it(tmp_path: Path) -> None:
    """The flow plans again as long as that changes: also where another unit has ended more of them, and where
    a unit got on in between."""
    ledger, told = ledger_of(planned(tmp_path, 3)), []
    for lot, reached, company in ((0, "", 4), (0, "", 2), (1, "", 4), (1, "", 2), (2, "", 4), (2, "k1", 4)):
        claim = ledger.lot(lot).take_next(myself())
        claim.begin(f"u{lot:03d}", reached=reached, company=company)  # and it is killed
        claim.release()
        told.append(ledger.census().lost)
    assert told == [1, 2, 3, 4, 5, 6]
    claim = ledger.lot(2).take_next(myself())
    claim.begin("u002", reached="k1", company=2)
    claim.keep("u002")
    assert ledger.census().lost == 6


def test_a_plan_tells_of_processes_that_sections_ended_too(tmp_path: Path) -> None:
    """Sections have cells of their own; what ended with its process stands where they are claimed."""
    run = ingested(tmp_path, (0, 1, 2))
    task = PlanTask(run=run.spec, step="stitch", function_id="f")
    told = [perform(task).figures["lost"]]
    for _ in range(2):
        claim = run.board("stitch").ledger.lot(0).take_next(myself())
        claim.begin(run.sections[0].section.id)  # and it is killed
        told.append(perform(task).figures["lost"])
    assert told == [0, 1, 2]


def test_an_error_of_its_own_counts_in_company_and_alone_and_a_fault_of_the_worker_does_not() -> None:
    standing = Standing()
    attempt = Attempt(worker="a", error="ValueError: no").to_json()
    for company in (32, 1):
        standing.take({"do": "begin", "unit": "u", "reached": "", "company": company})
        standing.take({"do": "fail", "unit": "u", "attempt": attempt})
        standing.take({"do": "begin", "unit": "u", "reached": "", "company": company})
        standing.take({"do": "drop", "unit": "u"})
    assert (standing.tries, standing.lost, standing.company_at_most(reached="")) == (2, 0, None)


def test_nobody_is_in_progress_beside_more_than_it_may_be() -> None:
    """200 units by 16 threads: at no time are more in progress than any of them allows, and all end."""
    company, rng = Company(16), random.Random(5)
    inside: list[int] = []
    wrong: list[list[int]] = []
    lock = threading.Lock()

    def one(at_most: int | None) -> None:
        came = company.enter(at_most, stop=lambda: False)
        with lock:
            inside.append(came)
            if len(inside) > min(inside) or came > (at_most or 16):
                wrong.append(list(inside))
        time.sleep(0.001)
        with lock:
            inside.remove(came)
        company.leave(came)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(one, [rng.choice([None, None, 1, 2, 4, 8]) for _ in range(200)]))
    assert (wrong, inside) == ([], [])


def test_a_unit_that_waits_for_others_to_go_is_not_begun_when_its_worker_has_to_go() -> None:
    company, gone = Company(4), threading.Event()
    assert company.enter(None, stop=lambda: False) == 4
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(company.enter, 1, stop=gone.is_set)
        gone.set()
        assert waiting.result(timeout=10) == 0
    company.leave(4)
    assert company.enter(1, stop=lambda: False) == 1


def test_a_unit_that_ends_its_process_is_put_aside_and_none_of_its_neighbours(tmp_path: Path) -> None:
    poison, size, attempts = "u001", 4, 2
    manifest = planned(tmp_path, 12, max_attempts=attempts)
    path = tmp_path / "manifest.json"
    write_json(path, manifest.to_json())
    command = [sys.executable, "-m", "tests.functions.crew_process", str(path), str(size), poison]
    deaths, ledger = 0, ledger_of(manifest)
    told = [ledger.census()]
    while subprocess.run(command, check=False).returncode:
        deaths += 1
        told.append(ledger.census())
        assert deaths <= log2(size) + attempts
    seen = [(census.settled, census.lost) for census in told]
    assert seen == sorted(set(seen))  # each death tells something: the flow plans again
    assert ledger.census().lost == 0
    (found,) = ledger.quarantined()
    assert (found.unit, found.attempts, found.failures) == (poison, attempts, ())
    assert "ended its worker 2 times, alone" in found.reason
    done = {unit for unit, standing in ledger.standings_of_all() if standing.mark}
    assert done == set(names(12)) - {poison}
    begun = (tmp_path / "computed.txt").read_text().split()
    assert begun.count(poison) == deaths == log2(size) + attempts


# -- an accelerator that is full ----------------------------------------------------------------------------
@dataclass(slots=True)
class CrowdedStep(FakeStep):
    """An accelerator with room for `room` units at a time."""

    room: int = 1
    inside: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def compute(self, run: Run, unit: str) -> UnitReport:
        self.inside.append(unit)
        try:
            time.sleep(0.02)
            if len(self.inside) > self.room:
                self.refused.append(unit)
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
            return FakeStep.compute(self, run, unit)
        finally:
            self.inside.remove(unit)

    def at_once(self, run: Run) -> int:
        return 8

    def abandon(self, run: Run, unit: str) -> None:
        raise AssertionError(f"{unit} is not to blame")


def crowded(manifest: ShardManifest, module: CrowdedStep) -> Worker:
    stopping = Stopping(environment={})
    run = Run(manifest.run, stop=stopping.asked)
    found = crew_of(manifest, 0, module, stopping=stopping, run=run)
    assert not isinstance(found, Worker)
    return found  # type: ignore[return-value]


def test_a_full_accelerator_halves_the_crew_and_costs_no_unit_an_attempt(tmp_path: Path) -> None:
    manifest, module = planned(tmp_path, 24, max_attempts=1), CrowdedStep(room=3)
    mine = crowded(manifest, module)
    assert sorted(mark.unit for mark in mine.work()) == sorted(module.computed) == names(24)
    assert module.refused
    assert mine.account.crowded == (8, 2)
    ledger = ledger_of(manifest)
    assert ledger.quarantined() == []
    assert {standing.tries for _, standing in ledger.standings_of_all()} <= {0, 1}
    told = Answer("segment").result(mine.account, expendable=True, left=mine.left())
    assert (told.status, told.left, told.problem_count) == ("look", 0, 1)
    assert told.problems[0].subject == "accelerator full with 8 at once; went on with 2"
    assert told.problems[0].remedy == "set segment.at_once=2"


def test_a_unit_for_which_an_accelerator_has_no_room_alone_ends_the_worker_with_a_remedy(
    tmp_path: Path,
) -> None:
    manifest, module = planned(tmp_path, 24, max_attempts=1), CrowdedStep(room=0)
    mine = crowded(manifest, module)
    with pytest.raises(
        WorkerError, match=r"out of memory.*segment.at_once, segment.batch or segment.subvolume_zyx_px"
    ):
        list(mine.work())
    assert ledger_of(manifest).quarantined() == []
    assert mine.left() == 24
    assert {standing.tries for _, standing in ledger_of(manifest).standings_of_all()} == {0}


def test_a_worker_of_one_unit_at_a_time_says_the_same(tmp_path: Path) -> None:
    def full() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    manifest = planned(tmp_path, 3, max_attempts=1)
    with pytest.raises(WorkerError, match=r"u000: CUDA out of memory.*segment.at_once"):
        list(worker(manifest, ExpendableStep(orders={"u000": full})).work())
    assert ledger_of(manifest).quarantined() == []


def test_an_accelerator_that_is_full_is_known_by_what_the_libraries_below_torch_say() -> None:
    assert is_accelerator_full(RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"))
    assert not is_accelerator_full(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not is_accelerator_full(MemoryError("Unable to allocate 4 GiB"))
    hidden = RuntimeError("CUDA error: operation failed due to a previous error during capture")
    hidden.__context__ = torch.OutOfMemoryError("CUDA out of memory")
    assert is_accelerator_full(hidden)
