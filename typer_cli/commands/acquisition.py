"""`petavoxel acquisition`: look at what the microscope wrote, and learn its camera."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from typer_cli.boundary import ExitCode
from typer_cli.options import Folder, Format, Output, RunId, SiteName
from typer_cli.output import show, table

if TYPE_CHECKING:
    from functions.model.shading import ShadingDocument

app = typer.Typer(help="Look at what the microscope wrote, and learn its camera.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Look at what the microscope wrote, and learn its camera."""


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


@app.command()
def lens(
    run: RunId,
    to: Annotated[Path, typer.Option("--to", metavar="FILE.json", help="Where to write it.")],
    earlier: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE.json", help="An earlier lens of this camera, to improve on."),
    ] = None,
    camera: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the camera; by default the instrument's.")
    ] = None,
    site: SiteName = "local",
    output: Output = Format.TEXT,
) -> None:
    """Write the distortion and shading that a run's stitched sections share, for later runs of this camera.

    Give the file to them with --set stitch.lens=FILE.json; each section then starts from it.

    Example: petavoxel acquisition lens last --to camera.json --from camera.json
    """
    from rich.console import Console

    from functions.lens import brightness_range, camera_lens
    from functions.store.files import write_json
    from functions.store.lens import read_lens
    from typer_cli.facade import work_of

    known = None if earlier is None else read_lens(earlier, field="--from")
    found = camera_lens(work_of(run, site), earlier=known, camera=camera)
    write_json(to, found.to_json())

    def render(screen: Console) -> None:
        facts = [
            ("file", str(to)),
            ("tiles y, x px", found.tile_shape_yx),
            ("pixel size", f"{found.pixel_size_nm:g} nm"),
            ("rests on", f"{found.sections} sections, {found.tiles} tiles, {found.weight:g} overlaps"),
            ("largest shift", f"{found.largest_px:.2f} px"),
            ("brightness", _brightness(brightness_range(found), found.shading)),
        ]
        screen.print(table("lens", found.camera, rows=facts))

    show({"file": str(to), **found.to_json()}, output, render)


def _brightness(found: tuple[float, float] | None, shading: ShadingDocument | None) -> str:
    """What tiles are freed of, in words."""
    if shading is None:
        return "not measured: at least 4 overlapping tiles in a section are needed"
    if found is None:
        return f"even, as far as {shading.tiles} tiles show"
    return f"{found[0]:.3f} to {found[1]:.3f} of the mean, from {shading.tiles} tiles"
