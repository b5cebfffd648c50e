"""Builders of flow states. Every field that Globus Flows would guess is written out."""

from __future__ import annotations

from typing import Any

State = dict[str, Any]
States = dict[str, State]

COMPUTE = "https://compute.actions.globus.org/v3"
TRANSFER = "https://transfer.actions.globus.org/transfer"
STAT = "https://transfer.actions.globus.org/stat"
PERMISSION = "https://transfer.actions.globus.org/manage_permission"
SEARCH = "https://actions.globus.org/search/ingest"


def action(
    url: str, parameters: State, *, result_path: str, wait_seconds: int, caught: str, then: str
) -> State:
    """An Action whose every error is caught and leads to the state `caught` with the error at `$.error`."""
    return {
        "Type": "Action",
        "ActionUrl": url,
        "Parameters": parameters,
        "ResultPath": result_path,
        "WaitTime": wait_seconds,
        "ExceptionOnActionFailure": True,
        "Catch": [{"ErrorEquals": ["States.ALL"], "ResultPath": "$.error", "Next": caught}],
        "Next": then,
    }


def compute(tasks: State, *, result_path: str, wait_seconds: int, caught: str, then: str) -> State:
    """A Compute action; `tasks` is `{"tasks": [...]}` or `{"tasks.$": path}`."""
    parameters = {
        "endpoint_id.$": "$.input.compute.endpoint_id",
        "user_endpoint_config.$": "$.input.compute.user_endpoint_config",
        **tasks,
    }
    return action(
        COMPUTE, parameters, result_path=result_path, wait_seconds=wait_seconds, caught=caught, then=then
    )


def one_task(function: str, task: State) -> State:
    """A one-element task list for a registered function."""
    return {"tasks": [{"function_id.$": f"$.input.compute.functions.{function}", "kwargs": {"task": task}}]}


def expression(parameters: State, *, result_path: str, then: str) -> State:
    """An ExpressionEval."""
    return {"Type": "ExpressionEval", "Parameters": parameters, "ResultPath": result_path, "Next": then}


def choice(rules: list[State], *, default: str) -> State:
    """A Choice; each rule carries its own `Next`."""
    return {"Type": "Choice", "Choices": rules, "Default": default}


def verdict(step: str, *, results: str, then: str) -> State:
    """Read the status of every result of a Compute action into `$.verdict`.

    `failed` is an expected failure that the next step cannot live with; `look` passes. The cause is the first
    problem's: what, where and what to do about it.
    """
    silent = "it failed without saying why; read the run log"
    return expression(
        {"step": step, **_judged(step, results, otherwise=silent)}, result_path="$.verdict", then=then
    )


def fan_out_verdict(step: str, *, results: str, then: str) -> State:
    """The same of the workers of a fan-out, and whether units are left that nobody has settled.

    Each tells what was left as it ended. Workers that claim see all units, so one that saw none left tells
    for all; of units that were dealt out each worker sees its own.
    """
    left = f"[r['left'] for r in {results}]"
    silent = "units are left, and no worker got any further; read what the workers logged, then rerun"
    asked = "getattr('input.run.parameters.fan_out.claiming', True)"
    claiming = f"({asked} if getattr('input.run.claiming', True) else False)"
    unfinished = f"0 not in {left} if {claiming} else [n for n in {left} if n > 0] != []"
    return expression(
        {"step": step, **_judged(step, results, otherwise=silent), "unfinished.=": unfinished},
        result_path="$.verdict",
        then=then,
    )


def _judged(step: str, results: str, *, otherwise: str) -> State:
    problems = (
        f"[p['subject'] + ': ' + p['code'] + '; ' + p['remedy'] "
        f"for r in {results} if r['status'] == 'failed' for p in r['problems']]"
    )
    return {
        "failed.=": f"'failed' in [r['status'] for r in {results}]",
        "cause.=": f"'{step}: ' + ({problems} + ['{otherwise}'])[0]",
    }


def stuck(step: str) -> State:
    """A fan-out that got no further fails for the reason that its last round gave."""
    cause = f"getattr('verdict.cause', '{step}: no worker got any further; read the run log')"
    return expression(
        {"step": step, "failed": True, "cause.=": cause}, result_path="$.verdict", then="Failed"
    )


def caught(step: str, *, then: str = "Failed") -> State:
    """Record which step failed and why, then fail, or look first whether it got any further.

    PROVISIONAL: that the service puts the error's text at `Cause`; the expression lives without it.
    """
    return expression(
        {
            "step": step,
            "failed": True,
            "cause.=": f"getattr('error.Cause', '{step}: the action failed; read the run log')",
        },
        result_path="$.verdict",
        then=then,
    )
