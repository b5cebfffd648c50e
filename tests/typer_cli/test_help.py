"""Every command has help with an example; its text is golden. `PETAVOXEL_GOLDEN=write` writes it anew.

Golden is what the help says (texts, options, defaults), not how this release of typer draws it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from tests.typer_cli.invoking import petavoxel
from typer_cli.app import app

GOLDEN = Path(__file__).parents[1] / "golden" / "cli_help"


def commands(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Every command's words, and whether it is a group."""
    children = getattr(node, "commands", {})
    yield path, bool(children)
    for name, child in children.items():
        yield from commands(child, (*path, name))


ROOT = typer.main.get_command(app)
TREE = dict(commands(ROOT))
LEAVES = [path for path, is_group in TREE.items() if not is_group]


def words(path: tuple[str, ...]) -> str:
    """What the help of a command says."""
    node: Any = ROOT
    for name in path:
        node = node.commands[name]
    lines = [" ".join(("petavoxel", *path)), *(line.strip() for line in (node.help or "").splitlines()), ""]
    for parameter in node.params:
        names = ", ".join((*parameter.opts, *parameter.secondary_opts))
        default = (
            "" if parameter.default in (None, False) or callable(parameter.default) else parameter.default
        )
        default = getattr(default, "value", default)
        facts = [str(parameter.metavar or ""), f"[{default}]" if str(default) else ""]
        facts += ["required" if parameter.required else "", parameter.help or ""]
        lines.append("  ".join((names, *(fact for fact in facts if fact))))
    if hasattr(node, "commands"):
        lines += ["", *(f"{name}: {child.get_short_help_str(200)}" for name, child in node.commands.items())]
    return "\n".join(lines).strip() + "\n"


def normalised(text: str) -> str:
    """Drawn help without colours, frames and runs of blanks."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return " ".join(re.sub(r"[─│╭╮╰╯]", " ", text).split())


@pytest.mark.parametrize("path", list(TREE), ids=lambda path: "_".join(path) or "petavoxel")
def test_help_is_golden(path: tuple[str, ...]) -> None:
    found = words(path)
    file = GOLDEN / ("_".join(("petavoxel", *path)) + ".txt")
    if os.environ.get("PETAVOXEL_GOLDEN") == "write":
        file.write_text(found, encoding="utf-8")
    assert found == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", LEAVES, ids="_".join)
def test_every_command_has_an_example_and_json(path: tuple[str, ...]) -> None:
    done = petavoxel(*path, "--help")
    assert done.code == 0
    text = normalised(done.out)
    assert f"Example: petavoxel {' '.join(path)}" in text
    assert "--output" in text


def test_no_golden_file_is_left_over() -> None:
    assert {f.name for f in GOLDEN.glob("*.txt")} == {"_".join(("petavoxel", *p)) + ".txt" for p in TREE}
