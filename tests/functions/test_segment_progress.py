"""A subvolume in progress is kept, gone on with to the same bytes, and not trusted when it is another's."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from ffn.checkpoint import save_model
from functions import segment
from functions.model.errors import VolumeError
from functions.plan import perform
from functions.runtime import read_manifest
from functions.segmenters import FfnSegmenter
from functions.stopping import Stopping
from functions.store.cells import UnitReport
from functions.store.labels import local_path
from functions.store.progress import Drained, ProgressFile
from functions.store.run import Run
from functions.tasks import PlanTask
from functions.worker import Worker
from tests.ffn.test_inference import brightness_model, two_slabs
from tests.functions.aligned_runs import make_run

TIMES = ("network_seconds", "host_seconds", "voxels_per_second")


class KilledError(Exception):
    """Stands for whatever ends a process."""


class Watched(ProgressFile):
    """A progress file that says when it was written."""

    on_write: Callable[[], None]

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        super().write(arrays)
        self.on_write()


def watched(run: Run, on_write: Callable[[], None]) -> Watched:
    file = Watched(progress_of(run).path)
    object.__setattr__(file, "on_write", on_write)
    return file


def slabs_run(root: Path, *, grey: int = 0, **parameters: object) -> Run:
    """Two slabs to be flooded, kept after every call of the network."""
    root.mkdir(parents=True, exist_ok=True)
    if not (root / "model.safetensors").exists():
        save_model(root / "model.safetensors", brightness_model())
    group = {
        "device": "cpu", "voxel_size_factor": 9.0, "checkpoint_seconds": 1e-9, "frontier_batch": 2,
        "overlap_zyx_px": (8, 8, 8), **parameters,
    }  # fmt: skip
    return make_run(root, two_slabs()[0] + np.uint8(grey), segment=group)


def unit_of(run: Run) -> str:
    (unit,) = segment.units(run)
    return unit


def progress_of(run: Run) -> ProgressFile:
    return ProgressFile.of(run.cell("segment"), unit_of(run))


def flood(run: Run, progress: ProgressFile | None = None) -> UnitReport:
    segmenter = None
    if progress is not None:
        segmenter = FfnSegmenter(run.model_path, run.parameters.segment, progress=progress)
    return segment.compute(run, unit_of(run), segmenter=segmenter)


def labels_of(run: Run) -> bytes:
    (subvolume,) = segment.grid_of(run)
    return local_path(run, subvolume).read_bytes()


def assert_same(run: Run, report: UnitReport, whole: Run) -> None:
    expected = flood(whole)
    assert labels_of(run) == labels_of(whole)
    assert {k: v for k, v in report.figures.items() if k not in TIMES} == {
        k: v for k, v in expected.figures.items() if k not in TIMES
    }
    assert report.figures["segments"] == 2
    assert not progress_of(run).path.exists()


def kill_after(run: Run, writes: int) -> None:
    """Floods until the progress was written so often."""
    count = 0

    def die() -> None:
        nonlocal count
        count += 1
        if count == writes:
            raise KilledError

    with pytest.raises(KilledError):
        flood(run, watched(run, die))


def test_killed_twice_and_ended_with_the_same_bytes(tmp_path: Path) -> None:
    run = slabs_run(tmp_path / "a")
    kill_after(run, 3)
    first = progress_of(run).read()
    assert first is not None
    kill_after(run, 4)
    second = progress_of(run).read()
    assert second is not None
    assert len(second["moves_zyx"]) > len(first["moves_zyx"]) > 0
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1

    report = flood(run, watched(run, count))
    assert report.problems == ()
    assert calls < report.figures["calls"] + report.figures["attempts"]  # it did go on
    assert_same(run, report, slabs_run(tmp_path / "b"))


def test_by_batches_it_is_the_same_and_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    run = slabs_run(tmp_path / "a", batch=4, objects=1)
    kill_after(run, 3)
    report = flood(run)
    assert report.problems == ()
    assert report.figures["discarded_fovs"] == 0
    assert_same(run, report, slabs_run(tmp_path / "b"))
    ahead = slabs_run(tmp_path / "c", batch=3, objects=4)
    found = flood(ahead)
    assert labels_of(ahead) == labels_of(run)
    assert found.figures["discarded_fovs"] > 0
    assert found.figures["fovs"] == report.figures["fovs"]


PROGRAM = """
import sys, time
from pathlib import Path
from tests.functions.test_segment_progress import flood, slabs_run, watched
run = slabs_run(Path(sys.argv[1]))
flood(run, watched(run, lambda: time.sleep(0.1)))
"""


def test_a_process_killed_in_the_middle_costs_what_came_after_its_last_write(tmp_path: Path) -> None:
    run = slabs_run(tmp_path / "a")
    path = progress_of(run).path
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "a")],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        deadline = time.monotonic() + 60
        seen: set[int] = set()
        while len(seen) < 3:  # written three times
            assert child.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            if path.exists():
                seen.add(path.stat().st_ino)
            time.sleep(0.01)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    arrays = progress_of(run).read()
    assert arrays is not None
    assert len(arrays["moves_zyx"]) > 0
    report = flood(run)
    assert report.problems == ()
    assert_same(run, report, slabs_run(tmp_path / "b"))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def compressed_otherwise(path: Path) -> None:
    """A flipped bit in the archive's directory."""
    text = bytearray(path.read_bytes())
    text[text.rindex(b"PK\x01\x02") + 10] ^= 0x40
    path.write_bytes(bytes(text))


def pickled(path: Path) -> None:
    np.savez(path, labels=np.array([{"a": 1}], object))


def other_arrays(path: Path) -> None:
    np.savez(path, labels=np.zeros(3))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncate, "damaged"),
        (compressed_otherwise, "damaged"),
        (pickled, "damaged"),
        (lambda path: path.write_bytes(b""), "damaged"),
        (lambda path: path.write_bytes(b"\x93NUMPY nothing"), "damaged"),
        (other_arrays, "format: not petavoxel.ffn-snapshot/1"),
    ],
    ids=["truncated", "compressed otherwise", "pickled", "empty", "nonsense", "other arrays"],
)
def test_what_cannot_be_read_is_told_and_not_used(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    run = slabs_run(tmp_path / "a")
    kill_after(run, 3)
    path = progress_of(run).path
    spoil(path)
    spoiled, aside = path.read_bytes(), path.with_name(f"{path.name}.damaged")

    def look() -> None:
        assert aside.read_bytes() == spoiled

    report = flood(run, watched(run, look))
    assert [p["code"] for p in report.problems] == ["progress_unusable"]
    assert message in report.problems[0]["subject"]
    assert_same(run, report, slabs_run(tmp_path / "b"))
    assert list(path.parent.iterdir()) == []


def drained_round(run: Run) -> None:
    """A worker that has to go in the middle of the subvolume."""
    stopping, asked = Stopping(environment={}), list[int]()

    def stop() -> bool:
        asked.append(1)
        if len(asked) > 5:
            stopping.stop()
        return stopping.asked()

    plan = perform(PlanTask(run=run.spec, step="segment", function_id="f"))
    manifest = read_manifest(Path(plan.paths["manifest"]))
    list(Worker(manifest, 0, segment, stopping=stopping, run=Run(run.spec, stop=stop)).work())


def test_a_subvolume_whose_progress_is_damaged_each_time_is_not_begun_for_ever(tmp_path: Path) -> None:
    """Each round puts it away, which the flow takes for getting on: it would never see that it does not."""
    run = slabs_run(tmp_path, checkpoint_seconds=1e6)
    ledger = run.cell("segment").ledger
    rounds = 0
    while not rounds or ledger.census().open:
        drained_round(run)
        if progress_of(run).path.exists():
            truncate(progress_of(run).path)
        rounds += 1
        assert rounds < 10
    assert rounds == 3
    (found,) = ledger.quarantined()
    assert (found.attempts, found.failures[0].worker) == (3, found.failures[2].worker)
    assert "damaged, like the one before it; look at scratch, then remove it and" in found.reason


def test_the_progress_of_another_subvolume_is_told_and_not_used(tmp_path: Path) -> None:
    other = slabs_run(tmp_path / "other", grey=3)
    kill_after(other, 3)
    run = slabs_run(tmp_path / "a")
    arrays = progress_of(other).read()
    assert arrays is not None
    progress_of(run).write(arrays)
    report = flood(run)
    assert [p["code"] for p in report.problems] == ["progress_unusable"]
    assert "another image" in report.problems[0]["subject"]
    assert_same(run, report, slabs_run(tmp_path / "b"))


def test_nothing_is_kept_when_nobody_asks(tmp_path: Path) -> None:
    run = slabs_run(tmp_path, checkpoint_seconds=0.0)

    def fail() -> None:
        raise AssertionError

    assert flood(run, watched(run, fail)).figures["segments"] == 2


def test_full_scratch_does_not_end_a_flood(tmp_path: Path) -> None:
    run = slabs_run(tmp_path / "a")

    def full() -> None:
        raise OSError(28, "No space left on device")

    report = flood(run, watched(run, full))
    assert [p["code"] for p in report.problems] == ["progress_not_kept"]
    assert_same(run, report, slabs_run(tmp_path / "b"))


def test_a_half_written_file_of_a_killed_process_is_removed_with_it(tmp_path: Path) -> None:
    file = ProgressFile(tmp_path / "progress" / "u.npz")
    assert file.read() is None
    file.write({"a": np.arange(3)})
    left = file.path.with_name(".u.npz.0123abcd.partial")
    left.write_bytes(b"half")
    file.remove()
    assert list(file.path.parent.iterdir()) == []
    file.path.write_bytes(b"PK\x03\x04")
    with pytest.raises(VolumeError, match="damaged"):
        file.read()


def test_how_often_progress_is_kept_does_not_change_what_is_found(tmp_path: Path) -> None:
    keys = [
        slabs_run(tmp_path, **parameters).segment_key  # type: ignore[arg-type]
        for parameters in ({}, {"checkpoint_seconds": 60.0}, {"allow_ungated": True}, {"precision": "bf16"})
    ]
    assert keys[0] == keys[1] == keys[2] != keys[3]


@pytest.mark.parametrize("batch", [None, 4])
def test_a_worker_that_has_to_go_puts_the_subvolume_away_at_once(tmp_path: Path, batch: int | None) -> None:
    run = slabs_run(tmp_path / "a", batch=batch, objects=1, checkpoint_seconds=1e6)
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 5

    with pytest.raises(Drained):
        segment.compute(Run(run.spec, stop=stop), unit_of(run))
    kept = progress_of(run).read()
    assert kept is not None
    assert len(asked) == 7  # before the network is called again: once to keep, once to leave
    assert not local_path(run, next(iter(segment.grid_of(run)))).exists()
    assert_same(run, flood(run), slabs_run(tmp_path / "b"))
