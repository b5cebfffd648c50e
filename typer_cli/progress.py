"""Showing a run while it goes: a live table on a terminal, plain lines elsewhere; always on standard error.

Fed by the events of the runs facade; it keeps the last state of each step and nothing else.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

from typer_cli.output import console, duration

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from flows.records import RunEvent, StepRecord

BAR = 24
LINE_SECONDS = 5.0
"""Without a terminal a step gets one line in this time at most, and one whenever its status changes."""


@dataclass(slots=True)
class _Shown:
    """What was printed last of a step."""

    status: str = ""
    at: float = field(default_factory=time.monotonic)


class RunProgress:
    """A context in which `on_event` draws."""

    def __init__(self) -> None:
        self._screen = console(error=True)
        self._steps: dict[str, StepRecord] = {}
        self._shown: dict[str, _Shown] = {}
        self._live: Live | None = None
        self._title = ""

    def __enter__(self) -> RunProgress:
        if self._screen.is_terminal:
            from rich.live import Live

            self._live = Live(console=self._screen, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def on_event(self, event: RunEvent) -> None:
        """Take notice of what changed."""
        if not self._title:
            self._title = f"run {event.run.id}  {event.run.acquisition_id}"
            if self._live is None:
                self._screen.print(self._title, markup=False)
        if event.step is None:
            return
        self._steps[event.step.name] = event.step
        if self._live is not None:
            self._live.update(self._table())
        else:
            self._line(event.step)

    def _line(self, step: StepRecord) -> None:
        last = self._shown.get(step.name)
        now = time.monotonic()
        if last and last.status == step.status and (step.status != "ACTIVE" or now - last.at < LINE_SECONDS):
            return
        if step.status in ("WAITING", "SKIPPED"):
            return
        self._shown[step.name] = _Shown(status=str(step.status), at=now)
        self._screen.print(f"{step.name:<13}{_words(step)}", markup=False)

    def _table(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        drawn = Table(box=None, title=self._title, title_justify="left", pad_edge=False, show_header=False)
        for step in self._steps.values():
            if step.status != "SKIPPED":
                drawn.add_row(Text(step.name), Text(bar(step)), Text(_words(step)))
        return drawn


def bar(step: StepRecord) -> str:
    """`########----`, by units where they are known, else by shards."""
    done, total = _counts(step)
    filled = round(BAR * done / total) if total else 0
    return "#" * filled + "-" * (BAR - filled)


def _counts(step: StepRecord) -> tuple[int, int]:
    if step.status in ("SUCCEEDED", "LOOK"):
        return 1, 1
    return (step.units_done, step.units) if step.units else (step.shards_done, step.shards_total)


def _words(step: StepRecord) -> str:
    parts = [str(step.status).lower()]
    if step.shards_total > 1:
        parts.append(f"shards {step.shards_done}/{step.shards_total}")
    if step.units:
        parts.append(f"units {step.units_done}/{step.units}")
    if step.reused:
        parts.append(f"{step.reused} reused")
    if step.seconds:
        parts.append(duration(step.seconds))
    if rate := step.figures.get("mvoxel_per_h"):
        parts.append(f"{rate:.4g} MVoxel/h on {len(step.rates)} workers")
    if step.eta_seconds is not None and step.status == "ACTIVE":
        parts.append(f"about {duration(step.eta_seconds)} left")
    if step.problem_count:
        parts.append(f"{step.problem_count} problems")
    return ", ".join(parts)
