"""From a recipe file to a model file: what `petavoxel model train` does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffn.checkpoint import Model, save_model
from ffn.config import ConfigError
from ffn.distributed import ALONE, World
from ffn.network import FloodFillingNetwork
from ffn.training import train
from ffn.training_log import read_log
from ffn.training_state import load_best
from functions.store.cells import CODE_VERSION
from functions.store.files import sha256_file, write_bytes
from functions.training.curves import learning_curves
from functions.training.recipe import Recipe, load_recipe
from functions.training.validation import Validation, model_of
from functions.training.volumes import open_held_out, open_training

BEST, LOG, CURVES, RECIPE = "best.safetensors", "log.jsonl", "curves.png", "recipe.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A finished training: the model written, the step it comes from, what validation said of it, the log."""

    model: Model
    step: int
    figures: Mapping[str, float]
    log: list[dict[str, float]]

    def to_json(self) -> dict[str, Any]:
        """What a training leaves in figures: of the network kept, and of the last line of the log."""
        last = {name: value for name, value in self.log[-1].items() if name not in self.figures}
        return {"kept_step": self.step, "validation": dict(self.figures), "last": last}


def train_recipe(
    recipe: Recipe,
    *,
    to: Path,
    folder: Path,
    log_every: int = 20,
    world: World = ALONE,
    progress: Callable[[Mapping[str, float]], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Trained | None:
    """Train by the recipe and write the model to `to`; `folder` holds log, curves, and resumable state.

    What is written is the network that validated best, without validation the last one. Called again with
    the same recipe and folder, training goes on. `progress` is given every line of the log; once `stop`
    answers true the state is saved and TrainingStopped raised. All processes of `world` must call this; those
    that do not write return None.

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
        progress=_drawing(folder, progress),
        stop=stop,
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
    log = read_log(folder / LOG)
    write_bytes(folder / CURVES, learning_curves(log, best_step=step if figures else None))
    return Trained(model=model, step=step, figures=figures, log=log)


def _drawing(
    folder: Path, progress: Callable[[Mapping[str, float]], None] | None
) -> Callable[[Mapping[str, float]], None]:
    """Draws the curves anew whenever the network was validated."""

    def on_line(line: Mapping[str, float]) -> None:
        if "voi_sum" in line:
            log = read_log(folder / LOG)
            judged = [known for known in log if "voi_sum" in known]
            best = min(judged, key=lambda known: known["voi_sum"])
            write_bytes(folder / CURVES, learning_curves(log, best_step=int(best["step"])))
        if progress is not None:
            progress(line)

    return on_line


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
