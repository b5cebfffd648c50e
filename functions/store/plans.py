"""The plan of a run's segment step, kept so that it can be set against what the step took.

<work>/plans/figures-<key of segment>.json
"""

from __future__ import annotations

from pathlib import Path

from functions.model.base import Document
from functions.model.quantities import Figure
from functions.store.files import write_json
from functions.store.run import Run


class StoredPlan(Document):
    """What was planned for a run: `samples` subvolumes were measured for it, or none."""

    made: str
    """ISO 8601, UTC."""
    rate: float
    """Voxels per GPU (worker) and hour."""
    gpus: int
    samples: int = 0
    figures: tuple[Figure, ...]

    def figure(self, name: str) -> Figure | None:
        """The figure of that name, if there is one."""
        return next((figure for figure in self.figures if figure.name == name), None)


def plan_path(run: Run) -> Path:
    """Where the plan of these parameters is."""
    return run.work / "plans" / f"figures-{run.segment_key}.json"


def write_plan(run: Run, plan: StoredPlan) -> None:
    """Keep a plan beside the run; a later one of the same parameters replaces it."""
    write_json(plan_path(run), plan.to_json())


def read_plan(run: Run) -> StoredPlan | None:
    """The plan of the run's parameters; None where none was made.

    Raises:
        TaskError: the file is damaged.
    """
    path = plan_path(run)
    return StoredPlan.parse(path.read_bytes(), source=str(path)) if path.exists() else None
