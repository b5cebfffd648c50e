"""The facade over runs: start, list, show, logs, follow, cancel, rerun, and what a rerun would reuse."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from flows.company import may_share
from flows.definition import definition
from flows.errors import InputError, RunError, SiteError
from flows.inputs import RunRequest, build_input, tags_of
from flows.records import (
    FLOW_STEPS,
    LogEntry,
    Reuse,
    RunEvent,
    RunRecord,
    RunStatus,
    StepRecord,
)
from flows.schema import check_input
from flows.scratch import reusable, with_figures
from flows.site import Site, home_folder
from functions.model.parameters import Parameters
from functions.tasks import STEPS, RunSpec

Listener = Callable[[RunEvent], None]
RunList = list[RunRecord]
STOP_SECONDS = 60.0


class Runs:
    """Runs of one site. Cheap to build; imports neither torch nor zarr."""

    def __init__(self, site: Site, *, home: Path | None = None) -> None:
        from flows.local.process import STORE_NAME
        from flows.local.store import Store

        if not site.embedded:
            raise SiteError(
                f"site {site.name}: only the embedded site `local` can run flows in this version",
                remedy="use --site local",
            )
        self.site = site
        self.home = home or home_folder()
        self._store = Store(self.home / STORE_NAME)

    def start(
        self, request: RunRequest, *, wait: bool = False, on_event: Listener | None = None
    ) -> RunRecord:
        """Start a run. With `wait` it runs in this process and the ended run is returned; else a detached
        process runs it and the run is returned at once.

        Raises:
            InputError: the request cannot become an input.
            RunError: another run is at work on the same acquisition.
        """
        run_id = self._add(request)
        return self._go(run_id, wait=wait, on_event=on_event)

    def _add(self, request: RunRequest) -> str:
        from flows.local.compute import function_ids
        from flows.local.interpreter import iso
        from flows.local.progress import first_steps
        from flows.local.store import StoredRun

        document = build_input(request, self.site, functions=function_ids(self.site.entry_points))
        facts = document["input"]
        run_id = str(uuid.uuid4())
        facts["run"]["sentinel"] = f"CANCEL-{run_id}"
        if problems := check_input(document):
            raise InputError("; ".join(problems), remedy="correct the named fields")
        now = iso(time.time())
        record = RunRecord(
            id=run_id,
            status=RunStatus.ACTIVE,
            label=facts["label"],
            tags=tags_of(request, facts["acquisition_id"]),
            site=self.site.name,
            acquisition_id=facts["acquisition_id"],
            source_path=str(self.site.instrument.file_path(facts["source"]["path"])),
            created=now,
            updated=now,
            start_at=request.start_at,
            stop_after=request.stop_after,
            parent_run=request.parent,
            input=document,
            error=None,
            published_path=None,
            work_path=facts["run"]["work"],
        )
        self._refuse_other_source(record)
        self._refuse_company(record)
        stored = StoredRun(
            record=record, site=self.site, request=request, definition=definition(), execution=None
        )
        self._store.add(stored, first_steps(start_at=request.start_at, stop_after=request.stop_after))
        return run_id

    def _refuse_other_source(self, record: RunRecord) -> None:
        """Two folders under one acquisition id would mix on scratch."""
        for run_id in self._store.run_ids():
            other = self._store.load(run_id).record
            if other.acquisition_id == record.acquisition_id and other.source_path != record.source_path:
                if Path(other.source_path).exists():
                    raise InputError(
                        f"{record.source_path}: acquisition id {record.acquisition_id} is taken by"
                        f" {other.source_path}",
                        remedy="give one of them another acquisition id",
                    )
                return

    def _refuse_company(self, record: RunRecord) -> None:
        """Runs of one acquisition share a work root and its copy of the tiles: one at a time, but for those
        of disjoint sections that stop at stitch."""
        for run_id in self._store.run_ids():
            other = self._record(run_id)
            if (
                other.id != record.id
                and other.work_path == record.work_path
                and other.status is RunStatus.ACTIVE
                and not may_share(record, other)
            ):
                raise RunError(
                    f"acquisition {record.acquisition_id}: run {other.id} is at work on it",
                    remedy="follow that run, or cancel it first",
                )

    def _go(self, run_id: str, *, wait: bool, on_event: Listener | None) -> RunRecord:
        """Carry a run out here, or have it carried out."""
        from flows.local.process import RunLock, carry_out, spawn

        lock = RunLock.take(self.home, run_id)
        if lock is None:
            raise RunError(f"{run_id}: is running already", remedy="follow it, or cancel it first")
        self._store.request_stop(run_id, wanted=False)
        if not wait:
            spawn(self.home, run_id, lock)
            return self._record(run_id)
        try:
            carry_out(self.home, run_id, store=self._store, on_event=on_event)
        finally:
            lock.release()
        return self._record(run_id)

    # -- looking --------------------------------------------------------------------------------------------
    def list(self) -> RunList:
        """All runs, newest first."""
        return [self._record(run_id) for run_id in self._store.run_ids()]

    def tagged(self, tag: str) -> RunList:
        """The runs that carry a tag, newest first."""
        return [run for run in self.list() if tag in run.tags]

    def show(self, run_id: str) -> tuple[RunRecord, tuple[StepRecord, ...]]:
        """A run and its steps in order; `run_id` may be an unambiguous beginning of an id, or `last`.

        Raises:
            RunError: no such run, or more than one.
        """
        found = self._store.find(run_id)
        record = self._record(found)
        return record, tuple(with_figures(step, record) for step in self._store.steps(found))

    def logs(self, run_id: str) -> tuple[LogEntry, ...]:
        """The log of a run, oldest first."""
        return tuple(self._store.logs(self._store.find(run_id)))

    def request(self, run_id: str) -> RunRequest:
        """What a run was asked to do."""
        return self._store.load(self._store.find(run_id)).request

    def follow(self, run_id: str, *, poll_seconds: float = 0.2) -> Iterator[RunEvent]:
        """Events of a run from its beginning until it ends, whichever process runs it."""
        found = self._store.find(run_id)
        seen: dict[str, StepRecord] = {}
        lines = 0
        while True:
            run = self._record(found)  # read before steps and logs, so that the last ones are not missed
            for step in self._store.steps(found):
                if seen.get(step.name) != step:
                    seen[step.name] = step
                    yield RunEvent(run=run, step=step)
            entries = self._store.logs(found, after=lines)
            lines += len(entries)
            for entry in entries:
                yield RunEvent(run=run, log=entry)
            if run.status.ended:
                yield RunEvent(run=run)
                return
            time.sleep(poll_seconds)

    def _record(self, run_id: str) -> RunRecord:
        """The run's record; ACTIVE without a living runner reads INTERRUPTED."""
        from flows.local.process import RunLock

        record = self._store.load(run_id).record
        if record.status is not RunStatus.ACTIVE:
            return record
        if RunLock.held(self.home, run_id):
            return record
        record = self._store.load(run_id).record  # it may have ended between the two looks
        return replace(record, status=RunStatus.INTERRUPTED) if not record.status.ended else record

    # -- acting ---------------------------------------------------------------------------------------------
    def cancel(self, run_id: str) -> RunRecord:
        """Ask shards to stop, stop the runner, mark the run CANCELLED; an ended run stays as it is.

        Raises:
            RunError: the runner does not stop.
        """
        from flows.local.process import RunLock, carry_out

        found = self._store.find(run_id)
        record = self._record(found)
        if record.status.ended and record.status is not RunStatus.INTERRUPTED:
            return record
        self._store.request_stop(found)
        sentinel = RunSpec.parse(record.input["input"]["run"], source=f"run {found}").sentinel_path
        sentinel.parent.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + STOP_SECONDS
        sentinel.touch()
        while (lock := RunLock.take(self.home, found)) is None:
            if time.monotonic() > deadline:
                raise RunError(f"{found}: its process does not stop", remedy="end it, then cancel again")
            time.sleep(0.05)
        try:
            if self._store.load(found).record.status is RunStatus.ACTIVE:
                carry_out(self.home, found, store=self._store)  # it sees the request and ends at once
                sentinel.touch()
        finally:
            lock.release()
        return self._record(found)

    def rerun(
        self,
        run_id: str,
        *,
        start_at: str | None = None,
        stop_after: str | None = None,
        on_gate_fail: str | None = None,
        parameters: Parameters | None = None,
        wait: bool = False,
        on_event: Listener | None = None,
    ) -> RunRecord:
        """Go on with an interrupted run (same id, when nothing is overridden), else start a linked new one.

        Raises:
            RunError: the run, or another one of its acquisition, is still active.
        """
        record = self.idle(run_id)
        overrides = (start_at, stop_after, on_gate_fail, parameters)
        if record.status is RunStatus.INTERRUPTED and overrides == (None,) * 4:
            self._refuse_company(record)
            return self._go(record.id, wait=wait, on_event=on_event)
        request = self.rerun_request(
            record.id,
            start_at=start_at,
            stop_after=stop_after,
            on_gate_fail=on_gate_fail,
            parameters=parameters,
        )
        return self.start(request, wait=wait, on_event=on_event)

    def idle(self, run_id: str) -> RunRecord:
        """A run that nobody carries out now.

        Raises:
            RunError: no such run, or it is still active.
        """
        record = self._record(self._store.find(run_id))
        if record.status is RunStatus.ACTIVE:
            raise RunError(f"{record.id}: is running", remedy="follow it, or cancel it first")
        return record

    def rerun_request(
        self,
        run_id: str,
        *,
        start_at: str | None = None,
        stop_after: str | None = None,
        on_gate_fail: str | None = None,
        parameters: Parameters | None = None,
    ) -> RunRequest:
        """The request that a rerun with these overrides starts: also what `reuse` can be asked about.

        `parameters` replaces all parameters, the choice of sections among them: change a copy of
        `request(run_id).all_parameters`.
        """
        record = self._record(self._store.find(run_id))
        overrides: dict[str, object] = {"parent": record.id, "acquisition_id": record.acquisition_id}
        if start_at is not None:
            overrides["start_at"] = start_at
        if stop_after is not None:
            overrides["stop_after"] = stop_after
        if on_gate_fail is not None:
            overrides["on_gate_fail"] = on_gate_fail
        if parameters is not None:
            overrides |= {"parameters": parameters.model_dump(mode="json"), "sections": None}
        payload = self.request(record.id).model_dump(mode="json") | overrides
        return RunRequest.parse(payload, source="rerun")

    def reuse(self, run: str | RunRequest) -> tuple[Reuse, ...]:
        """Per step of a run or request: how many units there are and how many are done already."""
        from functions.store.run import Run

        request = run if isinstance(run, RunRequest) else self.rerun_request(run)
        from flows.local.compute import function_ids

        facts = build_input(request, self.site, functions=function_ids(self.site.entry_points))["input"]
        work = Run(RunSpec.parse(facts["run"], source="run"))
        begin, end = FLOW_STEPS.index(request.start_at), FLOW_STEPS.index(request.stop_after)
        return tuple(reusable(work, step) for step in STEPS if begin <= FLOW_STEPS.index(step) <= end)
