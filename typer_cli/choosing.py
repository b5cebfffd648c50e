"""`petavoxel model evaluate --edges`: thresholds of agglomeration, tried and shown."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer_cli.numbers import box_zyx, sizes_nm, voxels_zyx
from typer_cli.output import table

if TYPE_CHECKING:
    from rich.console import Console

    from functions.thresholding import Sweep, Trial

COLUMNS = ("seeds", "score above", "merges", "objects", "VOI split", "VOI merge", "VOI sum")


def choose_thresholds(
    model: Path,
    edges: Path,
    truth: Path,
    *,
    to: Path | None,
    box: str | None,
    rim: str,
    voxel_nm: str | None,
    background: bool,
) -> tuple[dict[str, Any], Sweep]:
    """Sweep the thresholds of a published volume, write the best if there is a place for it, and tell all."""
    from functions.networks import load
    from functions.store.label_files import read_labels
    from functions.store.thresholds import write_thresholds
    from functions.thresholding import read_agglomerated, sweep, thresholds_of

    where = box_zyx(box, "--box")
    supervoxels, rows = read_agglomerated(edges, box=where)
    found = sweep(
        supervoxels,
        read_labels(truth, box=where),
        rows,
        voxel_size_zyx_nm=load(model).voxel_size_zyx_nm
        if voxel_nm is None
        else sizes_nm(voxel_nm, "--voxel-nm"),
        rim_zyx_px=voxels_zyx(rim, "--rim"),
        background_counts=background,
    )
    chosen = thresholds_of(found, model=model, truth=truth.name)
    if to is not None:
        write_thresholds(to, chosen)
    document = {
        "file": None if to is None else str(to),
        "thresholds": chosen.to_json(),
        "before": _row(found.before),
        "trials": [_row(trial) for trial in found.trials],
    }
    return document, found


def draw_sweep(screen: Console, found: Sweep, file: str | None) -> None:
    """All trials, and which is the best."""
    rows = [[value if value is not None else "" for value in _row(t).values()] for t in found.trials]
    screen.print(table(*COLUMNS, rows=rows, numbers=COLUMNS[1:]))
    best = found.best
    screen.print(
        f"before: {found.before.voi_sum:.4f}; best: {best.voi_sum:.4f} with "
        f"agglomerate.seeds={best.seeds} agglomerate.min_score={best.min_score:g}; chosen on this truth"
    )
    if file is not None:
        screen.print(f"next: --set agglomerate.thresholds={file}", soft_wrap=True, markup=False)


def _row(trial: Trial) -> dict[str, Any]:
    values = asdict(trial) | {"voi_sum": trial.voi_sum}
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()}
