"""`petavoxel plan`: what a volume costs before anything is started."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from typer_cli.numbers import sizes_nm, voxels_zyx
from typer_cli.options import Format, Output
from typer_cli.output import show, table

if TYPE_CHECKING:
    from ffn.config import NetworkConfig
    from functions.planning import Extent, Tiling
    from functions.training_plan import TrainingPlan

REFERENCE_GPUS = (50_000, 63_744)
"""Without --gpus: a round number, and Aurora."""
TRAINING_GPUS = (1, 4, 16, 64, 256, 1024, 4096)
"""Without --gpus: where training still pays is what the plan is to show."""
TRAINING = "With --training"


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
    training: Annotated[
        bool, typer.Option("--training", help="Instead of a volume: how training a network scales.")
    ] = False,
    network: Annotated[
        str,
        typer.Option(metavar="M,F,FOV", help="Modules, features, field of view.", rich_help_panel=TRAINING),
    ] = "12,32,33",
    batch_per_gpu: Annotated[int, typer.Option(min=1, help="Examples.", rich_help_panel=TRAINING)] = 4,
    tflops: Annotated[
        float, typer.Option(min=1e-3, help="TFLOP/s of one GPU in use.", rich_help_panel=TRAINING)
    ] = 20.0,
    gpus_per_node: Annotated[int, typer.Option(min=1, help="GPUs of a node.", rich_help_panel=TRAINING)] = 4,
    node_gbytes: Annotated[
        float, typer.Option(min=1e-3, help="GB/s from node to node.", rich_help_panel=TRAINING)
    ] = 25.0,
    latency_us: Annotated[
        float, typer.Option(min=0.0, help="Of a message, microseconds.", rich_help_panel=TRAINING)
    ] = 10.0,
    examples: Annotated[
        float, typer.Option(min=1.0, help="Needed with a small batch.", rich_help_panel=TRAINING)
    ] = 1.5e8,
    critical_batch: Annotated[
        float, typer.Option(min=1.0, help="Needs twice the examples.", rich_help_panel=TRAINING)
    ] = 512.0,
    output: Output = Format.TEXT,
) -> None:
    """GPU-hours, time, storage and the price of overlap, each with its formula; or the same for training.

    Example: petavoxel plan --volume 1mm3 --voxel-nm 10 --gpus 50000 --rate 1GVx/h --overlap-factor 1.2

    Example: petavoxel plan --training --gpus 64 --gpus 1024 --batch-per-gpu 4 --tflops 20
    """
    if training:
        from functions.training_plan import Learning, Machine, TrainingPlan

        if shape_zyx is not None or volume is not None:
            raise typer.BadParameter("training is planned without a volume", param_hint="--training")
        machine = Machine(
            flops=tflops * 1e12,
            gpus_per_node=gpus_per_node,
            node_bandwidth=node_gbytes * 1e9,
            latency_s=latency_us * 1e-6,
        )
        learning = Learning(batch_per_gpu=batch_per_gpu, examples=examples, critical_batch=critical_batch)
        request = TrainingPlan(network=_network(network), machine=machine, learning=learning)
        _show_training(request, tuple(gpus or TRAINING_GPUS), output)
        return
    _show_volume(
        _extent(shape_zyx, volume, voxel_nm),
        rate=rate,
        gpus=tuple(gpus or REFERENCE_GPUS),
        tiling=_tiling(subvolume, overlap, overlap_factor),
        overlap_factor=overlap_factor or 1.0,
        output=output,
    )


def _show_volume(
    extent: Extent,
    *,
    rate: str,
    gpus: tuple[int, ...],
    tiling: Tiling | None,
    overlap_factor: float,
    output: Format,
) -> None:
    """The figures of a volume, and what other tilings would cost."""
    from rich.console import Console

    from functions.planning import KNOWN_TILINGS, Plan, parse_rate, scaled

    request = Plan(
        extent=extent, rate=parse_rate(rate), gpus=gpus, tiling=tiling, overlap_factor=overlap_factor
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


def _show_training(plan: TrainingPlan, gpus: tuple[int, ...], output: Format) -> None:
    """What every number of GPUs reaches, and on which assumptions."""
    from rich.console import Console

    from functions.planning import scaled
    from functions.training_plan import FORMULAS

    figures = plan.figures()
    reached = [plan.scaling(count) for count in gpus]

    def render(screen: Console) -> None:
        rows = [(f.name.replace("_", " "), scaled(f.value, f.unit), f.formula) for f in figures]
        screen.print(table("quantity", "value", "formula", rows=rows, numbers=["value"]))
        names = ("GPUs", "batch", "step", "examples/s", "efficiency", "rate", "time")
        cells = [
            (
                f"{s.gpus:,}",
                f"{s.batch:,}",
                scaled(s.step_s, "s"),
                f"{s.examples_per_s:,.0f}",
                f"{s.efficiency:.1%}",
                f"{s.rate:.2g}",
                scaled(s.hours, "h"),
            )
            for s in reached
        ]
        screen.print(table(*names, title="Scaling, by this model", rows=cells, numbers=names))
        screen.print(table("quantity", "formula", rows=[(n.replace("_", " "), f) for n, f in FORMULAS]))

    document = {
        "figures": [asdict(f) for f in figures],
        "scaling": [asdict(s) for s in reached],
        "formulas": dict(FORMULAS),
    }
    show(document, output, render)


def _network(text: str) -> NetworkConfig:
    from ffn.config import ConfigError, NetworkConfig

    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() for part in parts):
        raise typer.BadParameter(f"{text!r} is not three numbers like 12,32,33", param_hint="--network")
    modules, features, fov = (int(part) for part in parts)
    try:
        return NetworkConfig(modules=modules, features=features, fov_zyx=(fov,) * 3, deltas_zyx=(1, 1, 1))
    except ConfigError as error:
        raise typer.BadParameter(str(error), param_hint="--network") from None


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
