"""`petavoxel watch`: see sections and acquisitions complete, and start flows for them."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from typer_cli import options
from typer_cli.options import Format, Output
from typer_cli.output import show, table

if TYPE_CHECKING:
    from flows.watch.report import WatchReport
    from flows.watch.service import WatchService


class FolderFirst(TyperGroup):
    """`watch FOLDER` is short for `watch run FOLDER`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `run` in front of what is no command."""
        if args and args[0] not in (*self.commands, "--help", "-h"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=FolderFirst,
    help="See sections and acquisitions complete, and start flows: petavoxel watch FOLDER --site SITE.",
    no_args_is_help=True,
)


@app.callback()
def group() -> None:
    """See sections and acquisitions complete, and start flows for them."""


@app.command("run")
def run_watcher(
    folder: options.Folder,
    site: options.SiteName = "local",
    every: Annotated[int, typer.Option("--every", min=1, max=50, help="Sections a run.")] = 1,
    quiet_seconds: Annotated[
        float,
        typer.Option(
            "--quiet-seconds", min=0.0, help="Without a new tile, after which nothing more is expected."
        ),
    ] = 60.0,
    end_quiet_hours: Annotated[
        float,
        typer.Option(
            "--end-quiet-hours",
            min=0.0,
            help="Without a new tile, after which the acquisition is over; 0: only when you say so.",
        ),
    ] = 6.0,
    scan_seconds: Annotated[
        float, typer.Option("--scan-seconds", min=0.1, help="Between looks, whatever events say.")
    ] = 10.0,
    poll: Annotated[
        bool, typer.Option("--poll", help="Do not use file events; network shares never do.")
    ] = False,
    volume: Annotated[
        bool, typer.Option("--volume/--no-volume", help="Run the whole flow when the acquisition is over.")
    ] = True,
    at_most: Annotated[int, typer.Option("--at-most", min=1, help="Runs at work at the same time.")] = 4,
    once: Annotated[bool, typer.Option("--once", help="Look once, start what is due, and end.")] = False,
    outbox: options.Outbox = None,
    settings: options.Settings = None,
    workers: options.Workers = None,
    output: Output = Format.TEXT,
) -> None:
    """Watch a folder until stopped: a run for each section or batch, and one for the volume at the end.

    Only one watcher a folder. It may be killed at any time: the next one goes on.

    Example: petavoxel watch run /data/sample_07 --site local --every 4
    """
    from flows.site import home_folder, load_site
    from flows.watch.report import watch_report
    from flows.watch.service import Places, WatchService
    from flows.watch.starting import RunsStarter
    from flows.watch.watcher import WatchSettings
    from functions.model.parameters import Parameters
    from typer_cli.facade import runs_of
    from typer_cli.settings import parse_settings

    home = home_folder()
    places = Places.of(folder, home, outbox=outbox)
    service = WatchService(
        places,
        RunsStarter(runs_of(site, workers=workers, role="trigger"), mark=places.mark),
        site=load_site(site, home=home, workers=workers),
        settings=WatchSettings(
            every=every,
            quiet_seconds=quiet_seconds,
            end_quiet_seconds=end_quiet_hours * 3600 or None,
            scan_seconds=scan_seconds,
            volume=volume,
            at_most=at_most,
        ),
        parameters=Parameters.parse(parse_settings(settings or []), source="--set"),
        poll=poll,
    )
    if once:
        service.once()
    else:
        _until_stopped(service)
    report = watch_report(places)
    show(report.to_json(), output, lambda screen: _draw(screen, report))


@app.command()
def status(folder: options.Folder, outbox: options.Outbox = None, output: Output = Format.TEXT) -> None:
    """What waits for what: sections, the rules that fired, starts and their attempts.

    Example: petavoxel watch status /data/sample_07
    """
    from flows.site import home_folder
    from flows.watch.report import watch_report
    from flows.watch.service import Places

    report = watch_report(Places.of(folder, home_folder(), outbox=outbox))
    show(report.to_json(), output, lambda screen: _draw(screen, report))


@app.command()
def finish(folder: options.Folder, output: Output = Format.TEXT) -> None:
    """Say that the acquisition is over: what is left is started, then the volume. A new tile takes it back.

    Example: petavoxel watch finish /data/sample_07
    """
    from flows.site import home_folder
    from flows.watch.ledger import Ledger
    from flows.watch.report import watch_report
    from flows.watch.service import Places

    places = Places.of(folder, home_folder())
    watch_report(places)
    ledger = Ledger(places.ledger)
    ledger.finish()
    ledger.close()
    document = {"folder": str(places.folder), "finished": True}
    show(document, output, lambda screen: screen.print(f"{places.folder}: taken for over", markup=False))


@app.command()
def unit(
    folder: options.Folder,
    site: options.SiteName = "local",
    every: Annotated[int, typer.Option("--every", min=1, max=50, help="Sections a run.")] = 1,
    outbox: options.Outbox = None,
    output: Output = Format.TEXT,
) -> None:
    """Print a systemd unit that keeps a watcher of this folder running.

    Example: petavoxel watch unit /data/sample_07 --site local > ~/.config/systemd/user/petavoxel.service
    """
    import sys

    from flows.site import home_folder
    from flows.watch.unit import systemd_unit

    text = systemd_unit(
        folder.expanduser().resolve(),
        site=site,
        home=home_folder(),
        outbox=outbox.expanduser().resolve() if outbox else None,
        more=["--every", str(every)],
    )
    if output is Format.JSON:
        show({"unit": text}, output, lambda screen: None)
    else:
        sys.stdout.write(text)


def _until_stopped(service: WatchService) -> None:
    """Run until SIGTERM or an interrupt, then end both threads."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, lambda *_: service.stop())
    try:
        service.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _draw(screen: Any, report: WatchReport) -> None:
    from flows.watch.report import outcome, waits_for

    facts = [
        ("watched now", report.watched),
        (
            "last look",
            f"{report.looked_seconds_ago} s ago" if report.looked_seconds_ago is not None else None,
        ),
        ("tiles", report.tiles),
        *((f"sections {state}", count) for state, count in report.counts.items()),
        *(("problem", problem) for problem in report.problems),
    ]
    screen.print(table("acquisition", report.places.acquisition_id, rows=facts))
    if report.sections:
        rows = [(f"{s.z}", s.version, s.state, s.rule or None, waits_for(s)) for s in report.sections]
        screen.print(table("z", "version", "state", "rule", "waits for", rows=rows))
    if report.starts:
        starts = [(s.tag, s.state, (s.run_id or "")[:8], outcome(s)) for s in report.starts]
        screen.print(table("start", "state", "run", "", rows=starts))
