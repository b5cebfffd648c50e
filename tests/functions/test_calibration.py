"""A rate measured on real subvolumes, its interval, and the plan set against what the run took."""

from __future__ import annotations

import json
import math
import resource
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffn.masks import Masks
from functions import agreeing, calibration, segment
from functions.calibration import Calibration, Sample, calibrate, mean_interval
from functions.comparison import against_plan
from functions.model.errors import TaskError
from functions.model.parameters import SegmentParameters
from functions.model.quantities import Figure
from functions.needs import BASE_MIB, geometry_of, needs
from functions.planning import Extent, Plan
from functions.segmenters import Flooded, Image
from functions.store.plans import StoredPlan, plan_path, read_plan, write_plan
from functions.store.run import Run
from tests.functions.aligned_runs import ScrambledTruth, make_run, segment_all, voronoi

SHAPE = (16, 48, 48)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(
        tmp_path,
        voronoi(SHAPE, 12, seed=3),
        segment={"subvolume_zyx_px": (16, 32, 32), "overlap_zyx_px": (0, 16, 16)},
    )


def samples(*seconds: float) -> tuple[Sample, ...]:
    return tuple(
        Sample(unit=f"u{i}", voxels=1000, seconds=s, overhead_s=0.5, label_bytes=100, fresh=True)
        for i, s in enumerate(seconds)
    )


def test_measured_subvolumes_are_results_of_the_run(run: Run) -> None:
    found = calibrate(run, 2, segmenter=ScrambledTruth())
    assert [sample.fresh for sample in found.samples] == [True, True]
    for sample in found.samples:
        mark = run.cell("segment").mark(sample.unit)
        assert sample.voxels == 16 * 32 * 32 == mark.figures["voxels"]
        assert sample.seconds == pytest.approx(mark.seconds, abs=1e-4)
    rest = calibrate(run, 4, segmenter=ScrambledTruth())
    assert sorted(sample.fresh for sample in rest.samples) == [False, False, True, True]
    assert run.cell("segment").attempts() == {sample.unit: 1 for sample in rest.samples}
    size = sum(path.stat().st_size for path in run.cell("segment").file("subvolumes").glob("*/*"))
    assert rest.label_bytes_per_voxel == pytest.approx(size / (4 * 16 * 32 * 32))


def test_those_flooded_at_once_share_their_seconds(run: Run) -> None:
    parameters = run.parameters.model_copy(
        update={"segment": run.parameters.segment.model_copy(update={"at_once": 2})}
    )
    crowded = Run(run.spec.model_copy(update={"parameters": parameters}))
    for sample in calibrate(crowded, 3, segmenter=ScrambledTruth()).samples:
        assert sample.seconds == pytest.approx(run.cell("segment").mark(sample.unit).seconds / 2, abs=1e-4)


class Watched(ScrambledTruth):
    """Notes the limit of its process's memory; each flood but the last ends when the next has begun."""

    def __init__(self, floods: int) -> None:
        self.limits: list[int] = []
        self.begun = [threading.Event() for _ in range(floods + 1)]

    def __call__(self, image: Image, masks: Masks) -> Flooded:
        number = len(self.limits)
        self.limits.append(resource.getrlimit(resource.RLIMIT_DATA)[0])
        self.begun[number].set()
        if 0 < number < len(self.begun) - 1:
            assert self.begun[number + 1].wait(20)
        return super().__call__(image, masks)


@pytest.mark.skipif(sys.platform != "linux", reason="limits need Linux")
def test_all_that_are_measured_are_held_to_the_memory_of_a_worker(run: Run) -> None:
    """Also those that are flooded when the first of those at once is done."""
    segment_group = run.parameters.segment.model_copy(update={"at_once": 2})
    parameters = run.parameters.model_copy(update={"segment": segment_group})
    watched, before = Watched(4), resource.getrlimit(resource.RLIMIT_DATA)
    held = Run(run.spec.model_copy(update={"parameters": parameters, "memory_gib": 64.0}))
    calibrate(held, 4, segmenter=watched)
    assert len(watched.limits) == 5
    assert all(0 < limit < 2**37 for limit in watched.limits)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_what_is_warmed_up_is_what_is_measured_where_memory_has_room_for_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at once are asked for: they would meet at one network, but one alone has a network of its own."""
    warmed: list[SegmentParameters] = []
    measured: list[SegmentParameters] = []

    def fake(seen: list[SegmentParameters]) -> Callable[..., ScrambledTruth]:
        def make(_: Path, parameters: SegmentParameters, **__: object) -> ScrambledTruth:
            seen.append(parameters)
            return ScrambledTruth()

        return make

    monkeypatch.setattr(calibration, "FfnSegmenter", fake(warmed))
    monkeypatch.setattr(agreeing, "FfnSegmenter", fake(measured))
    (need,) = [need for need in needs(geometry_of(run)) if need.step == "segment"]
    p = run.parameters.segment.model_copy(update={"at_once": 2, "device": "cpu"})
    gib = (BASE_MIB + 1.5 * need.mib) / 1024  # `need` is of one
    parameters = run.parameters.model_copy(update={"segment": p})
    tight = Run(run.spec.model_copy(update={"parameters": parameters, "memory_gib": gib}))
    calibrate(Run(tight.spec.model_copy(update={"memory_gib": None})), 2)
    assert [q.at_once for q in (*warmed, *measured)] == [2, 2, 2]
    warmed.clear()
    measured.clear()
    calibration._warm_up(tight, segment.units(tight)[0], None)
    agreeing.segmenter_of(tight, segment.units(tight)[0])
    assert [q.at_once for q in warmed] == [q.at_once for q in measured] == [1]


def test_subvolumes_without_tissue_are_not_measured(tmp_path: Path) -> None:
    tissue = np.ones(SHAPE, bool)
    tissue[:, :, 32:] = tissue[:, 32:] = False
    run = make_run(
        tmp_path,
        voronoi(SHAPE, 12, seed=3),
        tissue=tissue,
        segment={"subvolume_zyx_px": (16, 16, 16), "overlap_zyx_px": (0, 0, 0)},
    )
    found = calibrate(run, 4, segmenter=ScrambledTruth())
    assert {sample.unit for sample in found.samples} == {
        f"z00000_y{y:05d}_x{x:05d}" for y in (0, 16) for x in (0, 16)
    }
    with pytest.raises(TaskError, match="5 of the run's 9 cannot be measured, 4 have tissue"):
        calibrate(run, 5, segmenter=ScrambledTruth())


def test_too_few_or_too_many(run: Run) -> None:
    for count in (1, 5):
        with pytest.raises(TaskError, match=f"{count} of the run's 4"):
            calibrate(run, count, segmenter=ScrambledTruth())
    with pytest.raises(ValueError, match="at least 2"):
        Calibration(samples=samples(1.0), start_s=0.0)


def test_rate_and_spread_by_hand() -> None:
    found = Calibration(samples=samples(1.0, 2.0, 3.0), start_s=0.0)
    assert found.rate == pytest.approx(3600 * 1000 / 2.0)
    logs = np.log([1.0, 2.0, 3.0])
    assert found.sigma == pytest.approx(logs.std(ddof=1))
    assert found.overhead_s == 0.5
    assert found.few
    low, high = mean_interval([1.0, 2.0, 3.0])
    s2 = logs.var(ddof=1)
    half = 4.302653 * math.sqrt(s2 / 3 + s2**2 / 4)  # t(0.975, 2)
    assert math.log(high) == pytest.approx(logs.mean() + s2 / 2 + half, rel=1e-5)
    assert math.log(low) == pytest.approx(logs.mean() + s2 / 2 - half, rel=1e-5)


def test_an_interval_covers_the_mean_as_often_as_it_says() -> None:
    """4 samples of a log-normal of sigma 0.3, 2,000 times: 95 % within what 2,000 trials can tell."""
    draws = np.random.default_rng(11).lognormal(-(0.3**2) / 2, 0.3, (2000, 4))
    inside = sum(low <= 1.0 <= high for low, high in (mean_interval(list(row)) for row in draws))
    assert 0.94 <= inside / 2000 <= 0.985


@settings(deadline=None)
@given(seconds=st.lists(st.floats(1e-3, 1e6), min_size=2, max_size=9))
def test_the_rate_lies_in_its_interval(seconds: list[float]) -> None:
    found = Calibration(samples=samples(*seconds), start_s=0.0)
    low, high = found.rate_interval
    assert 0 <= low <= found.rate * (1 + 1e-9)
    assert found.rate * (1 - 1e-9) <= high < math.inf


def test_figures_that_depend_on_a_measured_rate_have_intervals() -> None:
    plan = Plan(extent=Extent.of_shape((100, 100, 100)), rate=1e5, gpus=(2,), rate_low=5e4, rate_high=2e5)
    figures = {figure.name: figure for figure in plan.figures()}
    for name in ("gpu_hours_without_overlap", "gpu_hours", "node_hours", "wall_hours", "hours_on_2_gpus"):
        figure = figures[name]
        assert (figure.low, figure.high) == (pytest.approx(figure.value / 2), pytest.approx(figure.value * 2))
    assert figures["gpu_hours"].value == 10.0
    assert figures["image"].low is None
    bare = {figure.name: figure for figure in replace(plan, rate_low=None).figures()}
    assert bare["gpu_hours"].low is None


def test_a_plan_is_kept_and_set_against_the_marks(run: Run) -> None:
    assert read_plan(run) is None
    assert against_plan(run) == ()
    plan = StoredPlan(
        made="2026-01-01T00:00:00+00:00",
        rate=4 * 16 * 32 * 32 * 100.0,
        gpus=2,
        samples=3,
        figures=(Figure(name="gpu_hours", value=0.01, unit="GPU-h", formula="f", low=0.005, high=0.02),),
    )
    write_plan(run, plan)
    assert read_plan(run) == plan
    assert [row.name for row in against_plan(run)] == ["subvolumes"]

    segment_all(run, ScrambledTruth(), order=segment.units(run)[:2])
    rows = {row.name: row for row in against_plan(run)}
    assert (rows["subvolumes"].planned, rows["subvolumes"].actual) == (4, 2)
    hours = rows["gpu_hours"]
    took = sum(mark.seconds for mark in run.cell("segment").marks()) / 3600
    assert hours.planned == 0.005  # half of the subvolumes are done
    assert (hours.low, hours.high) == (0.0025, 0.01)
    assert hours.actual == pytest.approx(took)
    assert hours.inside is (0.0025 <= took <= 0.01)
    assert hours.ratio == pytest.approx(took / 0.005)
    rate = rows["voxels_per_gpu_hour"]
    assert rate.actual == pytest.approx(2 * 16 * 32 * 32 / took)
    assert (rate.low, rate.high) == (pytest.approx(plan.rate / 2), pytest.approx(plan.rate * 2))


def test_a_damaged_plan_is_named(run: Run) -> None:
    plan_path(run).parent.mkdir(parents=True)
    plan_path(run).write_text("{")
    with pytest.raises(TaskError, match="figures-"):
        read_plan(run)


@pytest.mark.parametrize(
    ("wrong", "named"), [({"hgih": 1.0}, "hgih"), ({"value": float("inf")}, "value"), ({"unit": 3}, "unit")]
)
def test_a_damaged_figure_of_a_plan_is_named(run: Run, wrong: dict[str, object], named: str) -> None:
    figure = {"name": "gpu_hours", "value": 1.0, "unit": "GPU-h", "formula": "f", **wrong}
    plan = {"made": "2026-01-01T00:00:00+00:00", "rate": 1.0, "gpus": 1, "figures": [figure]}
    plan_path(run).parent.mkdir(parents=True)
    plan_path(run).write_text(json.dumps(plan))
    with pytest.raises(TaskError, match=rf"figures\[0\]\.{named}"):
        read_plan(run)
