"""Runs and steps as people see them."""

from __future__ import annotations

import pytest

from flows.records import RunStatus, StepRecord, StepStatus
from tests.typer_cli.test_demo import record
from typer_cli.documents import draw_run, number, step_document
from typer_cli.output import console


def step(figures: dict[str, float]) -> StepRecord:
    return StepRecord(name="segment", state="Segment", status=StepStatus.SUCCEEDED, units=2, figures=figures)


def test_many_figures_have_a_table_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    figures = {
        "fovs": 1_234_567.0, "rejected_fovs": 89.0, "skipped_moves": 0.0, "network_seconds": 1234.5678,
        "host_seconds": 0.25, "voxels_per_second": 98765.4, "labelled_fraction": 0.8123,
    }  # fmt: skip
    draw_run(console(), record(RunStatus.SUCCEEDED, None), [step(figures)])
    out = capsys.readouterr().out
    assert "7 figures" in out
    for name, value in (
        ("fovs", "1,234,567"), ("rejected fovs", "89"), ("network seconds", "1,235"),
        ("host seconds", "0.25"), ("voxels per second", "98,765"), ("labelled fraction", "0.8123"),
    ):  # fmt: skip
        assert any(line.split() == [*name.split(), value] for line in out.splitlines()), name
    assert step_document(step(figures))["figures"] == figures


def test_few_figures_stand_beside_their_step(capsys: pytest.CaptureFixture[str]) -> None:
    draw_run(console(), record(RunStatus.SUCCEEDED, None), [step({"rows": 12.0})])
    assert "rows 12" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (12.3456, "12.35"), (10_000.5, "10,000"), (7.0, "7")]
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text
