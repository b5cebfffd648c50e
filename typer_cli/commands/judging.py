"""`petavoxel model gate`, `evaluate`, `export`: what a network is worth, and handing it on."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from typer_cli.boundary import ExitCode
from typer_cli.choosing import choose_thresholds, draw_sweep
from typer_cli.numbers import box_zyx, sizes_nm, voxels_zyx
from typer_cli.options import Background, BoxText, Format, Output
from typer_cli.output import show, table


class Precision(StrEnum):
    """Numbers a network computes in."""

    FP32 = "fp32"
    TF32 = "tf32"
    BF16 = "bf16"
    FP16 = "fp16"
    INT8 = "int8"


class Mode(StrEnum):
    """Whose settings are taken."""

    MODEL = "model"
    FAST = "fast"


class Target(StrEnum):
    """Forms of a network for other programs."""

    NPZ_TENSORFLOW = "npz-tensorflow"
    SAFETENSORS = "safetensors"
    TORCH_EXPORT = "torch-export"


ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="`demo`, or a .safetensors file.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or xpu.")]


def model_path(name: str) -> Path:
    """The file of a model's name."""
    from functions.store.named import DEMO_MODEL

    return DEMO_MODEL if name == "demo" else Path(name)


def gate(
    model: ModelName,
    precision: Annotated[Precision, typer.Option(help="The precision to judge.")],
    device: Device = "auto",
    image: Annotated[
        Path | None, typer.Option(help="Calibration box: .npy, .npz, zarr; by default a phantom.")
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(help="True labels of the same voxels (0 = unknown); may be the same file.")
    ] = None,
    box: BoxText = None,
    voi: Annotated[
        float | None, typer.Option(min=0, metavar="BITS", help="Most VOI that may lie between the two.")
    ] = None,
    output: Output = Format.TEXT,
) -> None:
    """Judge a reduced precision by what it segments; the verdict is kept beside the weights.

    A box is segmented in fp32 and in the reduced precision. Runs refuse a precision without a passing verdict
    for these weights on this kind of device. Ends with 3 when it does not pass.

    Example: petavoxel model gate fib25.safetensors --precision bf16 --device cuda --image box.npz
    """
    from rich.console import Console

    from ffn.gate import GateThresholds
    from functions.model.errors import VolumeError
    from functions.store.verdicts import gate_path
    from functions.trials import gate_model, read_trial
    from typer_cli.flooding import FloodProgress

    if image is None and (truth is not None or box is not None):
        raise VolumeError("--truth and --box belong to an image", remedy="give --image FILE with them")
    path, shown = model_path(model), FloodProgress()
    verdict = gate_model(
        path,
        precision=precision.value,
        device=device,
        trial=None if image is None else read_trial(image, truth, box=box_zyx(box, "--box")),
        thresholds=None if voi is None else GateThresholds(voi_sum=voi),
        progress=lambda numbers, p: shown.on_progress(p, title=f"{numbers}  "),
    )
    document = {**verdict.to_json(), "file": str(gate_path(path))}

    def render(screen: Console) -> None:
        rows = [(name.replace("_", " "), value) for name, value in verdict.figures.items()]
        screen.print(table("figure", "value", rows=rows, numbers=["value"]))
        for reason in verdict.reasons:
            screen.print(f"- {reason}", markup=False, soft_wrap=True)
        word = "passed" if verdict.passed else "did not pass"
        screen.print(f"{verdict.precision} on {verdict.device}: {word}; {document['file']}", soft_wrap=True)

    show(document, output, render)
    if not verdict.passed:
        raise typer.Exit(ExitCode.NO)


def evaluate(
    model: ModelName,
    truth: Annotated[Path, typer.Option(help="True labels of the same voxels; may be the same file.")],
    image: Annotated[
        Path | None, typer.Option(help="Grey values: .npy, .npz, zarr, or a published volume.")
    ] = None,
    edges: Annotated[
        Path | None,
        typer.Option(
            metavar="VOLUME", help="In place of an image: a published volume with edges.csv of this network."
        ),
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FILE", help="With --edges: write the best threshold.")
    ] = None,
    box: BoxText = None,
    rim: Annotated[str, typer.Option(metavar="Z,Y,X", help="Voxels not judged at each face.")] = "0",
    voxel_nm: Annotated[
        str | None, typer.Option(metavar="Z,Y,X", help="Voxel size of the box; by default the model's.")
    ] = None,
    background: Background = True,
    device: Device = "auto",
    precision: Annotated[Precision, typer.Option(help="Numbers to compute in.")] = Precision.FP32,
    mode: Annotated[Mode, typer.Option(help="The model's own settings, or fewer moves.")] = Mode.MODEL,
    memory_gib: Annotated[
        float | None,
        typer.Option(min=0.4, help="Memory that it may fill: a box that needs more is refused."),
    ] = None,
    output: Output = Format.TEXT,
) -> None:
    """Segment a box with a network and compare it with the truth: VOI, Rand, run length, and the cost.

    Unlabelled voxels are treated in three ways, named in every figure: `keep` (0 is a segment), `labelled`
    (only voxels that both label), `fill` (0 becomes the nearest segment).

    Example: petavoxel model evaluate demo --image box.npz --truth box.npz --box 0:48,0:160,0:160
    """
    from rich.console import Console

    from functions.evaluation_parts import room_of
    from functions.model.errors import VolumeError
    from functions.model.parameters import SegmentParameters
    from functions.store.limits import within
    from functions.trials import evaluate_model, read_trial
    from typer_cli.flooding import FloodProgress

    if (image is None) == (edges is None):
        raise VolumeError("--image, --edges: one of both is judged", remedy="give one of them")
    if edges is not None:
        document, sweep = choose_thresholds(
            model_path(model),
            edges,
            truth,
            to=to,
            box=box,
            rim=rim,
            voxel_nm=voxel_nm,
            background=background,
        )
        show(document, output, lambda screen: draw_sweep(screen, sweep, document["file"]))
        return
    assert image is not None
    with within(memory_gib, subject="model evaluate"):
        found = evaluate_model(
            model_path(model),
            read_trial(image, truth, box=box_zyx(box, "--box")),
            parameters=SegmentParameters.parse(
                {"device": device, "precision": precision.value, "mode": mode.value}, source="options"
            ),
            voxel_size_zyx_nm=None if voxel_nm is None else sizes_nm(voxel_nm, "--voxel-nm"),
            rim_zyx_px=voxels_zyx(rim, "--rim"),
            background_counts=background,
            room_mib=room_of(memory_gib),
            progress=FloodProgress().on_progress,
        )
    document = found.to_json()

    def render(screen: Console) -> None:
        figures, counters = document["figures"], document["counters"]
        cost = [(name, value) for name, value in document.items() if not isinstance(value, dict)]
        rows = [*figures.items(), *counters.items(), *cost]
        screen.print(table("figure", "value", rows=rows, numbers=["value"]))

    show(document, output, render)


def export(
    model: ModelName,
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="The file to write.")],
    target: Annotated[
        Target, typer.Option("--format", help="TensorFlow's variables, a model file, or a torch program.")
    ] = Target.NPZ_TENSORFLOW,
    output: Output = Format.TEXT,
) -> None:
    """Write a network for other programs: google/ffn's variables, or a program of torch.

    `npz-tensorflow` holds the weights alone; the answer names the `model import` that brings it all back.

    Example: petavoxel model export demo --to demo.npz --format npz-tensorflow
    """
    from ffn.checkpoint import load_model
    from ffn.exporting import export_model

    loaded = load_model(model_path(model))
    export_model(loaded, to, to=target.value)
    network, grey = loaded.network.config, loaded.normalisation
    options = {
        "--fov": ",".join(str(n) for n in network.fov_zyx),
        "--deltas": ",".join(str(n) for n in network.deltas_zyx),
        "--voxel-nm": ",".join(f"{n:g}" for n in loaded.voxel_size_zyx_nm),
        "--mean": f"{grey.mean:g}",
        "--std": f"{grey.std:g}",
    }
    words = " ".join(f"{name} {value}" for name, value in options.items())
    document: dict[str, Any] = {
        "file": str(to),
        "format": target.value,
        "bytes": to.stat().st_size,
        "sha256": loaded.sha256,
        "import": f"petavoxel model import {to} --to FILE {words}" if to.suffix == ".npz" else None,
    }

    def render(screen: Any) -> None:
        rows = [(name, value) for name, value in document.items() if value is not None]
        screen.print(table("export", to.name, rows=rows))

    show(document, output, render)
