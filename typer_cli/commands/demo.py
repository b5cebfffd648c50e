"""`petavoxel demo`: the whole flow on a phantom whose truth is known."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from typer_cli.boundary import ExitCode
from typer_cli.options import Engine, EngineConfig, Format, MemoryGib, Output, Workers
from typer_cli.output import console, show


class DemoSize(StrEnum):
    """How large the phantom is."""

    FULL = "full"
    SMALL = "small"


def demo(
    folder: Annotated[
        Path,
        typer.Option("--folder", help="Everything is written here; a second demo reuses what is finished."),
    ] = Path("demo"),
    size: Annotated[
        DemoSize, typer.Option("--size", help="`small` checks an installation quickly.")
    ] = DemoSize.FULL,
    workers: Workers = None,
    memory_gib: MemoryGib = None,
    engine: Engine = None,
    engine_config: EngineConfig = None,
    output: Output = Format.TEXT,
) -> None:
    """Make raw tiles of synthetic tissue, run the whole flow on them, and measure the result.

    Stitching, alignment and segmentation are compared with the exact truth of the phantom. Ends with exit
    code 3 if the run fails.

    Example: petavoxel demo --folder demo
    """
    from typer_cli.demo import draw_demo, run_demo
    from typer_cli.progress import RunProgress

    screen = console(error=True)
    with RunProgress() as progress:
        report = run_demo(
            folder,
            size=size.value,
            workers=workers,
            memory_gib=memory_gib,
            engine=engine,
            engine_config=engine_config,
            say=screen.print,
            on_event=progress.on_event,
        )
    show(report.to_json(), output, lambda drawn: draw_demo(drawn, report))
    if report.error is not None:
        raise typer.Exit(ExitCode.NO)
