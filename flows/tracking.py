"""From what Globus Flows says of a run (its document, its log) to our records. One reading for every site.

A list of runs carries no inputs, so what it shows of a run comes from the tags that every run of ours has
(`flows.inputs.tags_of`); a run that is shown by itself brings its input, from the first line of its log.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from flows.definition import FIRST_STATES, state_steps
from flows.local.actions import ActionStatus
from flows.local.progress import advanced, ended, first_steps, looked_at, sum_of
from flows.local.store import read_step
from flows.records import FLOW_STEPS, LogEntry, RunRecord, RunStatus, StepRecord, StepStatus
from flows.site import Site

Json = dict[str, Any]
INTERRUPTED = "INTERRUPTED"
"""`display_status` of an embedded run that is ACTIVE with nobody carrying it out."""
CANCELLED_CODE = "FlowCanceled"


def record_of(document: Json, site: Site, *, body: Json | None = None) -> RunRecord:
    """A run's record. `document` is what get_run, list_runs or run_flow answered; `body` the run's input."""
    tags = tuple(document.get("tags") or ())
    named = _named(tags)
    facts: Json = (body or {}).get("input", {})
    acquisition = facts.get("acquisition_id") or named.get("acquisition", "")
    start_at, _, stop_after = named.get("stage", f"{FLOW_STEPS[0]}-{FLOW_STEPS[-1]}").partition("-")
    stop_after = facts.get("stop_after", stop_after)
    status = status_of(document)
    scratch = Path(site.scratch.base_path) / acquisition / "work"
    return RunRecord(
        id=document["run_id"],
        status=status,
        label=document.get("label") or "",
        tags=tags,
        site=site.name,
        acquisition_id=acquisition,
        source_path=str(site.instrument.file_path(facts["source"]["path"])) if "source" in facts else "",
        created=document["start_time"],
        updated=document.get("completion_time") or document["start_time"],
        start_at=facts.get("start_at", start_at),
        stop_after=stop_after,
        parent_run=named.get("parent"),
        input=body or {},
        error=_error(document, status),
        published_path=_published(document, site, status, acquisition, stop_after),
        work_path=facts["run"]["work"] if "run" in facts else str(scratch),
        link=None if site.embedded else _link(document["run_id"]),
    )


def _link(run_id: str) -> str:
    from globus_sdk.config import get_webapp_url

    return f"{get_webapp_url()}runs/{run_id}"


def _named(tags: tuple[str, ...]) -> dict[str, str]:
    """`acquisition:x` as {"acquisition": "x"}; the first of a name counts."""
    pairs = [tag.partition(":") for tag in reversed(tags)]
    return {name: value for name, colon, value in pairs if colon}


def status_of(document: Json) -> RunStatus:
    """Our status of a run; Flows calls a cancelled run FAILED."""
    status = RunStatus(document["status"])
    if status is RunStatus.FAILED and _details(document).get("code") == CANCELLED_CODE:
        return RunStatus.CANCELLED
    if status is RunStatus.ACTIVE and document.get("display_status") == INTERRUPTED:
        return RunStatus.INTERRUPTED
    return status


def _details(document: Json) -> Json:
    details = document.get("details")
    return details if isinstance(details, dict) else {}


def _error(document: Json, status: RunStatus) -> str | None:
    """Why a run failed. PROVISIONAL: where the service puts the cause of a Fail state."""
    if status is RunStatus.CANCELLED:
        return "cancelled by the user"
    if status is not RunStatus.FAILED:
        return None
    details = _details(document)
    inner = details.get("details")
    cause = inner.get("cause") if isinstance(inner, dict) else None
    return str(cause or details.get("description") or "it failed without saying why; read the run log")


def _published(
    document: Json, site: Site, status: RunStatus, acquisition: str, stop_after: str
) -> str | None:
    """Where the volume lies: told by the embedded site, else known from a run that did all."""
    told = _details(document).get("progress")
    if isinstance(told, dict):
        return told["published"]  # type: ignore[no-any-return]
    if status is not RunStatus.SUCCEEDED or stop_after != FLOW_STEPS[-1] or not acquisition:
        return None
    return str(Path(site.publication.base_path) / acquisition / document["run_id"])


def started_with(document: Json, first: LogEntry | None) -> Json | None:
    """The input of a run, from the first line of its log or from a document that has no log yet."""
    if first is not None and first.code == "FlowStarted":
        return first.details.get("input")
    details = _details(document)
    return details["details"].get("input") if details.get("code") == "FlowStarting" else None


def entry_of(line: Json) -> LogEntry:
    """A log line as the service tells it."""
    details = line.get("details") or {}
    return LogEntry(
        time=line["time"],
        code=line["code"],
        state_name=details.get("state_name", ""),
        description=line.get("description", ""),
        details=details,
    )


def steps_of(document: Json, entries: list[LogEntry], record: RunRecord) -> list[StepRecord]:
    """The steps of a run: told by the embedded site, else read from the log."""
    told = _details(document).get("progress")
    if isinstance(told, dict):
        return [read_step(step) for step in told["steps"]]
    return steps_from_log(entries, record)


def steps_from_log(entries: list[LogEntry], record: RunRecord) -> list[StepRecord]:
    """The steps of a run from the lines of its whole log.

    A line tells the state; the state tells the step. The numbers come from what actions answered.
    """
    steps = {s.name: s for s in first_steps(start_at=record.start_at, stop_after=record.stop_after)}
    of_state = state_steps()
    current, began, looked, planned = "", 0.0, False, 0
    for entry in entries:
        name = of_state.get(entry.state_name)
        now = _seconds(entry.time)
        if name is not None and name != current:
            steps = _left(steps, current, looked=looked, elapsed=now - began)
            current, began, looked, planned = name, now, False, 0
            steps[name] = replace(steps[name], state=FIRST_STATES[name], status=StepStatus.ACTIVE)
        if name is None or entry.code not in ("ActionStarted", "ActionCompleted"):
            continue
        status = _action_status(entry)
        looked = looked or looked_at(status)
        steps[name] = advanced(
            steps[name], entry.state_name, status, elapsed=now - began, planned_reused=planned
        )
        if entry.state_name.startswith("Plan"):
            planned = sum_of(status.details.get("result") or [], "reused")
    if record.status.ended:
        failed = record.status is not RunStatus.SUCCEEDED
        last = _seconds(entries[-1].time) if entries else began
        steps = _left(steps, current, looked=looked, elapsed=last - began, failed=failed)
    return list(steps.values())


def _left(
    steps: dict[str, StepRecord], name: str, *, looked: bool, elapsed: float, failed: bool = False
) -> dict[str, StepRecord]:
    """The steps after `name` was left for good."""
    if name not in steps:
        return steps
    return {**steps, name: ended(steps[name], failed=failed, looked=looked, elapsed=elapsed)}


def _action_status(entry: LogEntry) -> ActionStatus:
    """An action as its log line tells it: the tasks asked for, or the results."""
    if entry.code == "ActionStarted":
        tasks = (entry.details.get("input") or {}).get("tasks")
        return ActionStatus(status="ACTIVE", total=len(tasks) if isinstance(tasks, list) else 1)
    output = entry.details.get("output") or {}
    details = output.get("details") if isinstance(output, dict) else None
    details = details if isinstance(details, dict) else {}
    results = details.get("result")
    count = len(results) if isinstance(results, list) else int(details.get("files", 1))
    return ActionStatus(status="SUCCEEDED", details=details, done=count, total=count)


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()
