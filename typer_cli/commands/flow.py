"""`petavoxel flow`: the flow definition, shown and checked without a login, and deployed with one."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from typer_cli import options
from typer_cli.boundary import ExitCode
from typer_cli.options import Format, Output
from typer_cli.output import console, print_json, show, table

if TYPE_CHECKING:
    from rich.console import Console

    from flows.deploy import Deployer, Plan

HELP = "The flow definition: show and check it without a login, deploy it with one."
app = typer.Typer(help=HELP, no_args_is_help=True)


class FlowFormat(StrEnum):
    """How the definition is written."""

    JSON = "json"
    MERMAID = "mermaid"


TakeOver = Annotated[
    bool, typer.Option("--take-over", help="Replace what another machine deployed since this one did.")
]


@app.callback()
def group() -> None:
    """The flow definition: show and check it without a login, deploy it with one."""


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


@app.command()
def plan(site: options.SiteName, take_over: TakeOver = False, output: Output = Format.TEXT) -> None:
    """Say what `flow deploy` would create, change and leave alone; changes nothing.

    Ends with exit code 3 if another machine deployed since this one did.

    Example: petavoxel flow plan --site polaris
    """
    from dataclasses import asdict

    found = _deployer(site).plan(take_over=take_over)
    show(asdict(found), output, lambda screen: _draw_plan(screen, found))
    if found.conflicts:
        raise typer.Exit(ExitCode.NO)


@app.command()
def deploy(site: options.SiteName, take_over: TakeOver = False, output: Output = Format.TEXT) -> None:
    """Register the functions, create or update the flow, and write the lock file beside the profile.

    Shows the plan first. With nothing to do it writes nothing. The lock may be committed.

    Example: petavoxel flow deploy --site polaris
    """
    from dataclasses import asdict

    from flows.remote import flow_page

    deployer = _deployer(site)
    found = deployer.plan(take_over=take_over)
    messages = console(error=True)
    _draw_plan(messages, found)
    lock = deployer.deploy(take_over=take_over, on_change=lambda text: messages.print(text, markup=False))
    assert lock.flow
    document = {"plan": asdict(found), "lock": lock.to_json(), "page": flow_page(lock.flow.id)}

    def render(screen: Console) -> None:
        screen.print(f"flow {document['page']}", soft_wrap=True, markup=False)
        screen.print(f"lock {deployer.path}", soft_wrap=True, markup=False)
        if any(c.action in ("create", "update") and c.what != "flow" for c in found.changes):
            command = f"petavoxel site endpoint-config {site} --to ~/.globus_compute/NAME"
            screen.print(
                f"functions have new ids: where the endpoint runs, `{command}`, and restart it",
                soft_wrap=True,
                markup=False,
            )

    show(document, output, render)


def _deployer(name: str) -> Deployer:
    """A site's deployment, by whoever may deploy it.

    Raises:
        SiteError: the embedded site, which has no deployment.
    """
    from flows.auth import connect
    from flows.deploy import Deployer
    from flows.errors import SiteError
    from flows.lock import lock_path
    from flows.site import home_folder, load_site

    home = home_folder()
    site = load_site(name, home=home)
    if site.embedded:
        raise SiteError("site local: has no deployment", remedy="its runs take the definition as it is")
    path = lock_path(name, home=home)
    return Deployer(site=site, service=connect(site, "deployer", home), path=path)


def _draw_plan(screen: Console, plan: Plan) -> None:
    if plan.empty:
        screen.print("no change", markup=False)
        return
    signs = {"create": "+", "update": "~", "note": "=", "keep": " ", "conflict": "!"}
    for change in plan.changes:
        if change.action == "keep":
            continue
        why = f": {change.why}" if change.why else ""
        screen.print(
            f"{signs[change.action]} {change.action} {change.what}{why}", soft_wrap=True, markup=False
        )
        for line in change.diff:
            screen.print(f"    {line}", soft_wrap=True, markup=False)
    kept = sum(change.action == "keep" for change in plan.changes)
    screen.print(f"{kept} of {len(plan.changes)} unchanged", markup=False)


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
