"""The simulation agrees with closed forms where there are any, loses no second, and repeats itself."""

from __future__ import annotations

import math
import random
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.model.errors import TaskError
from functions.simulation.engine import Simulation, Stalled
from functions.simulation.outcome import Dispatch, Outcome, Spent
from functions.simulation.parameters import Machine, Work, cycle_seconds, file_bytes
from functions.simulation.resources import Ledger, SharedBandwidth
from functions.simulation.sweep import FULL, limits, part, parts_of, simulate, sweep

WORK = Work(subvolumes=400, voxels=1e8, seconds=400.0, gpus=40)
CALM = Machine(
    queue_wait_hours=0,
    straggler_sigma=0,
    failures_per_node_hour=0,
    checkpoint_seconds=0,
    worker_start_s=60,
    block_nodes=2,
    heartbeat_s=1e9,
    walltime_hours=1e4,
)
ROUGH = replace(
    CALM,
    queue_wait_hours=0.3,
    straggler_sigma=0.5,
    failures_per_node_hour=0.5,
    checkpoint_seconds=90,
    walltime_hours=0.5,
    node_restart_hours=0.1,
)
BOTH: tuple[Dispatch, ...] = ("claiming", "static")


def run(work: Work, machine: Machine, dispatch: Dispatch = "claiming") -> Outcome:
    return Simulation(work=work, machine=machine, dispatch=dispatch).run()


# -- closed forms -----------------------------------------------------------------------------------------
def test_undisturbed_rounds_take_what_they_must() -> None:
    machine = replace(CALM, ledger_ops_per_s=1e12)
    found = run(WORK, machine)
    rounds = WORK.subvolumes / WORK.gpus
    assert found.seconds == pytest.approx(60 + rounds * cycle_seconds(WORK, machine), rel=1e-9)
    assert found.share(Spent.COMPUTE) == pytest.approx(rounds * 400 / found.seconds)
    assert found.share(Spent.IDLE) == pytest.approx(0, abs=1e-9)


def test_readers_in_step_share_the_bandwidth() -> None:
    machine = replace(CALM, fs_gbytes_per_s=2.0, worker_gbytes_per_s=1.0, ledger_ops_per_s=1e12)
    found = run(replace(WORK, subvolumes=2 * WORK.gpus), machine)
    shared = WORK.gpus * file_bytes(WORK, machine) / 2e9  # all 40 read at once, then all write at once
    assert found.seconds == pytest.approx(60 + 2 * (400 + shared), rel=1e-6)  # they fall out of step later


def test_a_full_ledger_alone_decides() -> None:
    """Far beyond its rate, a ledger serves one subvolume in (claim + finish) operations."""
    machine = replace(CALM, ledger_ops_per_s=0.07, worker_start_s=0)
    found = run(replace(WORK, subvolumes=4000), machine)
    operations = 4000 * (machine.claim_ops + machine.finish_ops)
    assert found.seconds == pytest.approx(operations / 0.07, rel=0.02)
    assert found.ledger == pytest.approx(1.0, rel=0.01)
    assert found.waits_for == "claim"


def test_a_full_file_system_alone_decides() -> None:
    machine = replace(CALM, fs_gbytes_per_s=0.01, straggler_sigma=0.5)
    found = run(replace(WORK, subvolumes=4000), machine)
    assert found.seconds == pytest.approx(4000 * file_bytes(WORK, machine) / 1e7, rel=0.03)
    assert found.files == pytest.approx(1.0, rel=0.02)


def test_the_ledger_is_a_queue_of_poisson_arrivals_and_fixed_service() -> None:
    """M/D/1: the mean wait is rho / (2 (1 - rho)) services."""
    draws, ledger = random.Random(3), Ledger(rate=1.0)
    now, waited, arrivals, load = 0.0, 0.0, 200_000, 0.7
    for _ in range(arrivals):
        now += draws.expovariate(load)
        waited += ledger.submit(now, 1.0) - now - 1.0
    assert waited / arrivals == pytest.approx(load / (2 * (1 - load)), rel=0.04)


@pytest.mark.parametrize("size", ["fixed", "exponential"])
def test_bandwidth_is_processor_sharing(size: str) -> None:
    """M/G/1-PS: the mean time in transfer is S / (1 - rho), whatever the sizes' distribution."""
    draws, files, load = random.Random(5), SharedBandwidth(capacity=1.0, cap=1.0), 0.6
    began: dict[int, float] = {}
    now, arrival, spent, ended, count = 0.0, 0.0, 0.0, 0, 0
    while ended < 100_000:
        if files.next_end() < arrival:
            now = files.next_end()
            spent += now - began.pop(files.end(now))
            ended += 1
        else:
            now, count = arrival, count + 1
            began[count] = now
            files.start(now, 1.0 if size == "fixed" else draws.expovariate(1.0), count)
            arrival += draws.expovariate(load)
    assert spent / ended == pytest.approx(1 / (1 - load), rel=0.05)
    assert files.moved == pytest.approx(load * now, rel=0.02)


def test_failures_lose_half_a_checkpoint_each() -> None:
    """Work is lost back to a checkpoint: on average half the time between two, for each GPU of the node."""
    machine = replace(
        CALM, failures_per_node_hour=2.0, checkpoint_seconds=100, lease_s=0, node_restart_hours=0,
        checkpoint_bytes_per_voxel=0, worker_start_s=0, read_bytes_per_voxel=0, write_bytes_per_voxel=0,
    )  # fmt: skip
    found = run(replace(WORK, subvolumes=8000, seconds=2000.0), machine)
    assert found.failures > 1000
    lost = found.spent[Spent.LOST] / (found.failures * machine.gpus_per_node)
    assert lost == pytest.approx(50, rel=0.06)


def test_blocks_wait_as_long_as_the_queue_says() -> None:
    """Much work on one block: it is up for its walltime, then waits, exponentially, on average an hour."""
    machine = replace(CALM, queue_wait_hours=1.0, walltime_hours=3.0, checkpoint_seconds=10, seed=4)
    found = run(Work(subvolumes=8 * 2000, voxels=1.0, seconds=1000.0, gpus=8), machine)
    assert found.blocks_ended > 100
    assert found.share(Spent.QUEUE) == pytest.approx(1 / 4, abs=0.03)


# -- what holds always ------------------------------------------------------------------------------------
@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    dispatch=st.sampled_from(BOTH),
    gpus=st.integers(1, 30),
    subvolumes=st.integers(1, 120),
    failures=st.sampled_from([0.0, 0.3, 2.0]),
    bandwidth=st.sampled_from([0.05, 1.0, 100.0]),
)
def test_no_second_and_no_work_is_lost(
    seed: int, dispatch: Dispatch, gpus: int, subvolumes: int, failures: float, bandwidth: float
) -> None:
    """All GPU-seconds are told once, and what counts as computing is what the subvolumes needed."""
    machine = replace(ROUGH, seed=seed, failures_per_node_hour=failures, fs_gbytes_per_s=bandwidth)
    work = replace(WORK, gpus=gpus, subvolumes=subvolumes)
    simulation = Simulation(work=work, machine=replace(machine, straggler_sigma=0.0), dispatch=dispatch)
    found = simulation.run()
    assert sum(found.spent) == pytest.approx(gpus * found.seconds)
    assert found.spent[Spent.COMPUTE] == pytest.approx(subvolumes * work.seconds)
    assert min(found.spent) >= -1e-6
    assert found.seconds >= work.seconds


@pytest.mark.parametrize("dispatch", BOTH)
def test_equal_seeds_give_equal_results(dispatch: Dispatch) -> None:
    assert run(WORK, ROUGH, dispatch) == run(WORK, ROUGH, dispatch)
    assert run(WORK, ROUGH, dispatch) != run(WORK, replace(ROUGH, seed=2), dispatch)


@pytest.mark.parametrize(
    ("name", "worse_to_better"),
    [
        ("fs_gbytes_per_s", [0.05, 0.2, 1.0, 50.0]),
        ("ledger_ops_per_s", [0.1, 1.0, 10.0, 1000.0]),
        ("worker_start_s", [600.0, 60.0, 0.0]),
    ],
)
def test_a_better_site_is_not_slower(name: str, worse_to_better: list[float]) -> None:
    hours = [run(WORK, replace(CALM, **{name: value})).seconds for value in worse_to_better]
    assert hours == sorted(hours, reverse=True)
    assert hours[0] > hours[-1]


def test_more_gpus_are_not_slower_and_failures_cost() -> None:
    times = [run(replace(WORK, gpus=gpus), CALM).seconds for gpus in (10, 20, 40, 80)]
    assert times == sorted(times, reverse=True)
    rates = (0.0, 1.0, 8.0)
    lost = [run(WORK, replace(ROUGH, failures_per_node_hour=rate)).share(Spent.LOST) for rate in rates]
    assert lost == sorted(lost)


def test_claiming_shares_what_static_shards_wait_for() -> None:
    """Stragglers and late blocks: a static shard waits for its own worker, claimed work does not."""
    uneven = replace(CALM, straggler_sigma=0.6, queue_wait_hours=0.5)
    claiming, static = run(WORK, uneven), run(WORK, uneven, "static")
    assert claiming.seconds < 0.95 * static.seconds
    assert static.share(Spent.IDLE) > claiming.share(Spent.IDLE)


def test_blocks_that_keep_nothing_are_told() -> None:
    machine = replace(CALM, walltime_hours=0.1)  # a subvolume takes 400 s, a block lives for 360
    with pytest.raises(Stalled, match="unfinished"):
        run(WORK, machine)


@pytest.mark.slow
def test_fifty_thousand_gpus_and_a_million_subvolumes_take_less_than_two_minutes() -> None:
    """1 mm3 in cubes of 1024 with overlap 64, nothing of it scaled down; checkpoints fill the file system."""
    work = Work(subvolumes=1_130_281, voxels=1024**3, seconds=1024**3 / 1e9 * 3600, gpus=50_000)
    least = work.subvolumes * file_bytes(work, Machine()) / 650e9
    began = time.process_time()
    found = run(work, Machine())
    assert time.process_time() - began < 120
    assert (found.gpus, found.subvolumes) == (50_000, 1_130_281)
    assert sum(found.spent) == pytest.approx(50_000 * found.seconds)
    assert least < found.seconds < 1.1 * least
    assert found.waits_for == "write"


# -- parts, sweep, limits ---------------------------------------------------------------------------------
def test_a_part_spends_its_time_as_the_whole() -> None:
    machine = replace(CALM, straggler_sigma=0.3, fs_gbytes_per_s=0.5, ledger_ops_per_s=20.0)
    work = Work(subvolumes=40_000, voxels=1e8, seconds=400.0, gpus=2000)
    whole = run(work, machine)
    some, site = part(work, machine, 10)
    assert (some.gpus, some.subvolumes, site.fs_gbytes_per_s) == (200, 4000, pytest.approx(0.05))
    tenth = run(some, site)
    assert tenth.seconds == pytest.approx(whole.seconds, rel=0.02)
    for what in Spent:
        assert tenth.share(what) == pytest.approx(whole.share(what), abs=0.02)
    assert parts_of(work, replace(machine, most_subvolumes=15_000)) == 3
    reduced, _ = simulate(work, replace(machine, most_subvolumes=4000))
    assert reduced.gpus == 200


def test_the_sweep_finds_what_the_formula_says() -> None:
    """A ledger that 1,000 GPUs fill: below it they compute, far above it they wait for claims."""
    machine = replace(CALM, ledger_ops_per_s=6.1 * 1000 / 400, tasks=10**6, heartbeat_s=1e9)
    work = replace(WORK, gpus=1000)
    formula = {limit.resource: limit for limit in limits(work, machine)}
    assert formula["ledger"].gpus == pytest.approx(FULL * 1000, rel=0.01)
    found = sweep(work, machine)
    assert found.breaks == "ledger"
    assert found.at == 1000
    by_gpus = {point.gpus: point for point in found.points}
    assert by_gpus[250].compute > 0.95
    assert by_gpus[250].uses["ledger"] == pytest.approx(0.25, abs=0.03)
    assert by_gpus[10_000].waits_for == "claim"
    assert by_gpus[10_000].compute < 0.15


def test_heartbeats_count_as_the_formula_counts_them() -> None:
    machine = replace(CALM, straggler_sigma=0.3, ledger_ops_per_s=10.0, heartbeat_s=20.0, tasks=10**6)
    work = replace(WORK, gpus=100)
    found = {point.gpus: point for point in sweep(work, machine).points}[100]
    formula = next(limit for limit in limits(work, machine) if limit.resource == "ledger")
    assert formula.use == pytest.approx((6.1 / 401 + 1 / 20) * 100 / 10, rel=0.01)
    assert found.uses["ledger"] == pytest.approx(formula.use, rel=0.05)


def test_limits_are_proportional_and_sorted() -> None:
    machine = Machine()
    once, twice = limits(WORK, machine), limits(replace(WORK, gpus=80), machine)
    assert [b.use / a.use for a, b in zip(once, twice, strict=True)] == pytest.approx([2.0] * 4)
    assert [limit.gpus for limit in once] == sorted(limit.gpus for limit in once)
    assert next(limit for limit in once if limit.resource == "tasks_of_one_worker").gpus == FULL * 200


# -- figures ----------------------------------------------------------------------------------------------
def test_every_figure_has_a_kind_and_a_source() -> None:
    for row in Machine().table():
        assert row["source"]
        assert row["kind"] in ("published", "this code", "assumed", "measured")
        assert math.isfinite(row["value"])
    given = {row["name"]: row for row in Machine(tasks=7).table({"tasks": "--set-sim"})}
    assert (given["tasks"]["value"], given["tasks"]["kind"], given["tasks"]["source"]) == (
        7,
        "given",
        "--set-sim",
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"task": 1}, "task: no such figure"),
        ({"tasks": "1.5"}, "'1.5' is not a whole number"),
        ({"tasks": 0}, "tasks: 0 must be at least 1"),
        ({"lease_s": "soon"}, "'soon' is not a number"),
        ({"lease_s": "nan"}, "lease_s"),
        ({"lease_s": True}, "True is not a number"),
        ({"walltime_hours": 0.05}, "walltime_hours: 0.05 leaves no time"),
    ],
)
def test_figures_that_do_not_fit(values: dict[str, object], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        Machine().changed(values, source="site.toml")


def test_impossible_work() -> None:
    with pytest.raises(ValueError, match="gpus: 0 must be positive"):
        replace(WORK, gpus=0)
