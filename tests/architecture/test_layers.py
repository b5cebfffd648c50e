"""One direction: typer_cli -> flows -> functions -> ffn, and the layers inside functions."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / ".importlinter"


def test_the_contracts_are_kept() -> None:
    assert lint_imports(config_filename=str(CONFIG), no_cache=True) == EXIT_STATUS_SUCCESS


def test_every_step_and_room_stands_in_a_layer() -> None:
    config = ConfigParser()
    config.read(CONFIG)
    named = config["importlinter:contract:functions"]["layers"].replace("|", " ").split()
    folder = ROOT / "functions"
    present = {f"functions.{path.stem}" for path in folder.glob("*.py") if path.stem != "__init__"}
    present |= {f"functions.{path.parent.name}" for path in folder.glob("*/__init__.py")}
    assert present - {"functions.testing"} <= set(named)
