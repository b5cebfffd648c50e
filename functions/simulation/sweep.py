"""How far the design carries: the step simulated whole, over numbers of GPUs, and by formula.

A k-th part of everything (GPUs, subvolumes, bandwidth, ledger) spends its time as the whole does, since a GPU
does not see how many others share what it shares; only the slowest of fewer GPUs is a little faster. So a
large step is simulated as its k-th part, and a sweep costs seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from functions.simulation.engine import Simulation
from functions.simulation.outcome import Outcome, Spent
from functions.simulation.parameters import Machine, Work, cycle_seconds, file_bytes

FULL = 0.9
"""A resource in use for a larger share than this is about to break: queues grow without bounds at 1."""
SWEEP_FACTORS = (0.02, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 10.0)
SWEEP_GPUS = 2000
"""At most so many GPUs of a sweep are simulated, each with `SWEEP_ROUNDS` subvolumes."""
SWEEP_ROUNDS = 12
FOREVER_HOURS = 1e6
WAITS = (Spent.CLAIM, Spent.READ, Spent.WRITE, Spent.LOST, Spent.DOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A resource: how much of it the planned GPUs use, and how many fill it to `FULL`."""

    resource: str
    use: float
    gpus: float
    formula: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A number of GPUs, all at work: what share of their time, starts and idling apart, is computing; what
    takes most of the rest; and the use of each resource."""

    gpus: int
    compute: float
    waits_for: str
    uses: dict[str, float]

    @property
    def full(self) -> tuple[str, ...]:
        """Resources above `FULL`, fullest first."""
        above = [name for name, use in self.uses.items() if use > FULL]
        return tuple(sorted(above, key=lambda name: -self.uses[name]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Points in ascending GPUs; `breaks` is the first resource that is full, at `at` GPUs."""

    points: tuple[Point, ...]
    breaks: str | None
    at: int | None


def part(work: Work, machine: Machine, k: int) -> tuple[Work, Machine]:
    """A k-th part of the step."""
    if k == 1:
        return work, machine
    share = max(1, work.gpus // k) / work.gpus
    return (
        replace(work, gpus=max(1, work.gpus // k), subvolumes=max(1, round(work.subvolumes * share))),
        replace(
            machine,
            fs_gbytes_per_s=machine.fs_gbytes_per_s * share,
            ledger_ops_per_s=machine.ledger_ops_per_s * share,
        ),
    )


def parts_of(work: Work, machine: Machine) -> int:
    """Which part of the step has no more than `most_subvolumes`; 1: all of it."""
    return min(-(-work.subvolumes // machine.most_subvolumes), work.gpus)


def simulate(work: Work, machine: Machine) -> tuple[Outcome, Outcome]:
    """The step with claiming, and with static shards, one a GPU (as if a fan-out had no most tasks).

    Raises:
        Stalled: work is lost as fast as it is done.
    """
    some, site = part(work, machine, parts_of(work, machine))
    return (
        Simulation(work=some, machine=site, dispatch="claiming").run(),
        Simulation(work=some, machine=site, dispatch="static").run(),
    )


def sweep(work: Work, machine: Machine) -> Sweep:
    """Claiming on numbers of GPUs around the planned one, all blocks up for good and work enough for all.

    Raises:
        Stalled: work is lost as fast as it is done.
    """
    counts = sorted({max(1, round(work.gpus * factor)) for factor in SWEEP_FACTORS})
    points = tuple(_point(replace(work, gpus=gpus), machine) for gpus in counts)
    first = next((point for point in points if point.full), None)
    return Sweep(
        points=points,
        breaks=first.full[0] if first else None,
        at=first.gpus if first else None,
    )


def _point(work: Work, machine: Machine) -> Point:
    steady = replace(machine, queue_wait_hours=0.0, walltime_hours=FOREVER_HOURS)
    busy = replace(work, subvolumes=work.gpus * SWEEP_ROUNDS)
    some, site = part(busy, steady, -(-work.gpus // SWEEP_GPUS))
    outcome = Simulation(work=some, machine=site, dispatch="claiming").run()
    at_work = 1 - outcome.share(Spent.START) - outcome.share(Spent.IDLE)
    return Point(
        gpus=work.gpus,
        compute=outcome.share(Spent.COMPUTE) / at_work,
        waits_for=max(WAITS, key=outcome.share).name.lower(),
        uses={
            "ledger": outcome.ledger,
            "file_system": outcome.files,
            "tasks": work.gpus / (machine.tasks * machine.block_nodes * machine.gpus_per_node),
        },
    )


def limits(work: Work, machine: Machine) -> tuple[Limit, ...]:
    """Each resource by formula, the one that breaks first at the top."""
    m = machine
    cycle = cycle_seconds(work, m)
    operations = (m.claim_ops + m.finish_ops) / cycle + 1 / m.heartbeat_s
    per_task = m.block_nodes * m.gpus_per_node
    found = (
        ("ledger", operations / m.ledger_ops_per_s,
         f"GPUs * ({m.claim_ops + m.finish_ops:g} operations / {cycle:.4g} s + 1 / {m.heartbeat_s:g} s)"
         f" / {m.ledger_ops_per_s:g} per s"),
        ("file_system", file_bytes(work, m) / cycle / (m.fs_gbytes_per_s * 1e9),
         f"GPUs * {file_bytes(work, m):.3g} bytes / {cycle:.4g} s / {m.fs_gbytes_per_s:g} GB/s"),
        ("tasks", 1 / (m.tasks * per_task), f"GPUs / ({m.tasks} tasks * {per_task} GPUs of a block)"),
        ("tasks_of_one_worker", 1 / m.tasks, f"GPUs / {m.tasks} tasks, one worker each: static shards today"),
    )  # fmt: skip
    rows = [
        Limit(resource=name, use=use * work.gpus, gpus=FULL / use, formula=formula)
        for name, use, formula in found
    ]
    return tuple(sorted(rows, key=lambda limit: limit.gpus))
