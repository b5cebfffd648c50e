"""From a recipe file to a model file: what `petavoxel model train` does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ffn.checkpoint import Model, save_model
from ffn.config import ConfigError
from ffn.distributed import ALONE, World
from ffn.network import FloodFillingNetwork
from ffn.training import train
from ffn.training_log import read_log
from ffn.training_state import load_best
from functions.store.cells import CODE_VERSION
from functions.store.files import sha256_file, write_bytes
from functions.training.recipe import Recipe, load_recipe
from functions.training.validation import Validation, model_of
from functions.training.volumes import open_held_out, open_training

BEST, LOG, CURVES, RECIPE = "best.safetensors", "log.jsonl", "curves.png", "recipe.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A finished training: the model written, at which step it was the best, and the log."""

    model: Model
    step: int
    figures: Mapping[str, float]
    log: list[dict[str, float]]


def train_recipe(
    recipe: Recipe,
    *,
    to: Path,
    folder: Path,
    log_every: int = 100,
    world: World = ALONE,
    progress: Callable[[Mapping[str, float]], None] | None = None,
) -> Trained | None:
    """Train by the recipe and write the model to `to`; `folder` holds log, curves, and resumable state.

    What is written is the network that validated best, without validation the last one. Called again with
    the same recipe and folder, training goes on. All processes of `world` must call this; those that do not
    write return None.

    Raises:
        ConfigError: a volume does not fit the recipe, or the folder belongs to other volumes.
        OSError: the model cannot be written.
    """
    to.parent.mkdir(parents=True, exist_ok=True)
    _claim(folder, recipe, writes=world.writes)
    validate = None
    if recipe.validation_volumes and world.writes:
        held = open_held_out(recipe.validation_volumes, data=recipe.data)
        validate = Validation(held, config=recipe.validation, training=recipe.training, device=world.device)
    last = train(
        recipe.training,
        open_training(recipe.volumes, data=recipe.data),
        folder=folder,
        log_every=log_every,
        save_every=recipe.validation.every_steps,
        validate=validate,
        world=world,
        progress=progress,
    )
    return _finish(recipe, last, to=to, folder=folder) if world.writes else None


def _finish(recipe: Recipe, last: FloodFillingNetwork, *, to: Path, folder: Path) -> Trained:
    network, step, figures = last, recipe.training.optimiser.steps, dict[str, float]()
    if recipe.validation_volumes:
        best = load_best(folder / BEST)
        network, step, figures = best.network, best.step, dict(best.figures)
    provenance = {
        "recipe": recipe.path.name,
        "recipe_sha256": sha256_file(recipe.path),
        "steps": str(step),
        "petavoxel": CODE_VERSION,
    }
    if figures:
        provenance["validation_voi_sum"] = str(figures["voi_sum"])
    model = model_of(network, recipe.training, provenance=provenance)
    save_model(to, model)
    return Trained(model=model, step=step, figures=figures, log=read_log(folder / LOG))


def _claim(folder: Path, recipe: Recipe, *, writes: bool) -> None:
    """Keeps a copy of the recipe; the folder of a training on other volumes is refused."""
    copy = folder / RECIPE
    if copy.is_file():
        before = load_recipe(copy)
        for name in ("volumes", "validation_volumes", "training"):
            if getattr(before, name) != getattr(recipe, name):
                field = name.replace("_", ".")
                raise ConfigError(
                    f"{field}: {folder} holds a training by other {field}; train in another folder"
                )
    elif writes:
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(copy, recipe.path.read_bytes())
