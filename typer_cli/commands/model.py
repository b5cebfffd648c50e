"""`petavoxel model`: networks: train, import, describe; `judging` has gate, evaluate, export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from typer_cli.commands import judging
from typer_cli.options import Format, Output
from typer_cli.output import show, table

if TYPE_CHECKING:
    from ffn.checkpoint import Model

app = typer.Typer(help="Flood-filling networks: train, judge, import, export.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Flood-filling networks: train, judge, import, export."""


@app.command()
def describe(
    model: Annotated[str, typer.Argument(metavar="[MODEL]", help="`demo`, or a .safetensors file.")] = "demo",
    output: Output = Format.TEXT,
) -> None:
    """What a network is made of and made for.

    Example: petavoxel model describe demo
    """
    from ffn.checkpoint import load_model

    path = judging.model_path(model)
    _show_model(load_model(path), path, output)


@app.command("import")
def import_model(
    source: Annotated[
        Path, typer.Argument(metavar="WEIGHTS.npz", help="Variables of a google/ffn convstack_3d network.")
    ],
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="The .safetensors file to write.")],
    voxel_nm: Annotated[
        str, typer.Option(metavar="Z,Y,X", help="Voxel size that the network was trained on.")
    ] = "10,10,10",
    mean: Annotated[float, typer.Option(help="Grey value that the network sees as 0.")] = 128.0,
    std: Annotated[float, typer.Option(min=1e-6, help="Grey values that the network sees as 1.")] = 33.0,
    fov: Annotated[str, typer.Option(metavar="Z,Y,X", help="Field of view in voxels, odd.")] = "33",
    deltas: Annotated[
        str, typer.Option(metavar="Z,Y,X", help="Voxels from its centre to where moves are looked for.")
    ] = "8",
    output: Output = Format.TEXT,
) -> None:
    """Turn a published network of google/ffn into a model file: its variables, as arrays in an .npz.

    Both the TensorFlow names (`conv0_a.weights`) and the JAX ones (`pre_a/kernel`) are known.

    Example: petavoxel model import fib25_weights.npz --to fib25.safetensors --voxel-nm 10,10,10
    """
    from ffn.checkpoint import save_model
    from ffn.config import Normalisation
    from ffn.importing import import_google_ffn
    from functions.model.errors import ModelError
    from typer_cli.numbers import sizes_nm, voxels_zyx

    if not source.is_file():
        raise ModelError(f"{source}: no such file", remedy="give the .npz with the network's variables")
    network = import_google_ffn(
        source,
        fov_zyx=voxels_zyx(fov, "--fov"),
        deltas_zyx=voxels_zyx(deltas, "--deltas"),
        normalisation=Normalisation(mean=mean, std=std),
        voxel_size_zyx_nm=sizes_nm(voxel_nm, "--voxel-nm"),
    )
    save_model(to, network)
    _show_model(network, to, output)


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="What to train on and how.")],
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="The .safetensors file to write.")],
    folder: Annotated[
        Path | None, typer.Option("--folder", help="State and log; given again, training goes on there.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Where the recipe's paths start, instead of its own `data`.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or xpu.")] = "cpu",
    output: Output = Format.TEXT,
) -> None:
    """Train a network from a recipe; killed, it goes on where it was. Starts under torchrun, too.

    Example: petavoxel model train functions/testing/demo_network.toml --to demo.safetensors
    """
    from functions.training.recipe import load_recipe
    from typer_cli.training import train_with_progress

    folder = folder or to.with_suffix(".training")
    trained = train_with_progress(
        load_recipe(recipe, data=data), to=to, folder=folder, device=device, output=output
    )
    if trained is not None:  # this process is the one that writes
        _show_model(trained.model, to, output, training={"folder": str(folder), **trained.to_json()})


app.command()(judging.gate)
app.command()(judging.evaluate)
app.command()(judging.export)


def _show_model(model: Model, path: Path, output: Format, *, training: dict[str, Any] | None = None) -> None:
    """A network's facts, the same for all three commands, and those of the training that it comes from."""
    from rich.console import Console

    from ffn.config import to_json
    from ffn.device import choose_device
    from ffn.engine import choose_kernel
    from ffn.network import parameter_count
    from functions.store.verdicts import read_verdicts

    device = choose_device("auto")
    kernel, reason = choose_kernel(model.network, device=device)
    document: dict[str, Any] = {
        "path": str(path),
        "bytes": path.stat().st_size,
        "sha256": model.sha256,
        "weights": parameter_count(model.network),
        "voxel_size_zyx_nm": list(model.voxel_size_zyx_nm),
        "runs_here": {"device": str(device), "kernel": kernel, "reason": reason},
        "network": to_json(model.network.config),
        "normalisation": to_json(model.normalisation),
        "inference": to_json(model.inference),
        "gate": {
            f"{v.precision} on {v.device}": "passed" if v.passed else "did not pass"
            for v in read_verdicts(path)
            if v.sha256 == model.sha256
        },
        "provenance": dict(model.provenance),
    }
    if training is not None:
        document["training"] = training

    def render(screen: Console) -> None:
        rows = []
        for key, value in document.items():
            inner = value if isinstance(value, dict) else {"": value}
            rows += [(f"{key} {name}".strip(), cell) for name, cell in inner.items()]
        screen.print(table("model", path.name, rows=rows))

    show(document, output, render)
