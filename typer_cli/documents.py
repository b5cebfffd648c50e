"""Runs, steps and reuse as JSON documents and as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from typer_cli.output import duration, table

if TYPE_CHECKING:
    from rich.console import Console

    from flows.records import Reuse, RunRecord, StepRecord
    from functions.comparison import Compared


FEW_FIGURES = 6
"""More than these have a table of their own."""
MOST_WORKERS = 20
"""Of a step at work that are shown to people; the JSON document has all."""


def number(value: float) -> str:
    """A figure as people read it: 1,234,567 or 12.35."""
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 10_000 else f"{value:,.4g}"


def run_document(record: RunRecord) -> dict[str, Any]:
    """A run without its input document, which `run logs` and the site keep."""
    return {key: value for key, value in asdict(record).items() if key != "input"}


def step_document(step: StepRecord) -> dict[str, Any]:
    """A step with its problems as plain objects."""
    return {**asdict(step), "problems": [problem.to_json() for problem in step.problems]}


def compared_document(compared: Sequence[Compared]) -> list[dict[str, Any]]:
    """Planned and actual figures; `inside` tells whether the actual one lies in the planned interval."""
    return [{**asdict(c), "ratio": c.ratio, "inside": c.inside} for c in compared]


def draw_compared(screen: Console, compared: Sequence[Compared]) -> None:
    """Plan against actual, where there is a plan."""
    from functions.model.quantities import interval, scaled

    if not compared:
        return
    rows = [
        (
            c.name.replace("_", " "),
            scaled(c.planned, c.unit),
            interval(c.low, c.high, c.unit),
            scaled(c.actual, c.unit),
            f"{c.ratio:.2f}",
        )
        for c in compared
    ]
    columns = ("segment", "planned", "interval", "actual", "actual / planned")
    screen.print(table(*columns, rows=rows, numbers=columns[1:]))


def reuse_document(reuse: Sequence[Reuse]) -> list[dict[str, Any]]:
    """What a rerun reuses and computes, per step; `computes` is None while the units are not known."""
    return [{**asdict(r), "computes": None if r.units is None else r.units - r.reusable} for r in reuse]


def draw_run(screen: Console, record: RunRecord, steps: Sequence[StepRecord]) -> None:
    """A run, its steps, and its problems."""
    facts = [
        ("status", record.status),
        ("acquisition", f"{record.acquisition_id} ({record.source_path})"),
        ("label", record.label),
        ("steps", f"{record.start_at} to {record.stop_after}"),
        ("created", record.created),
        ("rerun of", record.parent_run),
        ("published", record.published_path),
        ("work", record.work_path),
        ("web", record.link),
        ("error", record.error),
    ]
    screen.print(table("run", record.id, rows=[fact for fact in facts if fact[1]]))
    screen.print(steps_table(steps))
    for step in steps:
        if len(step.figures) > FEW_FIGURES:
            rows = [(name.replace("_", " "), number(value)) for name, value in step.figures.items()]
            screen.print(table(step.name, "all units", rows=rows, numbers=["all units"]))
        if step.rates:
            fastest = sorted(step.rates.items(), key=lambda item: -item[1])[:MOST_WORKERS]
            rates = [(worker, number(rate)) for worker, rate in fastest]
            screen.print(table(f"{step.name}: worker", "MVoxel/h", rows=rates, numbers=["MVoxel/h"]))
    problems = [(s.name, p.code, p.subject, p.remedy) for s in steps for p in s.problems]
    if problems:
        screen.print(table("step", "problem", "where", "remedy", rows=problems))


def steps_table(steps: Sequence[StepRecord]) -> Any:
    """One row a step."""
    rows = [
        (
            step.name,
            str(step.status).lower(),
            f"{step.units_done}/{step.units}" if step.units else "",
            step.computed or "",
            step.reused or "",
            duration(step.seconds) if step.seconds else "",
            ", ".join(f"{name} {value:.4g}" for name, value in step.figures.items())
            if len(step.figures) <= FEW_FIGURES
            else f"{len(step.figures)} figures",
        )
        for step in steps
    ]
    columns = ("step", "status", "units", "computed", "reused", "time", "figures")
    return table(*columns, rows=rows, numbers=["units", "computed", "reused", "time"])


def draw_reuse(screen: Console, reuse: Sequence[Reuse]) -> None:
    """What will be reused and what will be computed again."""
    rows = [
        (r.step, r.reusable, "as many as there are" if r.units is None else r.units - r.reusable)
        for r in reuse
    ]
    screen.print(table("step", "reuses", "computes", rows=rows, numbers=["reuses", "computes"]))
