"""The recipe file of a training run: TOML, parsed strictly, every error with file and field.

data = "."                    # paths below are relative to this folder, it to the recipe's; optional
[[volumes]]                   # what to train on; kinds: functions.training.entries
[validation]                  # what to judge by; optional
[[validation.volumes]]
[training]                    # ffn.recipe.TrainingRecipe
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from ffn.config import ConfigError, from_json, require
from ffn.recipe import TrainingRecipe
from functions.training.entries import Entry, parse_entries

_FIELDS = ("data", "volumes", "validation", "training")


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationConfig:
    """How the network is judged while it learns: by segmenting volumes that it is not trained on.

    Every `every_steps` steps; a volume's flooding ends after `max_fovs` fields of view, which bounds what a
    network that has learnt little may cost. `fast` takes the moves and seeds of fast inference.
    """

    every_steps: int = 1000
    max_fovs: int = 20_000
    fast: bool = False

    def __post_init__(self) -> None:
        require(self.every_steps >= 1, "every_steps", "must be at least 1")
        require(self.max_fovs >= 1, "max_fovs", "must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A parsed recipe; `data` is the folder that its paths start from."""

    path: Path
    data: Path
    volumes: tuple[Entry, ...]
    validation: ValidationConfig
    validation_volumes: tuple[Entry, ...]
    training: TrainingRecipe


def load_recipe(path: Path, *, data: Path | None = None) -> Recipe:
    """Reads a recipe; `data` takes the place of the folder that it names.

    Raises:
        ConfigError: not TOML, or a field that is missing, unknown or wrong.
        OSError: the file cannot be read.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML ({error}); correct the recipe") from None
    try:
        return _parse(path, document, data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _parse(path: Path, document: dict[str, object], data: Path | None) -> Recipe:
    for key in document:
        require(key in _FIELDS, key, f"unknown field; known are {', '.join(_FIELDS)}")
    require("training" in document, "training", "is missing; add a [training] table")
    folder = document.get("data", ".")
    if not isinstance(folder, str):
        raise ConfigError(f"data: expected the path of a folder, found {folder!r}")
    held: tuple[Entry, ...] = ()
    validation = document.get("validation", {})
    if "validation" in document:
        if not isinstance(validation, dict):
            raise ConfigError(f"validation: expected a table, found {validation!r}")
        held = parse_entries(validation.get("volumes"), where="validation.volumes")
        validation = {k: v for k, v in validation.items() if k != "volumes"}
    return Recipe(
        path=path,
        data=data if data is not None else path.parent / folder,
        volumes=parse_entries(document.get("volumes"), where="volumes"),
        validation=from_json(ValidationConfig, validation, where="validation"),
        validation_volumes=held,
        training=from_json(TrainingRecipe, document["training"], where="training"),
    )
