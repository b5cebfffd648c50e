"""Workers: what they claim, retry, put aside and hand on, and when they end."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from functions.claiming import Claims
from functions.model.errors import ModelError, VolumeError, WorkerError
from functions.plan import perform, told
from functions.runtime import Answer, read_manifest
from functions.stopping import Stopping
from functions.store.cells import CODE_VERSION, UnitReport
from functions.store.ledger import Ledger
from functions.store.ledger_files import LedgerFiles
from functions.store.lots import Owner
from functions.store.presence import Heartbeat, Watch
from functions.store.progress import Drained
from functions.store.run import Run
from functions.tasks import FanOutName, PlanResult, PlanTask, ShardManifest
from functions.worker import FAILURES_IN_A_ROW, Worker
from tests.functions.worlds import ingested

STEP: FanOutName = "align_render"


@dataclass(slots=True)
class FakeStep:
    """A step whose units do what `orders` says; it notes what was computed."""

    orders: dict[str, Callable[[], None]] = field(default_factory=dict)
    computed: list[str] = field(default_factory=list)

    def compute(self, run: Run, unit: str) -> UnitReport:
        self.computed.append(unit)
        self.orders.get(unit, lambda: None)()
        return UnitReport(figures={"voxels": 1e6})


@dataclass(slots=True)
class ExpendableStep(FakeStep):
    abandoned: list[str] = field(default_factory=list)

    def abandon(self, run: Run, unit: str) -> None:
        self.abandoned.append(unit)


def names(count: int) -> list[str]:
    return [f"u{k:03d}" for k in range(count)]


def planned(root: Path, count: int, *, size: int = 1, shards: int = 1, **sharing: object) -> ShardManifest:
    run = ingested(root, (0, 1), parameters={"fan_out": {"lease_seconds": 1.0, **sharing}})
    run.board(STEP).ledger.number(names(count), size=size)
    return ShardManifest(package=CODE_VERSION, run=run.spec, step=STEP, shards=shards)


def worker(
    manifest: ShardManifest, module: FakeStep, *, shard: int = 0, stopping: Stopping | None = None
) -> Worker:
    stopping = stopping or Stopping()
    run = Run(manifest.run, stop=stopping.asked)
    return Worker(manifest, shard, module, stopping=stopping, run=run)


def ledger_of(manifest: ShardManifest):
    return Run(manifest.run).board(STEP).ledger


def fail() -> None:
    raise ValueError("no such thing\nand more")


def test_workers_share_all_units_and_the_last_sees_that_none_is_left(tmp_path: Path) -> None:
    manifest, module = planned(tmp_path, 7, size=2, shards=2), FakeStep()
    one, two = (worker(manifest, module, shard=k) for k in range(2))
    first = iter(one.work())
    assert next(first).unit == "u000"
    assert [mark.unit for mark in two.work()] == ["u004", "u005", "u006", "u002", "u003"]
    assert two.left() == 2  # what the other holds
    assert [mark.unit for mark in first] == ["u001"]
    assert (one.left(), one.account.computed, two.account.computed) == (0, 2, 5)
    assert sorted(module.computed) == names(7)
    assert one.account.voxels == 2e6


def test_an_error_of_a_unit_is_tried_again_and_then_put_aside_with_its_traceback(tmp_path: Path) -> None:
    manifest = planned(tmp_path, 4, size=2, max_attempts=3)
    module = ExpendableStep(orders={"u001": fail})
    mine = worker(manifest, module)
    assert [mark.unit for mark in mine.work()] == ["u000", "u002", "u003"]
    assert module.computed.count("u001") == 3
    assert module.abandoned == ["u001"]
    (found,) = ledger_of(manifest).quarantined()
    assert (found.unit, found.attempts, found.reason) == ("u001", 3, "ValueError: no such thing")
    assert all("in fail" in attempt.traceback for attempt in found.failures)
    assert len(found.failures) == 3
    assert (mine.left(), mine.account.quarantined) == (0, [found])
    assert found.remedy == "rerun with --retry-quarantined when it is mended"
    ledger_of(manifest).void("u001", why="mended")
    module.orders.clear()
    assert [mark.unit for mark in worker(manifest, module).work()] == ["u001"]


def test_a_unit_that_fails_once_is_computed_in_the_end(tmp_path: Path) -> None:
    times: list[int] = []

    def once() -> None:
        times.append(1)
        if len(times) == 1:
            fail()

    module = FakeStep(orders={"u000": once})
    manifest = planned(tmp_path, 3)
    assert sorted(mark.unit for mark in worker(manifest, module).work()) == names(3)
    assert ledger_of(manifest).quarantined() == []


@pytest.mark.parametrize("memory_gib", [None, 64.0])
def test_a_unit_that_ends_its_process_is_put_aside_too(tmp_path: Path, memory_gib: float | None) -> None:
    """What ends a process without a word is memory, as a rule, unless that was limited."""

    def die() -> None:
        raise KeyboardInterrupt

    manifest = planned(tmp_path, 3, max_attempts=2)
    manifest = manifest.model_copy(update={"run": manifest.run.model_copy(update={"memory_gib": memory_gib})})
    module = ExpendableStep(orders={"u001": die})
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            list(worker(manifest, module).work())
    mine = worker(manifest, module)
    list(mine.work())
    (found,) = ledger_of(manifest).quarantined()
    assert (found.unit, found.attempts, found.failures) == ("u001", 2, ())
    assert "ended its worker 2 times" in found.reason
    (problem,) = Answer("segment").result(mine.account, expendable=True, left=0).problems
    assert problem.remedy == told(found).remedy
    assert ("--memory-gib" in problem.remedy) is (memory_gib is None)
    assert "--retry-quarantined" in problem.remedy
    assert module.computed == ["u000", "u001", "u002", "u001"]  # what nobody has begun comes first


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left .*; make room on scratch"),
        (ModelError("no weights", remedy="give them"), "no weights; give them"),
        (ImportError("no zarr"), "no zarr .*; install the package"),
        (VolumeError("damaged", remedy="remove it"), "damaged; remove it"),
    ],
    ids=["full disk", "model", "environment", "data that is needed"],
)
def test_what_is_not_the_units_fault_ends_the_worker_and_counts_against_no_unit(
    tmp_path: Path, error: Exception, message: str
) -> None:
    def broken() -> None:
        raise error

    manifest = planned(tmp_path, 3)
    for _ in range(4):
        with pytest.raises((WorkerError, ModelError, VolumeError), match=message):
            list(worker(manifest, FakeStep(orders=dict.fromkeys(names(3), broken))).work())
    ledger = ledger_of(manifest)
    assert (ledger.quarantined(), ledger.census().held) == ([], 0)
    assert len(list(worker(manifest, FakeStep()).work())) == 3


def test_damaged_data_of_a_unit_that_can_be_left_out_is_the_units_fault(tmp_path: Path) -> None:
    def damaged() -> None:
        raise VolumeError("image.zarr: damaged", remedy="remove it")

    module = ExpendableStep(orders={"u000": damaged})
    manifest = planned(tmp_path, 3)
    assert [mark.unit for mark in worker(manifest, module).work()] == ["u001", "u002"]
    assert module.abandoned == ["u000"]


def test_a_worker_that_fails_at_everything_ends_before_it_blames_all_units(tmp_path: Path) -> None:
    manifest = planned(tmp_path, 50, size=25)
    module = ExpendableStep(orders=dict.fromkeys(names(50), fail))
    with pytest.raises(WorkerError, match=rf"{FAILURES_IN_A_ROW} units failed one after the other"):
        list(worker(manifest, module).work())
    assert (len(module.computed), module.abandoned) == (FAILURES_IN_A_ROW, [])


def test_a_full_disk_under_the_ledger_itself_ends_the_worker(tmp_path: Path, monkeypatch) -> None:
    from functions.store.ledger_files import LedgerFiles

    def full(self: LedgerFiles, path: Path, first: bytes) -> int | None:
        raise OSError(errno.ENOSPC, "No space left on device")

    manifest = planned(tmp_path, 3)
    monkeypatch.setattr(LedgerFiles, "create", full)
    with pytest.raises(WorkerError, match=r"ledger: .*No space left .*; make room on scratch"):
        list(worker(manifest, FakeStep()).work())


def test_a_claim_that_the_full_disk_did_not_take_is_anybodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from functions.store.ledger_files import LedgerFiles

    def full(self: LedgerFiles, handle: int, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    manifest = planned(tmp_path, 3)
    with monkeypatch.context() as patch:
        patch.setattr(LedgerFiles, "append", full)
        with pytest.raises(WorkerError, match=r"No space left .*; make room on scratch"):
            list(worker(manifest, FakeStep()).work())
    assert ledger_of(manifest).census().held == 0  # nobody waits for a lease
    assert len(list(worker(manifest, FakeStep()).work())) == 3


# -- drain --------------------------------------------------------------------------------------------------
def test_before_its_end_a_worker_hands_on_what_it_has(tmp_path: Path) -> None:
    now = [0.0]
    stopping = Stopping(walltime_seconds=100, drain_seconds=10, clock=lambda: now[0], environment={})

    def slow() -> None:
        now[0] += 60
        if stopping.asked():
            raise Drained

    manifest = planned(tmp_path, 4, size=4)
    module = FakeStep(orders=dict.fromkeys(names(4), slow))
    mine = worker(manifest, module, stopping=stopping)
    assert [mark.unit for mark in mine.work()] == ["u000"]
    assert module.computed == ["u000", "u001"]
    assert (mine.account.kept, mine.left()) == (1, 4)
    assert ledger_of(manifest).look(range(1))[0].state == "free"  # nobody waits for a lease
    assert [m.unit for m in worker(manifest, FakeStep()).work()] == ["u001", "u002", "u003"]
    assert ledger_of(manifest).lot(0).standings()["u001"].tries == 1


def test_a_worker_claims_nothing_that_would_not_fit(tmp_path: Path) -> None:
    stopping = Stopping(walltime_seconds=100, drain_seconds=10, environment={})
    mine = worker(planned(tmp_path, 4), FakeStep(), stopping=stopping)
    mine.account.computed, mine.account.seconds = 2, 2 * 89.0
    assert len(list(mine.work())) == 4  # 89 s are left, and units take less
    mine = worker(planned(tmp_path / "b", 4), FakeStep(), stopping=stopping)
    mine.account.computed, mine.account.seconds = 2, 2 * 91.0
    assert list(mine.work()) == []
    assert mine.left() == 4


def test_the_end_of_the_batch_job_is_the_end_of_the_worker() -> None:
    import time

    soon = str(int(time.time()) + 50)
    assert 0 < Stopping(environment={"SLURM_JOB_END_TIME": soon}).left() <= 50
    assert Stopping(environment={"PETAVOXEL_JOB_END": soon}, drain_seconds=60).asked()
    assert not Stopping(environment={}).asked()
    assert Stopping(walltime_seconds=9, environment={"SLURM_JOB_END_TIME": soon}).left() <= 9


def test_sigterm_asks_a_worker_to_go_and_the_handler_of_before_comes_back() -> None:
    import os
    import signal

    before = signal.getsignal(signal.SIGTERM)
    with Stopping(environment={}) as stopping:
        assert not stopping.asked()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopping.asked()
    assert signal.getsignal(signal.SIGTERM) is before


# -- what others left ---------------------------------------------------------------------------------------
def test_what_a_vanished_worker_held_is_taken_over_after_a_lease(tmp_path: Path) -> None:
    manifest = planned(tmp_path, 3, lease_seconds=60)
    run = Run(manifest.run)
    ledger, workers = run.board(STEP).ledger, run.board(STEP).workers
    now = [0.0]
    owners = [Owner(id=n, host=n, pid=1, machine=n, born="1") for n in ("gone", "alive", "me")]
    alive = Heartbeat(workers, owners[1], lease_seconds=60)
    for number in range(2):
        ledger.lot(number).take(0, owners[number])

    def wait(seconds: float) -> None:
        now[0] += seconds
        alive.beat()

    claims = Claims(
        ledger,
        owners[2],
        Watch(workers, lease_seconds=60, clock=lambda: now[0]),
        worker=0,
        workers=1,
        lease_seconds=60,
        stop=lambda: False,
        wait=wait,
        clock=lambda: now[0],
    )
    taken = []
    for number, claim in claims:
        taken.append((number, claim.epoch, now[0]))
        claim.finish()
    assert [(number, epoch) for number, epoch, _ in taken] == [(2, 0), (0, 1)]
    assert taken[0][2] == 0.0
    assert 60 < taken[1][2] <= 72  # a lease and the distance of two looks
    assert now[0] - taken[1][2] <= 80  # then it leaves the rest to the living
    assert ledger.look(range(3))[1].state == "held"


def test_an_overtaken_worker_goes_on_with_another_lot(tmp_path: Path) -> None:
    manifest = planned(tmp_path, 4, size=2)
    ledger = ledger_of(manifest)
    other = Owner(id="b", host="b", pid=1, machine="b", born="1")

    def overtake() -> None:
        heir = ledger.lot(0).take(1, other)
        assert heir is not None
        heir.release()

    module = FakeStep(orders={"u000": overtake})
    marks = [mark.unit for mark in worker(manifest, module).work()]
    assert marks == ["u000", "u002", "u003", "u001"]
    assert sorted(module.computed) == names(4)


def test_dealt_lots_need_no_claim_and_a_worker_computes_its_own_alone(tmp_path: Path) -> None:
    manifest = planned(tmp_path, 5, shards=2).model_copy(update={"dealt": ((0, 2, 4), (1, 3))})
    ledger = ledger_of(manifest)
    ledger.lot(0).take(0, Owner(id="gone", host="b", pid=1, machine="b", born="1"))
    mine = worker(manifest, FakeStep())
    assert [mark.unit for mark in mine.work()] == ["u000", "u002", "u004"]
    assert mine.left() == 0
    assert worker(manifest, FakeStep(), shard=1).left() == 2


# -- units with cells of their own --------------------------------------------------------------------------
def stitching(run: Run) -> tuple[PlanResult, FakeStep, Worker]:
    """A plan of stitch, and a worker that is done with it."""
    plan = perform(PlanTask(run=run.spec, step="stitch", function_id="f", shards=1))
    manifest = read_manifest(Path(plan.paths["manifest"]))
    module = FakeStep()
    mine = worker(manifest, module)
    list(mine.work())
    return plan, module, mine


def test_what_an_earlier_run_left_in_its_cell_is_not_counted_as_computed(tmp_path: Path) -> None:
    stitching(ingested(tmp_path, (0, 1)))
    plan, module, mine = stitching(ingested(tmp_path, (0, 1, 2)))
    assert (plan.units, plan.reused) == (3, 2)
    assert (module.computed, mine.account.computed, mine.left()) == (["z00002"], 1, 0)


def test_a_unit_whose_cell_was_removed_is_computed_again(tmp_path: Path) -> None:
    run = ingested(tmp_path, (0, 1))
    _, module, _ = stitching(run)
    assert module.computed == ["z00000", "z00001"]
    shutil.rmtree(run.cell("stitch", "z00001").path)
    plan, module, mine = stitching(run)
    assert (plan.reused, module.computed, mine.left()) == (1, ["z00001"], 0)


def test_a_worker_takes_what_nobody_has_begun_before_what_was_handed_on(tmp_path: Path) -> None:
    manifest = planned(tmp_path, 4)
    ledger_of(manifest).lot(0).take_next(Owner(id="gone", host="", pid=0, machine="", born="")).release()
    module = FakeStep()
    list(worker(manifest, module).work())
    assert module.computed == ["u001", "u002", "u003", "u000"]


def test_a_listing_that_the_file_system_kept_is_not_asked_for_ever(tmp_path: Path) -> None:
    """On NFS a client may show a folder for a minute as it was; exclusive creation is right all the same."""
    seen: dict[Path, list[str]] = {}

    class Cached(LedgerFiles):
        def names(self, folder: Path) -> list[str]:
            return seen.setdefault(folder, super().names(folder))

    plain = Ledger(tmp_path / "ledger")
    plain.number(names(4), size=1)
    cached = Ledger(plain.path, files=Cached())
    cached.look(range(4))
    owner = Owner(id="a", host="", pid=0, machine="", born="")
    plain.lot(1).take_next(owner)
    watch = Watch(tmp_path / "workers", lease_seconds=1.0)
    claims = Claims(
        cached, owner, watch, worker=0, workers=1, lease_seconds=1.0, stop=lambda: False, wait=lambda _: None
    )
    taken = []
    for number, claim in claims:
        taken.append(number)
        claim.finish()
    assert taken == [0, 2, 3]


def test_what_ends_its_process_is_not_read_ahead_and_held_against_the_unit_before_it(tmp_path: Path) -> None:
    """As in a lane: the unit that follows is begun beside the one that is asked for."""

    class Beside:
        def __init__(self, module: FakeStep) -> None:
            self.module = module

        def take(self, unit: str, *, following: str | None = None) -> UnitReport:
            if "u001" in (unit, following):
                raise KeyboardInterrupt  # stands for a process that is killed
            return self.module.compute(run, unit)

    def die_or_end() -> bool:
        mine = worker(manifest, ExpendableStep())
        mine._lane = Beside(FakeStep())  # type: ignore[assignment]
        try:
            list(mine.work())
        except KeyboardInterrupt:
            return True
        return False

    manifest = planned(tmp_path, 3, size=3, max_attempts=2)
    run = Run(manifest.run)
    deaths = 0
    while die_or_end():
        deaths += 1
    assert deaths == 4  # beside the one before it, beside the one behind it, then twice alone
    assert [found.unit for found in ledger_of(manifest).quarantined()] == ["u001"]
