"""`petavoxel plan`: what a volume costs before anything is started."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from typer_cli import planned_device, planned_memory, planning, simulating
from typer_cli.boundary import ExitCode
from typer_cli.options import Format, Output
from typer_cli.output import show

if TYPE_CHECKING:
    from functions.device_memory import OnDevice
    from functions.planning import Plan
    from typer_cli.planning import Measured
    from typer_cli.simulating import GivenMachine

REFERENCE_GPUS = (50_000, 63_744)
"""Without --gpus: a round number, and Aurora."""
TRAINING_GPUS = (1, 4, 16, 64, 256, 1024, 4096)
"""Without --gpus: where training still pays is what the plan is to show."""
TRAINING = "With --training"
CALIBRATE = "With --run"
SIMULATE = "With --simulate"


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
        str | None,
        typer.Option(help="Of one GPU; 80MVx/h is fp32, 1GVx/h (taken by default) the goal of 8 to 16 bit."),
    ] = None,
    subvolume: Annotated[str | None, typer.Option(metavar="Z,Y,X", help="Size of the subvolumes.")] = None,
    overlap: Annotated[str | None, typer.Option(metavar="Z,Y,X", help="Their overlap.")] = None,
    overlap_factor: Annotated[
        float | None, typer.Option(min=1.0, help="Instead of --subvolume and --overlap: their factor.")
    ] = None,
    occupied: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=1.0,
            help="Share of the subvolumes that hold tissue, by default all; not with a --run's own.",
        ),
    ] = None,
    site: Annotated[
        str | None, typer.Option("--site", help="Profile that tells the GPUs of a node; of --run, too.")
    ] = None,
    gpus_per_node: Annotated[
        int | None, typer.Option(min=1, help="GPUs of a node; by default the site's, else 4.")
    ] = None,
    allocation_node_hours: Annotated[
        float | None, typer.Option(min=0.0, help="Node-hours granted: enough? Ends with 3 if not.")
    ] = None,
    memory_gib: Annotated[
        float | None,
        typer.Option(min=0.4, help="Memory of a worker: does every step fit? Ends with 3 if not."),
    ] = None,
    device_gib: Annotated[
        float | None,
        typer.Option(min=1.0, help="Memory of a GPU: the largest subvolume it holds; by default the site's."),
    ] = None,
    agglomerate: Annotated[
        bool | None,
        typer.Option(
            "--agglomerate/--no-agglomerate",
            help="Count pairs that are flooded again; by default as the run's parameters say.",
        ),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            metavar="RUN",
            help="Plan this run's volume, and keep the plan for `run show`.",
            rich_help_panel=CALIBRATE,
        ),
    ] = None,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="Measure the rate on its subvolumes.", rich_help_panel=CALIBRATE),
    ] = False,
    subvolumes: Annotated[
        int, typer.Option(min=2, help="So many; they stay the run's results.", rich_help_panel=CALIBRATE)
    ] = 3,
    simulate: Annotated[
        bool,
        typer.Option(
            "--simulate", help="Simulate the segment step: where GPUs wait.", rich_help_panel=SIMULATE
        ),
    ] = False,
    set_sim: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="A figure of the simulation; several times.", rich_help_panel=SIMULATE
        ),
    ] = None,
    sim_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="Several of them: NAME = VALUE.", rich_help_panel=SIMULATE),
    ] = None,
    training: Annotated[
        bool, typer.Option("--training", help="Instead of a volume: how training a network scales.")
    ] = False,
    network: Annotated[
        str,
        typer.Option(
            metavar="M,F,FOV",
            help="Modules, features, field of view; for a device, too.",
            rich_help_panel=TRAINING,
        ),
    ] = "12,32,33",
    batch_per_gpu: Annotated[int, typer.Option(min=1, help="Examples.", rich_help_panel=TRAINING)] = 4,
    tflops: Annotated[
        float, typer.Option(min=1e-3, help="TFLOP/s of one GPU in use.", rich_help_panel=TRAINING)
    ] = 20.0,
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

    Example: petavoxel plan --run last --calibrate --subvolumes 3 --volume 1mm3 --gpus 1000

    Example: petavoxel plan --volume 1mm3 --subvolume 512 --overlap 32 --gpus 50000 --simulate

    Example: petavoxel plan --training --gpus 64 --gpus 1024 --batch-per-gpu 4 --tflops 20
    """
    if training:
        from functions.training_plan import Learning, Machine, TrainingPlan
        from typer_cli.training_plan import network_of, show_training

        if shape_zyx is not None or volume is not None or run is not None or simulate or occupied:
            raise typer.BadParameter("training is planned without a volume", param_hint="--training")
        machine = Machine(
            flops=tflops * 1e12,
            gpus_per_node=planning.gpus_of_node(site, gpus_per_node),
            node_bandwidth=node_gbytes * 1e9,
            latency_s=latency_us * 1e-6,
        )
        learning = Learning(batch_per_gpu=batch_per_gpu, examples=examples, critical_batch=critical_batch)
        training_plan = TrainingPlan(network=network_of(network), machine=machine, learning=learning)
        show_training(training_plan, tuple(gpus or TRAINING_GPUS), output)
        return
    if calibrate and (run is None or rate is not None):
        raise typer.BadParameter("it measures the rate of a --run; give no --rate", param_hint="--calibrate")
    if (set_sim or sim_file) and not simulate:
        raise typer.BadParameter("goes with --simulate", param_hint="--set-sim")
    tiling = planning.tiling_of(subvolume, overlap, overlap_factor)
    extent = planning.extent_of(shape_zyx, volume, voxel_nm, needed=run is None)
    measured = None
    if run is not None:
        measured = planning.measure(run, site or "local", subvolumes=subvolumes if calibrate else None)
    request = planning.request_of(
        extent,
        tiling,
        measured,
        overlap_factor=overlap_factor,
        rate=rate,
        gpus=tuple(gpus or ((measured.gpus,) if measured else REFERENCE_GPUS)),
        gpus_per_node=planning.gpus_of_node(site, gpus_per_node),
        agglomerate=agglomerate,
        occupied=occupied,
    )
    gib = planned_device.gib_of_device(site, device_gib)
    device = None if gib is None else planned_device.on_device(gib, measured, network)
    given = simulating.machine_of(request, measured, sim_file, set_sim or []) if simulate else None
    _show_volume(
        request, measured, given, device, output, granted=allocation_node_hours, memory_gib=memory_gib
    )


def _show_volume(
    plan: Plan,
    measured: Measured | None,
    machine: GivenMachine | None,
    device: OnDevice | None,
    output: Format,
    *,
    granted: float | None,
    memory_gib: float | None,
) -> None:
    """Figures, and below them whatever else was asked for; ends with 3 where an allocation or the memory of
    a worker is too small."""
    from rich.console import Console

    document: dict[str, Any] = planning.document(plan)
    drawings: list[Callable[[Console], None]] = [partial(planning.draw, plan=plan)]
    calibration = measured.calibration if measured else None
    if calibration is not None:
        document["calibration"] = planning.calibration_document(calibration)
        drawings.append(partial(planning.draw_calibration, calibration=calibration))
    allocation = None if granted is None else planning.allocation_of(plan, granted)
    if allocation is not None:
        document["allocation"] = planning.allocation_document(allocation)
        drawings.append(partial(planning.draw_allocation, allocation=allocation))
    enough = allocation is None or allocation.enough
    if memory_gib is not None:
        needed = planned_memory.needs_of(plan, measured)
        document["memory"] = planned_memory.document(needed, memory_gib)
        drawings.append(partial(planned_memory.draw, needed=needed, memory_gib=memory_gib))
        enough = enough and planned_memory.fits(needed, memory_gib)
    if device is not None:
        document["device"] = planned_device.document(device, plan)
        drawings.append(partial(planned_device.draw, device=device, plan=plan))
    if machine is not None:
        simulated = simulating.simulated(plan, machine)
        document["simulation"] = simulated.to_json()
        drawings.append(partial(simulating.draw, simulated=simulated))

    def render(screen: Console) -> None:
        for drawing in drawings:
            drawing(screen)

    show(document, output, render)
    if not enough:
        raise typer.Exit(ExitCode.NO)
