"""The interpreter's journal: keeps transitions in the store and tells a listener."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from flows.definition import state_steps
from flows.local.actions import ActionStatus
from flows.local.interpreter import Clock, Execution, iso
from flows.local.progress import advanced, ended, looked_at
from flows.local.store import Store
from flows.paths import has_path, read_path
from flows.records import LogEntry, RunEvent, RunRecord, RunStatus, StepRecord, StepStatus
from flows.scratch import with_throughput
from flows.site import Site

STOP_CHECK_SECONDS = 0.2
LEDGER_SECONDS = 2.0
"""Between two looks at how far the workers of a fan-out have got."""


class _Request:
    """Whether somebody asks something of the run; looks at the store a few times a second."""

    def __init__(self, look: Callable[[str], bool]) -> None:
        self._look = look
        self._looked = 0.0
        self._made = False

    def made(self, run_id: str, now: float) -> bool:
        if now - self._looked >= STOP_CHECK_SECONDS:
            self._looked, self._made = now, self._look(run_id)
        return self._made


class Recorder:
    """Journal of one run, `record` as it stands; `resumed` is the execution it goes on with, if any."""

    def __init__(
        self,
        store: Store,
        *,
        site: Site,
        clock: Clock,
        record: RunRecord,
        resumed: Execution | None = None,
        on_event: Callable[[RunEvent], None] | None = None,
    ) -> None:
        self._store = store
        self._run_id = record.id
        self._record = record
        self._site = site
        self._clock = clock
        self._on_event = on_event
        self._steps = {step.name: step for step in store.steps(record.id)}
        self._state_steps = state_steps() if self._steps else {}  # a flow that is not ours has no steps
        self._current = self._step_of(resumed) if resumed else None
        current = self._steps.get(self._current or "")
        self._began = clock.now() - (current.seconds if current else 0.0)
        self._looked = False
        self._seen: tuple[tuple[str | None, ActionStatus | None], float] = ((None, None), 0.0)
        self._stop = _Request(store.stop_requested)
        self._hold = _Request(store.hold_requested)

    def _step_of(self, execution: Execution) -> str | None:
        """The step an execution is in; in the flow's failure, the step that led there."""
        failed = "$.verdict.step"
        if execution.state_name == "Failed" and has_path(execution.document, failed):
            return str(read_path(execution.document, failed))
        return self._state_steps.get(execution.state_name)

    def save(self, execution: Execution, entries: list[LogEntry]) -> None:
        """Keep a transition whole; a step that is left gets its final status in the same transaction."""
        step = self._moved_on(execution)
        now, published = iso(self._clock.now()), self._published(execution)
        self._store.save(self._run_id, execution, entries, time=now, published=published, step=step)
        self._record = replace(
            self._record,
            status=execution.status,
            updated=now,
            error=execution.cause if execution.status.ended else None,
            published_path=published,
        )
        self._tell(step, entries)

    def _moved_on(self, execution: Execution) -> StepRecord | None:
        """End the current step when the execution has left it or ended; remember the step it is in now."""
        name = self._step_of(execution)
        if name == self._current and not execution.status.ended:
            return None
        left = self._steps.get(self._current or "")
        if left is not None:
            failed = execution.status in (RunStatus.FAILED, RunStatus.CANCELLED)
            left = ended(
                left,
                failed=failed,
                looked=self._looked,
                elapsed=self._clock.now() - self._began,
            )
            self._steps[left.name] = left
        self._current, self._began, self._looked = name, self._clock.now(), False
        if name is not None and execution.status is RunStatus.ACTIVE:
            self._steps[name] = replace(
                self._steps[name], state=execution.state_name, status=StepStatus.ACTIVE
            )
        return left

    def _published(self, execution: Execution) -> str | None:
        """Where the volume lies, once its transfer is done."""
        document = execution.document
        if (
            not self._steps
            or not has_path(document, "$.transfer_out")
            or not has_path(document, "$.published.path")
        ):
            return None
        return str(self._site.publication.file_path(read_path(document, "$.published.path")))

    def progress(self, execution: Execution, status: ActionStatus) -> None:
        """Keep a step's progress, when the action says more, or time has come to look into the ledger."""
        name = self._state_steps.get(execution.state_name)
        now = self._clock.now()
        seen, looked = self._seen
        if name is None or ((execution.action_id, status) == seen and now - looked < LEDGER_SECONDS):
            return
        self._seen = (execution.action_id, status), now
        reused = "$.fan_out.details.result[0].reused"
        planned = read_path(execution.document, reused) if has_path(execution.document, reused) else 0
        self._looked = self._looked or looked_at(status)
        step = advanced(
            self._steps[name],
            execution.state_name,
            status,
            elapsed=self._clock.now() - self._began,
            planned_reused=planned,
        )
        if not execution.state_name.startswith("Plan"):
            step = with_throughput(step, self._record)
        if step == self._steps[name]:
            return
        self._steps[name] = step
        self._store.save_step(self._run_id, step, time=iso(self._clock.now()))
        self._tell(step, [])

    def stop_requested(self) -> bool:
        """Whether the run is asked to stop."""
        return self._stop.made(self._run_id, self._clock.now())

    def hold_requested(self) -> bool:
        """Whether the run is to go INACTIVE."""
        return self._hold.made(self._run_id, self._clock.now())

    def _tell(self, step: StepRecord | None, entries: list[LogEntry]) -> None:
        if self._on_event is None:
            return
        for entry in entries:
            self._on_event(RunEvent(run=self._record, log=entry))
        if step is not None:
            self._on_event(RunEvent(run=self._record, step=step))
