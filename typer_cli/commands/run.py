"""`petavoxel run`: start, look after and repeat runs of the flow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from typer_cli import options
from typer_cli.boundary import ExitCode
from typer_cli.options import Format, Output
from typer_cli.output import console, show, table

if TYPE_CHECKING:
    from flows.records import RunRecord

app = typer.Typer(help="Runs of the flow: start, follow, repeat.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Runs of the flow: start, follow, repeat."""


@app.command()
def start(
    folder: options.Folder,
    site: options.SiteName = "local",
    start_at: options.StartAt = None,
    stop_after: options.StopAfter = None,
    sections: options.Sections = None,
    settings: options.Settings = None,
    on_gate_fail: options.OnGateFail = None,
    memory_gib: options.MemoryGib = None,
    label: Annotated[str, typer.Option("--label", help="A name for people.")] = "",
    workers: options.Workers = None,
    engine: options.Engine = None,
    engine_config: options.EngineConfig = None,
    outbox: options.Outbox = None,
    wait: options.Wait = False,
    output: Output = Format.TEXT,
) -> None:
    """Start a run on an acquisition; finished units of earlier runs are reused.

    A microscope's logs and sidecars stay where they are: documents are written in their stead.

    Example: petavoxel run start /data/sample_07 --sections 3:9 --set segment.device=cpu --wait
    """
    from typer_cli.facade import request_of, runs_of
    from typer_cli.progress import RunProgress

    request = request_of(
        folder,
        start_at=start_at,
        stop_after=stop_after,
        sections=sections,
        settings=settings,
        label=label,
        on_gate_fail=on_gate_fail,
        memory_gib=memory_gib,
        outbox=outbox,
    )
    runs = runs_of(site, workers=workers, engine=engine, engine_config=engine_config)
    if wait:
        with RunProgress() as progress:
            record = runs.start(request, wait=True, on_event=progress.on_event)
    else:
        record = runs.start(request)
    _show_started(record, site, output)


@app.command("list")
def list_runs(site: options.SiteName = "local", output: Output = Format.TEXT) -> None:
    """All runs of a site, newest first.

    Example: petavoxel run list
    """
    from rich.console import Console

    from typer_cli.documents import run_document
    from typer_cli.facade import runs_of

    records = runs_of(site).list()

    def render(screen: Console) -> None:
        rows = [
            (r.id, r.status, r.acquisition_id, r.label, r.created[:16], (r.parent_run or "")[:8])
            for r in records
        ]
        screen.print(table("run", "status", "acquisition", "label", "created", "rerun of", rows=rows))

    show({"runs": [run_document(r) for r in records]}, output, render)


@app.command("show")
def show_run(run: options.RunId, site: options.SiteName = "local", output: Output = Format.TEXT) -> None:
    """A run's steps, figures and problems; plan against actual where `petavoxel plan --run` made one.

    Example: petavoxel run show last
    """
    from rich.console import Console

    from flows.scratch import against_plan
    from typer_cli.documents import compared_document, draw_compared, draw_run, run_document, step_document
    from typer_cli.facade import runs_of

    record, steps = runs_of(site).show(run)
    compared = against_plan(record)

    def render(screen: Console) -> None:
        draw_run(screen, record, steps)
        draw_compared(screen, compared)

    document = {
        **run_document(record),
        "steps": [step_document(s) for s in steps],
        "plan": compared_document(compared),
    }
    show(document, output, render)


@app.command()
def logs(run: options.RunId, site: options.SiteName = "local", output: Output = Format.TEXT) -> None:
    """A run's log, oldest first, with the codes of Globus Flows.

    Example: petavoxel run logs last
    """
    from dataclasses import asdict

    from rich.console import Console

    from typer_cli.facade import runs_of

    entries = runs_of(site).logs(run)

    def render(screen: Console) -> None:
        for entry in entries:
            screen.print(
                f"{entry.time}  {entry.code:<23} {entry.state_name:<20} {entry.description}",
                markup=False,
                soft_wrap=True,
            )

    show({"logs": [asdict(entry) for entry in entries]}, output, render)


@app.command()
def rerun(
    run: options.RunId,
    site: options.SiteName = "local",
    start_at: options.StartAt = None,
    stop_after: options.StopAfter = None,
    settings: options.Settings = None,
    on_gate_fail: options.OnGateFail = None,
    memory_gib: options.MemoryGib = None,
    retry_quarantined: Annotated[
        bool, typer.Option("--retry-quarantined", help="Try units again that failed too often.")
    ] = False,
    workers: options.Workers = None,
    engine: options.Engine = None,
    engine_config: options.EngineConfig = None,
    wait: options.Wait = False,
    output: Output = Format.TEXT,
) -> None:
    """Go on with a run that stopped, or repeat it with other parameters; says first what it will reuse.

    Without --start-at, --stop-after, --on-gate-fail, --memory-gib, --retry-quarantined, --engine and --set
    an unfinished run goes on under its own id; else a new run is started.

    Example: petavoxel run rerun last --start-at segment --stop-after segment --engine parsl
    """
    from typer_cli.documents import draw_reuse, reuse_document
    from typer_cli.facade import runs_of
    from typer_cli.progress import RunProgress
    from typer_cli.settings import parse_settings

    runs = runs_of(site, workers=workers, engine=engine, engine_config=engine_config)
    record = runs.idle(run)
    parameters = parse_settings(settings, base=runs.request(record.id).all_parameters) if settings else None
    reuse = runs.reuse(
        runs.rerun_request(record.id, start_at=start_at, stop_after=stop_after, parameters=parameters)
    )
    draw_reuse(console(error=True), reuse)
    with RunProgress() as progress:
        record = runs.rerun(
            record.id,
            start_at=start_at,
            stop_after=stop_after,
            on_gate_fail=on_gate_fail,
            parameters=parameters,
            memory_gib=memory_gib,
            retry_quarantined=retry_quarantined,
            wait=wait,
            on_event=progress.on_event,
        )
    _show_started(record, site, output, {"reuse": reuse_document(reuse)})


@app.command()
def cancel(run: options.RunId, site: options.SiteName = "local", output: Output = Format.TEXT) -> None:
    """Stop a run; what is finished stays and is reused by `rerun`.

    Example: petavoxel run cancel last
    """
    from flows.records import RunStatus
    from typer_cli.documents import run_document
    from typer_cli.facade import runs_of

    record = runs_of(site).cancel(run)
    after = (
        f"`petavoxel run rerun {record.id}` goes on"
        if record.status is RunStatus.CANCELLED
        else "it had ended already"
    )
    show(
        run_document(record),
        output,
        lambda screen: screen.print(
            f"run {record.id}: {record.status}; {after}", soft_wrap=True, markup=False
        ),
    )


@app.command()
def resume(
    run: options.RunId,
    site: options.SiteName = "local",
    wait: options.Wait = False,
    output: Output = Format.TEXT,
) -> None:
    """Go on with a run that is INACTIVE, after what it waits for has been given; says first what that is.

    Example: petavoxel run resume last
    """
    from typer_cli.facade import runs_of
    from typer_cli.progress import RunProgress

    runs = runs_of(site)
    found = runs.find(run)
    blocked = runs.blocked(found)
    if blocked is not None:
        screen = console(error=True)
        screen.print(f"it waits for: {blocked.message}", markup=False, soft_wrap=True)
        for scope in blocked.scopes:
            screen.print(f"  {scope}", markup=False, soft_wrap=True)
    with RunProgress() as progress:
        record = runs.resume(found, wait=wait, on_event=progress.on_event)
    _show_started(record, site, output)


@app.command("open")
def open_run(
    run: options.RunId,
    site: options.SiteName = "local",
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser.")] = True,
    output: Output = Format.TEXT,
) -> None:
    """A run's page in the Globus web app.

    Example: petavoxel run open last --site polaris
    """
    from flows.errors import RunError
    from typer_cli.facade import runs_of

    record, _ = runs_of(site).show(run)
    link = record.link
    if link is None:
        raise RunError(
            f"{record.id}: runs on this machine and has no page at Globus",
            remedy="`petavoxel site serve` shows it",
        )
    if browser:
        typer.launch(link)
    show({"link": link}, output, lambda screen: screen.print(link, soft_wrap=True, markup=False))


@app.command()
def report(
    run: options.RunId,
    site: options.SiteName = "local",
    open_: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    output: Output = Format.TEXT,
) -> None:
    """Where the quality report of a published run lies.

    Example: petavoxel run report last --open
    """
    from functions.model.errors import VolumeError
    from typer_cli.facade import bundle_of

    path = bundle_of(run, site) / "report.html"
    if not path.is_file():
        raise VolumeError(f"{path}: no report", remedy="run finish and publish again")
    if open_:
        typer.launch(path.as_uri())
    show({"report": str(path)}, output, lambda screen: screen.print(str(path), soft_wrap=True, markup=False))


@app.command()
def follow(run: options.RunId, site: options.SiteName = "local", output: Output = Format.TEXT) -> None:
    """Watch a run until it ends.

    Example: petavoxel run follow last
    """
    from typer_cli.facade import runs_of
    from typer_cli.progress import RunProgress

    runs = runs_of(site)
    record, _ = runs.show(run)
    with RunProgress() as progress:
        for event in runs.follow(record.id):
            progress.on_event(event)
    record, _ = runs.show(record.id)
    _show_started(record, site, output)


def _show_started(
    record: RunRecord, site: str, output: Format, more: dict[str, object] | None = None
) -> None:
    """A run that was started or followed: where it stands and what can be done next; 3 if it failed."""
    from rich.console import Console

    from flows.records import RunStatus
    from typer_cli.documents import run_document

    option = "" if site == "local" else f" --site {site}"

    def render(screen: Console) -> None:
        screen.print(f"run {record.id}: {record.status}", markup=False)
        if record.error:
            screen.print(record.error, markup=False, soft_wrap=True)
        if record.link:
            screen.print(record.link, markup=False, soft_wrap=True)
        if record.status is RunStatus.INACTIVE:
            screen.print(f"go on: petavoxel run resume {record.id}{option}", markup=False, soft_wrap=True)
        elif not record.status.ended:
            screen.print(f"follow it: petavoxel run follow {record.id}{option}", markup=False, soft_wrap=True)
        elif record.published_path:
            screen.print(f"published: {record.published_path}", markup=False, soft_wrap=True)
            screen.print(
                f"look at it: petavoxel volume view {record.id}{option}", markup=False, soft_wrap=True
            )
        else:
            screen.print(f"steps: petavoxel run show {record.id}{option}", markup=False, soft_wrap=True)

    show({**run_document(record), **(more or {})}, output, render)
    if record.status not in (RunStatus.SUCCEEDED, RunStatus.ACTIVE):
        raise typer.Exit(ExitCode.NO)
