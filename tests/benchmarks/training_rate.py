"""How fast one network trains: a few steps on the first 120 sections of FIB-25, timed one by one.

    python -m tests.benchmarks.training_rate --data ../shared/data --network 4,16,17 --batch 16 --steps 12

Started by torchrun or by `tests.benchmarks.ffn_training` as one of several processes it takes its share of
the batch. Rank 0 prints one JSON document. The network has learnt nothing and makes no moves, so that every
step cuts out a new example for every slot: the dearest case.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ffn.config import NetworkConfig, Normalisation
from ffn.distributed import World, joined
from ffn.examples import ExampleConfig, TrainingVolume
from ffn.recipe import OptimiserConfig, TrainingRecipe
from ffn.training import Trainer
from functions.training_plan import FORWARD_AND_BACKWARD, TrainingPlan
from tests.benchmarks.fib25_block import BLOCK, VOXEL_SIZE_NM

SECTIONS = 120
WARM_UP = 2
"""Steps that are not timed: oneDNN chooses its kernels."""


def recipe(modules: int, features: int, fov: int, batch: int) -> TrainingRecipe:
    """A network with moves of a quarter of its field of view, in examples that hold one move to each side."""
    delta = fov // 4
    side = fov + 2 * delta
    return TrainingRecipe(
        voxel_size_zyx_nm=VOXEL_SIZE_NM,
        network=NetworkConfig(
            modules=modules, features=features, fov_zyx=(fov,) * 3, deltas_zyx=(delta,) * 3
        ),
        normalisation=Normalisation(mean=131.0, std=31.0),
        examples=ExampleConfig(shape_zyx=(side,) * 3, positions_per_volume=500),
        optimiser=OptimiserConfig(steps=1000, batch=batch),
    )


def measure(data: Path, config: TrainingRecipe, *, steps: int, world: World) -> dict[str, Any]:
    """Seconds per step, by the median of `steps`, and what follows; all over the global batch."""
    with np.load(data / "fib25" / BLOCK, allow_pickle=False) as archive:
        volume = TrainingVolume(image=archive["raw"][:SECTIONS], labels=archive["gt"][:SECTIONS])
    trainer = Trainer(config, [volume], world=world)
    for _ in range(WARM_UP):
        trainer.step()
    world.total(torch.zeros(1))  # begin together
    seconds, cpu = [], time.process_time()
    for _ in range(steps):
        started = time.perf_counter()
        trainer.step()
        seconds.append(time.perf_counter() - started)
    cpu = (time.process_time() - cpu) / steps
    step, batch = float(np.median(seconds)), config.optimiser.batch
    flop = FORWARD_AND_BACKWARD * TrainingPlan(network=config.network).flop * batch
    return {
        "network": f"{config.network.modules} x {config.network.features}, {config.network.fov_zyx[0]}",
        "processes": world.size,
        "threads": torch.get_num_threads(),
        "batch": batch,
        "seconds_per_step": round(step, 4),
        "seconds_per_step_least": round(min(seconds), 4),
        "cpu_seconds_per_step": round(float(world.total(torch.tensor(cpu))), 4),
        "examples_per_second": round(batch / step, 3),
        "gflop_per_second": round(flop / step / 1e9, 1),
    }


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description="Seconds per step of training one network")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--network", default="4,16,17", help="modules, features, field of view")
    parser.add_argument("--batch", type=int, default=16, help="of all processes together")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1, help="of every process")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    modules, features, fov = (int(n) for n in arguments.network.split(","))
    with joined("cpu") as world:
        config = recipe(modules, features, fov, arguments.batch)
        document = measure(arguments.data, config, steps=arguments.steps, world=world)
        if world.writes:
            print(json.dumps(document))


if __name__ == "__main__":
    main()
