"""Training learns, follows its own moves, weighs only what is known, and resumes to the bit."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from ffn.checkpoint import tensors_sha256
from ffn.config import ConfigError
from ffn.examples import ExampleConfig
from ffn.network import FloodFillingNetwork
from ffn.slots import training_moves
from ffn.training import Trainer, TrainingRecipe, TrainingStopped, masked_loss, train
from ffn.training_log import TrainingLog, read_log
from ffn.training_state import BestKept, TrainingStateError, load_best
from tests.ffn.training_worker import RECIPE, recipe, untrained, walls


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def with_precision(precision: str, *, steps: int = 40) -> TrainingRecipe:
    optimiser = dataclasses.replace(RECIPE.optimiser, precision=precision, steps=steps)
    return dataclasses.replace(RECIPE, optimiser=optimiser)


class StoppedError(Exception):
    """In place of a power cut."""


def test_moves_go_outward_on_the_lattice() -> None:
    moves = training_moves(RECIPE, 3)
    assert moves[0] == (0, 0, 0)
    assert len(set(moves)) == 27
    assert {abs(v) for move in moves for v in move} == {0, 2}
    assert [sum(map(abs, m)) for m in moves] == sorted(sum(map(abs, m)) for m in moves)
    assert moves != training_moves(RECIPE, 4)


def test_a_slot_moves_only_where_the_network_believes() -> None:
    slots = Trainer(RECIPE, [walls()]).slots
    slot = slots.fresh(0)
    assert slot.advance()
    assert slot.where == (slice(2, 9),) * 3
    assert not slot.advance()
    slot = slots.fresh(0)
    slot.logits[:] = 5.0
    assert sum(slot.advance() for _ in range(28)) == 27


def test_unknown_voxels_carry_no_weight() -> None:
    logits, target = torch.tensor([[3.0, -2.0, 9.0, 0.5]]), torch.tensor([[True, False, False, True]])
    known = torch.tensor([[True, True, False, False]])
    whole = masked_loss(logits, target, None, soft_label=0.05)
    part = masked_loss(logits[:, :2], target[:, :2], None, soft_label=0.05)
    assert float(whole) > 2.0  # 9.0 outside the object is dear
    assert float(masked_loss(logits, target, known, soft_label=0.05)) == pytest.approx(float(part) * 2 / 4)
    logits.requires_grad_()
    masked_loss(logits, target, known, soft_label=0.05).backward()
    assert logits.grad is not None
    assert (logits.grad != 0).tolist() == [[True, True, False, False]]


def test_what_is_unknown_teaches_nothing() -> None:
    """The truth of unknown voxels may be anything."""
    weights = []
    for truth_of_unknown in (True, False):
        trainer = Trainer(RECIPE, [walls()], initial=untrained())
        for slot in trainer.slots.held.values():
            example = slot.example
            known = np.ones(example.target.shape, bool)
            known[:, :5] = False
            target = np.where(known, example.target, truth_of_unknown)
            slot.example = dataclasses.replace(example, target=target, known=known)
        loss, _, hits, predicted, wanted = trainer.step().tolist()
        weights.append((tensors_sha256(trainer.network.state_dict()), loss, hits, predicted, wanted))
    assert weights[0] == weights[1]


def test_training_learns_to_stop_at_walls(tmp_path: Path) -> None:
    seen: list[Mapping[str, float]] = []
    train(
        recipe(steps=150),
        [walls()],
        folder=tmp_path,
        log_every=25,
        save_every=50,
        validate=lambda network: {"voi_sum": 0.5},
        progress=seen.append,
    )
    lines = read_log(tmp_path / "log.jsonl")
    assert [line["step"] for line in lines] == list(range(25, 151, 25))
    assert lines[0]["loss"] > 1.0
    assert lines[-1]["loss"] < 0.55
    assert lines[-1]["precision"] > 0.7
    assert lines[-1]["fovs"] == 150 * 8 > lines[-1]["examples"] > 8
    assert [line["step"] for line in lines if "voi_sum" in line] == [50, 100, 150]
    assert lines == seen


def test_bf16_learns_like_fp32(tmp_path: Path) -> None:
    for precision in ("fp32", "bf16"):
        train(with_precision(precision), [walls()], folder=tmp_path / precision, log_every=20)
    full, half = (read_log(tmp_path / precision / "log.jsonl")[-1]["loss"] for precision in ("fp32", "bf16"))
    assert half != full
    assert half == pytest.approx(full, rel=0.05)


def test_fp16_needs_a_scaler() -> None:
    with pytest.raises(ConfigError, match=r"optimiser\.precision: fp16 needs cuda; take bf16"):
        Trainer(with_precision("fp16"), [walls()])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resumed_training_ends_with_the_same_weights(tmp_path: Path, precision: str) -> None:
    whole = train(with_precision(precision), [walls()], folder=tmp_path / "whole", save_every=25)

    def stop(network: torch.nn.Module) -> dict[str, float]:
        raise StoppedError

    with pytest.raises(StoppedError):
        train(with_precision(precision), [walls()], folder=tmp_path / "cut", save_every=25, validate=stop)
    resumed = train(with_precision(precision), [walls()], folder=tmp_path / "cut")
    assert tensors_sha256(resumed.state_dict()) == tensors_sha256(whole.state_dict())
    assert (tmp_path / "cut/state.safetensors").read_bytes() == (
        tmp_path / "whole/state.safetensors"
    ).read_bytes()


def test_the_best_network_outlives_worse_ones_and_a_stop(tmp_path: Path) -> None:
    scores = iter([0.9, 0.4, StoppedError, 0.7, 0.6])
    shown: list[str] = []

    def validate(network: FloodFillingNetwork) -> dict[str, float]:
        score = next(scores)
        if score is StoppedError:
            raise StoppedError
        shown.append(tensors_sha256(network.state_dict()))
        return {"voi_sum": score, "are": 2 * score}

    def run() -> FloodFillingNetwork:
        return train(
            recipe(steps=40), [walls()], folder=tmp_path, log_every=5, save_every=10, validate=validate
        )

    with pytest.raises(StoppedError):
        run()
    assert [line["step"] for line in read_log(tmp_path / "log.jsonl")][-1] == 25
    last = run()
    best = load_best(tmp_path / "best.safetensors")
    assert (best.step, dict(best.figures)) == (20, {"voi_sum": 0.4, "are": 0.8})
    assert tensors_sha256(best.network.state_dict()) == shown[1]
    assert tensors_sha256(last.state_dict()) == shown[-1] != shown[1]
    lines = read_log(tmp_path / "log.jsonl")
    assert [line["step"] for line in lines] == list(range(5, 41, 5))
    assert [line["voi_sum"] for line in lines if "voi_sum" in line] == [0.9, 0.4, 0.7, 0.6]


def test_validation_must_give_what_the_best_is_chosen_by(tmp_path: Path) -> None:
    kept = BestKept(tmp_path / "best.safetensors")
    with pytest.raises(TrainingStateError, match="no voi_sum among its figures"):
        kept.offer(untrained(), step=1, figures={"are": 0.1})
    assert not kept.offer(untrained(), step=1, figures={"voi_sum": float("nan")})
    with pytest.raises(TrainingStateError, match="no best network"):
        load_best(tmp_path / "best.safetensors")
    assert kept.offer(untrained(), step=2, figures={"voi_sum": 1.0})
    assert not kept.offer(untrained(), step=3, figures={"voi_sum": 1.0})
    assert load_best(tmp_path / "best.safetensors").step == 2


def test_a_log_forgets_what_lies_beyond_the_state(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 5, "seconds": 1.5}\n{"step": 10, "seconds": 3}\n{"step": 15}\n{"st')
    log = TrainingLog(path, done_steps=10)
    assert [line["step"] for line in read_log(path)] == [5, 10]
    assert log.seconds == 3
    assert not log.lacks(10)
    assert log.lacks(12)
    log.write({"step": 12})
    assert [line["step"] for line in read_log(path)] == [5, 10, 12]
    assert not TrainingLog(tmp_path / "none.jsonl", done_steps=0).lacks(0)


def test_a_stopped_training_goes_on_where_it_was(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    whole = train(RECIPE, [walls()], folder=tmp_path / "whole")
    asked = iter([False] * 16 + [True])
    with pytest.raises(TrainingStopped, match="after step 17; train again") as stopped:
        train(RECIPE, [walls()], folder=tmp_path / "cut", log_every=10, stop=lambda: next(asked))
    assert stopped.value.step == 17
    lines = read_log(tmp_path / "cut" / "log.jsonl")
    assert [line["step"] for line in lines] == [10, 17]
    resumed = train(RECIPE, [walls()], folder=tmp_path / "cut", stop=lambda: False)
    assert tensors_sha256(resumed.state_dict()) == tensors_sha256(whole.state_dict())


def test_another_recipe_does_not_take_the_state(tmp_path: Path) -> None:
    train(recipe(steps=2), [walls()], folder=tmp_path)
    with pytest.raises(TrainingStateError, match="recipe: belongs to another recipe"):
        train(RECIPE, [walls()], folder=tmp_path)
    (tmp_path / "state.safetensors").write_bytes(b"nonsense")
    with pytest.raises(TrainingStateError, match="damaged"):
        train(RECIPE, [walls()], folder=tmp_path)


def test_an_example_must_hold_the_field_of_view() -> None:
    with pytest.raises(ConfigError, match=r"examples\.shape_zyx"):
        dataclasses.replace(RECIPE, examples=ExampleConfig(shape_zyx=(5, 11, 11)))
