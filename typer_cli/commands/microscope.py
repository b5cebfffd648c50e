"""`petavoxel microscope`: fake microscopes, to try a watcher on before a real one writes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from typer_cli.options import Format, Output
from typer_cli.output import show, table

app = typer.Typer(help="Fake microscopes, to try a watcher on.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Fake microscopes, to try a watcher on."""


@app.command("simulate")
def simulate_microscope(
    kind: Annotated[str, typer.Argument(metavar="sbemimage|serialem|multisem", help="What writes.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder.")],
    sections: Annotated[int, typer.Option("--sections", min=1, help="How many.")] = 10,
    grid: Annotated[
        str, typer.Option("--grid", metavar="ROWSxCOLUMNS", help="Tiles (or fields of 61 beams) a section.")
    ] = "2x2",
    tile_px: Annotated[int, typer.Option("--tile-px", min=8, max=8192, help="Side of a tile.")] = 64,
    rate: Annotated[float, typer.Option("--rate", min=0.0, help="Tiles a second; 0: at once.")] = 5.0,
    faults: Annotated[
        str,
        typer.Option(
            "--faults",
            metavar="NAME,...",
            help="pause, retake, rejected, truncated, clock-jump, single-slice, lost-last-marker; or `all`.",
        ),
    ] = "",
    seed: Annotated[int, typer.Option("--seed", help="The same seed acquires the same.")] = 1,
    truth: Annotated[
        Path | None, typer.Option("--truth", metavar="FILE.json", help="Keep what was acquired there.")
    ] = None,
    output: Output = Format.TEXT,
) -> None:
    """Write an acquisition in a microscope's real layout, at a pace, with what goes wrong in a real one.

    Example: petavoxel microscope simulate sbemimage /tmp/stack --sections 20 --faults pause,retake
    """
    from functions.testing.microscopes import Script, faults_of, simulate

    rows, _, columns = grid.partition("x")
    if not (rows.isdecimal() and columns.isdecimal() and int(rows) and int(columns)):
        raise typer.BadParameter(f"--grid {grid}: not ROWSxCOLUMNS")
    script = Script(
        sections=sections,
        rows=int(rows),
        columns=int(columns),
        tile_px=tile_px,
        faults=faults_of(kind) if faults == "all" else tuple(filter(None, faults.split(","))),
        seed=seed,
    )
    found = simulate(kind, folder, script, truth=truth, tiles_per_second=rate or None)
    versions = sum(len(states) for states in found.states.values())
    document = {
        "folder": str(folder),
        "kind": kind,
        "sections": len(found.states),
        "versions": versions,
        "truth": None if truth is None else str(truth),
    }
    show(document, output, lambda screen: screen.print(table("what", "", rows=list(document.items()))))
