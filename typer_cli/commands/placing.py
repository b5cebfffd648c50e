"""`petavoxel volume locate`, `render`, `export-transforms`: ask, draw and hand on the geometry of a run."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from typer_cli.boundary import ExitCode
from typer_cli.numbers import box_zyx, point
from typer_cli.options import Format, Output, RunId, Sections, SiteName
from typer_cli.output import show, table

if TYPE_CHECKING:
    from rich.console import Console

    from functions.locate import Located, Locator

FEW_ROWS = 20


class Form(StrEnum):
    """What transforms are written as."""

    NATIVE = "native"
    RELATIVE_MAP = "relative-map"
    LANDMARKS = "landmarks"
    RENDER_WS = "render-ws"


def locate(
    run: RunId,
    section: Annotated[
        int | None, typer.Option(min=0, help="z index of the section that --tile or --stage is of.")
    ] = None,
    tile: Annotated[str | None, typer.Option(metavar="TILE", help="A raw tile, e.g. g0_r000_c001.")] = None,
    at: Annotated[str | None, typer.Option(metavar="Y,X", help="Pixel of the tile.")] = None,
    stage: Annotated[
        str | None, typer.Option(metavar="Y,X", help="Place of the stage in nm, as the microscope noted it.")
    ] = None,
    voxel: Annotated[str | None, typer.Option(metavar="Z,Y,X", help="Voxel of the volume.")] = None,
    points: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            help="Many points: columns section,tile,y_px,x_px, or section,stage_y_nm,stage_x_nm, or"
            " voxel_z,voxel_y,voxel_x; further columns are kept.",
        ),
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FILE.csv", help="Write the answers of --points there.")
    ] = None,
    site: SiteName = "local",
    output: Output = Format.TEXT,
) -> None:
    """Where a pixel of a raw tile, or a place of the stage, is in the volume; and what a voxel shows.

    The answer names the section, every tile that covers the point, its pixel there, and the tile whose pixels
    are drawn. Ends with 3 when nothing is shown there: in a fold or crack, outside, or masked.

    Example: petavoxel volume locate last --section 12 --tile g0_r000_c001 --at 812.5,1040
    """
    from functions.locate import Locator
    from functions.store.point_files import read_points
    from typer_cli.facade import work_of

    _one_question(section, tile, at, stage, voxel, points, to)
    locator = Locator(work_of(run, site))
    if points is not None:
        rows = read_points(points)
        _show_many([row.cells for row in rows], locator.from_rows(rows), to, output)
        return
    found = _ask(locator, section, tile, at, stage, voxel)
    show(found.to_json(), output, lambda screen: _draw(screen, found))
    if found.state != "shown":
        raise typer.Exit(ExitCode.NO)


def _one_question(
    section: int | None,
    tile: str | None,
    at: str | None,
    stage: str | None,
    voxel: str | None,
    points: Path | None,
    to: Path | None,
) -> None:
    """Refuse options that ask for nothing, or for two things."""
    asked = {"--tile": tile, "--stage": stage, "--voxel": voxel, "--points": points}
    given = [name for name, value in asked.items() if value is not None]
    if len(given) != 1:
        raise typer.BadParameter("give one of --tile with --at, --stage, --voxel, --points")
    if (tile is None) != (at is None):
        raise typer.BadParameter("--tile and --at belong together")
    if (section is not None) != (given[0] in ("--tile", "--stage")):
        raise typer.BadParameter("--section goes with --tile and --stage, which need it")
    if to is not None and points is None:
        raise typer.BadParameter("--to goes with --points")


def _ask(
    locator: Locator,
    section: int | None,
    tile: str | None,
    at: str | None,
    stage: str | None,
    voxel: str | None,
) -> Located:
    """The answer to the one question that was asked."""
    if voxel is not None:
        z, y, x = point(voxel, "--voxel", axes="zyx")
        return locator.from_voxel((z, y, x))
    place, option = (at, "--at") if stage is None else (stage, "--stage")
    y, x = point(place or "", option, axes="yx")
    if tile is not None:
        return locator.from_tile(section or 0, tile, (y, x))
    return locator.from_stage(section or 0, (y, x))


def _draw(screen: Console, found: Located) -> None:
    facts = [
        ("state", f"{found.state}: {found.note}" if found.note else found.state),
        ("section", found.section),
        ("section y, x px", found.section_yx_px),
        ("voxel z, y, x", found.voxel_zyx),
        ("volume z, y, x nm", found.volume_zyx_nm),
    ]
    rows = [(name, _numbers(value)) for name, value in facts if value is not None]
    screen.print(table("point", "", rows=rows))
    if found.tiles:
        tiles = [(t.tile, _numbers(t.yx_px), _numbers(t.stage_yx_nm), t.drawn) for t in found.tiles]
        screen.print(table("tile", "y, x px", "stage y, x nm", "drawn", rows=tiles))


def _numbers(value: object) -> object:
    """Coordinates in full: a table's four digits are too few."""
    return ", ".join(f"{v:.2f}" for v in value) if isinstance(value, tuple) else value


def _show_many(cells: list[dict[str, str]], found: list[Located], to: Path | None, output: Format) -> None:
    """Answers of a CSV file: into another, and as a document or the first ones as a table."""
    from functions.locate import flat
    from functions.store.point_files import write_points

    rows: list[dict[str, object]] = [
        {**given, **flat(answer)} for given, answer in zip(cells, found, strict=True)
    ]
    if to is not None:
        write_points(to, rows)
    shown = sum(answer.state == "shown" for answer in found)

    def render(screen: Console) -> None:
        first = [
            (k, a.state, a.section, _numbers(a.voxel_zyx), a.drawn.tile if a.drawn else None)
            for k, a in enumerate(found[:FEW_ROWS], start=1)
        ]
        screen.print(table("point", "state", "section", "voxel z, y, x", "drawn tile", rows=first))
        screen.print(f"{shown} of {len(found)} points are shown" + (f"; wrote {to}" if to else ""))

    document = {"points": [answer.to_json() for answer in found], "shown": shown}
    show(document, output, render)


def render(
    run: RunId,
    to: Annotated[
        Path, typer.Option("--to", metavar="FOLDER", help="OME-Zarr image to write; must not exist.")
    ],
    level: Annotated[int, typer.Option(min=0, help="Level of the pyramid; 0 is the full resolution.")] = 3,
    sections: Sections = None,
    box: Annotated[
        str | None,
        typer.Option(
            "--box", metavar="Z0:Z1,Y0:Y1,X0:X1", help="Only this box, in voxels of the full resolution."
        ),
    ] = None,
    site: SiteName = "local",
    output: Output = Format.TEXT,
) -> None:
    """Draw a level of the volume straight from the raw tiles, as soon as the stack is aligned.

    Example: petavoxel volume render last --level 3 --sections 0:10 --to look.zarr
    """
    from functions.quicklook import draw_level
    from typer_cli.facade import work_of
    from typer_cli.settings import parse_sections

    drawn = draw_level(
        work_of(run, site),
        to,
        level=level,
        sections=parse_sections(sections),
        box=box_zyx(box, "--box"),
    )
    rows = [(name.replace("_", " "), value) for name, value in drawn.to_json().items()]
    show(drawn.to_json(), output, lambda screen: screen.print(table("level", "", rows=rows)))


def export_transforms(
    run: RunId,
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="Folder to write; must not exist.")],
    form: Annotated[
        Form,
        typer.Option(
            "--format",
            help="All as JSON and npz, a relative map for SOFIMA, matches for BigWarp, or tile specs.",
        ),
    ] = Form.NATIVE,
    stride: Annotated[int, typer.Option(min=1, help="relative-map: a node each so many px.")] = 32,
    site: SiteName = "local",
    output: Output = Format.TEXT,
) -> None:
    """Write where tiles and sections were placed, for other programs.

    Example: petavoxel volume export-transforms last --to transforms
    """
    from functions.transform_export import export
    from typer_cli.facade import work_of

    written = export(work_of(run, site), to, form=form.value, stride_px=stride)
    document: dict[str, Any] = {"folder": str(to), "format": form.value, **written.to_json()}
    show(document, output, lambda screen: screen.print(table("export", "", rows=document.items())))
