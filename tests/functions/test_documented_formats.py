"""The examples of docs/formats.md are read by what reads such files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from functions.microscopes import plain
from functions.model.base import Document
from functions.model.gate import GateDocument
from functions.publication.sections import SectionsDocument
from functions.store.thresholds import Thresholds
from functions.store.verdicts import GateFile
from functions.training.recipe import load_recipe

TEXT = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```[a-z]*\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def example(mark: str) -> str:
    """The one block that holds these words."""
    (found,) = (block for block in BLOCKS if mark in block)
    return found


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("petavoxel.registration-gate/1", GateDocument),
        ("petavoxel.gate/1", GateFile),
        ("petavoxel.thresholds/1", Thresholds),
        ("petavoxel.sections/1", SectionsDocument),
    ],
)
def test_documents(name: str, document: type[Document]) -> None:
    read = document.parse(example(f'"{name}"'), source="docs/formats.md")
    assert read.to_json()["format"] == name


def test_a_plain_folder(tmp_path: Path) -> None:
    (tmp_path / "acquisition.json").write_text(example("petavoxel.acquisition/1"))
    (tmp_path / "tiles.csv").write_text(example("section,row,column,path"))
    acquisition = plain.read(tmp_path).acquisition
    assert acquisition.voxel_size_zyx_nm == (40.0, 4.0, 4.0)
    assert [tile.shape_yx for tile in acquisition.sections[0].tiles] == [(2160, 2560)] * 2
    assert acquisition.missing_sections == tuple(range(1, 120))


def test_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(example("[[volumes]]"))
    recipe = load_recipe(tmp_path / "recipe.toml")
    assert len(recipe.volumes) == 3
    assert recipe.validation.every_steps == 2000
    assert len(recipe.validation_volumes) == 1
