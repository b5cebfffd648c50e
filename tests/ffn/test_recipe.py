"""Learning rates follow from step, schedule and batch."""

from itertools import pairwise

import pytest

from ffn.config import ConfigError
from ffn.recipe import OptimiserConfig, learning_rate


def test_rate_warms_up_and_falls() -> None:
    config = OptimiserConfig(steps=100, rate=1.0, final_rate=0.1, warmup_steps=10)
    rates = [learning_rate(config, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.55)
    assert rates[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_a_constant_rate_stays() -> None:
    config = OptimiserConfig(steps=100, rate=1.0, warmup_steps=4, schedule="constant")
    assert [learning_rate(config, step) for step in (0, 3, 4, 99)] == [0.25, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(("scale", "factor"), [("none", 1.0), ("sqrt", 4.0), ("linear", 16.0)])
def test_the_rate_grows_with_the_global_batch(scale: str, factor: float) -> None:
    config = OptimiserConfig(
        steps=100, rate=1e-3, final_rate=1e-4, warmup_steps=0, batch=128, reference_batch=8, scale_rate=scale
    )
    assert config.rate_factor == pytest.approx(factor)
    assert learning_rate(config, 0) == pytest.approx(1e-3 * factor)
    assert learning_rate(config, 100) == pytest.approx(1e-4 * factor)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scale_rate": "sqrt"}, "reference_batch: is missing"),
        ({"reference_batch": 0}, "reference_batch: must be at least 1"),
        ({"rate": 1e-6}, "rate: must be positive and not below final_rate"),
        ({"gradient_clip": 0.0}, "gradient_clip: must be positive"),
        ({"soft_label": 0.5}, "soft_label"),
        ({"average_decay": 1.0}, "average_decay"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"batch": 0}, "batch"),
    ],
)
def test_wrong_values_are_named(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OptimiserConfig(**wrong)
