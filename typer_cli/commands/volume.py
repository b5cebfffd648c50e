"""`petavoxel volume`: look at, judge, bring in; `placing` has locate, render and export-transforms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from typer_cli.commands import placing
from typer_cli.numbers import box_zyx, sizes_nm, voxels_zyx
from typer_cli.options import Background, BoxText, Format, Output, SiteName
from typer_cli.output import console, print_json, show, table

MIN_SKELETON_VOXELS = 1000
"""Smaller true objects have no run length."""
app = typer.Typer(help="Volumes: view, locate, render, evaluate, import.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Volumes: view, locate, render, evaluate, import."""


@app.command()
def view(
    volume: Annotated[
        str, typer.Argument(metavar="RUN|PATH", help="A run, or the folder of a published volume.")
    ],
    site: SiteName = "local",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free port.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser.")] = True,
    output: Output = Format.TEXT,
) -> None:
    """Serve a published volume with Neuroglancer, until Ctrl-C.

    Example: petavoxel volume view last
    """
    from flows.local.viewer import serve
    from typer_cli.facade import bundle_of

    def ready(url: str) -> None:
        if output is Format.JSON:
            print_json({"url": url, "report": f"{url}report"})
        else:
            console().print(
                f"viewer {url}   report {url}report   (Ctrl-C ends)", soft_wrap=True, markup=False
            )

    serve(bundle_of(volume, site), port=port, open_browser=browser, on_ready=ready)


@app.command()
def evaluate(
    segmentation: Annotated[Path, typer.Argument(help="Labels: .npy, .npz, zarr, or a published volume.")],
    ground_truth: Annotated[Path, typer.Argument(help="True labels of the same voxels.")],
    voxel_nm: Annotated[str, typer.Option(metavar="Z,Y,X", help="Voxel size, for run lengths.")] = "10",
    box: BoxText = None,
    rim: Annotated[str, typer.Option(metavar="Z,Y,X", help="Voxels left out at each face.")] = "0",
    background: Background = True,
    mask: Annotated[
        str | None,
        typer.Option(
            metavar="PATH|none",
            help="Voxels left out: folds, cracks, charging and outside of a published volume; or an array, "
            "where it is not 0. Without it SEGMENTATION's own artefacts, if it has any.",
        ),
    ] = None,
    skeletons: Annotated[
        bool, typer.Option("--skeletons/--no-skeletons", help="Whether run lengths are measured.")
    ] = True,
    memory_gib: Annotated[
        float | None,
        typer.Option(min=0.4, help="Memory that it may fill: volumes are then compared slab by slab."),
    ] = None,
    output: Output = Format.TEXT,
) -> None:
    """VOI, adapted Rand and run length of a segmentation against ground truth.

    Unlabelled voxels are treated in three ways, named in every figure: `keep` (0 is a segment), `labelled`
    (only voxels that both label), `fill` (0 becomes the nearest segment). What a mask leaves out is in no
    figure; `masked_fraction` and `mask` say how much it is, and why.

    With --memory-gib volumes are compared slab by slab, with the same figures; an .npz is unpacked whole.

    Example: petavoxel volume evaluate seg.npz truth.npz --rim 16 --voxel-nm 10
    """
    from rich.console import Console

    from functions.evaluation import evaluate as evaluated
    from functions.evaluation_parts import require_whole, room_of
    from functions.store.exclusions import published_artefacts, read_exclusion
    from functions.store.label_files import open_labels
    from functions.store.limits import within

    where = box_zyx(box, "--box")
    rim_zyx_px = voxels_zyx(rim, "--rim")
    source = published_artefacts(segmentation) if mask is None else None if mask == "none" else Path(mask)
    left_out = None if source is None else read_exclusion(source, box=where)
    labels, truth = (open_labels(path, box=where) for path in (segmentation, ground_truth))
    if memory_gib is None:
        require_whole(truth.box.voxels, str(ground_truth))
    with within(memory_gib, subject="volume evaluate"):
        result = evaluated(
            labels,
            truth,
            voxel_size_zyx_nm=sizes_nm(voxel_nm, "--voxel-nm"),
            rim_zyx_px=rim_zyx_px,
            background_counts=background,
            min_skeleton_voxels=MIN_SKELETON_VOXELS if skeletons else None,
            excluded=left_out,
            room_mib=room_of(memory_gib),
        )
    figures = result.to_json()
    codes = {} if left_out is None else left_out.shares(rim_zyx_px=rim_zyx_px)
    masked = None if left_out is None else {"path": str(left_out.path), "codes": codes}
    document = {**figures, "mask": masked}

    def render(screen: Console) -> None:
        rows = [*figures.items(), *((f"masked: {name}", share) for name, share in codes.items())]
        screen.print(table("figure", "value", rows=rows, numbers=["value"]))

    show(document, output, render)


@app.command("import")
def import_volume(
    source: Annotated[
        Path, typer.Argument(metavar="FOLDER_OR_FILE", help="Images, TIFF stack, .npy or .npz.")
    ],
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="The acquisition folder to write.")],
    voxel_nm: Annotated[str, typer.Option(metavar="Z,Y,X", help="Voxel size.")],
    box: BoxText = None,
    output: Output = Format.TEXT,
) -> None:
    """Turn a stack of already aligned images into an acquisition that `run start` takes.

    Example: petavoxel volume import stack.tif --to sample_07 --voxel-nm 40,4,4
    """
    from functions.microscopes.importing import import_stack

    folder = import_stack(
        source, to, voxel_size_zyx_nm=sizes_nm(voxel_nm, "--voxel-nm"), box=box_zyx(box, "--box")
    )
    show(
        {"acquisition": str(folder)},
        output,
        lambda screen: screen.print(
            f"wrote {folder}; next: petavoxel run start {folder}", soft_wrap=True, markup=False
        ),
    )


app.command()(placing.locate)
app.command()(placing.render)
app.command("export-transforms")(placing.export_transforms)
