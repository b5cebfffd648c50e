"""What README and docs tell people to type, set, run and follow is there: commands, parameters, links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest
import typer.main
from pydantic import BaseModel

from functions.model.parameters import Parameters
from typer_cli.app import app
from typer_cli.settings import parse_settings

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
GROUPS = {name: field.annotation for name, field in Parameters.model_fields.items()}
CALL = re.compile(r"(?:VENV/bin/)?petavoxel (?=[a-z-])|.*torchrun .*-m typer_cli ")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(text: str) -> list[str]:
    """Lines of fenced blocks, continued ones joined."""
    fenced = re.findall(r"^ *```[a-z]*\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    return [line.strip() for part in fenced for line in re.sub(r"\\\n\s*", "", part).splitlines()]


def spans(text: str) -> list[str]:
    """Inline code outside of fenced blocks; a line's end counts as a space."""
    bare = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", bare)]


def arguments_of(line: str) -> list[str] | None:
    """What is typed behind `petavoxel`; None of a line that does not call it. Two blanks begin a remark."""
    call = CALL.match(line)
    if call is None:
        return None
    typed = re.split(r"\s{2,}|\s#|\s>", line[call.end() :].replace("[--", "--").replace("]", ""))[0]
    return [word for word in shlex.split(typed) if word not in ("...", "…")]


def command_of(arguments: list[str]) -> tuple[click.Command, list[str]]:
    """The command that arguments name, and the rest of them."""
    node: Any = typer.main.get_command(app)
    rest = list(arguments)
    while hasattr(node, "commands") and rest and not rest[0].startswith("-"):
        if rest[0] not in node.commands:
            assert node.name == "watch", f"no command {' '.join(arguments)!r}"
            return node.commands["run"], rest
        node = node.commands[rest.pop(0)]
    return node, rest


def typed(page: Path) -> Iterator[list[str]]:
    for line in blocks(text_of(page)):
        if (arguments := arguments_of(line)) is not None:
            yield arguments


def mentioned(page: Path) -> Iterator[list[str]]:
    """Commands in the text, without alternatives such as `flow plan|deploy`."""
    for span in spans(text_of(page)):
        if "|" not in span and (arguments := arguments_of(span)) is not None:
            yield arguments


@each_page
def test_commands_in_blocks_parse(page: Path) -> None:
    for arguments in typed(page):
        command, rest = command_of(arguments)
        if not hasattr(command, "commands"):
            context = command.make_context(" ".join(arguments), rest)
            parse_settings(context.params.get("settings") or ())


@each_page
def test_commands_in_the_text_and_their_options_exist(page: Path) -> None:
    for arguments in mentioned(page):
        command, rest = command_of(arguments)
        known = {"--help"} | {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
        unknown = [word for word in rest if word.startswith("--") and word not in known]
        assert not unknown, f"{' '.join(arguments)!r}: {unknown}"


@each_page
def test_parameters_exist(page: Path) -> None:
    """`segment.batch` and the like, alone or with a value; `gate.*` are all of a group."""
    pattern = rf"(?<![\w./])({'|'.join(GROUPS)})\.([a-z]\w*)(?![\w./(])"
    for span in (*spans(text_of(page)), *blocks(text_of(page))):
        for group, name in re.findall(pattern, span):
            fields = GROUPS[group]
            assert fields is not None
            assert issubclass(fields, BaseModel)
            assert name in fields.model_fields or name in ("json", "toml", "md"), f"{group}.{name}: {span}"


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        if anchor:
            assert anchor in headings(there), target


def headings(page: Path) -> set[str]:
    """Anchors of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@each_page
def test_modules_and_make_targets_exist(page: Path) -> None:
    code = [*spans(text_of(page)), *blocks(text_of(page))]
    for module in re.findall(r"\b(tests\.benchmarks\.\w+)", "\n".join(code)):
        assert find_spec(module), module
    targets = set(re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    named = {found[1] for line in code if (found := re.match(r"make ([a-z-]+)", line))}
    assert named <= targets


def test_there_is_something_to_check() -> None:
    """The patterns above find what they are for."""
    assert sum(1 for page in PAGES for _ in typed(page)) > 40
    assert sum(1 for page in PAGES for _ in mentioned(page)) > 40
    assert arguments_of("petavoxel run list      show RUN | follow RUN") == ["run", "list"]
    assert arguments_of("torchrun -m typer_cli model train R.toml [--folder F]") == [
        "model", "train", "R.toml", "--folder", "F",
    ]  # fmt: skip
    with pytest.raises(AssertionError, match="no command"):
        command_of(["run", "begin"])
