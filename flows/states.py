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
    problems = (
        f"[p['subject'] + ': ' + p['code'] + '; ' + p['remedy'] "
        f"for r in {results} if r['status'] == 'failed' for p in r['problems']]"
    )
    return expression(
        {
            "step": step,
            "failed.=": f"'failed' in [r['status'] for r in {results}]",
            "cause.=": f"'{step}: ' + ({problems} + ['it failed without saying why; read the run log'])[0]",
        },
        result_path="$.verdict",
        then=then,
    )


def caught(step: str) -> State:
    """Record which step failed and why, then fail.

    PROVISIONAL: that the service puts the error's text at `Cause`; the expression lives without it.
    """
    return expression(
        {
            "step": step,
            "failed": True,
            "cause.=": f"getattr('error.Cause', '{step}: the action failed; read the run log')",
        },
        result_path="$.verdict",
        then="Failed",
    )
