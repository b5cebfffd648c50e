"""Seconds count to the stage they were spent in, once; a missing device is told with its parameter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from functions import align_pairs, align_render, align_solve, stitch
from functions.model.errors import TaskError
from functions.model.parameters import AlignParameters, Parameters, StitchParameters
from functions.runtime import STAGED, stage_totals
from functions.stages import Stages, device_of
from functions.store.run import Run
from tests.functions.registration_scenes import start, write_montage


class Clock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> float:
        self.now += seconds
        return seconds


def test_a_stage_inside_another_counts_for_itself_alone() -> None:
    clock = Clock()
    stages = Stages(clock)
    read = stages.timed("read", clock.pass_by)
    with stages.stage("correlation"):
        clock.pass_by(1.0)
        assert read(4.0) == 4.0
        with stages.stage("render"):
            read(0.5)
            clock.pass_by(0.25)
        clock.pass_by(2.0)
    slow_failure = stages.timed("correlation", lambda seconds: 1 / (clock.pass_by(seconds) - seconds))
    with pytest.raises(ZeroDivisionError):
        slow_failure(1.0)
    assert stages.figures == {"read_seconds": 4.5, "correlation_seconds": 4.0, "render_seconds": 0.25}


def finished(work: Path, folder: Path) -> Run:
    """Two sections of two tiles, up to the aligned volume."""
    sections = [write_montage(folder, z=z, grid=(1, 2), seed=0)[0] for z in (0, 1)]
    run = start(work, folder, sections)
    for step, module in (("stitch", stitch), ("align_pairs", align_pairs)):
        for unit in module.units(run):
            run.cell(step, unit).run_unit(unit, lambda m=module, u=unit: m.compute(run, u))
    align_solve.perform(run)
    for unit in align_render.units(run):
        run.cell("align_render", unit).run_unit(unit, lambda u=unit: align_render.compute(run, u))
    return run


def test_units_tell_their_stages_and_runs_add_them_up(tmp_path: Path) -> None:
    run = finished(tmp_path / "work", tmp_path / "acq")
    totals = {step: stage_totals(run, step) for step in STAGED}
    assert set(totals["stitch"]) == {
        "read_seconds", "correlation_seconds", "solve_seconds", "render_seconds"
    }  # fmt: skip
    assert set(totals["align_pairs"]) == {"open_seconds", "correlation_seconds"}
    assert set(totals["align_render"]) >= {"render_seconds"}
    marks = [run.cell("stitch", unit).mark(unit) for unit in stitch.units(run)]
    for name, total in totals["stitch"].items():
        assert total == pytest.approx(sum(m.figures[name] for m in marks), abs=1e-3)
        assert total >= 0
    assert sum(totals["stitch"].values()) <= sum(m.seconds for m in marks) + 0.01
    assert totals["stitch"]["correlation_seconds"] > 0


def test_totals_of_a_run_that_has_only_begun(tmp_path: Path) -> None:
    section, _ = write_montage(tmp_path / "acq", grid=(1, 2))
    run = start(tmp_path / "work", tmp_path / "acq", [section])
    assert [stage_totals(run, step) for step in STAGED] == [{}, {}, {}]


@pytest.mark.skipif(torch.xpu.is_available(), reason="the device is there")
def test_a_missing_device_is_told_with_its_parameter(tmp_path: Path) -> None:
    section, _ = write_montage(tmp_path / "acq", grid=(1, 2))
    parameters = Parameters(stitch=StitchParameters(device="xpu"), align=AlignParameters(device="xpu"))
    run = start(tmp_path / "work", tmp_path / "acq", [section], parameters=parameters)
    with pytest.raises(TaskError, match=r"stitch\.device: 'xpu' is not available here") as found:
        stitch.compute(run, "z00000")
    assert found.value.remedy == "set stitch.device"
    assert device_of("cpu", group="align") == torch.device("cpu")
