"""What was planned for a run's segment step against what it took, and which of its subvolumes are skipped."""

from __future__ import annotations

from dataclasses import dataclass

from functions.planning import Skipped
from functions.shown import has_tissue
from functions.store.labels import grid_of
from functions.store.plans import read_plan
from functions.store.run import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A planned figure and the actual one; `low` and `high` where the plan rests on measured rates."""

    name: str
    unit: str
    planned: float
    actual: float
    low: float | None = None
    high: float | None = None

    @property
    def ratio(self) -> float:
        """Actual over planned."""
        return self.actual / self.planned

    @property
    def inside(self) -> bool | None:
        """Whether the actual figure lies in the planned interval; None without one."""
        return None if self.low is None or self.high is None else self.low <= self.actual <= self.high


def against_plan(run: Run) -> tuple[Compared, ...]:
    """Subvolumes, and for those that are done: GPU-hours and rate. Empty where no plan was made.

    Planned GPU-hours are those of as many subvolumes as are done, so that an unfinished run compares, too.

    Raises:
        PetavoxelError: the run has no aligned volume, or the plan or a mark is damaged.
    """
    plan = read_plan(run)
    if plan is None:
        return ()
    grid = grid_of(run)
    marks = run.cell("segment").marks()
    rows = [Compared(name="subvolumes", unit="subvolumes", planned=len(grid), actual=len(marks))]
    hours = sum(mark.seconds for mark in marks) / 3600
    work = plan.figure("gpu_hours")
    if work is None or not hours:
        return tuple(rows)
    share = len(marks) / len(grid)
    low, high = (None if end is None else end * share for end in (work.low, work.high))
    voxels = sum(mark.figures["voxels"] for mark in marks)
    scale = plan.rate * work.value
    rows += [
        Compared(
            name="gpu_hours", unit="GPU-h", planned=work.value * share, actual=hours, low=low, high=high
        ),
        Compared(
            name="voxels_per_gpu_hour",
            unit="voxels",
            planned=plan.rate,
            actual=voxels / hours,
            low=None if work.high is None else scale / work.high,
            high=None if work.low is None else scale / work.low,
        ),
    ]
    return tuple(rows)


def skipped(run: Run) -> Skipped:
    """Subvolumes without tissue, by the marks of those that are done and the mask of the others; and those of
    the rest that are done or given up.

    Raises:
        PetavoxelError: the run has no aligned volume, or its mask or a mark is damaged.
    """
    cell = run.cell("segment")
    done = {mark.unit: bool(mark.figures.get("empty")) for mark in cell.marks()}
    given_up = {found.unit for found in cell.ledger.quarantined()} - done.keys()
    open_ones = [s for s in grid_of(run) if s.id not in done and s.id not in given_up]
    return Skipped(
        empty=sum(done.values()) + sum(not has_tissue(run, s.read) for s in open_ones),
        finished=len(done) - sum(done.values()),
        quarantined=len(given_up),
    )
