"""Showing an answer: tables for people, or one JSON document; progress and errors go to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from typer_cli.options import Format

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What went wrong and what to do about it."""

    code: str
    message: str
    remedy: str


def show(document: object, output: Format, render: Callable[[Console], None]) -> None:
    """Print `document` as JSON, or let `render` draw on the console."""
    if output is Format.JSON:
        print_json(document)
    else:
        render(console())


def print_json(document: object) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def show_failure(failure: Failure, output: Format) -> None:
    """The message and its remedy on standard error; with JSON also a document on standard output."""
    from rich.markup import escape

    screen = console(error=True)
    screen.print(f"[bold red]error[/] {escape(failure.message)}", soft_wrap=True, highlight=False)
    if failure.remedy:
        screen.print(f"[bold]remedy[/] {escape(failure.remedy)}", soft_wrap=True, highlight=False)
    if output is Format.JSON:
        print_json({"error": asdict(failure)})


def console(*, error: bool = False) -> Console:
    """A console on standard output or standard error, as they are now."""
    from rich.console import Console

    stream = sys.stderr if error else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else 110, highlight=False)


def table(
    *columns: str, rows: Iterable[Sequence[object]], title: str = "", numbers: Sequence[str] = ()
) -> Table:
    """A plain table; the columns named in `numbers` are set flush right. Cells are text, never markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for index, name in enumerate(columns):
        drawn.add_column(
            name, justify="right" if name in numbers else "left", overflow="fold", no_wrap=index == 0
        )
    for row in rows:
        drawn.add_row(*(Text(cell_text(cell)) for cell in row))
    return drawn


def cell_text(value: Any) -> str:
    """How a value stands in a table."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e5 else f"{value:,.0f}"
    if isinstance(value, (tuple, list)):
        return ", ".join(cell_text(v) for v in value)
    return str(value)


def duration(seconds: float | None) -> str:
    """`0.4 s`, `75 s`, `12 min`, `3.2 h`."""
    if seconds is None:
        return "-"
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
