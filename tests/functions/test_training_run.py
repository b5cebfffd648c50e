"""From recipe to model file: the best network is kept, the log tells how, and a stopped training goes on."""

from __future__ import annotations

import io
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ffn.checkpoint import load_model
from ffn.config import ConfigError
from ffn.network import FloodFillingNetwork
from ffn.training import TrainingStopped
from functions.evaluation import evaluate
from functions.training.curves import learning_curves
from functions.training.recipe import ValidationConfig, load_recipe
from functions.training.run import Trained, train_recipe
from functions.training.stopping import StopSignals
from functions.training.validation import Validation
from functions.training.volumes import open_held_out
from tests.functions.training_files import RECIPE, cells, write_recipe


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, Path]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("trained")
    recipe = load_recipe(write_recipe(folder, RECIPE.replace("steps = 40", "steps = 120")))
    done = train_recipe(recipe, to=folder / "model.safetensors", folder=folder / "state")
    assert done is not None
    return done, folder


def test_the_model_written_is_the_one_that_validated_best(trained: tuple[Trained, Path]) -> None:
    done, folder = trained
    judged = {line["step"]: line["voi_sum"] for line in done.log if "voi_sum" in line}
    assert list(judged) == [20, 40, 60, 80, 100, 120]
    assert judged[done.step] == min(judged.values()) == done.figures["voi_sum"]
    assert done.figures["voi_sum"] < judged[20] - 0.3
    model = load_model(folder / "model.safetensors")
    assert model.provenance["steps"] == str(done.step)
    assert float(model.provenance["validation_voi_sum"]) == done.figures["voi_sum"]
    recipe = load_recipe(folder / "recipe.toml")
    validate = Validation(
        open_held_out(recipe.validation_volumes, data=recipe.data),
        config=recipe.validation,
        training=recipe.training,
    )
    again = validate(model.network)
    assert again["voi_sum"] == done.figures["voi_sum"]
    assert again["labelled"] == done.figures["labelled"] > 0.1


def test_the_log_and_the_curves_tell_it(trained: tuple[Trained, Path]) -> None:
    done, folder = trained
    assert done.to_json()["kept_step"] == done.step
    assert done.to_json()["last"]["loss"] < 0.6
    json.dumps(done.to_json(), allow_nan=False)
    for line in (folder / "state" / "log.jsonl").read_text().splitlines():
        assert "NaN" not in line
    with Image.open(folder / "state" / "curves.png") as picture:
        assert picture.size == (1120, 760)
        colours = {pixel for _, pixel in picture.getcolors(maxcolors=1 << 20) or []}
        assert {(30, 110, 200), (224, 110, 20), (40, 140, 90)} <= colours


def test_given_again_a_finished_training_only_writes_its_model(trained: tuple[Trained, Path]) -> None:
    done, folder = trained
    started = time.monotonic()
    again = train_recipe(
        load_recipe(folder / "recipe.toml"), to=folder / "again.safetensors", folder=folder / "state"
    )
    assert again is not None
    assert again.model.sha256 == done.model.sha256
    assert again.log == done.log
    assert time.monotonic() - started < 3


def test_a_folder_of_another_training_is_refused(trained: tuple[Trained, Path]) -> None:
    _, folder = trained
    other = folder / "other.toml"
    text = RECIPE.replace("steps = 40", "steps = 120")
    other.write_text(text.replace("0:26,0:34,0:34", "0:26,0:34,0:33"))
    with pytest.raises(ConfigError, match=r"volumes: .*state holds a training by other volumes"):
        train_recipe(load_recipe(other), to=folder / "m.safetensors", folder=folder / "state")
    other.write_text(text.replace("rate = 0.01", "rate = 0.02"))
    with pytest.raises(ConfigError, match=r"training: .*state holds a training by other training"):
        train_recipe(load_recipe(other), to=folder / "m.safetensors", folder=folder / "state")


def test_without_validation_the_last_network_is_written(tmp_path: Path) -> None:
    begin, end = RECIPE.index("[validation]"), RECIPE.index("[training]")
    text = (RECIPE[:begin] + RECIPE[end:]).replace("steps = 40", "steps = 3")
    lines: list[float] = []
    done = train_recipe(
        load_recipe(write_recipe(tmp_path, text)),
        to=tmp_path / "m.safetensors",
        folder=tmp_path / "state",
        log_every=1,
        progress=lambda line: lines.append(line["step"]),
    )
    assert done is not None
    assert (done.step, done.figures, lines) == (3, {}, [1, 2, 3])
    with Image.open(tmp_path / "state" / "curves.png") as picture:
        assert picture.size == (1120, 380)


def test_validation_compares_at_the_resolution_of_the_truth(tmp_path: Path) -> None:
    text = RECIPE.replace('box = "0:18,0:26,0:26"', "downsample_zyx = [2, 2, 2]")
    recipe = load_recipe(write_recipe(tmp_path, text))
    (held,) = open_held_out(recipe.validation_volumes, data=recipe.data)
    assert held.training.image.shape == (13, 17, 17)
    validate = Validation([held], config=recipe.validation, training=recipe.training)
    torch.manual_seed(0)
    network = FloodFillingNetwork(recipe.training.network)
    for weights in network.conv_lom.parameters():
        torch.nn.init.zeros_(weights)
    nothing = validate(network)  # the answer is the seed unchanged: no objects
    _, truth = cells()
    expected = evaluate(np.zeros_like(truth), truth, voxel_size_zyx_nm=(8, 8, 8), min_skeleton_voxels=None)
    assert nothing["voi_merge"] == pytest.approx(expected.voi_merge_fill, abs=1e-4)
    assert nothing["voi_split"] == 0
    assert "voi_split_labelled" not in nothing  # no voxel counts for it
    assert nothing["objects"] == 0
    assert nothing["validation_fovs"] <= 300


def test_unknown_voxels_are_not_judged(tmp_path: Path) -> None:
    image, labels = cells()
    labels[:, 17:] = 4000  # half is unknown
    text = RECIPE.replace('box = "0:18,0:26,0:26"', "ignore_labels = [4000]")
    recipe = load_recipe(write_recipe(tmp_path, text))
    np.savez(tmp_path / "data" / "cells.npz", raw=image, gt=labels)
    validate = Validation(
        open_held_out(recipe.validation_volumes, data=recipe.data),
        config=recipe.validation,
        training=recipe.training,
    )
    network = FloodFillingNetwork(recipe.training.network)
    for weights in network.conv_lom.parameters():
        torch.nn.init.zeros_(weights)
    expected = evaluate(
        np.zeros_like(labels[:, :17]), labels[:, :17], voxel_size_zyx_nm=(8, 8, 8), min_skeleton_voxels=None
    )
    assert validate(network)["voi_merge"] == pytest.approx(expected.voi_merge_fill, abs=1e-4)


def test_validation_may_take_fewer_moves(trained: tuple[Trained, Path]) -> None:
    done, folder = trained
    recipe = load_recipe(folder / "recipe.toml")
    held = open_held_out(recipe.validation_volumes, data=recipe.data)
    fast = Validation(held, config=ValidationConfig(fast=True), training=recipe.training)
    assert fast(done.model.network)["validation_fovs"] < done.figures["validation_fovs"]


def test_a_held_out_box_must_hold_the_field_of_view(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path, RECIPE.replace("0:18,0:26,0:26", "0:5,0:26,0:26")))
    with pytest.raises(ConfigError, match=r"validation\.volumes: cells\.npz: \(5, 26, 26\) is smaller than"):
        train_recipe(recipe, to=tmp_path / "m.safetensors", folder=tmp_path / "state")


def test_a_signal_is_a_wish_and_the_second_one_acts(request: pytest.FixtureRequest) -> None:
    # a shell's background process begins with interrupts ignored
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, earlier))
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
        assert signal.getsignal(signal.SIGTERM) == before
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_stopped_training_ends_with_the_same_model(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path))
    whole = train_recipe(recipe, to=tmp_path / "a.safetensors", folder=tmp_path / "whole")
    answers = iter([False] * 26 + [True])
    cut = {"to": tmp_path / "b.safetensors", "folder": tmp_path / "cut"}
    with pytest.raises(TrainingStopped):
        train_recipe(recipe, stop=lambda: next(answers), **cut)
    assert not (tmp_path / "b.safetensors").exists()
    resumed = train_recipe(recipe, **cut)
    assert whole is not None
    assert resumed is not None
    assert resumed.model.sha256 == whole.model.sha256
    assert resumed.figures["voi_sum"] == whole.figures["voi_sum"]


def test_curves_of_short_and_wild_logs() -> None:
    def size(png: bytes) -> tuple[int, int]:
        with Image.open(io.BytesIO(png)) as picture:
            return picture.size

    assert size(learning_curves([])) == (1120, 380)
    assert size(learning_curves([{"step": 1, "loss": float("nan")}])) == (1120, 380)
    zero = [{"step": 5, "loss": 0.0, "voi_sum": 0.0, "voi_split": 0.0, "voi_merge": 0.0}]
    assert size(learning_curves(zero, best_step=5)) == (1120, 760)
    wild = [{"step": i, "loss": 1e9 if i == 1 else 0.5} for i in range(1, 200)]
    assert learning_curves(wild) == learning_curves(wild)
