"""`petavoxel plan`: what a volume costs before anything is started."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from typer_cli.numbers import sizes_nm, voxels_zyx
from typer_cli.options import Format, Output
from typer_cli.output import show, table

if TYPE_CHECKING:
    from functions.planning import Extent, Tiling

REFERENCE_GPUS = (50_000, 63_744)
"""Without --gpus: a round number, and Aurora."""


def plan(
    shape_zyx: Annotated[str | None, typer.Option(metavar="Z,Y,X", help="Voxels on each axis.")] = None,
    volume: Annotated[str | None, typer.Option(help="Instead: a piece of tissue, e.g. 1mm3.")] = None,
    voxel_nm: Annotated[
        str, typer.Option(metavar="NM|Z,Y,X", help="Voxel size for --volume: one number, or z,y,x.")
    ] = "10",
    gpus: Annotated[
        list[int] | None, typer.Option(min=1, help="GPUs at work; several times to compare.")
    ] = None,
    rate: Annotated[
        str, typer.Option(help="Of one GPU; 80MVx/h is fp32, 1GVx/h the goal of 8 to 16 bit.")
    ] = "1GVx/h",
    subvolume: Annotated[str | None, typer.Option(metavar="Z,Y,X", help="Size of the subvolumes.")] = None,
    overlap: Annotated[str | None, typer.Option(metavar="Z,Y,X", help="Their overlap.")] = None,
    overlap_factor: Annotated[
        float | None, typer.Option(min=1.0, help="Instead of --subvolume and --overlap: their factor.")
    ] = None,
    output: Output = Format.TEXT,
) -> None:
    """GPU-hours, time, storage and the price of overlap, each with its formula.

    Example: petavoxel plan --volume 1mm3 --voxel-nm 10 --gpus 50000 --rate 1GVx/h --overlap-factor 1.2
    """
    from rich.console import Console

    from functions.planning import KNOWN_TILINGS, Plan, parse_rate, scaled

    extent = _extent(shape_zyx, volume, voxel_nm)
    request = Plan(
        extent=extent,
        rate=parse_rate(rate),
        gpus=tuple(gpus or REFERENCE_GPUS),
        tiling=_tiling(subvolume, overlap, overlap_factor),
        overlap_factor=overlap_factor or 1.0,
    )
    figures = request.figures()
    hours = extent.voxels / request.rate
    choices = [
        {"tiling": t.label, "overlap_factor": round(t.factor, 4), "gpu_hours": hours * t.factor}
        for t in KNOWN_TILINGS
    ]

    def render(screen: Console) -> None:
        rows = [(f.name.replace("_", " "), scaled(f.value, f.unit), f.formula) for f in figures]
        screen.print(table("quantity", "value", "formula", rows=rows, numbers=["value"]))
        known = [(t.label, f"{t.factor:.3f} x", scaled(hours * t.factor, "GPU-h")) for t in KNOWN_TILINGS]
        screen.print(
            table("subvolume zyx", "factor", "GPU-hours", title="Overlap is the lever", rows=known,
                  numbers=["factor", "GPU-hours"])
        )  # fmt: skip

    show({"figures": [asdict(f) for f in figures], "choices": choices}, output, render)


def _extent(shape_zyx: str | None, volume: str | None, voxel_nm: str) -> Extent:
    from functions.planning import Extent, parse_volume

    if (shape_zyx is None) == (volume is None):
        raise typer.BadParameter("give either --shape-zyx or --volume", param_hint="--shape-zyx")
    try:
        if shape_zyx is not None:
            return Extent.of_shape(voxels_zyx(shape_zyx, "--shape-zyx"))
        return Extent.of_volume(parse_volume(volume or ""), sizes_nm(voxel_nm, "--voxel-nm"))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--volume" if volume else "--shape-zyx") from None


def _tiling(subvolume: str | None, overlap: str | None, overlap_factor: float | None) -> Tiling | None:
    from functions.planning import Tiling

    if (subvolume is None) != (overlap is None):
        raise typer.BadParameter("--subvolume and --overlap belong together", param_hint="--overlap")
    if subvolume is None or overlap is None:
        return None
    if overlap_factor is not None:
        raise typer.BadParameter(
            "give either a factor or a subvolume and its overlap", param_hint="--overlap-factor"
        )
    size, shared = voxels_zyx(subvolume, "--subvolume"), voxels_zyx(overlap, "--overlap")
    try:
        return Tiling(size_zyx=size, overlap_zyx=shared)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--overlap") from None
