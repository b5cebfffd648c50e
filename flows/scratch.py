"""What the work root on scratch tells of a run: figures of steps, and what a rerun would reuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from flows.records import Reuse, RunRecord, StepRecord, StepStatus
from functions.model.errors import PetavoxelError
from functions.tasks import FAN_OUTS, RunSpec, StepName

if TYPE_CHECKING:
    from functions.comparison import Compared
    from functions.store.run import Run


def with_figures(step: StepRecord, record: RunRecord) -> StepRecord:
    """A step with the totals of its units, too many to be told through the flow: all of the segment step,
    the stages of registration, and of every fan-out bytes and memory."""
    from functions.runtime import STAGED, moved_totals, segment_totals, stage_totals, volume_voxels
    from functions.store.moved import per_voxel
    from functions.store.run import Run

    name = next((name for name in FAN_OUTS if name == step.name), None)
    if not record.input or step.status in (StepStatus.WAITING, StepStatus.SKIPPED):
        return step
    try:
        run = Run(RunSpec.parse(record.input["input"]["run"], source=f"run {record.id}"))
        if name is None:
            return replace(step, figures={**step.figures, **per_voxel(step.figures, volume_voxels(run))})
        totals = segment_totals(run) if name == "segment" else {}
        if name in STAGED:
            totals = stage_totals(run, name)
        return replace(step, figures={**step.figures, **totals, **moved_totals(run, name)})
    except (PetavoxelError, OSError):  # scratch was cleared: the run is still worth showing
        return step


def with_throughput(step: StepRecord, record: RunRecord) -> StepRecord:
    """An active fan-out as its ledger shows it, where scratch can be seen from here: units done and in
    quarantine, workers and their rates, time left. Nothing is asked of the workers."""
    name = next((name for name in FAN_OUTS if name == step.name), None)
    if name is None or step.status is not StepStatus.ACTIVE:
        return step
    if not record.input or not Path(record.work_path).is_dir():
        return step
    from functions.store.run import Run
    from functions.throughput import measure

    try:
        run = Run(RunSpec.parse(record.input["input"]["run"], source=f"run {record.id}"))
        found = measure(run.board(name), lease_seconds=run.parameters.fan_out.lease_seconds)
    except (PetavoxelError, OSError, KeyError):  # scratch was cleared, or is no work root of ours
        return step
    if found is None:
        return step
    return replace(
        step,
        units=found.units,
        units_done=max(step.units_done, found.done),
        eta_seconds=None if found.eta_seconds is None else round(found.eta_seconds, 1),
        figures={**step.figures, **found.figures()},
        rates={w.worker: round(w.mvoxel_per_h, 3) for w in found.workers if w.alive},
    )


def against_plan(record: RunRecord) -> tuple[Compared, ...]:
    """What was planned for the run's segment step against what it took; empty without a plan."""
    from functions import comparison
    from functions.store.run import Run

    try:
        run = Run(RunSpec.parse(record.input["input"]["run"], source=f"run {record.id}"))
        return comparison.against_plan(run)
    except (PetavoxelError, OSError):  # scratch was cleared: the run is still worth showing
        return ()


def reusable(run: Run, step: StepName) -> Reuse:
    """Count the marked units of one step; unknown while an earlier step decides what they are."""
    try:
        if step in FAN_OUTS:
            from functions.plan import count_units

            census = count_units(run, step)
            return Reuse(step=step, units=census.units, reusable=census.done)
        if step == "ingest":  # looks at the folder each time, and at tiles that changed
            return Reuse(step=step, units=len(run.sections), reusable=len(run.sections))
        if step == "agglomerate" and not run.agglomerates:
            return Reuse(step=step, units=0, reusable=0)
        done = run.cell(step).is_done("all")
    except (PetavoxelError, OSError):
        return Reuse(step=step, units=None, reusable=0)
    return Reuse(step=step, units=1, reusable=int(done))
