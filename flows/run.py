"""The facade over runs: start, list, show, logs, follow, cancel, resume, rerun, and what a rerun would reuse.

Everything goes through the clients of globus-sdk, which end at Globus or at the embedded site
(`flows.service`); beyond that the two differ in who can be waited for in this process.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.company import may_share
from flows.errors import InputError, RunError
from flows.inputs import RunRequest, build_input, tags_of
from flows.local.engines import check_engine
from flows.records import FLOW_STEPS, Blocked, Reuse, RunEvent, RunRecord, RunStatus
from flows.schema import check_input
from flows.scratch import reusable
from flows.service import told
from flows.tracking import record_of
from flows.views import RunList, RunViews
from functions.model.parameters import Parameters
from functions.tasks import STEPS, RunSpec

Json = dict[str, Any]
Listener = Callable[[RunEvent], None]
STOP_SECONDS = 60.0

__all__ = ["RunList", "Runs"]


class Runs(RunViews):
    """Runs of one site: to look at, and to act on."""

    # -- starting -------------------------------------------------------------------------------------------
    def start(
        self, request: RunRequest, *, wait: bool = False, on_event: Listener | None = None
    ) -> RunRecord:
        """Start a run. With `wait` the ended run is returned (the embedded site carries it out in this
        process); else it is returned at once, and goes on by itself.

        Raises:
            InputError: the request cannot become an input.
            SiteError: the embedded site's engine is not there.
            RunError: another run is at work on the same acquisition.
            ServiceError: Globus refused, or did not answer: then the run may have been started.
        """
        if self._embedded is not None:
            check_engine(self.site, self.home)
        document = build_input(request, self.site, functions=self._functions())
        facts = document["input"]
        facts["run"]["sentinel"] = f"CANCEL-{uuid.uuid4()}"  # the run's own id is not known yet
        if problems := check_input(document):
            raise InputError("; ".join(problems), remedy="correct the named fields")
        tags = tags_of(request, facts["acquisition_id"])
        wanted = {"run_id": "", "status": RunStatus.ACTIVE, "start_time": "", "tags": tags}
        self._refuse_company(record_of(wanted, self.site, body=document))

        def call() -> Json:
            started = self.service.flow(self.flow_id).run_flow(
                document,
                label=facts["label"],
                tags=list(tags),
                run_managers=list(self._managers),
                run_monitors=list(self._monitors),
            )
            return dict(started.data)

        return self._go("start a run", call, body=document, wait=wait, on_event=on_event)

    def _go(
        self,
        doing: str,
        call: Callable[[], Json],
        *,
        body: Json | None,
        wait: bool,
        on_event: Listener | None,
    ) -> RunRecord:
        """Make a call that sets a run going, and wait for the run if that is wanted. `body` is the input of
        a new run."""
        of_run = body is None
        here = self._embedded
        if here is not None and wait:
            with told(doing, of_run=of_run), here.here(True):
                run_id = call()["run_id"]
            here.carry_out(run_id, on_event=on_event)
            return self._whole(run_id)
        with told(doing, of_run=of_run):
            answer = call()
        run_id = answer["run_id"]
        if not wait and body is not None:  # no more calls, which could fail when the run has begun
            return record_of(answer, self.site, body=body)
        if wait:
            for event in self.follow(run_id):
                if on_event is not None:
                    on_event(event)
        return self._whole(run_id)

    def _refuse_company(self, record: RunRecord) -> None:
        """Runs of one acquisition share a work root and its copy of the tiles: one at a time, but for those
        of disjoint sections that stop at stitch. And two folders under one acquisition id would mix there:
        the newest run tells whose it is."""
        name = record.acquisition_id
        others = [run for run in self.list() if run.acquisition_id == name and run.id != record.id]
        if others and not record.id:
            other = self._whole(others[0].id).source_path
            if other not in ("", record.source_path) and Path(other).exists():
                raise InputError(
                    f"{record.source_path}: acquisition id {name} is taken by {other}",
                    remedy="give one of them another acquisition id",
                )
        for run in others:
            if run.status is RunStatus.ACTIVE and not may_share(record, run):
                raise RunError(
                    f"acquisition {name}: run {run.id} is at work on it",
                    remedy="follow that run, or cancel it first",
                )

    # -- acting ---------------------------------------------------------------------------------------------
    def cancel(self, run_id: str) -> RunRecord:
        """Ask shards to stop by their sentinel file, have the run cancelled, and wait for its end; an ended
        run stays as it is. Nothing else is started.

        Raises:
            RunError: the run does not stop.
        """
        record = self._whole(self.find(run_id))
        if record.status.ended and record.status is not RunStatus.INTERRUPTED:
            return record
        self._touch_sentinel(record)
        deadline = time.monotonic() + STOP_SECONDS
        asked: RunStatus | None = None
        while not record.status.ended or record.status is RunStatus.INTERRUPTED:
            if time.monotonic() > deadline:
                raise RunError(f"{record.id}: does not stop", remedy="cancel it again, or end its process")
            if record.status is not asked:  # once, and again if its runner died meanwhile
                asked = record.status
                with told(f"cancel run {record.id}"):
                    self.service.flows.cancel_run(record.id)
            else:
                time.sleep(0.05 if self.site.embedded else 1.0)
            record = self._whole(record.id)
        self._touch_sentinel(record)  # a runner that began meanwhile took it away
        return record

    def _touch_sentinel(self, record: RunRecord) -> None:
        """Tell the run's shards to stop, where its scratch can be reached from here."""
        if not record.input or not Path(self.site.scratch.base_path).is_dir():
            return
        sentinel = RunSpec.parse(record.input["input"]["run"], source=f"run {record.id}").sentinel_path
        sentinel.parent.mkdir(parents=True, exist_ok=True)
        sentinel.touch()

    def resume(
        self,
        run_id: str,
        *,
        login: Callable[[Blocked], None] | None = None,
        wait: bool = False,
        on_event: Listener | None = None,
    ) -> RunRecord:
        """Go on with an INACTIVE run, after `login` (at a live site: its own) has brought what it waits for.

        Raises:
            RunError: it is not INACTIVE, or does not say what it needs.
            AuthError: it needs a person's login, and this is the service.
        """
        found = self.find(run_id)
        blocked = self.blocked(found)
        if blocked is None:
            raise RunError(f"{found}: does not wait for anything", remedy="`petavoxel run rerun` repeats it")
        if login is not None:
            login(blocked)
        elif self.service.app is not None:
            from flows.auth import authorise

            self.service.flow(self.flow_id)  # before the login, so that it asks for the flow's scope, too
            authorise(self.service.app, self._document(found))
        return self._resume(found, wait=wait, on_event=on_event)

    def _resume(self, run_id: str, *, wait: bool, on_event: Listener | None) -> RunRecord:
        def call() -> Json:
            return dict(self.service.flow(self.flow_id).resume_run(run_id).data)

        return self._go(f"resume run {run_id}", call, body=None, wait=wait, on_event=on_event)

    def rerun(
        self,
        run_id: str,
        *,
        start_at: str | None = None,
        stop_after: str | None = None,
        on_gate_fail: str | None = None,
        parameters: Parameters | None = None,
        memory_gib: float | None = None,
        retry_quarantined: bool = False,
        wait: bool = False,
        on_event: Listener | None = None,
    ) -> RunRecord:
        """Go on with an interrupted run (same id, when nothing is overridden and the site names no engine),
        else start a linked new one.

        Raises:
            RunError: the run, or another one of its acquisition, is still active.
        """
        record = self.idle(run_id)
        overrides = (
            start_at,
            stop_after,
            on_gate_fail,
            parameters,
            memory_gib,
            retry_quarantined or None,
            self.site.engine,
        )
        if record.status is RunStatus.INTERRUPTED and all(word is None for word in overrides):
            self._refuse_company(record)
            return self._resume(record.id, wait=wait, on_event=on_event)
        request = self.rerun_request(
            record.id,
            start_at=start_at,
            stop_after=stop_after,
            on_gate_fail=on_gate_fail,
            parameters=parameters,
            memory_gib=memory_gib,
            retry_quarantined=retry_quarantined,
        )
        return self.start(request, wait=wait, on_event=on_event)

    def idle(self, run_id: str) -> RunRecord:
        """A run that nobody carries out now.

        Raises:
            RunError: no such run, or it is still active.
        """
        record = self._whole(self.find(run_id))
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
        memory_gib: float | None = None,
        retry_quarantined: bool = False,
    ) -> RunRequest:
        """The request that a rerun with these overrides starts: also what `reuse` can be asked about.

        `parameters` replaces all parameters, the choice of sections among them: change a copy of
        `request(run_id).all_parameters`.
        """
        record = self._whole(self.find(run_id))
        overrides: dict[str, object] = {"parent": record.id, "acquisition_id": record.acquisition_id}
        if start_at is not None:
            overrides["start_at"] = start_at
        if stop_after is not None:
            overrides["stop_after"] = stop_after
        if on_gate_fail is not None:
            overrides["on_gate_fail"] = on_gate_fail
        if memory_gib is not None:
            overrides["memory_gib"] = memory_gib
        if retry_quarantined:
            overrides["retry_quarantined"] = True
        if parameters is not None:
            overrides |= {"parameters": parameters.model_dump(mode="json"), "sections": None}
        payload = self.request(record.id).model_dump(mode="json") | overrides
        return RunRequest.parse(payload, source="rerun")

    def reuse(self, run: str | RunRequest) -> tuple[Reuse, ...]:
        """Per step of a run or request: how many units there are and how many are done already."""
        from functions.store.run import Run

        request = run if isinstance(run, RunRequest) else self.rerun_request(run)
        facts = build_input(request, self.site, functions=self._functions())["input"]
        work = Run(RunSpec.parse(facts["run"], source="run"))
        begin, end = FLOW_STEPS.index(request.start_at), FLOW_STEPS.index(request.stop_after)
        return tuple(reusable(work, step) for step in STEPS if begin <= FLOW_STEPS.index(step) <= end)
