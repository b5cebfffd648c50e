"""Plan a fan-out: which units there are, which are done, and who computes the rest."""

from __future__ import annotations

from importlib import import_module

from functions.budget import require_room
from functions.model.errors import UpstreamError
from functions.store.cells import CODE_VERSION
from functions.store.files import fingerprint, write_json
from functions.store.run import Run
from functions.tasks import FAN_OUTS, FanOutName, PlannedTask, PlanResult, PlanTask, ShardManifest, StepName

UPSTREAM: dict[FanOutName, tuple[StepName, ...]] = {
    "stitch": (),
    "align_pairs": ("stitch",),
    "align_render": ("stitch",),
    "segment": ("align_render",),
    "match": ("segment",),
    "relabel": ("segment",),
}


def perform(task: PlanTask) -> PlanResult:
    """Deal the unfinished units of a step out to at most `task.shards` shards, in round robin.

    Units are spread so that neighbours go to different shards: a slow region is shared. There is always at
    least one shard, since a Compute action needs one; with nothing to do it is empty.

    Raises:
        UpstreamError: a step that this one reads is not finished.
        MemoryBudgetError: its units do not fit the run's memory of a worker.
    """
    run = Run(task.run)
    for upstream in UPSTREAM[task.step]:
        require_done(run, upstream)
    require_room(run, task.step)
    units = unit_ids(run, task.step)
    open_units = [unit for unit in units if not run.cell(task.step, unit).is_done(unit)]
    count = max(1, min(task.shards, len(open_units)))
    manifest = ShardManifest(
        package=CODE_VERSION,
        run=task.run,
        step=task.step,
        shards=tuple(tuple(open_units[i::count]) for i in range(count)),
    )
    document = manifest.to_json()
    path = run.work / "plans" / f"{task.step}-{fingerprint(document)}.json"
    write_json(path, document)
    return PlanResult(
        step="plan",
        units=len(units),
        reused=len(units) - len(open_units),
        paths={"manifest": str(path)},
        tasks=tuple(
            PlannedTask(
                function_id=task.function_id, kwargs={"task": {"manifest": str(path), "shard": shard}}
            )
            for shard in range(count)
        ),
    )


def unit_ids(run: Run, step: FanOutName) -> list[str]:
    """All units of a fan-out step, in a fixed order."""
    return list(import_module(f"functions.{step}").units(run))


def require_done(run: Run, step: StepName) -> None:
    """Check that every unit of a fan-out step is marked.

    Raises:
        UpstreamError: naming the first unfinished units.
    """
    assert step in FAN_OUTS
    missing = [unit for unit in unit_ids(run, step) if not run.cell(step, unit).is_done(unit)]
    if missing:
        raise UpstreamError(
            f"{step}: {len(missing)} units are not finished ({', '.join(missing[:3])})",
            remedy=f"start the run at {step}",
        )
