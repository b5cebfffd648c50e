"""`petavoxel acquisition`: look at what the microscope wrote."""

from __future__ import annotations

import typer

from typer_cli.boundary import ExitCode
from typer_cli.options import Folder, Format, Output
from typer_cli.output import show, table

app = typer.Typer(help="Look at what the microscope wrote.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Look at what the microscope wrote."""


@app.command()
def check(folder: Folder, output: Output = Format.TEXT) -> None:
    """What is there, what is missing, and why it is not complete.

    Ends with exit code 3 if the acquisition is not complete.

    Example: petavoxel acquisition check /data/sample_07
    """
    from rich.console import Console

    from functions.microscopes.registry import check_acquisition

    report = check_acquisition(folder)

    def render(screen: Console) -> None:
        facts = [
            ("layout", f"{report.layout} ({report.instrument})"),
            ("voxel size zyx", f"{report.voxel_size_zyx_nm} nm"),
            ("sections", f"{report.sections} (z {report.first_section} to {report.last_section})"),
            ("tiles", f"{report.tiles} ({report.bytes / 2**20:,.1f} MiB)"),
            ("complete", report.complete),
        ]
        screen.print(table("acquisition", report.id, rows=facts))
        if report.findings:
            rows = [(f.severity, f.subject, f.message, f.remedy) for f in report.findings]
            screen.print(table("", "where", "what", "remedy", rows=rows))

    show(report.to_json(), output, render)
    if not report.complete:
        raise typer.Exit(ExitCode.NO)
