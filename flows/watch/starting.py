"""Starting flows exactly once, over a service that has no idempotency key.

Each start carries a tag that is in the ledger before the service hears of it. An attempt whose outcome is not
known (a timeout, a lost connection, a 5xx) is looked up by its tag, and repeated only if no run with that
tag has turned up for `grace_seconds`: longer than the service takes to carry out what it has been sent.

PROVISIONAL: how long that is at Globus Flows, and that a run is listed as soon as it is accepted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from flows.errors import FlowsError, RunError, ServiceError
from flows.inputs import RunRequest
from flows.records import RunStatus
from flows.watch.ledger import Ledger
from flows.watch.rows import STARTED, STARTING, StartRow
from functions.model.errors import TaskError

if TYPE_CHECKING:
    from flows.run import Runs

MOST_WAIT_SECONDS = 300.0
REFUSED_SECONDS = 600.0
QUICK_ATTEMPTS = 4
MOST_FAILURES = 3
"""In a row, of looking after runs: then the service is asked again later."""
Answer = TypeVar("Answer")


class NotCarriedOutError(Exception):
    """The service has certainly not started the run: trying again is safe."""


class RefusedError(Exception):
    """The service will not start this run as it is asked; a person has to look."""


class BusyError(Exception):
    """Another run is at work on the same sections: later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRun:
    """A run that carries a tag."""

    id: str
    ended: bool = False
    succeeded: bool = False


class Starter(Protocol):
    """What the watcher needs of a service."""

    def start(self, request: RunRequest) -> str:
        """Start a run and return its id. Any error but `NotCarriedOutError`, `RefusedError` and
        `BusyError` means that the run may have been started. The client must not repeat the request by
        itself."""

    def find(self, tag: str) -> FoundRun | None:
        """The run that carries a tag, if there is one."""


class RunsStarter:
    """The starter over the runs of a site.

    Its runs carry `mark`, a tag of the watched folder, beside their own: folders of one name have the same
    tags of sections, and the run of another one must not be taken for ours.
    """

    def __init__(self, runs: Runs, *, mark: str) -> None:
        self._runs = runs
        self._mark = mark

    def start(self, request: RunRequest) -> str:
        """Start a run; see `Starter`."""
        try:
            marked = request.model_copy(update={"tags": (*request.tags, self._mark)})
            return self._runs.start(marked).id
        except Exception as error:
            raise classified(error) from error

    def find(self, tag: str) -> FoundRun | None:
        """The oldest run of this folder that carries a tag."""
        found = [run for run in self._runs.tagged(tag) if self._mark in run.tags]
        if not found:
            return None
        run = found[-1]
        return FoundRun(id=run.id, ended=run.status.ended, succeeded=run.status is RunStatus.SUCCEEDED)


def classified(error: Exception) -> Exception:
    """The same error as one that says whether the run may have been started. HTTP errors are told by their
    status, whichever library raises them."""
    status = getattr(error, "http_status", None)
    if isinstance(error, ServiceError):
        # of a start that takes several calls: a 429 may be of one after the run was started
        status = None if status in (401, 429) else status
    elif isinstance(error, RunError):
        return BusyError(str(error))
    elif isinstance(error, FlowsError):
        return RefusedError(str(error))
    if status in (401, 429):
        return NotCarriedOutError(f"{type(error).__name__}: {status}")
    if isinstance(status, int) and 400 <= status < 500 and status != 408:
        return RefusedError(f"{type(error).__name__}: {error}")
    return error


def _span(row: StartRow) -> tuple[int, int]:
    """First and last section of a start: a retake waits for the run of what it replaces."""
    sections = [z for z, _ in row.sections]
    return min(sections), max(sections)


class StartLoop:
    """Works off the starts that the ledger has, until told to stop."""

    def __init__(
        self,
        ledger: Ledger,
        starter: Starter,
        *,
        stop: threading.Event,
        at_most: int,
        grace_seconds: float,
        follow_seconds: float,
        on_ended: Callable[[StartRow, bool], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._starter = starter
        self._stop = stop
        self._at_most = at_most
        self._grace_seconds = grace_seconds
        self._follow_seconds = follow_seconds
        self._on_ended = on_ended
        self._clock = clock
        self._followed = float("-inf")

    def step(self) -> None:
        """Look after runs that are at work, and make the starts that are due, in order."""
        running = self._follow()
        spans = [_span(row) for row in self._ledger.starts(STARTED)]
        for row in self._ledger.starts(STARTING):
            if self._stop.is_set():
                return
            first, last = _span(row)
            apart = all(last < begin or end < first for begin, end in spans)
            if row.due > self._clock() or not (self._fresh(row) or (apart and running < self._at_most)):
                continue
            if self._attempt(row):
                running += 1
                spans.append((first, last))

    def _fresh(self, row: StartRow) -> bool:
        """Whether a start was sent so lately that it is only looked up: that needs no room for a run."""
        return row.unsure and self._clock() < row.tried + self._grace_seconds

    def _follow(self) -> int:
        """How many runs are at work; asks the service no more often than every `follow_seconds`."""
        running = self._ledger.starts(STARTED)
        if self._clock() - self._followed < self._follow_seconds:
            return len(running)
        self._followed = self._clock()
        failures = 0
        for row in running:
            try:
                found = self._starter.find(row.tag)
                failures = 0
            except (
                Exception
            ):  # one bad moment must not hide the runs behind it; a silent service is left alone
                failures += 1
                if failures == MOST_FAILURES:
                    break
                continue
            if found is not None and found.ended:
                self._ledger.ended(row.id, succeeded=found.succeeded)
                self._on_ended(row, found.succeeded)
        return len(self._ledger.starts(STARTED))

    def _attempt(self, row: StartRow) -> bool:
        """One attempt, looked up first where an earlier one may have been carried out."""
        try:
            if row.unsure:
                found = self._quickly(lambda: self._starter.find(row.tag))
                if found is not None:
                    self._ledger.started(row.id, found.id)
                    return True
                rest = row.tried + self._grace_seconds - self._clock()
                if rest > 0:
                    self._ledger.postpone(row.id, seconds=rest, unsure=True, error=row.error)
                    return False
        except Exception as error:  # whatever the service's client raises
            self._later(row, error, unsure=True)
            return False
        try:
            request = RunRequest.parse(row.request, source=f"start {row.tag}")
            self._ledger.attempt(row.id)
            run_id = self._quickly(lambda: self._starter.start(request))
        except TaskError as error:  # of an older release: it must not keep those behind it
            self._refused(row, error)
        except BusyError as error:
            self._ledger.postpone(row.id, seconds=self._follow_seconds, unsure=row.unsure, error=str(error))
        except RefusedError as error:
            self._refused(row, error)
        except NotCarriedOutError as error:
            self._later(row, error, unsure=row.unsure)
        except Exception as error:  # it may have been carried out
            self._ledger.postpone(row.id, seconds=0.0, unsure=True, error=f"{type(error).__name__}: {error}")
        else:
            self._ledger.started(row.id, run_id)
            return True
        return False

    def _refused(self, row: StartRow, error: Exception) -> None:
        self._ledger.postpone(row.id, seconds=REFUSED_SECONDS, unsure=row.unsure, error=f"refused: {error}")

    def _later(self, row: StartRow, error: Exception, *, unsure: bool) -> None:
        seconds = min(MOST_WAIT_SECONDS, 0.5 * 2.0 ** min(row.attempts, 10))
        self._ledger.postpone(
            row.id, seconds=seconds, unsure=unsure, error=f"{type(error).__name__}: {error}"
        )

    def _rest(self, seconds: float) -> None:
        self._stop.wait(seconds)

    def _quickly(self, call: Callable[[], Answer]) -> Answer:
        """Repeat a call a few times while it is certain that it was not carried out."""
        from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

        retrying = Retrying(
            retry=retry_if_exception_type(NotCarriedOutError),
            stop=stop_after_attempt(QUICK_ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.1, max=2.0),
            sleep=self._rest,
            reraise=True,
        )
        return retrying(call)
