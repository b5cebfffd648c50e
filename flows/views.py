"""Looking at runs through the clients of globus-sdk: the same for Globus and for the embedded site."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.errors import RunError, SiteError
from flows.inputs import RunRequest, request_of
from flows.local.builtin import FLOW_ID
from flows.logs import LogTail
from flows.records import Blocked, LogEntry, RunEvent, RunRecord, RunStatus, StepRecord
from flows.scratch import with_figures, with_throughput
from flows.service import Service, embedded, told
from flows.site import Site, home_folder
from flows.tracking import record_of, started_with, steps_of

if TYPE_CHECKING:
    from flows.local.embedded import EmbeddedSite

Json = dict[str, Any]
RunList = list[RunRecord]
Entries = list[LogEntry]
FOLLOW_SECONDS = 5.0
"""Between two looks at a run of a live site."""


class RunViews:
    """Runs of one site. Cheap to build; imports neither torch nor zarr, and globus-sdk at the first call."""

    def __init__(
        self,
        site: Site,
        *,
        home: Path | None = None,
        service: Service | None = None,
        flow_id: str | None = None,
        managers: tuple[str, ...] = (),
        monitors: tuple[str, ...] = (),
    ) -> None:
        """Args:
        service: the clients of a live site; the embedded site makes its own.
        flow_id: the deployed flow of a live site.
        managers, monitors: who may manage and see the runs that are started, as URNs.
        """
        if not site.embedded and (service is None or flow_id is None):
            raise SiteError(
                f"site {site.name}: no flow is deployed, or nobody is logged in",
                remedy="deploy the flow first, or use --site local",
            )
        self.site = site
        self.home = home or home_folder()
        self.flow_id = flow_id or FLOW_ID
        self._given = service
        self._managers, self._monitors = managers, monitors

    @cached_property
    def service(self) -> Service:
        return self._given or embedded(self.home, site=self.site)

    @property
    def _embedded(self) -> EmbeddedSite | None:
        """What runs flows in this process, where the site is embedded."""
        world = self.service.world
        return world.site if world is not None else None

    def _functions(self) -> dict[str, str]:
        """Ids of the registered functions, by name."""
        from flows.local.registered import function_ids

        return function_ids(self.site.entry_points) if self.site.embedded else self.site.compute.functions

    def list(self) -> RunList:
        """All runs of the flow, newest first, as a list shows them: without input and source."""
        return [*self._listed()]

    def _listed(self) -> Iterator[RunRecord]:
        """The same, page by page as they are wanted."""
        with told("list the runs"):
            pages = self.service.flows.paginated.list_runs(filter_flow_id=self.flow_id)
            for document in pages.items():
                yield record_of(document, self.site)

    def tagged(self, tag: str) -> RunList:
        """The runs that carry a tag, newest first."""
        return [run for run in self.list() if tag in run.tags]

    def find(self, beginning: str) -> str:
        """The id of the run whose id begins so; `last` is the newest run.

        Raises:
            RunError: none or several.
        """
        if len(beginning) == 36:
            return beginning
        newest = beginning == "last"
        matching = (run.id for run in self._listed() if newest or run.id.startswith(beginning))
        found = [*islice(matching, 1 if newest else 2)]
        if not found:
            raise RunError(f"{beginning}: no such run", remedy="see `petavoxel run list`")
        if len(found) > 1:
            raise RunError(f"{beginning}: several runs begin so", remedy="give more of the id")
        return found[0]

    def _document(self, run_id: str) -> Json:
        with told(f"look at run {run_id}"):
            return dict(self.service.flows.get_run(run_id).data)

    def _whole(self, run_id: str, document: Json | None = None) -> RunRecord:
        """A run's record with its input."""
        document = document or self._document(run_id)
        with told(f"read the log of run {run_id}"):
            first = LogTail(self.service.flows, run_id, page=1).first()
        return record_of(document, self.site, body=started_with(document, first))

    def show(self, run_id: str) -> tuple[RunRecord, tuple[StepRecord, ...]]:
        """A run and its steps in order; `run_id` may be an unambiguous beginning of an id, or `last`.

        Raises:
            RunError: no such run, or more than one.
        """
        document = self._document(self.find(run_id))
        record = self._whole(document["run_id"], document)
        steps = self._steps(document, lambda: list(self.logs(record.id)), record)
        return record, tuple(with_figures(step, record) for step in steps)

    def _steps(
        self, document: Json, entries: Callable[[], Entries], record: RunRecord
    ) -> tuple[StepRecord, ...]:
        """Steps as the service tells them; from the log and from scratch, where it does not."""
        if "progress" in (document.get("details") or {}):
            return tuple(steps_of(document, [], record))
        return tuple(with_throughput(step, record) for step in steps_of(document, entries(), record))

    def logs(self, run_id: str) -> tuple[LogEntry, ...]:
        """The log of a run, oldest first."""
        found = self.find(run_id)
        with told(f"read the log of run {found}"):
            return tuple(LogTail(self.service.flows, found).more())

    def request(self, run_id: str) -> RunRequest:
        """What a run was asked to do.

        Raises:
            RunError: no such run, or its input cannot be seen.
        """
        record = self._whole(self.find(run_id))
        if not record.input:
            raise RunError(f"{record.id}: its input cannot be seen", remedy="ask for a monitor's role")
        return request_of(record.input, self.site, tags=record.tags)

    def follow(self, run_id: str, *, poll_seconds: float | None = None) -> Iterator[RunEvent]:
        """Events of a run from its beginning until it ends or waits for a person, whoever runs it."""
        found = self.find(run_id)
        tail = LogTail(self.service.flows, found)
        seen: dict[str, StepRecord] = {}
        pause = poll_seconds or (0.2 if self.site.embedded else FOLLOW_SECONDS)
        while True:
            document = self._document(found)  # read before the log, so that its last lines are not missed
            with told(f"read the log of run {found}"):
                entries = tail.more()
            body = started_with(document, tail.entries[0] if tail.entries else None)
            run = record_of(document, self.site, body=body)
            for step in self._steps(document, lambda: tail.entries, run):
                if seen.get(step.name) != step:
                    seen[step.name] = step
                    yield RunEvent(run=run, step=step)
            for entry in entries:
                yield RunEvent(run=run, log=entry)
            if run.status is not RunStatus.ACTIVE:
                yield RunEvent(run=run)
                return
            time.sleep(pause)

    def blocked(self, run_id: str) -> Blocked | None:
        """What an INACTIVE run waits for; None for any other."""
        document = self._document(self.find(run_id))
        if document["status"] != RunStatus.INACTIVE:
            return None
        from flows.auth import authorization_for

        details = document.get("details")
        asked = authorization_for(details)
        if asked is None:
            said = details.get("description", "") if isinstance(details, dict) else ""
            return Blocked(message=str(said), scopes=())
        return Blocked(message=asked.session_message or "", scopes=tuple(asked.required_scopes or ()))
