"""Training learns, follows its own moves, and resumes to the bit."""

import dataclasses
import json
import pathlib
from itertools import pairwise

import numpy as np
import pytest
import torch

from ffn.augment import AugmentConfig
from ffn.checkpoint import tensors_sha256
from ffn.config import ConfigError, NetworkConfig, Normalisation
from ffn.examples import ExampleConfig, TrainingVolume
from ffn.slots import training_moves
from ffn.training import OptimiserConfig, Trainer, TrainingRecipe, learning_rate, train
from ffn.training_state import TrainingStateError

RECIPE = TrainingRecipe(
    voxel_size_zyx_nm=(16.0, 16.0, 16.0),
    network=NetworkConfig(modules=2, features=6, fov_zyx=(7, 7, 7), deltas_zyx=(2, 2, 2)),
    normalisation=Normalisation(mean=128.0, std=64.0),
    examples=ExampleConfig(shape_zyx=(11, 11, 11), fill_fractions=(0.3, 0.7, 1.0), positions_per_volume=300),
    augmentation=AugmentConfig(noise=5.0),
    optimiser=OptimiserConfig(steps=40, batch=8, rate=0.01, warmup_steps=5),
)


def walls() -> TrainingVolume:
    """Bright cells 7 voxels wide between dark walls."""
    labels = np.zeros((24, 32, 32), np.uint32)
    for i, (z, y, x) in enumerate(np.ndindex(3, 4, 4)):
        labels[z * 8 : z * 8 + 7, y * 8 : y * 8 + 7, x * 8 : x * 8 + 7] = i + 1
    return TrainingVolume(image=np.where(labels > 0, 200, 60).astype(np.uint8), labels=labels)


def test_rate_warms_up_and_falls() -> None:
    config = OptimiserConfig(steps=100, rate=1.0, final_rate=0.1, warmup_steps=10)
    rates = [learning_rate(config, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_moves_go_outward_on_the_lattice() -> None:
    moves = training_moves(RECIPE, 3)
    assert moves[0] == (0, 0, 0)
    assert len(set(moves)) == 27
    assert {abs(v) for move in moves for v in move} == {0, 2}
    assert [sum(map(abs, m)) for m in moves] == sorted(sum(map(abs, m)) for m in moves)
    assert moves != training_moves(RECIPE, 4)


def test_a_slot_moves_only_where_the_network_believes() -> None:
    slot = Trainer(RECIPE, [walls()]).slots.fresh(0)
    assert slot.advance()
    assert slot.where == (slice(2, 9),) * 3
    assert not slot.advance()
    slot = Trainer(RECIPE, [walls()]).slots.fresh(0)
    slot.logits[:] = 5.0
    assert sum(slot.advance() for _ in range(28)) == 27


def test_training_learns_to_stop_at_walls(tmp_path: pathlib.Path) -> None:
    torch.set_num_threads(1)

    def validate(network: torch.nn.Module) -> dict[str, float]:
        return {"voi_sum": 0.5}

    recipe = dataclasses.replace(RECIPE, optimiser=dataclasses.replace(RECIPE.optimiser, steps=150))
    train(recipe, [walls()], folder=tmp_path, log_every=25, save_every=50, validate=validate)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(25, 151, 25))
    assert lines[0]["loss"] > 1.0
    assert lines[-1]["loss"] < 0.55
    assert lines[-1]["precision"] > 0.7
    assert [line["step"] for line in lines if "voi_sum" in line] == [50, 100, 150]


def test_resumed_training_ends_with_the_same_weights(tmp_path: pathlib.Path) -> None:
    torch.set_num_threads(1)
    whole = train(RECIPE, [walls()], folder=tmp_path / "whole")

    class StoppedError(Exception):
        pass

    def stop(network: torch.nn.Module) -> dict[str, float]:
        raise StoppedError

    with pytest.raises(StoppedError):
        train(RECIPE, [walls()], folder=tmp_path / "cut", save_every=25, log_every=25, validate=stop)
    resumed = train(RECIPE, [walls()], folder=tmp_path / "cut")
    assert tensors_sha256(resumed.state_dict()) == tensors_sha256(whole.state_dict())


def test_another_recipe_does_not_take_the_state(tmp_path: pathlib.Path) -> None:
    short = dataclasses.replace(RECIPE, optimiser=dataclasses.replace(RECIPE.optimiser, steps=2))
    train(short, [walls()], folder=tmp_path)
    with pytest.raises(TrainingStateError, match="recipe: belongs to another recipe"):
        train(RECIPE, [walls()], folder=tmp_path)
    (tmp_path / "state.safetensors").write_bytes(b"nonsense")
    with pytest.raises(TrainingStateError, match="damaged"):
        train(RECIPE, [walls()], folder=tmp_path)


def test_an_example_must_hold_the_field_of_view() -> None:
    with pytest.raises(ConfigError, match=r"examples\.shape_zyx"):
        dataclasses.replace(RECIPE, examples=ExampleConfig(shape_zyx=(5, 11, 11)))
