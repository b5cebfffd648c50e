"""A worker: claims lots of units until none is left or its time is up, and settles each unit of them.

    claim ─► for each unit: begin ─► compute ─► done      ─► all settled: done, else: free for others
                                        ├─ failed: the unit's fault, tried again, at last put into quarantine
                                        ├─ failed: the worker's fault, which ends with a remedy
                                        └─ drained: put away in the middle, handed on

Deals one unit at a time: what a killed worker loses is that unit, since its last checkpoint. Whoever
shares its process loses theirs, too: `functions.company` has it found out whose fault that was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from functions.blame import attempt_of, is_accelerator_full, remedy_of
from functions.budget import has_room_for_two
from functions.claiming import Claims, dealt_claims
from functions.company import Company
from functions.model.errors import SITE_ERRORS, PetavoxelError, WorkerError
from functions.overlap import Lane
from functions.stopping import Stopping
from functions.store.limits import within
from functions.store.lots import Claim
from functions.store.marks import Mark, Quarantined, UnitReport
from functions.store.measured import measured
from functions.store.presence import Heartbeat, Watch, myself
from functions.store.progress import Drained
from functions.store.run import OWN_CELLS, Run
from functions.tasks import FanOutName, ShardManifest

FAILURES_IN_A_ROW = 10
"""So many units that failed one after the other are not all poison: the worker is."""


class _Crowded(Exception):  # noqa: N818 - not an error: the unit goes on in smaller company
    """An accelerator had no memory left for all units that are in progress."""


class StepModule(Protocol):
    """A fan-out step. One that later steps can do without units of also has `abandon(run, unit)`, which
    leaves what stands in for a unit in quarantine; one whose units are kept in the middle also has
    `reached(run, unit)`, which differs whenever a unit got further; one whose units go better side by side
    also has `at_once(run)`, so many."""

    def units(self, run: Run) -> list[str]:
        """Names of the units."""
        ...

    def compute(self, run: Run, unit: str) -> UnitReport:
        """Compute one unit and write its results, the same whoever does it."""
        ...


@dataclass(slots=True)
class Account:
    """What a worker did."""

    computed: int = 0
    voxels: float = 0.0
    seconds: float = 0.0
    kept: int = 0
    quarantined: list[Quarantined] = field(default_factory=list)
    crowded: tuple[int, int] | None = None
    """Units at once that an accelerator had no memory for, and those that it had."""

    def add(self, mark: Mark) -> None:
        """Count a computed unit."""
        self.computed += 1
        self.seconds += mark.seconds
        self.voxels += mark.figures.get("voxels", 0.0)

    def merge(self, others: Sequence[Account]) -> None:
        """Take up what others did at the same time: `seconds` stay those of the clock on the wall."""
        self.computed = sum(other.computed for other in others)
        self.voxels = sum(other.voxels for other in others)
        self.seconds = sum(other.seconds for other in others) / max(len(others), 1)
        self.kept = sum(other.kept for other in others)
        self.quarantined = [found for other in others for found in other.quarantined]

    @property
    def mean_seconds(self) -> float:
        """Of a unit; 0 while none was computed."""
        return self.seconds / self.computed if self.computed else 0.0


class Worker:
    """One shard of a planned fan-out at work, or one of a shard's `seats` (`functions.crew`)."""

    def __init__(
        self,
        manifest: ShardManifest,
        shard: int,
        module: StepModule,
        *,
        stopping: Stopping,
        run: Run,
        seat: int = 0,
        seats: int = 1,
        company: Company | None = None,
    ) -> None:
        self.step: FanOutName = manifest.step
        self.run, self.account = run, Account()
        self._manifest, self._shard = manifest, shard
        self._seat, self._seats = seat, seats
        self._module, self._stopping = module, stopping
        self._abandon: Callable[[Run, str], None] | None = getattr(module, "abandon", None)
        self._reached: Callable[[Run, str], str] = getattr(module, "reached", lambda *_: "")
        self.expendable = self._abandon is not None
        self._board = run.board(manifest.step)
        self._ledger = self._board.ledger
        self._owner = myself()
        self._company = company or Company(1)
        self._refused: set[int] = set()
        self._lane: Lane[UnitReport] | None = None

    def work(self) -> Iterator[Mark]:
        """Settle units; the marks of those that were computed here.

        Raises:
            WorkerError: this worker, or its site, is at fault.
            PetavoxelError: what the step needs is not there.
        """
        lease = self.run.parameters.fan_out.lease_seconds
        try:
            with (
                Heartbeat(self._board.workers, self._owner, lease_seconds=lease) as self._beat,
                self._beside(),
            ):
                for number, claim in self._claims(lease):
                    try:
                        yield from self._settle(number, claim)
                    finally:
                        self._quietly(claim.release)  # where it is not finished or left by now
        except OSError as error:  # of the ledger itself: a unit's are dealt with where it is computed
            remedy = SITE_ERRORS.get(error.errno or 0, "look at the file system of the work root")
            raise WorkerError(f"{self._ledger.path}: {error}", remedy=remedy) from error

    @contextmanager
    def _beside(self) -> Iterator[None]:
        """Read and write beside the network, where there is room for it (`functions.overlap`); the seats of a
        crew do that anyway, and its memory is for the crew to hold."""
        if self.step != "segment" or self._seats > 1 or not has_room_for_two(self.run):
            yield
            return
        limit = within(self.run.spec.memory_gib, subject=self.step)
        with limit, Lane(partial(self._module.compute, self.run)) as self._lane:
            yield

    def left(self) -> int:
        """Units that are not settled: of all, or of those dealt to this worker."""
        numbering = self._ledger.numbering
        assert numbering is not None
        dealt = set(self._manifest.dealt[self._shard]) if self._manifest.dealt else None
        return sum(
            numbering.width(number)
            for folder in self._ledger.folders()
            for number, lot in self._ledger.look(folder).items()
            if lot.state != "done" and (dealt is None or number in dealt)
        )

    def _claims(self, lease: float) -> Iterator[tuple[int, Claim]]:
        if self._manifest.dealt:
            lots = self._manifest.dealt[self._shard][self._seat :: self._seats]
            return dealt_claims(self._ledger, self._owner, lots, stop=self._full)
        claims = Claims(
            self._ledger,
            self._owner,
            Watch(self._board.workers, lease_seconds=lease),
            worker=self._shard * self._seats + self._seat,
            workers=self._manifest.shards * self._seats,
            lease_seconds=lease,
            stop=self._full,
        )
        self._refused = claims.refused
        return iter(claims)

    def _full(self) -> bool:
        """Whether another unit would not fit."""
        return self._stopping.cancelled or self._stopping.left() <= self.account.mean_seconds

    # -- one lot --------------------------------------------------------------------------------------------
    def _settle(self, number: int, claim: Claim) -> Iterator[Mark]:
        numbering = self._ledger.numbering
        assert numbering is not None
        singles = self._ledger.has_singles
        settled = True
        units = sorted(numbering.units(number), key=lambda unit: claim.standing(unit).suspect)
        for unit, following in zip(units, [*units[1:], None], strict=True):
            if claim.standing(unit).settled or (singles and self._ledger.single_settled(unit)):
                continue
            if claim.overtaken:
                claim.leave()
                return
            if self._full():
                return
            if claim.standing(unit).tries >= self.run.parameters.fan_out.max_attempts:
                self._quarantine(claim, unit)
                continue
            mark = self._attempt(claim, unit, following)
            if mark is not None:
                yield mark
            if mark is not None and mark.status == "failed":
                self._refused.add(number)
            settled = settled and claim.standing(unit).settled
        if settled:
            claim.finish()

    def _attempt(self, claim: Claim, unit: str, following: str | None) -> Mark | None:
        """Compute a unit, and begin to read the following one; None when it failed, or was put away.

        Again, in smaller company, while an accelerator has no room for all that are in progress.
        """
        if following is not None and not self._may_read_ahead(claim, unit, following):
            following = None
        while True:
            reached = self._reached(self.run, unit)
            at_most = claim.standing(unit).company_at_most(reached=reached)
            company = self._company.enter(at_most, stop=self._full)
            if not company:
                return None
            try:
                claim.begin(unit, reached=reached, company=company + (following is not None))
                return self._begun(claim, unit, following, crowded=company > 1)
            except _Crowded:
                self._company.halve(company)
            finally:
                self._company.leave(company)

    def _begun(self, claim: Claim, unit: str, following: str | None, *, crowded: bool) -> Mark | None:
        """The end of an attempt; `crowded`: others may be in progress, and give way."""
        self._beat.tell(unit=unit)
        try:
            mark, now = self._computed(unit, following)
        except Drained:
            claim.keep(unit)
            self.account.kept += 1
            return None
        except Exception as error:
            if crowded and is_accelerator_full(error):
                claim.drop(unit)
                raise _Crowded from error
            self._failure(claim, unit, error)
            return None
        self._company.failed.clear()
        if mark.status == "failed":  # an expected failure: not this run's to mend
            claim.drop(unit)
            return mark
        claim.done(mark)
        if now:
            self.account.add(mark)
        told = self.account
        self._beat.tell(units=told.computed, voxels=told.voxels, seconds=round(told.seconds, 3))
        return mark

    def _may_read_ahead(self, claim: Claim, unit: str, following: str) -> bool:
        """Whether a unit is begun beside another: not one that may have ended its process, nor beside it."""
        if self._lane is None or claim.standing(unit).suspect or claim.standing(following).suspect:
            return False
        settled = claim.standing(following).settled or self._ledger.single_settled(following)
        return not (settled or self._full())

    def _computed(self, unit: str, following: str | None) -> tuple[Mark, bool]:
        """The mark of a unit, and whether it was computed now: an earlier run may have left it in the unit's
        own cell."""

        def compute() -> UnitReport:
            if self._lane is not None:
                return self._lane.take(unit, following=following)
            return self._module.compute(self.run, unit)

        if self.step in OWN_CELLS:
            return self.run.cell(self.step, unit).run_unit(unit, compute)
        started, clock = time.time(), time.perf_counter()
        memory_gib = self.run.spec.memory_gib  # in a crew, whose limit goes on, it names what is at fault
        report = measured(compute, memory_gib=memory_gib, subject=f"{self.step} {unit}")
        return Mark.of(unit, report, started=started, seconds=time.perf_counter() - clock), True

    # -- failures -------------------------------------------------------------------------------------------
    def _failure(self, claim: Claim, unit: str, error: Exception) -> None:
        """Blame the unit, or end this worker."""
        remedy = remedy_of(error, expendable=self.expendable)
        if remedy is not None:
            self._quietly(lambda: claim.drop(unit))
            if isinstance(error, PetavoxelError):
                raise error
            raise WorkerError(f"{unit}: {error} (on {self._owner.host})", remedy=remedy) from error
        claim.fail(unit, attempt_of(error, worker=f"{self._owner.host} {self._owner.pid}"))
        if claim.standing(unit).tries >= self.run.parameters.fan_out.max_attempts:
            self._quarantine(claim, unit)
        failed = self._company.failed
        failed.add(unit)
        if len(failed) >= FAILURES_IN_A_ROW:
            raise WorkerError(
                f"{len(failed)} units failed one after the other on {self._owner.host},"
                f" the last, {unit}, with {type(error).__name__}: {error}",
                remedy="look at that node and its environment, then run again",
            ) from error

    def _quarantine(self, claim: Claim, unit: str) -> None:
        """Leave a unit alone: what stands in for it first, then why, then the record."""
        if self._abandon is not None:
            self._abandon(self.run, unit)
        found = claim.standing(unit).given_up(unit, memory_gib=self.run.spec.memory_gib)
        self._ledger.tell_quarantine(found)
        claim.quarantine(unit)
        self.account.quarantined.append(found)

    @staticmethod
    def _quietly(record: Callable[[], None]) -> None:
        """Write a record if the disk takes it."""
        try:
            record()
        except OSError:
            return
