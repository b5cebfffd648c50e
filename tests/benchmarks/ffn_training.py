"""Training of flood-filling networks: how fast, how well over two processes, and how good from scratch.

    python -m tests.benchmarks.ffn_training --data ../shared/data --out out/ffn_training --minutes 80

"rates"  steps of three networks, one process, one thread
"ddp"    two processes beside one: weak (twice the batch in the same time is 1) and strong (the same batch in
         half the time is 1); CPU seconds are of all processes and hold on a busy machine too
"train"  from scratch on the first 120 sections of FIB-25 by `fib25_recipe.toml`, as two processes; the
         network that validates best on the sections 120 to 173 segments them, beside google/ffn's published
         segmentation of the same voxels

`--only` takes some of them. `--minutes` of training set the number of steps by a first measurement,
`--steps` sets it directly; without either the recipe's holds. What `--out` holds of a training is gone on
with; model, log and learning curves stay there. One JSON document goes to stdout, progress to stderr.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ffn.checkpoint import load_model
from ffn.inference import segment
from ffn.training_log import read_log
from functions.evaluation import Evaluation, evaluate
from functions.training.entries import parse_box
from functions.training.recipe import Recipe, load_recipe
from functions.training.sampling import upsample_labels
from functions.training.volumes import open_held_out
from tests.benchmarks.fib25_block import BLOCK, VOXEL_SIZE_NM

RECIPE = Path(__file__).with_name("fib25_recipe.toml")
ROOT = Path(__file__).resolve().parents[2]
RIM_PX = 16
"""Nearer to the box's faces no field of view can be centred."""

NETWORKS = (("4,16,17", 16, 12), ("6,16,25", 4, 8), ("12,32,33", 2, 3))
"""Network, batch, steps."""
SHARED = (("4,16,17", 8, 16), ("6,16,25", 4, 6))
"""For two processes: network, batch of one process, steps."""


def launch(module: str, arguments: list[str], *, processes: int = 1, threads: int = 1) -> str:
    """Runs a module as so many processes on loopback; what rank 0 prints."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    world = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    local = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", module, *arguments]
    started = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **world, **local, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
            text=True,
        )
        for rank in range(processes)
    ]
    printed = started[0].communicate()[0]
    codes = [process.wait() for process in started]
    if any(codes):
        raise SystemExit(f"{module}: exit codes {codes}; see the messages above, then start again")
    return printed


def rate(data: Path, network: str, batch: int, steps: int, *, processes: int = 1, threads: int = 1) -> Any:
    """The document of `tests.benchmarks.training_rate`."""
    print(f"{network} batch {batch}: {processes} processes, {threads} threads", file=sys.stderr, flush=True)
    arguments = ["--data", str(data), "--network", network, "--batch", str(batch), "--steps", str(steps)]
    arguments += ["--threads", str(threads)]
    module = "tests.benchmarks.training_rate"
    return json.loads(launch(module, arguments, processes=processes, threads=threads))


def rates(data: Path) -> list[Any]:
    """One process, one thread, three networks."""
    return [rate(data, network, batch, steps) for network, batch, steps in NETWORKS]


def ddp(data: Path) -> list[Any]:
    """Two processes beside one, and beside one with two threads."""
    found = []
    for network, batch, steps in SHARED:
        alone = rate(data, network, batch, steps)
        weak = rate(data, network, 2 * batch, steps, processes=2)
        strong = rate(data, network, batch, steps, processes=2)
        threads = rate(data, network, batch, steps, threads=2)
        found.append(
            {
                "network": network,
                "one": alone,
                "two_twice_the_batch": weak,
                "two_same_batch": strong,
                "one_of_two_threads": threads,
                "weak_efficiency": round(alone["seconds_per_step"] / weak["seconds_per_step"], 3),
                "strong_efficiency": round(alone["seconds_per_step"] / strong["seconds_per_step"] / 2, 3),
                "strong_cpu_ratio": round(alone["cpu_seconds_per_step"] / strong["cpu_seconds_per_step"], 3),
                "threads_efficiency": round(alone["seconds_per_step"] / threads["seconds_per_step"] / 2, 3),
            }
        )
    return found


def train(data: Path, out: Path, *, minutes: float | None, steps: int | None, processes: int) -> Any:
    """From scratch to a model in `out`, and its figures beside the published ones."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "recipe.toml"
    if not path.is_file():
        steps = steps if minutes is None else _fitting(data, minutes=minutes, processes=processes)
        path.write_text(shortened(RECIPE.read_text(encoding="utf-8"), steps=steps), encoding="utf-8")
    recipe, model = load_recipe(path, data=data), out / "model.safetensors"
    folder = out / "training"
    arguments = ["model", "train", str(path), "--to", str(model), "--folder", str(folder)]
    started = time.monotonic()
    launch("typer_cli", [*arguments, "--data", str(data), "-o", "json"], processes=processes)
    log = read_log(folder / "log.jsonl")
    return {
        "steps": recipe.training.optimiser.steps,
        "batch": recipe.training.optimiser.batch,
        "processes": processes,
        "minutes_now": round((time.monotonic() - started) / 60, 1),
        "minutes_of_training": round(max(line.get("seconds", 0.0) for line in log) / 60, 1),
        "examples": log[-1]["examples"],
        "fovs": log[-1]["fovs"],
        "loss": [line["loss"] for line in log if "loss" in line][-1],
        "curve": [[line["step"], line["voi_sum"]] for line in log if "voi_sum" in line],
        "pictures": sorted(str(p) for p in folder.glob("*.png")),
        "held_out": judge(data, recipe, model),
    }


def shortened(recipe: str, *, steps: int | None) -> str:
    """The recipe's text with so many steps, validated eight times; None leaves it alone."""
    if steps is None:
        return recipe
    recipe = re.sub(r"(?m)^every_steps = .*$", f"every_steps = {max(1, steps // 8)}", recipe)
    return re.sub(r"(?m)^steps = .*$", f"steps = {steps}", recipe)


def _fitting(data: Path, *, minutes: float, processes: int) -> int:
    """How many steps fit in so many minutes here."""
    config = load_recipe(RECIPE, data=data).training
    network = f"{config.network.modules},{config.network.features},{config.network.fov_zyx[0]}"
    first = rate(data, network, config.optimiser.batch, 12, processes=processes)
    validating = 0.15  # of the time, by experience
    return max(1, int(minutes * 60 * (1 - validating) / first["seconds_per_step"]))


def judge(data: Path, recipe: Recipe, model: Path) -> dict[str, Any]:
    """The held-out box segmented by the model; the published segmentation of the same voxels."""
    trained = load_model(model)
    volume = open_held_out(recipe.validation_volumes, data=data)[0]
    started = time.perf_counter()
    found = segment(volume.training.image[:, :, :], model=trained, config=trained.inference)
    seconds = time.perf_counter() - started
    ours = upsample_labels(found.labels, volume.downsample_zyx)
    box = parse_box(recipe.validation_volumes[0].box)  # type: ignore[union-attr]
    assert box is not None
    with np.load(data / "fib25" / BLOCK, allow_pickle=False) as archive:
        theirs = archive["google_ffn_segmentation"][box.slices][tuple(slice(0, n) for n in ours.shape)]
    truth = volume.truth
    return {
        "box": [list(box.offset_zyx), list(truth.shape)],
        "seconds": round(seconds, 1),
        "fovs": found.counters.fovs,
        "ours": figures(ours, truth),
        "google_ffn_published": figures(theirs, truth),
    }


def figures(labels: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Of the whole box, and without the rim; letters as in `functions.evaluation`."""

    def of(rim: int) -> dict[str, Any]:
        found: Evaluation = evaluate(
            labels, truth, voxel_size_zyx_nm=VOXEL_SIZE_NM, rim_zyx_px=(rim,) * 3, min_skeleton_voxels=None
        )
        return {
            "voi_a": [_rounded(found.voi_split_keep), _rounded(found.voi_merge_keep)],
            "voi_b": [_rounded(found.voi_split_labelled), _rounded(found.voi_merge_labelled)],
            "voi_d": [_rounded(found.voi_split_fill), _rounded(found.voi_merge_fill)],
            "voi_d_sum": _rounded(found.voi_sum_fill),
            "are": _rounded(found.rand_error_fill),
            "labelled_fraction": _rounded(found.labelled_fraction),
            "objects": [found.objects, found.true_objects],
        }

    return {"whole": of(0), "without_rim": of(RIM_PX)}


def _rounded(value: float) -> float | None:
    """None for a figure that no voxel counted for."""
    return round(value, 4) + 0.0 if math.isfinite(value) else None


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description="Rates, two processes, and a training from scratch")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("out/ffn_training"))
    parser.add_argument("--only", choices=["rates", "ddp", "train"], action="append")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--processes", type=int, default=2, help="of the training")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    parts = arguments.only or ["rates", "ddp", "train"]
    data, out = arguments.data.resolve(), arguments.out.resolve()
    document: dict[str, Any] = {"torch": torch.__version__, "cores": os.cpu_count()}
    if "rates" in parts:
        document["rates"] = rates(data)
    if "ddp" in parts:
        document["ddp"] = ddp(data)
    if "train" in parts:
        document["train"] = train(
            data, out, minutes=arguments.minutes, steps=arguments.steps, processes=arguments.processes
        )
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
