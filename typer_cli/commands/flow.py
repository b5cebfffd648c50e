"""`petavoxel flow`: the flow definition, shown and checked without a login."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from typer_cli.boundary import ExitCode
from typer_cli.options import Format, Output
from typer_cli.output import print_json, show, table

app = typer.Typer(help="The flow definition: show it, check it. Needs no login.", no_args_is_help=True)


class FlowFormat(StrEnum):
    """How the definition is written."""

    JSON = "json"
    MERMAID = "mermaid"


@app.callback()
def group() -> None:
    """The flow definition: show it, check it. Needs no login."""


@app.command("show")
def show_flow(
    format_: Annotated[
        FlowFormat, typer.Option("--format", help="The definition, or a state diagram.")
    ] = FlowFormat.JSON,
    output: Output = Format.TEXT,
) -> None:
    """Print the one flow definition as JSON or as a Mermaid diagram.

    Example: petavoxel flow show --format mermaid > flow.mmd
    """
    from flows.definition import definition

    flow = definition()
    if format_ is FlowFormat.JSON:
        print_json(flow)
        return
    from typer_cli.diagram import mermaid

    text = mermaid(flow)
    show({"mermaid": text}, output, lambda screen: typer.echo(text))


@app.command()
def lint(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="A definition as JSON; by default our own.")
    ] = None,
    output: Output = Format.TEXT,
) -> None:
    """Find what would fail at run time: unreachable states, paths nobody writes, missing WaitTime, size.

    Ends with exit code 3 if there are findings.

    Example: petavoxel flow lint my_flow.json
    """
    from dataclasses import asdict

    from rich.console import Console

    from flows.definition import definition
    from flows.lint import lint as find
    from flows.schema import input_schema

    findings = find(_read(file) if file else definition(), schema=input_schema())

    def render(screen: Console) -> None:
        if findings:
            rows = [(f.severity, f.rule, f.state, f.message, f.remedy) for f in findings]
            screen.print(table("", "rule", "state", "what", "remedy", rows=rows))
        else:
            screen.print("no findings")

    show({"findings": [asdict(f) for f in findings]}, output, render)
    if findings:
        raise typer.Exit(ExitCode.NO)


def _read(file: Path) -> dict[str, Any]:
    """A definition from a JSON file; also a deployed flow's record, whose `definition` it is."""
    from flows.errors import DefinitionError

    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DefinitionError(f"{file}: not JSON: {error}", remedy="correct the file") from None
    if isinstance(document, dict) and isinstance(inner := document.get("definition"), dict):
        document = inner
    states = document.get("States") if isinstance(document, dict) else None
    if not isinstance(states, dict) or not all(isinstance(s, dict) and "Type" in s for s in states.values()):
        raise DefinitionError(
            f"{file}: States: not an object of states with a Type", remedy="give a flow definition"
        )
    return dict(document)
