"""Run one task: parse it, run the step, time it, wrap what went wrong, return small JSON.

A fan-out step is a module with `units(run)` and `compute(run, unit)`; a single step has `perform(run)`. The
modules are imported by name when they are needed, so that planning does not load torch. The answers of stitch
and align_solve carry the gate's verdict, which is not kept in their cells: those know no limits.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

from functions.budget import require_room
from functions.crew import crew_of
from functions.loading import step_module
from functions.model.errors import SITE_ERRORS, PetavoxelError, TaskError, UpstreamError
from functions.stopping import Stopping
from functions.store.cells import CODE_VERSION, Mark
from functions.store.limits import within
from functions.store.moved import marks_of, per_voxel, traffic_of
from functions.store.run import Run
from functions.store.traffic import counted
from functions.tasks import (
    FAN_OUTS,
    SHARD_PROBLEM_CHARACTERS,
    STEPS,
    FanOutName,
    PlanTask,
    ProbeTask,
    Problem,
    ShardManifest,
    ShardTask,
    StepName,
    StepResult,
    StepTask,
)
from functions.worker import Account

SINGLE_STEPS = tuple(step for step in STEPS if step not in FAN_OUTS)


class StepFailed(RuntimeError):  # noqa: N818 - the flow's log shows this name
    """A step could not be carried out; the text is what the flow's log and the user see."""


def execute(step: str, payload: object) -> dict[str, Any]:
    """Run `step` on a task document and return a JSON document of at most a few kilobytes.

    Raises:
        StepFailed: with a message that names what was wrong and the remedy, as one string.
    """
    started = time.perf_counter()
    try:
        result = _dispatch(step, payload)
    except PetavoxelError as error:
        raise StepFailed(f"{step}: {error}") from error
    except OSError as error:
        if error.errno not in SITE_ERRORS:
            raise
        raise StepFailed(f"{step}: {error}; {SITE_ERRORS[error.errno]}") from error
    return result.model_copy(update={"seconds": round(time.perf_counter() - started, 3)}).to_json()


def _dispatch(step: str, payload: object) -> StepResult:
    if step == "plan":
        from functions import plan

        return plan.perform(PlanTask.parse(payload, source="plan task"))
    if step == "probe":
        from functions import probe

        return probe.perform(ProbeTask.parse(payload, source="probe task"))
    if step in FAN_OUTS:
        return _run_shard(step, ShardTask.parse(payload, source=f"{step} task"))
    if step in SINGLE_STEPS:
        task = StepTask.parse(payload, source=f"{step} task")
        run = Run(task.run)
        result = _performed(step, run)
        return step_module("gate").after_solve(run, result) if step == "align_solve" else result
    raise TaskError(f"step: {step!r} does not exist", remedy=f"use one of {', '.join(STEPS)}")


def _performed(step: str, run: Run) -> StepResult:
    """The answer of a step that is one unit, with its peak and the bytes it read and wrote, held to the
    run's memory: as a unit of a fan-out is by its cell."""
    if step != "ingest":
        require_room(run, step)
    with within(run.spec.memory_gib, subject=step) as memory, counted() as traffic:
        result = cast(StepResult, step_module(step).perform(run))
    told = {**result.figures, **traffic.figures, "peak_mib": float(memory.peak_mib)}
    return result.model_copy(update={"figures": told})


def _run_shard(step: FanOutName, task: ShardTask) -> StepResult:
    """Work on the planned units of a step until none is left, or the worker has to go."""
    manifest = read_manifest(Path(task.manifest))
    if manifest.step != step or task.shard >= manifest.shards:
        raise TaskError(f"{task.manifest}: no shard {task.shard} of {step}", remedy="plan the step again")
    if manifest.package != CODE_VERSION:
        raise TaskError(
            f"petavoxel {CODE_VERSION} on this worker, {manifest.package} where the step was planned",
            remedy="install one release in the workers' environment and run the step again",
        )
    sharing = manifest.run.parameters.fan_out
    with Stopping(
        walltime_seconds=sharing.walltime_seconds,
        drain_seconds=sharing.drain_seconds,
        cancelled=manifest.run.sentinel_path.exists,
    ) as stopping:
        run = Run(manifest.run, stop=stopping.asked)
        if run.board(step).ledger.numbering is None:
            raise TaskError(f"{run.board(step).path}: no units", remedy="plan the step again")
        worker = crew_of(manifest, task.shard, step_module(step), stopping=stopping, run=run)
        answer = Answer(step)
        for mark in worker.work() if not stopping.look_now() else ():
            answer.add(step_module("gate").after_stitch(run, mark) if step == "stitch" else mark)
        if stopping.look_now():
            raise StepFailed(f"{step}: cancelled; start the run again to go on")
    return answer.result(worker.account, expendable=worker.expendable, left=worker.left())


class Answer:
    """What a worker tells the flow: worst status, counts, rate, and the first problem, shortened."""

    def __init__(self, step: FanOutName) -> None:
        self._step = step
        self._statuses: set[str] = set()
        self._problems: list[Problem] = []
        self._count = 0

    def add(self, mark: Mark) -> None:
        """Take up the mark of a unit."""
        self._statuses.add(mark.status)
        self._count += len(mark.problems)
        if not self._problems and mark.problems:
            self._problems.append(_shortened(Problem.parse(mark.problems[0], source=f"mark {mark.unit}")))

    def result(self, account: Account, *, expendable: bool, left: int) -> StepResult:
        """The answer of a worker that has ended; `expendable`: later steps live without units that failed."""
        figures = {"kept": float(account.kept)} if account.kept else {}
        if account.voxels and account.seconds:
            figures["mvoxel_per_h"] = float(f"{account.voxels / account.seconds * 0.0036:.4g}")
        if account.crowded:
            self._problems.insert(0, _shortened(_crowded(*account.crowded)))
            self._statuses.add("look")
        given_up = account.quarantined
        if given_up:
            first = given_up[0]
            problem = Problem(code="quarantined", subject=first.unit, remedy=first.remedy)
            self._problems.insert(0, _shortened(problem))
            self._statuses.add("look" if expendable else "failed")
        worst = max(self._statuses, key=("ok", "look", "failed").index, default="ok")
        return StepResult(
            step=self._step,
            status=cast(Any, worst),
            units=account.computed + len(given_up),
            computed=account.computed,
            figures=figures,
            problems=tuple(self._problems[:1]),
            problem_count=self._count + len(given_up) + bool(account.crowded),
            left=left,
        )


def _crowded(wanted: int, had_room: int) -> Problem:
    """What is told of an accelerator that had no memory for as many units at once as it was to take."""
    return Problem(
        code="accelerator_full",
        subject=f"accelerator full with {wanted} at once; went on with {had_room}",
        remedy=f"set segment.at_once={had_room}",
    )


SUMMED = (
    "fovs", "rejected_fovs", "skipped_moves", "discarded_fovs", "calls", "seeds", "attempts", "weak", "small",
    "segments", "voxels", "tissue_voxels", "avoided_voxels", "bridged_voxels", "labelled_voxels",
    "network_seconds", "host_seconds", "empty",
)  # fmt: skip
"""Figures of segmented subvolumes that can be added up; overlaps count in each of them."""


def segment_totals(run: Run) -> dict[str, float]:
    """What the finished subvolumes of a run found and cost together, units of earlier runs included.

    Besides `SUMMED`: `labelled_fraction` of the tissue, and `voxels_per_second` of one process. Empty when no
    subvolume is finished.

    Raises:
        PetavoxelError: an earlier step has not run, so nobody knows the subvolumes; or a mark is damaged.
    """
    marks = run.cell("segment").marks()
    if not marks:
        return {}
    totals = {name: sum(m.figures[name] for m in marks if name in m.figures) for name in SUMMED}
    seconds = totals["network_seconds"] + totals["host_seconds"]
    return {
        **{name: round(value, 3) for name, value in totals.items()},
        "labelled_fraction": round(totals["labelled_voxels"] / max(totals["tissue_voxels"], 1), 4),
        "voxels_per_second": round(totals["voxels"] / seconds, 1) if seconds else 0.0,
    }


STAGED: tuple[FanOutName, ...] = ("stitch", "align_pairs", "align_render")
"""Steps whose units tell how long reading, correlation, solve and render took."""


def stage_totals(run: Run, step: FanOutName) -> dict[str, float]:
    """Seconds that the finished units of a `STAGED` step spent in each stage, units of earlier runs included.

    Raises:
        PetavoxelError: ingest has not run, so nobody knows the units; or a mark is damaged.
    """
    totals: dict[str, float] = {}
    for unit in run.pairs if step == "align_pairs" else [s.section.id for s in run.sections]:
        cell = run.cell(step, unit)
        for name, value in cell.mark(unit).figures.items() if cell.is_done(unit) else ():
            if name.endswith("_seconds"):
                totals[name] = round(totals.get(name, 0.0) + value, 3)
    return totals


def moved_totals(run: Run, step: StepName) -> dict[str, float]:
    """Bytes that the finished units of a step read and wrote, in all and for each voxel of the volume, and
    the most memory that one took; units of earlier runs included.

    Raises:
        PetavoxelError: an earlier step has not run, so nobody knows the units; or a mark is damaged.
    """
    totals = traffic_of(marks_of(run, step))
    return totals | per_voxel(totals, volume_voxels(run))


def volume_voxels(run: Run) -> int:
    """Voxels of the aligned volume; 0 while the stack is not solved."""
    try:
        return run.aligned.volume.box.voxels
    except UpstreamError:
        return 0


def _shortened(problem: Problem) -> Problem:
    """The problem in few bytes: up to 200 answers share a flow's state with it."""

    def cut(text: str) -> str:
        most = SHARD_PROBLEM_CHARACTERS
        return text if len(text) <= most else f"{text[: most - 3]}..."

    return Problem(code=problem.code, subject=cut(problem.subject), remedy=cut(problem.remedy))


def read_manifest(path: Path) -> ShardManifest:
    """Read a plan's file.

    Raises:
        TaskError: missing or not a shard manifest.
    """
    try:
        return ShardManifest.parse(path.read_bytes(), source=str(path))
    except FileNotFoundError:
        raise TaskError(f"{path}: no shard manifest", remedy="plan the step again") from None
