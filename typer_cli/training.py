"""Training with something to look at: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import typer

from typer_cli.boundary import ExitCode
from typer_cli.options import Format
from typer_cli.output import Failure, console, duration, show_failure

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from functions.training.recipe import Recipe
    from functions.training.run import Trained

LINE_SECONDS = 30.0
"""Without a terminal there is at most one line in this time, and one for every validation."""


class TrainingProgress:
    """A context in which `on_line` shows a line of the training's log."""

    def __init__(self, *, steps: int, title: str, shown: bool = True, screen: Console | None = None) -> None:
        self._screen = screen or console(error=True)
        self._steps, self._title, self._shown = steps, title, shown
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._last = 0.0
        self._started: tuple[float, float] | None = None
        self._voi = ""

    def __enter__(self) -> TrainingProgress:
        if self._shown and self._screen.is_terminal:
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}"),
            )
            self._bar = Progress(*columns, console=self._screen, transient=True)
            self._task = self._bar.add_task(self._title, total=self._steps, figures="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def on_line(self, line: Mapping[str, float]) -> None:
        """Take notice of where the training is."""
        if not self._shown:
            return
        if "voi_sum" in line:
            self._voi = f"  VOI {line['voi_sum']:.3f} ({line['voi_split']:.3f} + {line['voi_merge']:.3f})"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=line["step"], figures=self._figures(line))
            return
        now = time.monotonic()
        if "voi_sum" in line or now - self._last >= LINE_SECONDS or line["step"] == self._steps:
            self._last = now
            words = f"step {line['step']:.0f}/{self._steps}  {self._figures(line)}{self._left(line)}"
            self._screen.print(words, markup=False, soft_wrap=True)

    def _figures(self, line: Mapping[str, float]) -> str:
        loss = f"loss {line['loss']:.4f}" if "loss" in line else ""
        return loss + self._voi

    def _left(self, line: Mapping[str, float]) -> str:
        """How long it will take at the pace since the first line seen."""
        if "seconds" not in line:
            return ""
        here = line["step"], line["seconds"]
        if self._started is None:
            self._started = here
        steps, seconds = here[0] - self._started[0], here[1] - self._started[1]
        if steps <= 0:
            return ""
        return f"  about {duration((self._steps - here[0]) * seconds / steps)} left"


def train_with_progress(
    recipe: Recipe, *, to: Path, folder: Path, device: str, output: Format
) -> Trained | None:
    """Train, alone or as one of torchrun's processes; Ctrl-C and SIGTERM leave a state to go on from.

    None in a process that does not write.
    """
    from ffn.distributed import joined
    from ffn.training import TrainingStopped
    from functions.training.run import train_recipe
    from functions.training.stopping import StopSignals

    steps = recipe.training.optimiser.steps
    with joined(device) as world, StopSignals() as stop:
        try:
            with TrainingProgress(steps=steps, title=to.name, shown=world.writes) as progress:
                return train_recipe(
                    recipe, to=to, folder=folder, world=world, progress=progress.on_line, stop=stop
                )
        except TrainingStopped as stopped:
            if world.writes:
                show_failure(
                    Failure(
                        code="interrupted",
                        message=f"stopped after step {stopped.step} of {steps}; {folder} holds the state",
                        remedy="give the same command again: it goes on there",
                    ),
                    output,
                )
            raise typer.Exit(ExitCode.INTERRUPTED) from None
