"""Documents of the embedded site's flows, runs and log lines, in the shapes of Globus Flows.

PROVISIONAL: the details of runs that failed or wait, which only the service can confirm. `progress` in the
details is our own: the steps of a run of our flow with their shards and units, which Flows does not know.
"""

from __future__ import annotations

from flows.local.actions import Json
from flows.local.builtin import local_id
from flows.local.catalog import StoredFlow
from flows.local.expressions import redact
from flows.local.store import RunHead, StoredRun, step_fields
from flows.records import LogEntry, RunStatus, StepRecord
from flows.tracking import CANCELLED_CODE, INTERRUPTED

OWNER_ID = local_id("owner")
OWNER = f"urn:globus:auth:identity:{OWNER_ID}"
"""The one identity of the embedded site: it owns everything."""
_ENDINGS = {
    RunStatus.SUCCEEDED: ("FlowSucceeded", "The Flow run reached a successful completion state"),
    RunStatus.FAILED: ("FlowFailed", "The Flow run failed"),
    RunStatus.CANCELLED: (CANCELLED_CODE, "The Flow Instance was canceled by the user"),
    RunStatus.INACTIVE: ("ConsentRequired", "The Flow run waits for a consent"),
    RunStatus.ACTIVE: ("FlowActive", "The Flow is executing"),
}


def flow_document(flow: StoredFlow) -> Json:
    """A deployed flow."""
    address = f"https://flows.globus.org/flows/{flow.id}"
    return {
        **flow.fields,
        "id": flow.id,
        "globus_auth_scope": flow_scope(flow.id),
        "globus_auth_username": f"{flow.id}@clients.auth.globus.org",
        "principal_urn": f"urn:globus:auth:identity:{flow.id}",
        "flow_url": address,
        "action_url": address,
        "flow_owner": OWNER,
        "created_by": OWNER,
        "visible_to": flow.fields["flow_viewers"],
        "runnable_by": flow.fields["flow_starters"],
        "administered_by": flow.fields["flow_administrators"],
        "created_at": flow.created,
        "updated_at": flow.updated,
        "user_role": "flow_owner",
        "synchronous": False,
        "log_supported": True,
        "types": ["Action"],
        "api_version": "1.0",
    }


def flow_scope(flow_id: str) -> str:
    """The scope that allows to run a flow."""
    return f"https://auth.globus.org/scopes/{flow_id}/flow_{flow_id.replace('-', '_')}_user"


def listed_run(head: RunHead, *, interrupted: bool) -> Json:
    """A run as a list shows it: its details say how it stands, not what it made."""
    code, description = _ENDINGS[head.status]
    details: Json = {"code": code, "description": description}
    if head.status is RunStatus.FAILED:
        details |= {"description": head.error or description, "details": {"cause": head.error}}
    return _run(head, details, interrupted=interrupted)


def run_document(
    stored: StoredRun, *, steps: list[StepRecord], entry: LogEntry | None, interrupted: bool
) -> Json:
    """A run by itself; `entry` is the last line of its log."""
    details = _run_details(stored, entry)
    if steps:
        shown = [step_fields(step) for step in steps]
        details["progress"] = {"steps": shown, "published": stored.published}
    return _run(stored.head, details, interrupted=interrupted)


def _run_details(stored: StoredRun, entry: LogEntry | None) -> Json:
    head, execution = stored.head, stored.execution
    code, description = _ENDINGS[head.status]
    if execution is None and head.status is RunStatus.ACTIVE:
        details = {"input": redact(stored.body)}
        return {
            "code": "FlowStarting",
            "description": "The Flow is starting execution",
            "details": details,
        }
    if head.status is RunStatus.SUCCEEDED and execution is not None:
        return {"code": code, "description": description, "output": redact(execution.document)}
    if head.status is RunStatus.INACTIVE and stored.hold is not None:
        return dict(stored.hold)
    if head.status is RunStatus.FAILED:
        inner = {**(entry.details if entry else {}), "cause": head.error}
        return {"code": code, "description": head.error or description, "details": inner}
    if entry is not None:
        return log_line(entry, stored.definition)
    return {"code": code, "description": description, "details": {}}


def _run(head: RunHead, details: Json, *, interrupted: bool) -> Json:
    status = RunStatus.FAILED if head.status is RunStatus.CANCELLED else head.status
    return {
        "run_id": head.id,
        "action_id": head.id,
        "flow_id": head.flow_id,
        "flow_title": head.flow_title,
        "flow_last_updated": head.flow_updated,
        "start_time": head.created,
        "completion_time": head.updated if head.status.ended else None,
        "status": str(status),
        "display_status": INTERRUPTED if interrupted else str(status),
        "details": details,
        "label": head.label,
        "tags": list(head.tags),
        "run_owner": OWNER,
        "created_by": OWNER,
        "run_managers": list(head.managers),
        "run_monitors": list(head.monitors),
        "manage_by": list(head.managers),
        "monitor_by": list(head.monitors),
        "user_role": "run_owner",
    }


def log_line(entry: LogEntry, definition: Json) -> Json:
    """A line of a run's log."""
    details = dict(entry.details)
    state = definition.get("States", {}).get(entry.state_name)
    if state is not None:
        details = {"state_name": entry.state_name, "state_type": state["Type"], **details}
    return {
        "time": entry.time,
        "code": entry.code,
        "description": entry.description,
        "details": details,
    }
