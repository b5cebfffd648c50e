"""Reading and writing go on beside the computing of neighbours: in order, two at once, one that computes."""

import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from ffn.masks import Masks
from functions import plan, segment
from functions.overlap import Lane, computing
from functions.runtime import read_manifest
from functions.segmenters import Flooded, Segmenter
from functions.stopping import Stopping
from functions.store.cells import Mark
from functions.store.labels import grid_of, local_path
from functions.store.run import Run
from functions.store.traffic import counted, note_read
from functions.tasks import PlanTask
from functions.worker import Worker
from tests.functions.aligned_runs import ScrambledTruth, make_run, voronoi


class Gauge:
    """How many are inside at once, at most."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.now -= 1


def all_of(lane: Lane[str], units: list[str]) -> list[str]:
    """Every unit, each with the one that follows."""
    return [lane.take(unit, following=after) for unit, after in zip(units, [*units[1:], None], strict=True)]


NAMES = [str(k) for k in range(12)]


def test_two_units_at_once_of_which_one_computes_in_order() -> None:
    units, network, order = Gauge(), Gauge(), []

    def one(name: str) -> str:
        with units:
            time.sleep(0.01)
            with computing(), network:
                order.append(name)
                time.sleep(0.005 * (int(name) % 3))
            time.sleep(0.01)
        return name

    with Lane(one) as lane:
        assert all_of(lane, NAMES) == NAMES
    assert order == NAMES
    assert (units.most, network.most) == (2, 1)


def test_reading_and_writing_are_hidden_behind_computing() -> None:
    def one(name: str) -> str:
        time.sleep(0.05)
        with computing():
            time.sleep(0.1)
        time.sleep(0.05)
        return name

    started = time.perf_counter()
    with Lane(one) as lane:
        all_of(lane, NAMES[:8])
    assert time.perf_counter() - started < 8 * 0.2 * 0.8


def test_an_error_is_raised_where_its_unit_is_asked_for() -> None:
    ended: list[str] = []

    def one(name: str) -> str:
        if name == "2":
            raise OSError("disk full")
        ended.append(name)
        return name

    with Lane(one) as lane:
        assert lane.take("1", following="2") == "1"
        with pytest.raises(OSError, match="disk full"):
            lane.take("2", following="3")
        assert lane.take("3") == "3"
    assert ended == ["1", "3"]


def test_a_unit_without_anything_to_compute_lets_the_next_pass() -> None:
    def one(name: str) -> str:
        if name in ("1", "4"):
            return name
        with computing():
            return name

    with Lane(one) as lane:
        assert all_of(lane, NAMES) == NAMES


def test_what_was_begun_ahead_and_is_not_wanted_has_ended_with_the_lane() -> None:
    ended: list[str] = []

    def one(name: str) -> str:
        time.sleep(0.02)
        ended.append(name)
        return name

    with Lane(one) as lane:
        lane.take("1", following="2")
    assert sorted(ended) == ["1", "2"]


def test_a_lane_whose_threads_are_refused_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    start, started = threading.Thread.start, list[threading.Thread]()

    def first_alone(thread: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", first_alone)
    with pytest.raises(RuntimeError, match="start new thread"):
        Lane(str)
    started[0].join(20)  # it waited for the other
    assert not started[0].is_alive()
    monkeypatch.undo()
    with Lane(str) as lane:
        assert all_of(lane, NAMES) == NAMES


def test_bytes_that_are_read_ahead_count_for_the_unit_they_belong_to() -> None:
    def one(name: str) -> str:
        note_read(stored=int(name))
        return name

    counts = []
    with Lane(one) as lane:
        for unit, after in (("3", "5"), ("5", "7"), ("7", None)):
            with counted() as traffic:
                lane.take(unit, following=after)
            counts.append(traffic.read_bytes)
    assert counts == [3, 5, 7]


def test_alone_nothing_is_waited_for() -> None:
    with computing(), computing():
        pass


def bytes_of(run: Run) -> list[bytes]:
    return [local_path(run, subvolume).read_bytes() for subvolume in grid_of(run)]


def work(run: Run, segmenter: Segmenter) -> list[Mark]:
    """Segment all subvolumes as a worker of the flow does."""
    planned = plan.perform(PlanTask(run=run.spec, step="segment", function_id="f", shards=1))
    module = SimpleNamespace(compute=partial(segment.compute, segmenter=segmenter), abandon=segment.abandon)
    manifest = read_manifest(Path(planned.paths["manifest"]))
    return list(Worker(manifest, 0, module, stopping=Stopping(), run=run).work())


def run_of(root: Path, image: NDArray[np.uint8]) -> Run:
    group = {"subvolume_zyx_px": (8, 16, 16), "overlap_zyx_px": (2, 4, 4)}
    root.mkdir(exist_ok=True)
    run = make_run(root, image, segment=group)
    run.board("segment").ledger.number(segment.units(run), size=9)  # one lot: within it units are read ahead
    return run


def test_a_worker_writes_the_same_bytes_with_and_without(tmp_path: Path) -> None:
    image = voronoi((8, 40, 40), 20, seed=2)
    alone, beside = run_of(tmp_path / "alone", image), run_of(tmp_path / "beside", image)
    for unit in segment.units(alone):
        segment.compute(alone, unit, segmenter=ScrambledTruth())
    marks = work(beside, ScrambledTruth())
    assert sorted(mark.unit for mark in marks) == segment.units(beside)
    assert len(marks) == 9
    assert bytes_of(alone) == bytes_of(beside)
    read = {mark.figures["read_raw_bytes"] for mark in marks}
    assert read == {4 * 8 * 16 * 16}  # image, mask (is there any tissue? then again) and codes


def test_a_unit_whose_network_fails_is_tried_again_and_its_neighbours_are_done(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", voronoi((8, 16, 52), 20, seed=2))
    calls: list[int] = []

    class Breaking(ScrambledTruth):
        def __call__(self, image: NDArray[np.uint8], masks: Masks) -> Flooded:
            calls.append(1)
            if len(calls) == 2:
                raise RuntimeError("the device was lost")
            return super().__call__(image, masks)

    work(run, Breaking())
    assert all(run.cell("segment").is_done(unit) for unit in segment.units(run))
    assert len(calls) == len(segment.units(run)) + 1
