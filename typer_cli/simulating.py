"""`petavoxel plan --simulate`: the figures that it rests on, and what came out."""

from __future__ import annotations

import math
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer_cli.output import table

if TYPE_CHECKING:
    from rich.console import Console

    from functions.planning import Plan
    from functions.simulation.outcome import Outcome
    from functions.simulation.parameters import Machine
    from functions.simulation.sweep import Limit, Sweep
    from typer_cli.planning import Measured


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenMachine:
    """What is simulated, and by what its figures were replaced."""

    machine: Machine
    sources: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """All results of a simulation of a `part`-th of the whole; `planned_hours` is the plan's figure, and what
    pairs take behind it, which is not simulated, `pairs_hours` (None: agglomeration is off)."""

    given: GivenMachine
    part: int
    planned_hours: float
    pairs_hours: float | None
    claiming: Outcome
    static: Outcome
    sweep: Sweep
    limits: tuple[Limit, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return {
            "simulated_part": 1 / self.part,
            "planned_wall_hours": self.planned_hours,
            "wall_hours_of_pairs": self.pairs_hours,
            "claiming": self.claiming.to_json(),
            "static": self.static.to_json(),
            "breaks_first": {"resource": self.sweep.breaks, "gpus": self.sweep.at},
            "sweep": [asdict(point) for point in self.sweep.points],
            "limits": [asdict(limit) for limit in self.limits],
            "parameters": self.given.machine.table(self.given.sources),
        }


def machine_of(plan: Plan, measured: Measured | None, file: Path | None, settings: list[str]) -> GivenMachine:
    """The site's figures: defaults, then the plan's and what was measured, then the file's, then settings.

    Raises:
        TaskError: the file is not TOML, or names or values that do not fit.
    """
    from functions.model.errors import TaskError
    from functions.simulation.parameters import Machine

    machine = Machine().changed({"gpus_per_node": plan.gpus_per_node}, source="--gpus-per-node")
    sources = {"gpus_per_node": "plan"}
    if measured is not None and measured.calibration is not None:
        calibration = measured.calibration
        found = {
            "straggler_sigma": calibration.sigma,
            "write_bytes_per_voxel": calibration.label_bytes_per_voxel,
            "worker_start_s": calibration.start_s,
        }
        machine = machine.changed(found, source="calibration")
        sources |= dict.fromkeys(found, "calibration")
    if file is not None:
        try:
            values = tomllib.loads(file.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise TaskError(f"{file}: not TOML: {error}", remedy="write lines like tasks = 200") from None
        machine = machine.changed(values, source=str(file))
        sources |= dict.fromkeys(values, file.name)
    given: dict[str, str] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise TaskError(f"--set-sim {setting}: not a setting", remedy="write it like tasks=200")
        given[name.strip()] = value.strip()
    machine = machine.changed(given, source="--set-sim")
    return GivenMachine(machine=machine, sources=sources | dict.fromkeys(given, "--set-sim"))


def simulated(plan: Plan, given: GivenMachine) -> Simulated:
    """The plan's segment step on its first number of GPUs.

    Raises:
        TaskError: work is lost as fast as it is done.
    """
    from functions.model.errors import TaskError
    from functions.simulation.engine import Stalled
    from functions.simulation.parameters import Work
    from functions.simulation.sweep import limits, parts_of, simulate, sweep

    work = Work(
        subvolumes=max(1, math.ceil(plan.flooded)),
        voxels=plan.subvolume_voxels,
        seconds=plan.subvolume_voxels / plan.rate * 3600,
        gpus=plan.gpus[0],
    )
    machine = given.machine
    pairs = next((figure for figure in plan.figures() if figure.name == "gpu_hours_of_pairs"), None)
    try:
        claiming, static = simulate(work, machine)
        return Simulated(
            given=given,
            part=parts_of(work, machine),
            planned_hours=plan.gpu_hours / work.gpus,
            pairs_hours=None if pairs is None else pairs.value / work.gpus,
            claiming=claiming,
            static=static,
            sweep=sweep(work, machine),
            limits=limits(work, machine),
        )
    except Stalled as error:
        raise TaskError(
            f"simulation: {error}",
            remedy="longer walltime_hours, or smaller checkpoint_seconds or subvolumes",
        ) from None


def draw(screen: Console, simulated: Simulated) -> None:
    """Where the time goes, what breaks first, and on which assumptions."""
    _draw_outcomes(screen, simulated)
    _draw_sweep(screen, simulated)
    rows = [(p["name"], p["value"], p["unit"], p["kind"], p["source"])
            for p in simulated.given.machine.table(simulated.given.sources)]  # fmt: skip
    screen.print(
        table("simulated with", "value", "unit", "kind", "source", title="--set-sim NAME=VALUE changes one",
              rows=rows, numbers=["value"])
    )  # fmt: skip


def _draw_outcomes(screen: Console, simulated: Simulated) -> None:
    claiming, static = simulated.claiming, simulated.static
    part = "" if simulated.part == 1 else f", 1/{simulated.part} of everything"
    rows: list[tuple[str, str, str]] = [
        (name, f"{share:.2%}", f"{static.shares[name]:.2%}") for name, share in claiming.shares.items()
    ]
    rows += [
        ("wall hours", f"{claiming.seconds / 3600:.2f}", f"{static.seconds / 3600:.2f}"),
        (
            "over planned",
            f"{claiming.seconds / 3600 / simulated.planned_hours:.2f}",
            f"{static.seconds / 3600 / simulated.planned_hours:.2f}",
        ),
        ("ledger in use", f"{claiming.ledger:.1%}", f"{static.ledger:.1%}"),
        ("file system in use", f"{claiming.files:.1%}", f"{static.files:.1%}"),
        ("nodes failed", f"{claiming.failures:,}", f"{static.failures:,}"),
        ("waits most for", claiming.waits_for, static.waits_for),
    ]
    if simulated.pairs_hours is not None:
        hours = f"{simulated.pairs_hours:.2f}"
        rows.append(("hours of pairs behind it, not simulated", hours, hours))
    title = f"Simulated: {claiming.gpus:,} GPUs, {claiming.subvolumes:,} subvolumes{part}"
    columns = ("share of all GPU-time", "claiming", "static shards")
    screen.print(table(*columns, title=title, rows=rows, numbers=columns[1:]))


def _draw_sweep(screen: Console, simulated: Simulated) -> None:
    rows = [
        (f"{p.gpus:,}", f"{p.compute:.1%}", p.waits_for, *(f"{use:.1%}" for use in p.uses.values()))
        for p in simulated.sweep.points
    ]
    columns = ("GPUs", "computing", "waits for", "ledger", "file system", "tasks")
    screen.print(table(*columns, title="Claiming, all blocks up", rows=rows, numbers=columns))
    sweep = simulated.sweep
    told = "nothing fills up" if sweep.breaks is None else f"{sweep.breaks} is full at {sweep.at:,} GPUs"
    screen.print(f"of these, the first to break: {told}", markup=False)
    rows = [
        (limit.resource, f"{limit.use:.1%}", f"{limit.gpus:,.0f}", limit.formula)
        for limit in simulated.limits
    ]
    screen.print(
        table("resource", "in use", "90 % at GPUs", "formula", title="By formula, the first to break on top",
              rows=rows, numbers=["in use", "90 % at GPUs"])
    )  # fmt: skip
