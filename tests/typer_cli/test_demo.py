"""The demo's report and the progress display, fed with made-up runs; the small demo itself is a slow test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.records import RunEvent, RunRecord, RunStatus, StepRecord, StepStatus
from functions.evaluation import Evaluation
from functions.testing.demo import Score
from functions.testing.memory import PeakMemory
from tests.typer_cli.invoking import petavoxel
from typer_cli.boundary import ExitCode
from typer_cli.demo import DemoReport, draw_demo
from typer_cli.output import console
from typer_cli.progress import RunProgress, bar

PUBLIC_KEYS = {
    "stitch_residual_px_p95", "align_residual_px_p95", "voi_split", "voi_merge", "labelled_fraction",
    "erl_um", "seconds", "published", "steps", "peak_memory_gib", "voxels_per_second", "report", "run_id",
}  # fmt: skip


def record(status: RunStatus, published: str | None) -> RunRecord:
    return RunRecord(
        id="0a1b", status=status, label="demo", tags=(), site="local", acquisition_id="demo",
        source_path="/a", created="2026-01-01T00:00", updated="2026-01-01T00:01", start_at="transfer",
        stop_after="publish", parent_run=None, input={}, error=None if published else "segment: no; do x",
        published_path=published, work_path="/w",
    )  # fmt: skip


def report(*, ended_well: bool) -> DemoReport:
    figures = dict.fromkeys(Evaluation.__dataclass_fields__, 0.25) | {"voxels": 10, "objects": 1}
    score = Score(
        stitch_residual_px_p95=0.1,
        align_residual_px_p95=0.9,
        evaluation=Evaluation(**{**figures, "true_objects": 1}),  # type: ignore[arg-type]
        voxels=1000,
    )
    return DemoReport(
        run=record(RunStatus.SUCCEEDED if ended_well else RunStatus.FAILED, "/p" if ended_well else None),
        steps=(StepRecord(name="stitch", state="Stitch", status=StepStatus.SUCCEEDED, seconds=3.0),),
        score=score if ended_well else None,
        seconds=50.0,
        preparation_seconds=1.0,
        scoring_seconds=1.0,
        peak_memory_gib=0.5,
    )


def test_the_report_has_the_public_keys() -> None:
    document = json.loads(json.dumps(report(ended_well=True).to_json()))
    assert document.keys() >= PUBLIC_KEYS
    assert (document["voi_split"], document["voxels_per_second"]) == (0.25, 20.0)
    assert document["report"] == str(Path("/p/report.html"))


def test_a_failed_run_has_the_same_keys_and_says_why() -> None:
    document = report(ended_well=False).to_json()
    assert document.keys() == report(ended_well=True).to_json().keys()
    assert document["error"] == "segment: no; do x"
    assert document["voi_split"] is None


@pytest.mark.parametrize("ended_well", [True, False])
def test_the_closing_table(ended_well: bool, capsys: pytest.CaptureFixture[str]) -> None:
    draw_demo(console(), report(ended_well=ended_well))
    out = capsys.readouterr().out
    wanted = (
        ("0.900 px", "/p/report.html", "petavoxel volume view /p") if ended_well else ("segment: no; do x",)
    )
    assert all(text in out for text in wanted)


def test_progress_without_a_terminal_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    run = record(RunStatus.ACTIVE, None)
    steps = [
        StepRecord(
            name="stitch", state="Stitch", status=StepStatus.ACTIVE, units=4, units_done=1, eta_seconds=9
        ),
        StepRecord(
            name="stitch", state="Stitch", status=StepStatus.ACTIVE, units=4, units_done=2, eta_seconds=6
        ),
        StepRecord(name="stitch", state="Stitch", status=StepStatus.SUCCEEDED, units=4, units_done=4),
        StepRecord(name="segment", state="Segment", status=StepStatus.SKIPPED),
    ]
    with RunProgress() as progress:
        for step in steps:
            progress.on_event(RunEvent(run=run, step=step))
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "run 0a1b  demo",
        "stitch       active, units 1/4, about 9.0 s left",
        "stitch       succeeded, units 4/4",
    ]


def test_bars() -> None:
    half = StepRecord(name="a", state="A", status=StepStatus.ACTIVE, units=4, units_done=2)
    assert bar(half) == "#" * 12 + "-" * 12
    assert bar(StepRecord(name="a", state="A", status=StepStatus.WAITING)) == "-" * 24
    assert bar(StepRecord(name="a", state="A", status=StepStatus.SUCCEEDED)) == "#" * 24


def test_peak_memory_sees_what_is_allocated() -> None:
    with PeakMemory(every_seconds=0.01) as memory:
        block = bytearray(200 << 20)
        block[::4096] = b"x" * len(block[::4096])
        while memory.gib < 0.19:
            pass
    assert memory.gib > 0.19


@pytest.mark.slow
def test_the_small_demo(tmp_path: Path) -> None:
    done = petavoxel("demo", "--size", "small", "--folder", tmp_path, "--workers", "1", "--output", "json")
    assert done.code == ExitCode.DONE, done.err
    found = done.document
    assert found.keys() >= PUBLIC_KEYS
    assert found["stitch_residual_px_p95"] <= 1
    assert found["align_residual_px_p95"] <= 2
    assert (Path(found["published"]) / "volume.zarr" / "zarr.json").is_file()
    assert Path(found["report"]).is_file()
    again = petavoxel(
        "demo", "--size", "small", "--folder", tmp_path, "--workers", "1", "-o", "json"
    ).document
    assert sum(step["computed"] for step in again["steps"] if step["name"] == "segment") == 0
    assert (again["voi_split"], again["voi_merge"]) == (found["voi_split"], found["voi_merge"])
