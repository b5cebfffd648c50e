"""Plan and deploy: functions as source text, then the flow, and a lock file that says what is where.

    plan ─► validate with the service ─► register what changed ─► look again ─► create or update the flow

A plan reads and never writes. A second deployment finds nothing to do and writes nothing. What the service
holds must be what this lock saw last; else somebody deployed elsewhere, and only `take_over` replaces that.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from globus_sdk import FlowsAPIError

from flows.errors import DeployError
from flows.lint import lint
from flows.local.registered import registered_functions
from flows.lock import FlowLock, FunctionLock, Lock, digest, read_lock, write_lock
from flows.service import Service
from flows.site import Site
from flows.wanted import Json, managed, registration, site_keyword, wanted_flow

DIFF_LINES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a deployment would do to one thing, and the first lines of the difference."""

    what: str
    action: Literal["create", "update", "note", "keep", "conflict"]
    """`note`: the service has it as it should be, only the lock does not know."""
    why: str = ""
    diff: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that a deployment would do."""

    site: str
    flow_id: str | None
    changes: tuple[Change, ...]

    @property
    def conflicts(self) -> tuple[Change, ...]:
        """What somebody else changed since this lock was written."""
        return tuple(change for change in self.changes if change.action == "conflict")

    @property
    def flow_action(self) -> str:
        """What becomes of the flow."""
        return next(change.action for change in self.changes if change.what == "flow")

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return all(change.action == "keep" for change in self.changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployer:
    """One site's deployment. `service` has the role deployer; `path` is the lock file."""

    site: Site
    service: Service
    path: Path

    def plan(self, *, take_over: bool = False) -> Plan:
        """What `deploy` would do. Reads the lock and the service.

        Raises:
            DeployError: the lock is damaged or of another site.
            globus_sdk.GlobusAPIError: the service refuses.
        """
        lock = self._lock()
        flow_id, flow_change = self._flow_change(lock, take_over=take_over)
        functions = [self._function_change(lock, name, source) for name, source in self._sources().items()]
        return Plan(site=self.site.name, flow_id=flow_id, changes=(*functions, flow_change))

    def deploy(
        self, *, take_over: bool = False, on_change: Callable[[str], None] = lambda text: None
    ) -> Lock:
        """Carry out the plan and write the lock; with nothing to do, write nothing.

        Raises:
            DeployError: lint findings, the service refuses the flow, or another machine deployed meanwhile.
        """
        plan = self.plan(take_over=take_over)
        self._refuse(plan)
        lock = self._lock()
        if plan.empty:
            return lock
        wanted = wanted_flow(self.site)
        self._validate(wanted)
        lock = self._register(lock, on_change)
        plan = self.plan(take_over=take_over)  # registering took a while
        self._refuse(plan)
        if plan.flow_action in ("create", "update"):
            flow = self._write_flow(plan.flow_id, wanted, on_change)
        elif plan.flow_action == "note" or lock.flow is None:
            flow = self._seen(str(plan.flow_id), wanted)
        else:
            flow = lock.flow
        return self._saved(lock, flow)

    # -- looking --------------------------------------------------------------------------------------------
    def _lock(self) -> Lock:
        lock = read_lock(self.path) or Lock(site=self.site.name, package=version("petavoxel"))
        if lock.site != self.site.name:
            raise DeployError(
                f"{self.path}: belongs to site {lock.site}, not {self.site.name}",
                remedy="give every site a lock of its own",
            )
        return lock

    def _sources(self) -> dict[str, str]:
        return {f.name: f.source for f in registered_functions(self.site.entry_points).values()}

    def _function_change(self, lock: Lock, name: str, source: str) -> Change:
        known = lock.functions.get(name)
        what = f"function {name}"
        if known is None:
            return Change(what=what, action="create")
        if known.sha256 == digest(source) and known.group == self.site.compute.callers_group:
            return Change(what=what, action="keep")
        return Change(what=what, action="update", why="its text or its callers changed: it gets a new id")

    def _flow_change(self, lock: Lock, *, take_over: bool) -> tuple[str | None, Change]:
        """The flow's id, if there is one, and what becomes of it."""
        flow_id = lock.flow.id if lock.flow else self._found()
        served = self._served(flow_id) if flow_id else None
        if served is None:
            why = f"{flow_id} does not exist any more" if flow_id else ""
            return None, Change(what="flow", action="create", why=why)
        before, after = managed(served), managed(wanted_flow(self.site))
        ours = lock.flow is not None and lock.flow.served == digest(before)
        if ours and lock.flow and lock.flow.sent == digest(after):
            return flow_id, Change(what="flow", action="keep")
        if before == after:
            return flow_id, Change(what="flow", action="note", why="is as it should be")
        diff = _difference(before, after)
        if ours or take_over:
            return flow_id, Change(what="flow", action="update", diff=diff)
        return flow_id, Change(what="flow", action="conflict", why=_elsewhere(served, lock), diff=diff)

    def _found(self) -> str | None:
        """A flow of this site that another machine deployed, when this one has no lock.

        PROVISIONAL: that the listing carries keywords.
        """
        roles = ["flow_owner", "flow_administrator"]
        keyword = site_keyword(self.site)
        listed = self.service.flows.paginated.list_flows(filter_roles=roles).items()
        found = [str(flow["id"]) for flow in listed if keyword in (flow.get("keywords") or [])]
        if len(found) > 1:
            raise DeployError(
                f"several flows say {keyword}: {', '.join(found)}",
                remedy=f"delete all but one in the web app, or bring the {self.path.name} of the right one",
            )
        return found[0] if found else None

    def _served(self, flow_id: str) -> Json | None:
        try:
            return dict(self.service.flows.get_flow(flow_id).data)
        except FlowsAPIError as error:
            if error.http_status == 404:
                return None
            raise

    def _refuse(self, plan: Plan) -> None:
        """Stop before somebody else's deployment is lost."""
        for change in plan.conflicts:
            raise DeployError(
                f"flow {plan.flow_id}: {change.why}",
                remedy=f"take their {self.path.name}, or replace what they deployed with --take-over",
            )

    # -- changing -------------------------------------------------------------------------------------------
    def _validate(self, wanted: Json) -> None:
        """Ours first, then the service's own look at it, before anything is changed."""
        if findings := lint(wanted["definition"], schema=wanted["input_schema"]):
            said = "; ".join(f"{f.state}: {f.message}" for f in findings[:3])
            raise DeployError(f"the definition has lint findings: {said}", remedy="see `petavoxel flow lint`")
        try:
            self.service.flows.validate_flow(wanted["definition"], wanted["input_schema"])
        except FlowsAPIError as error:
            if error.http_status not in (400, 422):
                raise
            said = "; ".join(error.messages) or str(error.message)
            raise DeployError(
                f"Globus Flows does not take the definition: {said}", remedy="nothing was changed; report it"
            ) from None

    def _register(self, lock: Lock, on_change: Callable[[str], None]) -> Lock:
        """Register what is new or changed; the lock is written after each, so that none is done twice."""
        for name, source in self._sources().items():
            if self._function_change(lock, name, source).action == "keep":
                continue
            answer = self.service.compute.register_function(registration(name, source, self.site))
            group = self.site.compute.callers_group
            function = FunctionLock(id=answer["function_uuid"], sha256=digest(source), group=group)
            lock = lock.model_copy(update={"functions": {**lock.functions, name: function}})
            write_lock(self.path, lock)
            on_change(f"function {name}: {function.id}")
        return lock

    def _write_flow(self, flow_id: str | None, wanted: Json, on_change: Callable[[str], None]) -> FlowLock:
        body: Json = dict(wanted)
        if self.site.subscription_id:
            body["subscription_id"] = self.site.subscription_id
        if flow_id is None:
            flow_id = str(self.service.flows.create_flow(**body)["id"])
            on_change(f"flow {flow_id}: created")
        else:
            self.service.flows.update_flow(flow_id, **body)
            on_change(f"flow {flow_id}: updated")
        return self._seen(flow_id, wanted)

    def _seen(self, flow_id: str, wanted: Json) -> FlowLock:
        """What the service holds now, which may be written otherwise than it was sent."""
        served = self._served(flow_id) or {}
        return FlowLock(
            id=flow_id,
            sent=digest(managed(wanted)),
            served=digest(managed(served)),
            definition=digest(wanted["definition"]),
            input_schema=digest(wanted["input_schema"]),
            updated_at=str(served.get("updated_at", "")),
        )

    def _saved(self, lock: Lock, flow: FlowLock) -> Lock:
        names = self._sources()
        functions = {name: function for name, function in lock.functions.items() if name in names}
        update = {"flow": flow, "functions": functions, "package": version("petavoxel")}
        lock = lock.model_copy(update=update)
        write_lock(self.path, lock)
        return lock


def _elsewhere(served: Json, lock: Lock) -> str:
    """How somebody else's deployment shows."""
    when = served.get("updated_at") or "at an unknown time"
    if lock.flow is None:
        return f"exists already, changed {when}, and this machine has no lock of it"
    return f"was changed elsewhere ({when}; this lock knows it as of {lock.flow.updated_at})"


def _difference(before: Json, after: Json) -> tuple[str, ...]:
    """The changed lines of two flows as JSON, at most `DIFF_LINES`."""

    def lines(flow: Json) -> list[str]:
        return json.dumps(flow, indent=1, sort_keys=True).splitlines()

    found: list[Any] = [
        line
        for line in difflib.unified_diff(lines(before), lines(after), lineterm="", n=0)
        if not line.startswith(("---", "+++", "@@"))
    ]
    more = len(found) - DIFF_LINES
    return (*found[:DIFF_LINES], *([f"… {more} more lines"] if more > 0 else []))
