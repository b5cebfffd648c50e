"""`petavoxel site`: profiles of where flows run, the files of their endpoints, and the doctor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from typer_cli.boundary import ExitCode
from typer_cli.options import Format, Output
from typer_cli.output import show, table

if TYPE_CHECKING:
    from rich.console import Console

HELP = "Where flows run: make a profile, look at it, check it, write its endpoint's files."
app = typer.Typer(help=HELP, no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="NAME", help="A profile's name, or its TOML file.")]


@app.callback()
def group() -> None:
    """Where flows run: make a profile, look at it, check it, write its endpoint's files."""


@app.command()
def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the site shall be called.")],
    ready_made: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="PROFILE",
            help="Start from: polaris, aurora, perlmutter, slurm-gpu or workstation.",
        ),
    ],
    output: Output = Format.TEXT,
) -> None:
    """Write a profile with what is known of the machine; what only you know is left to fill in.

    Example: petavoxel site init polaris --from polaris
    """
    from flows.endpoint import new_profile
    from flows.site import home_folder, read_profile, site_path, unfilled

    path = site_path(name, home=home_folder())
    new_profile(path.stem, ready_made, path=path)
    empty = unfilled(read_profile(path))

    def render(screen: Console) -> None:
        screen.print(str(path), soft_wrap=True, markup=False)
        screen.print(table("fill in", "with", rows=list(empty.items())))

    show({"profile": str(path), "unfilled": empty}, output, render)


@app.command("show")
def show_site(name: Name, output: Output = Format.TEXT) -> None:
    """A profile's values, what is not filled in yet, and what does not fit. Needs no login.

    Ends with exit code 3 unless the profile is complete.

    Example: petavoxel site show polaris
    """
    from flows.endpoint import config_problems
    from flows.errors import SiteError
    from flows.site import LOCAL, home_folder, load_site, read_profile, site_path, unfilled

    home = home_folder()
    if name == LOCAL:
        payload: dict[str, Any] = load_site(name, home=home).to_json()
    else:
        payload = read_profile(site_path(name, home=home))
    empty = unfilled(payload)
    problems: list[str] = []
    if not empty:
        try:
            problems = config_problems(load_site(name, home=home).compute)
        except SiteError as error:
            problems = [str(error)]

    def render(screen: Console) -> None:
        screen.print(table("field", "value", rows=list(_flat(payload))))
        if empty:
            screen.print(table("not filled in", "with", rows=list(empty.items())))
        for problem in problems:
            screen.print(problem, soft_wrap=True, markup=False)

    show({"site": payload, "unfilled": empty, "problems": problems}, output, render)
    if empty or problems:
        raise typer.Exit(ExitCode.NO)


@app.command("endpoint-config")
def endpoint_config(
    name: Name,
    to: Annotated[
        Path, typer.Option("--to", metavar="FOLDER", help="The endpoint's folder, ~/.globus_compute/NAME.")
    ],
    output: Output = Format.TEXT,
) -> None:
    """Write the files of the site's Globus Compute endpoint; older ones are kept as *.old.

    Once the flow is deployed, the endpoint runs nothing but its functions.

    Example: petavoxel site endpoint-config polaris --to ~/.globus_compute/petavoxel
    """
    from flows.endpoint import endpoint_files, write_endpoint_files
    from flows.lock import lock_path, read_lock
    from flows.site import home_folder, read_profile, site_path

    home = home_folder()
    payload = read_profile(site_path(name, home=home))
    lock = read_lock(lock_path(name, home=home))
    allowed = sorted(lock.function_ids.values()) if lock else []
    texts = endpoint_files(str(payload.get("name", name)), payload.get("compute", {}), allowed=allowed)
    kept = write_endpoint_files(to, texts)
    written = [str(to / file) for file in texts]

    def render(screen: Console) -> None:
        for path in written:
            screen.print(path, soft_wrap=True, markup=False)
        for older in kept:
            screen.print(f"kept: {older}", soft_wrap=True, markup=False)
        screen.print("then: globus-compute-endpoint start (or restart) that endpoint", markup=False)

    show({"written": written, "kept": [str(path) for path in kept]}, output, render)


@app.command()
def check(
    name: Name,
    wait_s: Annotated[
        float, typer.Option("--wait-s", min=1, help="Wait so long for a worker to answer.")
    ] = 300.0,
    output: Output = Format.TEXT,
) -> None:
    """Ask everything that a run will need, and say what to do about what is not ready.

    Lists and writes to the collections (a folder, removed again), runs a probe on a worker, compares the flow
    with the lock. Ends with exit code 3 if a check failed.

    Example: petavoxel site check polaris
    """
    from dataclasses import asdict

    from flows.doctor import examine
    from typer_cli.facade import visit_of
    from typer_cli.output import console

    findings = []
    progress = console(error=True)
    for finding in examine(visit_of(name, limit_s=wait_s)):
        findings.append(finding)
        progress.print(f"{finding.status:<8} {finding.check}", markup=False)

    def render(screen: Console) -> None:
        rows = [(f.check, f.status, f.message, f.remedy) for f in findings]
        screen.print(table("check", "", "what", "remedy", rows=rows))

    show({"findings": [asdict(f) for f in findings]}, output, render)
    if any(f.status == "failed" for f in findings):
        raise typer.Exit(ExitCode.NO)


def _flat(payload: Any, *, field: str = "") -> list[tuple[str, Any]]:
    """Nested tables as `a.b` and value."""
    if not isinstance(payload, dict):
        return [(field, payload)]
    return [row for key, value in payload.items() for row in _flat(value, field=f"{field}.{key}".lstrip("."))]
