"""The wire contract: what a flow sends to each step, and the small JSON it gets back.

A task names paths and parameters; it never carries pixels, labels or secrets. Results stay under 1 KB, so that
a flow's state (200 KB) holds a fan-out of 200 shards twice, as Globus Flows stores it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from functions.model.base import Document
from functions.model.parameters import Parameters

MAX_SHARDS = 200
MAX_PROBLEMS = 3

StepName = Literal[
    "ingest", "stitch", "align_pairs", "align_solve", "align_render",
    "segment", "match", "reconcile", "relabel", "finish", "publish",
]  # fmt: skip
FanOutName = Literal["stitch", "align_pairs", "align_render", "segment", "match", "relabel"]
STEPS: tuple[StepName, ...] = StepName.__args__  # type: ignore[attr-defined]
FAN_OUTS: tuple[FanOutName, ...] = FanOutName.__args__  # type: ignore[attr-defined]


class RunSpec(Document):
    """Where a run works and with which parameters; the same in every task of a run."""

    work: str
    """Work root on the site's scratch: cells of all steps lie under it."""
    acquisition: str
    """The acquisition's folder on scratch."""
    parameters: Parameters = Parameters()


class StepTask(Document):
    """Task of a step that is one unit: ingest, align_solve, reconcile, finish, publish."""

    run: RunSpec


class PlanTask(Document):
    """Ask for the shards of a fan-out step."""

    run: RunSpec
    step: FanOutName
    function_id: str
    """Registered function that the shards call; comes back in every planned task."""
    shards: Annotated[int, Field(gt=0, le=MAX_SHARDS)] = MAX_SHARDS


class ShardTask(Document):
    """One shard of a planned fan-out step: `manifest` is the plan's file."""

    manifest: str
    shard: Annotated[int, Field(ge=0)]


class Problem(Document):
    """An expected failure: what, where, and what to do about it."""

    code: str
    subject: str
    remedy: str = ""


class StepResult(Document):
    """What every step answers. `status` is `ok`, `look` (passed, but a person should look) or `failed`."""

    step: str
    status: Literal["ok", "look", "failed"] = "ok"
    units: int = 0
    computed: int = 0
    reused: int = 0
    seconds: float = 0.0
    figures: dict[str, float] = {}
    paths: dict[str, str] = {}
    problems: tuple[Problem, ...] = ()
    problem_count: int = 0


class PlannedTask(Document):
    """One entry of a Compute v3 action's `tasks`."""

    function_id: str
    kwargs: dict[str, dict[str, str | int]]


class PlanResult(StepResult):
    """A plan: `tasks` goes straight into the next action's `tasks.$`."""

    tasks: tuple[PlannedTask, ...] = ()


class ShardManifest(Document):
    """The plan's file: unit ids per shard."""

    run: RunSpec
    step: FanOutName
    shards: tuple[tuple[str, ...], ...]
