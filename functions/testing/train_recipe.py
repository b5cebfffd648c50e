"""From a recipe file to a model file: what `petavoxel model train` does."""

from __future__ import annotations

from pathlib import Path

from ffn.checkpoint import Model, save_model
from ffn.training import train
from functions.store.cells import CODE_VERSION
from functions.store.files import sha256_file
from functions.testing.phantom_training import load_recipe, training_volumes


def train_recipe(recipe_path: Path, *, to: Path, folder: Path) -> Model:
    """Train on the recipe's phantoms and write the model to `to`; `folder` holds log and resumable state.

    Raises:
        ConfigError: the recipe does not parse; the message names file and field.
        OSError: the recipe is not there, or the model cannot be written.
    """
    recipe = load_recipe(recipe_path)
    training = recipe.training
    to.parent.mkdir(parents=True, exist_ok=True)
    network = train(training, training_volumes(recipe.volumes), folder=folder)
    model = Model(
        network=network,
        normalisation=training.normalisation,
        voxel_size_zyx_nm=training.voxel_size_zyx_nm,
        inference=training.inference,
        provenance={
            "recipe": recipe_path.name,
            "recipe_sha256": sha256_file(recipe_path),
            "steps": str(training.optimiser.steps),
            "petavoxel": CODE_VERSION,
        },
    )
    save_model(to, model)
    return model
