"""Reading and writing go on beside the computing of neighbours: in order, two at once, one that computes."""

import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from functions import segment
from functions.overlap import Lane, computing
from functions.runtime import carry_out
from functions.segmenters import Flooded
from functions.store.labels import grid_of, local_path
from functions.store.traffic import counted, note_read
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


def test_what_was_begun_ahead_and_is_not_wanted_has_ended_with_the_lane() -> None:
    ended: list[str] = []

    def one(name: str) -> str:
        time.sleep(0.02)
        ended.append(name)
        return name

    with Lane(one) as lane:
        lane.take("1", following="2")
    assert ended == ["1", "2"]


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


def bytes_of(run) -> list[bytes]:  # type: ignore[no-untyped-def]
    return [local_path(run, subvolume).read_bytes() for subvolume in grid_of(run)]


def test_a_shard_has_the_same_bytes_with_and_without(tmp_path: Path) -> None:
    image = voronoi((8, 40, 40), 20, seed=2)
    group = {"subvolume_zyx_px": (8, 16, 16), "overlap_zyx_px": (2, 4, 4)}
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        run = make_run(tmp_path / name, image, segment=group)
        compute = partial(segment.compute, segmenter=ScrambledTruth())
        if name == "one":
            for unit in segment.units(run):
                run.cell("segment").run_unit(unit, partial(compute, run, unit))
        else:
            marks = [mark.unit for mark, fresh in carry_out(run, "segment", segment.units(run), compute)]
            assert marks == segment.units(run)
        found.append(bytes_of(run))
    assert len(found[0]) == 9
    assert found[0] == found[1]


def test_a_unit_whose_network_fails_has_no_mark_and_the_one_before_it_has(tmp_path: Path) -> None:
    image = voronoi((8, 16, 52), 20, seed=2)
    run = make_run(tmp_path, image, segment={"subvolume_zyx_px": (8, 16, 16), "overlap_zyx_px": (2, 4, 4)})
    units, calls = segment.units(run), []

    class Breaking(ScrambledTruth):
        def __call__(self, image: np.ndarray, masks: object) -> Flooded:
            calls.append(1)
            if len(calls) == 3:
                raise RuntimeError("the device was lost")
            return super().__call__(image, masks)  # type: ignore[arg-type]

    with pytest.raises(RuntimeError, match="device was lost"):
        list(carry_out(run, "segment", units, partial(segment.compute, segmenter=Breaking())))
    done = [run.cell("segment").is_done(unit) for unit in units]
    assert done == [True, True, False, False]
