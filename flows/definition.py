"""THE flow: from the microscope's folder to the published volume, as a Globus Flows definition.

    StartAt ─► TransferIn ─► Ingest ─► PlanStitch ─► Stitch ─► ... ─► Publish ─► TransferOut ... ─► Finished
       └──────────────┴─────────┴────────┴── any step ──┴──────────┘

A step is an Action (a fan-out: a plan, then an Action over the plan's tasks), a verdict over the results'
status, and a Choice: failed, stop here, or go on. A fan-out is planned again while units are left, because
workers had to go at the end of their batch jobs, or were lost: as long as each round gets further than the
one before. The definition holds no UUID; collections, endpoint and
functions come from the input, so one definition serves every site. Every plan and the answers of its
shards take turns at `$.fan_out`, so the state stays under the service's 200 KB.

Behind AlignSolve the gate decides: a registered stack that it fails ends the run in RegistrationRefused, with
cause and remedy, before anything is computed on it, unless the input says `on_gate_fail: continue`. That is
an answer of the step, read like any other; a step that raised is caught and ends in Failed. Behind Relabel a
Choice goes round agglomeration where the input does not ask for it.
"""

from __future__ import annotations

from typing import Any

from flows.records import FLOW_STEPS, TRANSFER
from flows.states import (
    PERMISSION,
    SEARCH,
    STAT,
    State,
    States,
    action,
    caught,
    choice,
    compute,
    expression,
    fan_out_verdict,
    one_task,
    stuck,
    verdict,
)
from flows.states import TRANSFER as TRANSFER_URL
from functions.tasks import FAN_OUTS, StepName

MINUTE, HOUR, DAY = 60, 3600, 86400
OPTIONAL: tuple[StepName, ...] = ("candidates", "resegment", "agglomerate")
"""Steps that follow each other and are gone round unless the input says `agglomerate`."""
GATED: StepName = "align_solve"
"""The step whose `failed` is the gate's verdict on the registered stack."""
REFUSED = "RegistrationRefused"
WANTED = "AgglomerationWanted"
WAIT_SECONDS = {
    "transfer": 7 * DAY,
    "plan": 6 * HOUR,
    "ingest": DAY,
    "stitch": 7 * DAY,
    "align_pairs": 7 * DAY,
    "align_solve": 2 * DAY,
    "align_render": 7 * DAY,
    "segment": 28 * DAY,
    "match": 7 * DAY,
    "reconcile": 2 * DAY,
    "relabel": 7 * DAY,
    "candidates": 7 * DAY,
    "resegment": 28 * DAY,
    "agglomerate": 2 * DAY,
    "finish": 7 * DAY,
    "publish": DAY,
}
"""Time in the batch queue included; when it is over the action fails with ActionTimeout."""

PLANNED = "fan_out.details.result[0].figures"
"""What a plan counts of a step's work: units settled, and how often open ones were put away. Whenever any
unit gets on, one of the two changes."""

FIRST_STATES = {
    step: "TransferIn"
    if step == TRANSFER
    else ("Plan" if step in FAN_OUTS else "") + step.title().replace("_", "")
    for step in FLOW_STEPS
}
"""The state in which each step begins."""


def definition() -> dict[str, Any]:
    """The flow definition, a new JSON-ready document each time."""
    states: States = {"StartAt": _start_at()}
    for _, group in _groups():
        states |= group
    states["Finished"] = {"Type": "Pass", "Parameters": {"ok": True}, "ResultPath": "$.finished", "End": True}
    states["Failed"] = {"Type": "Fail", "ErrorPath": "$.verdict.step", "CausePath": "$.verdict.cause"}
    return {
        "Comment": "From electron microscope tiles to a published, segmented volume",
        "StartAt": "StartAt",
        "States": states,
    }


def state_steps() -> dict[str, str]:
    """Which step each state belongs to; the flow's ends and its first Choice belong to none."""
    return {state: step for step, group in _groups() for state in group}


def _groups() -> list[tuple[str, States]]:
    """The states of each step, in order."""
    groups = []
    for position, step in enumerate(FLOW_STEPS[:-1]):
        following = FIRST_STATES[FLOW_STEPS[position + 1]]
        if FLOW_STEPS[position + 1] == OPTIONAL[0]:
            following = WANTED
        if step == OPTIONAL[0]:
            groups.append((FLOW_STEPS[position - 1], _wanted()))
        if step == TRANSFER:
            groups.append((step, _transfer_in(following)))
        elif step in FAN_OUTS:
            groups.append((step, _fan_out(step, following)))
        else:
            groups.append((step, _single(step, following)))
    return [*groups, ("publish", _publication())]


def _start_at() -> State:
    rules = [
        {"Variable": "$.input.start_at", "StringEquals": step, "Next": FIRST_STATES[step]}
        for step in FLOW_STEPS[1:]
    ]
    return choice(rules, default="TransferIn")


def _stop_rule(step: str) -> State:
    return {"Variable": "$.input.stop_after", "StringEquals": step, "Next": "Finished"}


def _done(step: str, following: str, *, again: str | None = None) -> State:
    failed = {"Variable": "$.verdict.failed", "BooleanEquals": True}
    rule = {**failed, "Next": "Failed"}
    if step == GATED:
        stop = {"Variable": "$.input.on_gate_fail", "StringEquals": "stop"}
        rule = {"And": [failed, stop], "Next": REFUSED}
    unfinished = {"Variable": "$.verdict.unfinished", "BooleanEquals": True, "Next": again}
    return choice([rule, *([unfinished] if again else []), _stop_rule(step)], default=following)


def _wanted() -> States:
    """Whether the optional steps are to be done. One that is gone round can be the last all the same."""
    wanted = {"Variable": "$.input.agglomerate", "BooleanEquals": True, "Next": FIRST_STATES[OPTIONAL[0]]}
    following = FLOW_STEPS[FLOW_STEPS.index(OPTIONAL[-1]) + 1]
    rules = [wanted, *(_stop_rule(step) for step in OPTIONAL)]
    return {WANTED: choice(rules, default=FIRST_STATES[following])}


def _transfer_in(following: str) -> States:
    """Move what `input.files` names, or all of it (`/`), and the documents that describe it.

    PROVISIONAL: that the service's expressions take slices of text and sums of lists, as simpleeval does, and
    that Transfer takes an empty list of filter rules.
    """
    parameters = {
        "source_endpoint.$": "$.input.source.id",
        "destination_endpoint.$": "$.input.raw.id",
        "DATA.=": (
            "[{'source_path': input.source.path + name, 'destination_path': input.raw.path + name,"
            " 'recursive': name[-1:] == '/'} for name in input.files]"
            " + [{'source_path': d['source'], 'destination_path': d['destination'], 'recursive': True}"
            " for d in input.documents]"
        ),
        "filter_rules.$": "$.input.filter_rules",
        "verify_checksum": True,
        "sync_level": 3,
    }
    return {
        "TransferIn": action(
            TRANSFER_URL,
            parameters,
            result_path="$.transfer_in",
            wait_seconds=WAIT_SECONDS["transfer"],
            caught="TransferInCaught",
            then="TransferInDone",
        ),
        "TransferInDone": choice([_stop_rule(TRANSFER)], default=following),
        "TransferInCaught": caught(TRANSFER),
    }


def _single(step: str, following: str) -> States:
    name = FIRST_STATES[step]
    result = "publish" if step == "publish" else "single"
    refused = {"Type": "Fail", "Error": REFUSED, "CausePath": "$.verdict.cause"}
    return {
        name: compute(
            one_task(step, {"run.$": "$.input.run"}),
            result_path=f"$.{result}",
            wait_seconds=WAIT_SECONDS[step],
            caught=f"{name}Caught",
            then=f"{name}Verdict",
        ),
        f"{name}Verdict": verdict(step, results=f"{result}.details.result", then=f"{name}Done"),
        f"{name}Done": _done(step, following),
        f"{name}Caught": caught(step),
        **({REFUSED: refused} if step == GATED else {}),
    }


def _fan_out(step: str, following: str) -> States:
    plan = FIRST_STATES[step]
    name = plan.removeprefix("Plan")
    before = "[getattr('round.step'), getattr('round.settled'), getattr('round.kept'), getattr('round.lost')]"
    now = f"['{step}', {PLANNED}.settled, {PLANNED}.kept, {PLANNED}.lost]"
    task = {
        "run.$": "$.input.run",
        "step": step,
        "function_id.$": f"$.input.compute.functions.{step}",
        "shards.$": "$.input.shards",
    }
    return {
        plan: compute(
            one_task("plan", task),
            result_path="$.fan_out",
            wait_seconds=WAIT_SECONDS["plan"],
            caught=f"{plan}Caught",
            then=f"{name}Round",
        ),
        f"{name}Round": expression(
            {
                "step": step,
                "settled.=": f"{PLANNED}.settled",
                "kept.=": f"{PLANNED}.kept",
                "lost.=": f"{PLANNED}.lost",
                "stuck.=": f"{before} == {now}",
            },
            result_path="$.round",
            then=f"{name}RoundDone",
        ),
        f"{name}RoundDone": choice(
            [{"Variable": "$.round.stuck", "BooleanEquals": True, "Next": f"{name}Stuck"}], default=name
        ),
        f"{name}Stuck": stuck(step),
        name: compute(
            {"tasks.$": "$.fan_out.details.result[0].tasks"},
            result_path="$.fan_out",
            wait_seconds=WAIT_SECONDS[step],
            caught=f"{name}Caught",
            then=f"{name}Verdict",
        ),
        f"{name}Verdict": fan_out_verdict(step, results="fan_out.details.result", then=f"{name}Done"),
        f"{name}Done": _done(step, following, again=plan),
        f"{name}Caught": caught(step, then=plan),
        f"{plan}Caught": caught(step),
    }


def _publication() -> States:
    """Publish checks the bundle at the site; what follows takes it out, opens it and makes it findable.

    The folder carries the run's id: nothing is overwritten, and a resumed run lands on its own folder.
    """
    publish = _single("publish", "LocateBundle")
    publish["PublishDone"]["Choices"] = publish["PublishDone"]["Choices"][:1]
    bundle = "publish.details.result[0].paths.bundle"
    folder = "input.publication.path + '/' + _context.run_id"
    locate = expression(
        {
            "bundle.=": f"input.work.path + '/finish/' + pathsplit(pathsplit({bundle})[0])[1] + '/bundle'",
            "path.=": folder,
            "subject.=": f"'globus://' + input.publication.id + {folder}",
        },
        result_path="$.published",
        then="TransferOut",
    )
    return publish | {"LocateBundle": locate} | _hand_out() | _announce()


def _hand_out() -> States:
    transfer = {
        "source_endpoint.$": "$.input.work.id",
        "destination_endpoint.$": "$.input.publication.id",
        "DATA": [
            {
                "source_path.$": "$.published.bundle",
                "destination_path.$": "$.published.path",
                "recursive": True,
            }
        ],
        "verify_checksum": True,
        "sync_level": 3,
    }
    permission = {
        "operation": "CREATE",
        "endpoint_id.$": "$.input.publication.id",
        "path.=": "published.path + '/'",
        "principal_type.$": "$.input.permission.principal_type",
        "principal.$": "$.input.permission.principal",
        "permissions": "r",
    }
    wanted = {"Variable": "$.input.permission", "IsPresent": True, "Next": "GrantPermission"}
    return {
        "TransferOut": action(
            TRANSFER_URL,
            transfer,
            result_path="$.transfer_out",
            wait_seconds=WAIT_SECONDS["transfer"],
            caught="PublishCaught",
            then="PermissionWanted",
        ),
        "PermissionWanted": choice([wanted], default="SearchWanted"),
        "GrantPermission": action(
            PERMISSION,
            permission,
            result_path="$.permission",
            wait_seconds=HOUR,
            caught="PublishCaught",
            then="SearchWanted",
        ),
    }


def _announce() -> States:
    entry = {
        "search_index.$": "$.input.search.index",
        "subject.$": "$.published.subject",
        "id": "volume",
        "visible_to.$": "$.input.search.visible_to",
        "content.$": "$.publish.details.result[0].entry",
    }
    wanted = {"Variable": "$.input.search", "IsPresent": True, "Next": "SearchIngest"}
    probe = {"endpoint_id.$": "$.input.publication.id", "path.$": "$.published.path"}
    return {
        "SearchWanted": choice([wanted], default="ProbePublished"),
        "SearchIngest": action(
            SEARCH,
            entry,
            result_path="$.search",
            wait_seconds=HOUR,
            caught="PublishCaught",
            then="ProbePublished",
        ),
        "ProbePublished": action(
            STAT,
            probe,
            result_path="$.probe",
            wait_seconds=HOUR,
            caught="PublishCaught",
            then="Finished",
        ),
    }
