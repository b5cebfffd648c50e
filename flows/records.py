"""What happened: runs, their steps and their logs, as plain frozen values for whoever shows them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from functions.tasks import STEPS, Problem, StepName

TRANSFER = "transfer"
FLOW_STEPS: tuple[str, ...] = (TRANSFER, *STEPS)
"""Names that `start_at` and `stop_after` take, in the order of the data.
`publish` covers all of publication."""


class RunStatus(StrEnum):
    """Status of a run. Globus Flows knows the first four; it calls a cancelled run FAILED."""

    ACTIVE = "ACTIVE"
    INACTIVE = "INACTIVE"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    INTERRUPTED = "INTERRUPTED"
    """Embedded site only: it did not end, and nothing runs it any more. `rerun` goes on where it was."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self not in (RunStatus.ACTIVE, RunStatus.INACTIVE)


class StepStatus(StrEnum):
    """Status of a step within a run."""

    WAITING = "WAITING"
    ACTIVE = "ACTIVE"
    SUCCEEDED = "SUCCEEDED"
    LOOK = "LOOK"
    """Succeeded, but a person should look at `problems`."""
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"
    """Before `start_at` or after `stop_after`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run of the flow. Times are ISO 8601 in UTC."""

    id: str
    status: RunStatus
    label: str
    tags: tuple[str, ...]
    site: str
    acquisition_id: str
    source_path: str
    created: str
    updated: str
    start_at: str
    stop_after: str
    parent_run: str | None
    """The run this one is a rerun of."""
    input: dict[str, Any] = field(repr=False)
    """The flow's input document."""
    error: str | None
    """Why it failed, readable, ending with a remedy; None while there is no failure."""
    published_path: str | None
    """Folder of the published volume on the publication collection's file system, once published."""
    work_path: str
    """Work root on scratch."""
    link: str | None = None
    """The run's page in the Globus web app; None for the embedded site."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One step of a run. A fan-out counts shards (tasks of its action) and units (sections, pairs, ...)."""

    name: str
    state: str
    """The flow's state it is or was last in."""
    status: StepStatus
    shards_total: int = 0
    shards_done: int = 0
    units: int = 0
    units_done: int = 0
    computed: int = 0
    reused: int = 0
    seconds: float = 0.0
    eta_seconds: float | None = None
    """Estimated seconds to the end of the step; None when unknown or ended."""
    figures: dict[str, float] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    """MVoxel/h of each worker of an active fan-out, by the worker's name."""
    problems: tuple[Problem, ...] = ()
    problem_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """One line of a run's log, with the codes of Globus Flows."""

    time: str
    code: str
    state_name: str
    description: str
    details: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvent:
    """Something that changed while a run is followed: a log line, a step's progress, or the run itself."""

    run: RunRecord
    step: StepRecord | None = None
    log: LogEntry | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """Why a run is INACTIVE: what the service says, and the scopes to log in for before it is resumed."""

    message: str
    scopes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """What a rerun would find done. `units` is None while an earlier step decides what the units are."""

    step: StepName
    units: int | None
    reusable: int
