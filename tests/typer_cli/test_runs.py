"""The life of a run on the command line, on the real embedded site: start, list, show, logs, rerun."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from flows.local.builtin import FLOW_ID
from flows.service import embedded
from functions.microscopes.importing import import_stack
from tests.typer_cli.invoking import petavoxel
from typer_cli.boundary import ExitCode


@pytest.fixture
def acquisition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PETAVOXEL_HOME", str(tmp_path / "home"))
    stack = np.random.default_rng(5).integers(40, 220, (3, 64, 64), dtype=np.uint8)
    np.save(tmp_path / "stack.npy", stack)
    return import_stack(tmp_path / "stack.npy", tmp_path / "sample", voxel_size_zyx_nm=(16.0, 16.0, 16.0))


def test_a_run_from_start_to_rerun(acquisition: Path) -> None:
    started = petavoxel(
        "run", "start", acquisition, "--stop-after", "ingest", "--sections", "0:2", "--set",
        "ingest.blank_std=1.5", "--workers", "1", "--wait", "--output", "json",
    )  # fmt: skip
    assert started.code == ExitCode.DONE, started.err
    run = started.document
    assert run["status"] == "SUCCEEDED"
    assert "ingest" in started.err

    assert [r["id"] for r in petavoxel("run", "list", "-o", "json").document["runs"]] == [run["id"]]
    shown = petavoxel("run", "show", "last", "-o", "json").document
    steps = {step["name"]: step for step in shown["steps"]}
    assert steps["ingest"]["status"] == "SUCCEEDED"
    assert steps["ingest"]["figures"]["sections"] == 2
    assert steps["stitch"]["status"] == "SKIPPED"
    assert run["id"] in petavoxel("run", "show", run["id"][:8]).out
    logs = petavoxel("run", "logs", "last", "-o", "json").document["logs"]
    assert {"FlowStarted", "FlowSucceeded"} <= {entry["code"] for entry in logs}

    report = petavoxel("run", "report", "last", "-o", "json")
    assert report.code == ExitCode.PUT_RIGHT
    assert "nothing is published" in report.document["error"]["message"]

    again = petavoxel(
        "run", "rerun", "last", "--stop-after", "ingest", "--workers", "1", "--wait", "-o", "json"
    )
    assert again.code == ExitCode.DONE, again.err
    assert again.document["parent_run"] == run["id"]
    assert [r["step"] for r in again.document["reuse"]] == ["ingest"]
    assert {s["name"]: s for s in petavoxel("run", "show", "last", "-o", "json").document["steps"]}["ingest"][
        "reused"
    ] == 2
    assert again.err.index("reuses") < again.err.index("run ")


def test_a_run_that_fails_ends_with_3_and_the_cause(acquisition: Path) -> None:
    for tile in (acquisition / "tiles").iterdir():
        tile.write_bytes(b"II*\0")
    done = petavoxel(
        "run", "start", acquisition, "--stop-after", "ingest", "--workers", "1", "--wait", "-o", "json"
    )
    assert done.code == ExitCode.NO
    assert done.document["status"] == "FAILED"
    assert "tile" in done.document["error"]


def test_a_run_that_waits_is_resumed_and_has_no_page_at_globus(acquisition: Path) -> None:
    words = (
        "run",
        "start",
        acquisition,
        "--stop-after",
        "transfer",
        "--workers",
        "1",
        "--wait",
        "-o",
        "json",
    )
    run = petavoxel(*words).document
    assert run["link"] is None
    opened = petavoxel("run", "open", "last", "-o", "json")
    assert opened.code == ExitCode.PUT_RIGHT
    assert opened.document["error"]["remedy"] == "`petavoxel site serve` shows it"
    resumed = petavoxel("run", "resume", "last", "-o", "json")
    assert resumed.code == ExitCode.PUT_RIGHT
    assert "does not wait for anything" in resumed.document["error"]["message"]

    home = Path(os.environ["PETAVOXEL_HOME"])
    site = embedded(home).world.site
    with site.here(True):
        held = site.start(
            site.catalog.find_flow(FLOW_ID), site.store.load(run["id"]).body,
            label="", tags=(), managers=(), monitors=(),
        )  # fmt: skip
    site.hold(held, scopes=("urn:x",), message="log in again")
    site.carry_out(held)
    followed = petavoxel("run", "follow", "last")
    assert (followed.code, "petavoxel run resume" in followed.out) == (ExitCode.NO, True)
    resumed = petavoxel("run", "resume", "last", "--wait", "-o", "json")
    assert (resumed.code, resumed.document["status"]) == (ExitCode.DONE, "SUCCEEDED")
    assert "it waits for: log in again\n  urn:x" in resumed.err
