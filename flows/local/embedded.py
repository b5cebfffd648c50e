"""What the embedded site does with runs, below any protocol: start, cancel, hold, resume, release.

The HTTP routes, and the in-process transport behind the same routes, come down to these.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from flows.errors import FlowsError
from flows.local.actions import Json
from flows.local.catalog import Catalog, StoredFlow
from flows.local.documents import run_document
from flows.local.interpreter import iso
from flows.local.process import INDEX_NAME, STORE_NAME, RunLock, carry_out, spawn
from flows.local.progress import first_steps
from flows.local.search import LocalIndex
from flows.local.store import RunHead, Store, StoredRun
from flows.records import RunEvent, RunStatus, StepRecord
from flows.schema import check_input
from flows.site import Site
from functions.tasks import RunSpec

Listener = Callable[[RunEvent], None]


class ConflictError(FlowsError):
    """A run is not in a state that allows this."""

    code = "run"


class EmbeddedSite:
    """One home folder as a place where flows run."""

    def __init__(self, home: Path, site: Site) -> None:
        self.home = home
        self.site = site
        self.store = Store(home / STORE_NAME)
        self.catalog = Catalog(self.store.database)
        self.index = LocalIndex(home / INDEX_NAME)
        self._here = False
        self._held: dict[str, RunLock] = {}

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    # -- looking --------------------------------------------------------------------------------------------
    def interrupted(self, head: RunHead) -> bool:
        """Whether a run is ACTIVE with nobody carrying it out."""
        if head.status is not RunStatus.ACTIVE or head.id in self._held:
            return False
        if RunLock.held(self.home, head.id):
            return False
        # it may have ended between the two looks
        return self.store.load(head.id).head.status is RunStatus.ACTIVE

    def document(self, run_id: str) -> Json:
        """A run's document as it stands.

        Raises:
            RunError: no such run.
        """
        head = self.store.load(run_id).head
        interrupted = self.interrupted(head)
        stored = self.store.load(run_id)  # what ended meanwhile shows its end
        entries = self.store.logs(run_id, limit=1, newest=True)
        return run_document(
            stored,
            steps=self.store.steps(run_id),
            entry=entries[0] if entries else None,
            interrupted=interrupted and stored.head.status is RunStatus.ACTIVE,
        )

    # -- acting ---------------------------------------------------------------------------------------------
    def start(
        self,
        flow: StoredFlow,
        body: Json,
        *,
        label: str,
        tags: tuple[str, ...],
        managers: tuple[str, ...],
        monitors: tuple[str, ...],
    ) -> str:
        """Keep a new run of a deployed flow and have it carried out; its id."""
        now = iso(time.time())
        head = RunHead(
            id=str(uuid.uuid4()),
            flow_id=flow.id,
            flow_title=flow.fields["title"],
            flow_updated=flow.updated,
            status=RunStatus.ACTIVE,
            created=now,
            updated=now,
            label=label,
            tags=tags,
            managers=managers,
            monitors=monitors,
        )
        definition = flow.fields["definition"]
        stored = StoredRun(head=head, site=self.site, body=body, definition=definition, execution=None)
        self.store.add(stored, _steps(body))
        self._launch(head.id)
        return head.id

    def _launch(self, run_id: str) -> None:
        """Have a run carried out: by a detached process, or by this one where it has said `here`."""
        lock = RunLock.take(self.home, run_id)
        if lock is None:
            raise ConflictError(f"{run_id}: is running already", remedy="follow it, or cancel it first")
        self.store.request_stop(run_id, wanted=False)
        if self._here:
            self._held[run_id] = lock
        else:
            spawn(self.home, run_id, lock)

    @contextmanager
    def here(self, wanted: bool) -> Iterator[None]:
        """Within it, runs that are started or resumed wait for `carry_out` in this process."""
        self._here = wanted
        try:
            yield
        finally:
            self._here = False

    def carry_out(self, run_id: str, *, on_event: Listener | None = None) -> None:
        """Carry out a run that was started `here`, to its end."""
        lock = self._held[run_id]
        try:
            carry_out(self.home, run_id, store=self.store, on_event=on_event)
        finally:
            del self._held[run_id]
            lock.release()

    def cancel(self, run_id: str) -> None:
        """Ask a run's runner to stop. What nobody carries out ends here and now.

        Raises:
            RunError: no such run.
        """
        if self.store.load(run_id).head.status.ended:
            return
        self.store.request_stop(run_id)
        lock = RunLock.take(self.home, run_id)
        if lock is None:
            return  # its runner sees the request
        try:
            stored = self.store.load(run_id)
            if not stored.head.status.ended:
                self._wake(stored)
                carry_out(self.home, run_id, store=self.store)  # it sees the request and ends at once
        finally:
            lock.release()

    def hold(self, run_id: str, *, scopes: tuple[str, ...], message: str) -> None:
        """Have a run go INACTIVE as for a missing consent, with a GARE in its details.

        Raises:
            RunError: no such run.
            ConflictError: it has ended.
        """
        self._refuse_ended(run_id)
        reason = {
            "code": "ConsentRequired",
            "description": message,
            "authorization_parameters": {"session_message": message, "required_scopes": list(scopes)},
        }
        self.store.hold(run_id, reason)

    def resume(self, run_id: str) -> None:
        """Go on with a run that is INACTIVE, or that nobody carries out any more.

        Raises:
            RunError: no such run.
            ConflictError: it is not in such a state.
        """
        stored = self.store.load(run_id)
        if stored.head.status is not RunStatus.INACTIVE and not self.interrupted(stored.head):
            raise ConflictError(
                f"Run {run_id} has status '{stored.head.status}' but must have status in {{'INACTIVE'}} for"
                " requested operation"
            )
        self.store.hold(run_id, None)
        self._wake(stored)
        self._launch(run_id)

    def _wake(self, stored: StoredRun) -> None:
        if stored.head.status is RunStatus.INACTIVE and stored.execution is not None:
            execution = replace(stored.execution, status=RunStatus.ACTIVE)
            self.store.hold(stored.head.id, None)
            now = iso(time.time())
            self.store.save(stored.head.id, execution, [], time=now, published=stored.published, step=None)

    def release(self, run_id: str) -> Json:
        """Forget a run that has ended; its last document.

        Raises:
            RunError: no such run.
            ConflictError: it has not ended.
        """
        document = self.document(run_id)
        status = self.store.load(run_id).head.status
        if not status.ended:
            raise ConflictError(
                f"Run {run_id} has status '{status}' but must have status in {{'ENDED', 'SUCCEEDED',"
                " 'FAILED'}} for requested operation"
            )
        self.store.remove(run_id)
        return document

    def _refuse_ended(self, run_id: str) -> None:
        status = self.store.load(run_id).head.status
        if status.ended:
            raise ConflictError(f"{run_id}: has ended ({status})", remedy="start a new run")


def _steps(body: Json) -> list[StepRecord]:
    """The steps of a run of our flow; none for the run of another one."""
    if check_input(body):
        return []
    facts = body["input"]
    RunSpec.parse(facts["run"], source="run input")
    return first_steps(start_at=facts["start_at"], stop_after=facts["stop_after"])
