"""`petavoxel plan --training`: how training scales, as tables or as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from typer_cli.options import Format
from typer_cli.output import show, table

if TYPE_CHECKING:
    from ffn.config import NetworkConfig
    from functions.training_plan import TrainingPlan


def show_training(plan: TrainingPlan, gpus: tuple[int, ...], output: Format) -> None:
    """What every number of GPUs reaches, and on which assumptions."""
    from rich.console import Console

    from functions.model.quantities import scaled
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


def network_of(text: str) -> NetworkConfig:
    from ffn.config import ConfigError, NetworkConfig

    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() for part in parts):
        raise typer.BadParameter(f"{text!r} is not three numbers like 12,32,33", param_hint="--network")
    modules, features, fov = (int(part) for part in parts)
    try:
        return NetworkConfig(modules=modules, features=features, fov_zyx=(fov,) * 3, deltas_zyx=(1, 1, 1))
    except ConfigError as error:
        raise typer.BadParameter(str(error), param_hint="--network") from None
