"""The command `petavoxel`. Start-up is lazy: libraries are imported inside the commands that need them."""

from __future__ import annotations

from typing import Annotated

import typer

from typer_cli.boundary import BoundaryGroup
from typer_cli.commands import (
    acquisition,
    demo,
    flow,
    microscope,
    model,
    plan,
    run,
    serving,
    site,
    volume,
    watch,
)
from typer_cli.options import state_of

EPILOG = (
    "Exit codes: 0 done, 1 something must be put right (the message says what), 2 usage, "
    "3 the answer is no (incomplete acquisition, lint findings, failed run), 70 a bug, 130 interrupted."
)

app = typer.Typer(
    cls=BoundaryGroup,
    help="From raw microscope tiles to a published connectomics volume: one flow, one command.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(acquisition.app, name="acquisition")
app.add_typer(run.app, name="run")
app.add_typer(watch.app, name="watch")
app.add_typer(flow.app, name="flow")
site.app.command("serve")(serving.serve)
app.add_typer(site.app, name="site")
app.add_typer(volume.app, name="volume")
app.add_typer(model.app, name="model")
app.add_typer(microscope.app, name="microscope")
app.command("plan")(plan.plan)
app.command("demo")(demo.demo)


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"petavoxel {version('petavoxel')}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    """From raw microscope tiles to a published connectomics volume: one flow, one command."""
    state_of(context).debug = debug


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="petavoxel")
