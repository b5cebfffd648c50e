"""`petavoxel model train`: one document at the end, lines or a bar meanwhile, a message when stopped."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tests.functions.training_files import RECIPE, write_recipe
from tests.typer_cli.invoking import petavoxel
from typer_cli import training
from typer_cli.boundary import ExitCode


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_train_ends_with_one_document(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    done = petavoxel("model", "train", recipe, "--to", tmp_path / "m.safetensors", "-o", "json")
    assert done.code == 0
    told = done.document["training"]
    assert told["folder"] == str(tmp_path / "m.training")
    assert told["kept_step"] in (20, 40)
    assert told["validation"]["voi_sum"] > 0
    assert told["last"]["step"] == 40
    assert done.document["provenance"]["validation_voi_sum"] == str(told["validation"]["voi_sum"])
    assert "step 20/40  loss" in done.err
    assert "VOI" in done.err
    described = petavoxel("model", "describe", tmp_path / "m.safetensors", "-o", "json").document
    assert described["sha256"] == done.document["sha256"]


def test_data_may_lie_elsewhere(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, RECIPE.replace("steps = 40", "steps = 2"))
    (tmp_path / "data").rename(tmp_path / "moved")
    arguments = ["model", "train", recipe, "--to", tmp_path / "m.safetensors"]
    refused = petavoxel(*arguments)
    assert refused.code == ExitCode.PUT_RIGHT
    assert "cells.npz does not exist" in refused.err
    assert "--data" in refused.err
    assert petavoxel(*arguments, "--data", tmp_path / "moved").code == 0


def test_a_bad_recipe_is_told_with_file_and_field(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, RECIPE.replace("steps = 40", "steps = 0"))
    done = petavoxel("model", "train", recipe, "--to", tmp_path / "m.safetensors")
    assert done.code == ExitCode.PUT_RIGHT
    assert "recipe.toml: training.optimiser.steps: must be at least 1" in done.err
    assert petavoxel("model", "train", tmp_path / "none", "--to", tmp_path / "m").code == ExitCode.PUT_RIGHT


def test_a_bar_on_a_terminal() -> None:
    stream = io.StringIO()
    screen = Console(file=stream, force_terminal=True, width=110, color_system=None)
    with training.TrainingProgress(steps=200, title="m.safetensors", screen=screen) as progress:
        progress.on_line({"step": 50.0, "loss": 0.61, "seconds": 5.0})
        line = {
            "step": 100.0,
            "loss": 0.5,
            "seconds": 10.0,
            "voi_sum": 1.5,
            "voi_split": 1.0,
            "voi_merge": 0.5,
        }
        progress.on_line(line)
    assert "100/200" in stream.getvalue()
    assert "VOI 1.500 (1.000 + 0.500)" in stream.getvalue()


def test_a_process_that_does_not_write_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with training.TrainingProgress(steps=2, title="m", shown=False) as progress:
        progress.on_line({"step": 1.0, "loss": 0.5})
    assert capsys.readouterr().err == ""


def test_sigterm_leaves_a_state_to_go_on_from(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, RECIPE.replace("steps = 40", "steps = 100000"))
    command = [sys.executable, "-m", "typer_cli", "model", "train", str(path), "--to", str(tmp_path / "m")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        [*command, "-o", "json"], cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    log = tmp_path / "m.training" / "log.jsonl"
    try:
        for _ in range(600):
            if log.is_file() and log.stat().st_size:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "give the same command again" in json.loads(out)["error"]["remedy"]
    last = json.loads(log.read_text().splitlines()[-1])
    assert f"stopped after step {last['step']} of 100000" in err.decode()
    assert (tmp_path / "m.training" / "state.safetensors").is_file()
    assert not (tmp_path / "m").exists()
