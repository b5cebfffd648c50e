"""Plan a fan-out: which units there are, which are done, and who computes the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from itertools import islice

from functions.budget import require_room
from functions.model.errors import TaskError, UpstreamError
from functions.store.cells import CODE_VERSION
from functions.store.equalities import MADE_OF_IDS, note_user
from functions.store.files import fingerprint, write_json
from functions.store.ledger import Census, Ledger
from functions.store.marks import Quarantined
from functions.store.numbering import lot_size
from functions.store.run import OWN_CELLS, Run
from functions.tasks import (
    FAN_OUTS,
    MAX_PROBLEMS,
    FanOutName,
    PlannedTask,
    PlanResult,
    PlanTask,
    Problem,
    ShardManifest,
    StepName,
)

UPSTREAM: dict[FanOutName, tuple[StepName, ...]] = {
    "stitch": (),
    "align_pairs": ("stitch",),
    "align_render": ("stitch",),
    "segment": ("align_render",),
    "match": ("segment",),
    "relabel": ("segment",),
    "candidates": ("relabel",),
    "resegment": ("candidates",),
}


def perform(task: PlanTask) -> PlanResult:
    """Number the units of a step, count those that are open, and ask for workers, at most `task.shards`.

    Workers claim lots of neighbouring units; where nothing is claimed, the open lots are dealt out in round
    robin, so that a slow region is shared. There is always at least one shard, since a Compute action needs
    one; with nothing to do it ends at once.

    Raises:
        UpstreamError: a step that this one reads is not finished.
        MemoryBudgetError: its units do not fit the run's memory of a worker.
        TaskError: the run is cancelled, or a unit that the next step needs is in quarantine.
    """
    run = Run(task.run)
    if run.spec.sentinel_path.exists():
        raise TaskError(f"{task.step}: cancelled", remedy="start the run again to go on")
    require_upstream(run, task.step)
    require_room(run, task.step)
    ledger = numbered(run, task.step, shards=task.shards)
    if run.spec.retry is not None:
        ledger.retry(run.spec.retry)
    given_up, census = ledger.quarantined(), count_units(run, task.step)
    if given_up and not expendable(task.step):
        raise TaskError(f"{task.step}: {told(given_up[0]).subject}", remedy=given_up[0].remedy)
    manifest = ShardManifest(
        package=CODE_VERSION,
        run=task.run,
        step=task.step,
        shards=max(1, min(task.shards, census.open)),
    )
    if not (run.spec.claiming and run.parameters.fan_out.claiming):
        manifest = manifest.model_copy(update={"dealt": dealt(ledger, manifest.shards)})
    document = manifest.to_json()
    path = run.work / "plans" / f"{task.step}-{fingerprint(document)}.json"
    write_json(path, document)
    return PlanResult(
        step="plan",
        status="look" if given_up else "ok",
        units=census.units,
        reused=census.settled,
        figures={"settled": census.settled, "kept": census.kept, "lost": census.lost},
        paths={"manifest": str(path)},
        problems=tuple(told(found) for found in given_up[:MAX_PROBLEMS]),
        problem_count=len(given_up),
        tasks=tuple(
            PlannedTask(
                function_id=task.function_id, kwargs={"task": {"manifest": str(path), "shard": shard}}
            )
            for shard in range(manifest.shards)
        ),
    )


def require_upstream(run: Run, step: FanOutName) -> None:
    """Check that the steps which a step reads are finished.

    Raises:
        UpstreamError: one is not. Where its results turned out to be damaged, units of `step` may have been
            put aside for it, and are to be tried again.
    """
    for upstream in UPSTREAM[step]:
        try:
            require_done(run, upstream)
        except UpstreamError as error:
            if not run.board(step).ledger.quarantined():
                raise
            message = str(error).removesuffix(f"; {error.remedy}")
            remedy = f"{error.remedy}, with --retry-quarantined: units of {step} were put aside meanwhile"
            raise UpstreamError(message, remedy=remedy) from error


def unit_ids(run: Run, step: FanOutName) -> list[str]:
    """All units of a fan-out step, in a fixed order."""
    return list(import_module(f"functions.{step}").units(run))


def expendable(step: FanOutName) -> bool:
    """Whether later steps do without a unit of this step: its module says what stands in for it."""
    return hasattr(import_module(f"functions.{step}"), "abandon")


def numbered(run: Run, step: FanOutName, *, shards: int) -> Ledger:
    """The ledger that a step's units are claimed in."""
    ledger = run.board(step).ledger
    if ledger.numbering is None:  # of millions the names alone take minutes
        if step in MADE_OF_IDS:
            note_user(run, step)
        units = unit_ids(run, step)
        ledger.number(units, size=lot_size(len(units), shards))
    elif step in OWN_CELLS:
        for unit in missing(run, step):
            if ledger.mark(unit) is not None:  # its cell was removed since: the board tells of it no longer
                ledger.void(unit)
    return ledger


def count_units(run: Run, step: FanOutName) -> Census:
    """How the units of a step stand; of those that have cells of their own, also in which runs of before."""
    ledger = run.board(step).ledger
    found = Census(units=0, settled=0, quarantined=0, held=0, kept=0)
    if ledger.numbering is not None:
        found = ledger.census()
        if step not in OWN_CELLS:
            return found
    units = unit_ids(run, step)
    done = sum(run.cell(step, unit).is_done(unit) for unit in units)
    given_up = len(ledger.quarantined())
    return replace(found, units=len(units), settled=done + given_up, quarantined=given_up)


def told(found: Quarantined) -> Problem:
    """A unit in quarantine as a result tells it."""
    return Problem(
        code="quarantined",
        subject=f"{found.unit}: {found.reason}"[:200],
        remedy=found.remedy,
    )


def dealt(ledger: Ledger, shards: int) -> tuple[tuple[int, ...], ...]:
    """The lots that are not settled, in round robin."""
    lots = [n for folder in ledger.folders() for n, lot in ledger.look(folder).items() if lot.state != "done"]
    return tuple(tuple(lots[i::shards]) for i in range(shards))


def missing(run: Run, step: FanOutName) -> Iterator[str]:
    """Units that are not finished, those in quarantine among them."""
    if step not in OWN_CELLS:
        yield from run.cell(step).unfinished(unit_ids(run, step))
        return
    for unit in unit_ids(run, step):
        if not run.cell(step, unit).is_done(unit):
            yield unit


def require_done(run: Run, step: StepName) -> None:
    """Check that every unit of a fan-out step is done, or may be missing.

    Raises:
        UpstreamError: naming the first unfinished units.
    """
    assert step in FAN_OUTS
    census = count_units(run, step)
    open_units = census.open if expendable(step) else census.units - census.done
    if open_units:
        raise UpstreamError(
            f"{step}: {open_units} units are not finished ({', '.join(islice(missing(run, step), 3))})",
            remedy=f"start the run at {step}",
        )
