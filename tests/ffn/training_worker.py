"""One of the processes of `test_distributed`: trains on little walls and leaves files to compare.

    python -m tests.ffn.training_worker FOLDER [--steps N] [--die-at STEP] [--gradients]

The world is the environment's, as torchrun sets it.
"""

import argparse
import dataclasses
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from ffn.augment import AugmentConfig
from ffn.config import NetworkConfig, Normalisation
from ffn.distributed import World, joined
from ffn.examples import ExampleConfig, TrainingVolume
from ffn.network import FloodFillingNetwork
from ffn.training import OptimiserConfig, Trainer, TrainingRecipe, train

RECIPE = TrainingRecipe(
    voxel_size_zyx_nm=(16.0, 16.0, 16.0),
    network=NetworkConfig(modules=2, features=6, fov_zyx=(7, 7, 7), deltas_zyx=(2, 2, 2)),
    normalisation=Normalisation(mean=128.0, std=64.0),
    examples=ExampleConfig(shape_zyx=(11, 11, 11), fill_fractions=(0.3, 0.7, 1.0), positions_per_volume=300),
    augmentation=AugmentConfig(noise=5.0),
    optimiser=OptimiserConfig(steps=30, batch=8, rate=0.01, warmup_steps=5),
)


def recipe(*, steps: int) -> TrainingRecipe:
    """The recipe of the tests, so many steps long."""
    return dataclasses.replace(RECIPE, optimiser=dataclasses.replace(RECIPE.optimiser, steps=steps))


def walls() -> TrainingVolume:
    """Bright cells 7 voxels wide between dark walls."""
    labels = np.zeros((24, 32, 32), np.uint32)
    for i, (z, y, x) in enumerate(np.ndindex(3, 4, 4)):
        labels[z * 8 : z * 8 + 7, y * 8 : y * 8 + 7, x * 8 : x * 8 + 7] = i + 1
    return TrainingVolume(image=np.where(labels > 0, 200, 60).astype(np.uint8), labels=labels)


def untrained() -> FloodFillingNetwork:
    """A network without the zeros at its end that would hide the gradients of all that is before it."""
    torch.manual_seed(7)
    return FloodFillingNetwork(RECIPE.network)


def gradients(world: World) -> dict[str, torch.Tensor]:
    """The gradients of the first step before any update."""
    trainer = Trainer(recipe(steps=1), [walls()], initial=untrained(), world=world)
    trainer.step()
    return {
        name: p.grad.clone(memory_format=torch.contiguous_format)
        for name, p in trainer.network.named_parameters()
        if p.grad is not None
    }


def main() -> None:
    """Train; rank 1 kills itself once when told to."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--die-at", type=int)
    parser.add_argument("--gradients", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with joined("cpu") as world:
        args.folder.mkdir(parents=True, exist_ok=True)
        if args.gradients:
            save_file(gradients(world), args.folder / f"gradients.{world.rank}.safetensors")
        if args.die_at is not None:
            arm(args.folder / "died", at=args.die_at, world=world)
        network = train(
            recipe(steps=args.steps),
            [walls()],
            folder=args.folder,
            log_every=5,
            save_every=10,
            validate=figures,
            world=world,
        )
        save_file(network.state_dict(), args.folder / f"average.{world.rank}.safetensors")


def figures(network: FloodFillingNetwork) -> Mapping[str, float]:
    """A number that follows from the weights, in place of a segmentation."""
    return {"voi_sum": sum(float(p.detach().abs().sum()) for p in network.parameters())}


def arm(died: Path, *, at: int, world: World) -> None:
    """Rank 1 dies once, without a word, before the step after `at`."""
    if world.rank != 1 or died.exists():
        return
    whole = Trainer.step

    def step(self: Trainer) -> torch.Tensor:
        if self.done_steps == at:
            died.write_text("once", encoding="utf-8")
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(self)

    Trainer.step = step  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
