"""From states and action statuses to the progress of steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flows.definition import FIRST_STATES
from flows.local.actions import ActionStatus
from flows.records import FLOW_STEPS, StepRecord, StepStatus
from functions.tasks import FAN_OUTS, Problem

MAX_PROBLEMS = 10


def first_steps(*, start_at: str, stop_after: str) -> list[StepRecord]:
    """The steps of a run that has not begun."""
    begin, end = FLOW_STEPS.index(start_at), FLOW_STEPS.index(stop_after)
    return [
        StepRecord(
            name=name,
            state=FIRST_STATES[name],
            status=StepStatus.WAITING if begin <= position <= end else StepStatus.SKIPPED,
        )
        for position, name in enumerate(FLOW_STEPS)
    ]


def advanced(
    step: StepRecord, state_name: str, status: ActionStatus, *, elapsed: float, planned_reused: int
) -> StepRecord:
    """The step after an action of one of its states has got further.

    `elapsed` is in seconds since the step began; `planned_reused` units were found done by the step's plan.
    """
    step = replace(step, state=state_name, status=StepStatus.ACTIVE, seconds=round(elapsed, 3))
    results: list[dict[str, Any]] = status.details.get("result") or []
    if state_name.startswith("Plan"):
        for plan in results:
            again = step.shards_total > 0  # what an earlier round computed is not reused
            step = replace(
                step,
                units=plan["units"],
                units_done=plan["reused"],
                reused=step.reused if again else plan["reused"],
                shards_total=len(plan["tasks"]),
            )
        return _judged(step, results)
    if step.name in FAN_OUTS:
        return _fan_out(step, results, status, elapsed=elapsed, planned_reused=planned_reused)
    if state_name == FIRST_STATES[step.name]:
        step = replace(step, shards_total=status.total, shards_done=status.done)
        for result in results:
            step = replace(
                step,
                units=result["units"],
                units_done=result["units"],
                computed=result["computed"],
                reused=result["reused"],
                figures=result["figures"],
            )
        if step.name == "transfer":
            step = replace(step, units=status.total, units_done=status.done, **_transferred(status))
        return _judged(step, results)
    return step


def _fan_out(
    step: StepRecord,
    results: list[dict[str, Any]],
    status: ActionStatus,
    *,
    elapsed: float,
    planned_reused: int,
) -> StepRecord:
    """Sum what the finished shards tell; units that the plan found done are reused, or of an earlier round.

    A worker that saw nothing left tells for all, also for those that were lost.
    """
    done = planned_reused + sum_of(results, "units")
    if any(result["left"] == 0 for result in results) and status.done == status.total:
        done = step.units
    left = status.total - status.done
    step = replace(
        step,
        shards_total=status.total,
        shards_done=status.done,
        units=max(step.units, done),
        units_done=done,
        computed=done - step.reused,
        eta_seconds=round(elapsed * left / status.done, 1) if status.done and left else None,
    )
    return _judged(step, results)


def sum_of(results: list[dict[str, Any]], key: str) -> int:
    """Sum of a counter over results."""
    return sum(int(result[key]) for result in results)


def _transferred(status: ActionStatus) -> dict[str, Any]:
    if status.status != "SUCCEEDED":
        return {}
    details = status.details
    return {
        "computed": details["files_transferred"],
        "reused": details["files_skipped"],
        "figures": {"bytes_transferred": float(details["bytes_transferred"])},
    }


def _judged(step: StepRecord, results: list[dict[str, Any]]) -> StepRecord:
    """Collect problems of results; their worst status shows when the step ends."""
    problems = [Problem.parse(p, source=step.name) for result in results for p in result["problems"]]
    return replace(
        step,
        problems=tuple(problems[:MAX_PROBLEMS]),
        problem_count=sum(int(result["problem_count"]) for result in results),
    )


def looked_at(status: ActionStatus) -> bool:
    """Whether a result asks for a person's look."""
    results = status.details.get("result") or []
    return any(result["status"] != "ok" for result in results)


def ended(step: StepRecord, *, failed: bool, looked: bool, elapsed: float) -> StepRecord:
    """The step after the flow has left it, for the next one or for good."""
    if failed:
        status = StepStatus.FAILED
    else:
        status = StepStatus.LOOK if looked or step.problem_count else StepStatus.SUCCEEDED
    figures = {} if step.name in FAN_OUTS else step.figures  # rates of workers that are gone
    return replace(
        step, status=status, seconds=round(elapsed, 3), eta_seconds=None, figures=figures, rates={}
    )
