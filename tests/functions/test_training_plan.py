"""The scaling model of training: its arithmetic by hand, and what must hold for any choice."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffn.config import NetworkConfig
from ffn.network import FloodFillingNetwork, parameter_count
from functions.training_plan import FORMULAS, Learning, Machine, Scaling, TrainingPlan


def test_the_published_network_by_hand() -> None:
    plan = TrainingPlan()
    assert plan.weights == 638_433
    assert plan.flop == pytest.approx(45.83e9, rel=1e-3)
    assert plan.compute_s == pytest.approx(4 * (3 * 45.83e9 / 20e12 + 1e-3), rel=1e-3)


@pytest.mark.parametrize(("modules", "features"), [(2, 6), (4, 16), (12, 32)])
def test_weights_are_those_of_the_network(modules: int, features: int) -> None:
    config = NetworkConfig(modules=modules, features=features)
    assert TrainingPlan(network=config).weights == parameter_count(FloodFillingNetwork(config))


def test_one_gpu_waits_for_nobody() -> None:
    alone = TrainingPlan().scaling(1)
    assert (alone.allreduce_s, alone.exposed_s, alone.efficiency) == (0, 0, 1)
    assert alone.step_s == TrainingPlan().compute_s
    assert alone.examples_per_s == pytest.approx(127.0, abs=0.1)


def test_two_nodes_by_hand() -> None:
    """Eight GPUs: 2 * 3/4 of the gradients inside the node, then once to and fro between two nodes."""
    machine = Machine(spread=0.0)
    plan = TrainingPlan(machine=machine)
    size = 4 * 638_433
    total = 1.5 * size / 100e9 + 2 * (size / 2 / 25e9 + 3 * 10e-6)
    reached = plan.scaling(8)
    assert reached.nodes == 2
    assert reached.allreduce_s == pytest.approx(total)
    assert reached.exposed_s == pytest.approx(total / 3)
    assert reached.step_s == pytest.approx(plan.compute_s + total / 3)


def test_a_slow_network_is_no_longer_hidden() -> None:
    slow = TrainingPlan(machine=Machine(node_bandwidth=1e6, spread=0.0))
    reached = slow.scaling(64)
    backward = 4 * 2 * slow.flop / 20e12
    assert reached.allreduce_s > backward
    assert reached.exposed_s == pytest.approx(reached.allreduce_s - backward)
    assert reached.efficiency < 0.02


def test_many_nodes_send_by_a_tree() -> None:
    """Messages in a ring grow with the nodes, in a tree with their logarithm."""
    plan = TrainingPlan()
    assert plan.allreduce_s(4 * 2048) < 2 * (4 * 638_433 / 25e9 + 3 * 11 * 10e-6) + 1e-4


def test_the_critical_batch_costs_twice_the_examples() -> None:
    plan = TrainingPlan(learning=Learning(batch_per_gpu=8, critical_batch=512, rate=1e-3, reference_batch=8))
    reached = plan.scaling(64)
    assert reached.batch == 512
    assert reached.examples == 2 * 1.5e8
    assert reached.rate == pytest.approx(8e-3)
    assert plan.scaling(256).rate == pytest.approx(8e-3)
    assert plan.scaling(1).rate == pytest.approx(1e-3)
    assert reached.hours == pytest.approx(3e8 / reached.examples_per_s / 3600)


@settings(max_examples=60, deadline=None)
@given(
    gpus=st.integers(1, 60_000),
    per_node=st.integers(1, 12),
    bandwidth=st.floats(1e7, 1e12),
    spread=st.floats(0, 0.2),
    batch=st.integers(1, 64),
)
def test_more_gpus_are_never_more_efficient(
    gpus: int, per_node: int, bandwidth: float, spread: float, batch: int
) -> None:
    machine = Machine(gpus_per_node=per_node, node_bandwidth=bandwidth, spread=spread)
    plan = TrainingPlan(machine=machine, learning=Learning(batch_per_gpu=batch))
    few, many = plan.scaling(gpus * per_node), plan.scaling(2 * gpus * per_node)
    assert 0 < many.efficiency <= few.efficiency * (1 + 1e-9) <= 1 + 1e-9
    assert many.examples_per_s == pytest.approx(many.efficiency * many.gpus * batch / plan.compute_s)
    assert many.exposed_s <= many.allreduce_s


def test_every_figure_says_where_it_comes_from() -> None:
    figures = TrainingPlan().figures()
    assert all(f.formula for f in figures)
    assert sum(f.formula.startswith("assumed") for f in figures) == 11
    assert all(math.isfinite(f.value) for f in figures)
    assert {name for name, _ in FORMULAS} == set(Scaling.__slots__) - {"gpus", "nodes"}


def test_wrong_values_are_named() -> None:
    with pytest.raises(ValueError, match="flops: must be positive"):
        Machine(flops=0)
    with pytest.raises(ValueError, match="spread: must be at least 0"):
        Machine(spread=-0.1)
    with pytest.raises(ValueError, match="critical_batch: must be positive"):
        Learning(critical_batch=0)
    with pytest.raises(ValueError, match="gpus: must be at least 1"):
        TrainingPlan().scaling(0)
