"""`plan --run` and `--calibrate` on the real embedded site, and `run show` with plan against actual."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from functions.microscopes.importing import import_stack
from functions.planning import Tiling
from tests.typer_cli.invoking import petavoxel
from typer_cli.boundary import ExitCode

SHAPE = (18, 48, 48)
TILING = Tiling(size_zyx=(18, 32, 32), overlap_zyx=(16, 16, 16))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has its aligned volume, four subvolumes of it not segmented."""
    tmp_path = tmp_path_factory.mktemp("aligned")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PETAVOXEL_HOME", str(tmp_path / "home"))
        _align(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def aligned(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETAVOXEL_HOME", str(home))


def _align(tmp_path: Path) -> None:
    stack = np.random.default_rng(5).integers(40, 220, SHAPE, dtype=np.uint8)
    np.save(tmp_path / "stack.npy", stack)
    folder = import_stack(tmp_path / "stack.npy", tmp_path / "sample", voxel_size_zyx_nm=(16.0, 16.0, 16.0))
    done = petavoxel(
        "run", "start", folder, "--stop-after", "align_render", "--workers", "1", "--wait", "-o", "json",
        "--set", "segment.subvolume_zyx_px=18,32,32", "--set", "segment.overlap_zyx_px=16,16,16",
        "--set", "segment.device=cpu",
    )  # fmt: skip
    assert done.code == ExitCode.DONE, done.err


@pytest.mark.usefixtures("aligned")
def test_a_runs_volume_at_a_given_rate() -> None:
    assert petavoxel("run", "show", "last", "-o", "json").document["plan"] == []
    document = petavoxel("plan", "--run", "last", "--rate", "1MVx/h", "-o", "json").document
    assert document["voxels"] == 18 * 48 * 48
    assert document["subvolumes"] == 4
    assert document["gpu_hours"] == pytest.approx(4 * 18 * 32 * 32 / 1e6)
    assert "calibration" not in document
    (row,) = petavoxel("run", "show", "last", "-o", "json").document["plan"]
    assert (row["planned"], row["actual"]) == (4, 0)


@pytest.mark.usefixtures("aligned")
def test_a_run_tells_what_is_skipped_and_what_pairs_would_cost() -> None:
    words = ("plan", "--run", "last", "--rate", "1MVx/h", "-o", "json")
    own = petavoxel(*words).document
    assert (own["empty_subvolumes"], own["quarantined_subvolumes"]) == (0, 0)
    assert own["gpu_hours_left"] == pytest.approx(own["gpu_hours"] * (4 - own["finished_subvolumes"]) / 4)
    assert "pairs" not in own
    other = petavoxel(*words, "--volume", "1mm3", "--agglomerate", "--device-gib", "16").document
    assert "empty_subvolumes" not in other  # nobody knows of another volume
    told = petavoxel(*words, "--volume", "1mm3", "--agglomerate", "--occupied", "0.25").document
    assert told["gpu_hours"] == pytest.approx(other["gpu_hours"] / 4)
    assert told["empty_subvolumes"] == pytest.approx(told["subvolumes"] * 3 / 4)
    assert "own mask" in petavoxel(*words, "--occupied", "0.25").err
    assert other["gpu_hours_of_pairs"] > 0
    assert other["node_hours"] == pytest.approx((other["gpu_hours"] + other["gpu_hours_of_pairs"]) / 4)
    figures = {figure["name"]: figure for figure in other["figures"]}
    assert "FIB-25" in figures["pairs"]["formula"]
    assert other["device"]["fits"] is True
    batch = next(f for f in other["device"]["figures"] if f["name"] == "device_batch")
    assert "* 16 features *" in batch["formula"]  # of the run's own network, read from its header


@pytest.mark.usefixtures("aligned")
def test_calibrate_then_set_plan_against_actual() -> None:
    done = petavoxel(
        "plan", "--run", "last", "--calibrate", "--subvolumes", "2", "--gpus", "8",
        "--volume", "1mm3", "-o", "json",
    )  # fmt: skip
    assert done.code == ExitCode.DONE, done.err
    found = done.document["calibration"]
    assert [sample["fresh"] for sample in found["samples"]] == [True, True]
    assert found["low"] <= found["voxels_per_gpu_hour"] <= found["high"]
    assert found["few_samples"] is True
    assert done.document["voxels"] == 1e15  # the volume asked for, at the run's rate and tiling
    assert done.document["overlap_factor"] == pytest.approx(TILING.factor)
    figures = {figure["name"]: figure for figure in done.document["figures"]}
    expected = 1e15 / found["voxels_per_gpu_hour"] * TILING.factor
    assert figures["gpu_hours"]["value"] == pytest.approx(expected)
    assert figures["wall_hours"]["value"] == pytest.approx(expected / 8)
    assert figures["wall_hours"]["high"] == pytest.approx(1e15 / found["low"] * TILING.factor / 8)

    shown = petavoxel("run", "show", "last", "-o", "json").document["plan"]
    rows = {row["name"]: row for row in shown}  # of the run's own volume, not of the 1 mm3
    assert (rows["subvolumes"]["planned"], rows["subvolumes"]["actual"]) == (4, 2)
    assert rows["gpu_hours"]["ratio"] == pytest.approx(1, rel=1e-3)  # the two that are done made the plan
    assert rows["gpu_hours"]["inside"] is True
    text = petavoxel("run", "show", "last").out
    assert "actual / planned" in text
    again = petavoxel("plan", "--run", "last", "--calibrate", "--subvolumes", "5", "-o", "json")
    assert again.code == ExitCode.PUT_RIGHT
    assert "5 of the run's 4" in again.document["error"]["message"]


def test_no_such_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETAVOXEL_HOME", str(tmp_path))
    done = petavoxel("plan", "--run", "last", "-o", "json")
    assert done.code == ExitCode.PUT_RIGHT
    assert "no such run" in done.document["error"]["message"]


@pytest.mark.usefixtures("aligned")
def test_a_run_keeps_the_memory_it_was_given_and_shows_bytes_and_peaks() -> None:
    done = petavoxel(
        "run", "rerun", "last", "--start-at", "segment", "--stop-after", "segment", "--memory-gib", "1.5",
        "--workers", "1", "--wait", "-o", "json",
    )  # fmt: skip
    assert done.code == ExitCode.DONE, done.err
    steps = petavoxel("run", "show", "last", "-o", "json").document["steps"]
    figures = next(step["figures"] for step in steps if step["name"] == "segment")
    assert 0 < figures["peak_mib"] <= 1536
    assert figures["read_bytes_per_voxel"] > 0
    assert figures["written_bytes_per_voxel"] > 0
    # these subvolumes are small; interpreter and libraries take .3 GiB, or more where pages are larger
    little = petavoxel("run", "rerun", "last", "--memory-gib", "0.5", "--set", "segment.batch=2", "--wait")
    assert little.code == ExitCode.DONE, little.err


def test_memory_of_a_worker_is_planned() -> None:
    words = ("plan", "--shape-zyx", "1000,8000,8000", "-o", "json", "--memory-gib")
    enough = petavoxel(*words, "1024")
    assert (enough.code, enough.document["memory"]["enough"]) == (ExitCode.DONE, True)
    short = petavoxel(*words, "0.5", "--subvolume", "128,256,256", "--overlap", "32,32,32")
    assert short.code == ExitCode.NO
    steps = {step["step"]: step for step in short.document["memory"]["steps"]}
    assert steps["segment"]["needed_gib"] == pytest.approx((300 + 48 + 40 * 8) / 1024, abs=1e-3)
    assert (steps["segment"]["fits"], steps["align_pairs"]["fits"]) == (False, True)
    assert steps["segment"]["remedy"] == "smaller segment.subvolume_zyx_px"
    of_volume = petavoxel("plan", "--volume", "1mm3", "--memory-gib", "64", "-o", "json").document["memory"]
    assert [step["step"] for step in of_volume["steps"]] == ["segment", "match", "relabel", "finish"]
    pairs = petavoxel(*words, "1024", "--agglomerate").document["memory"]["steps"]
    told = {step["step"]: step for step in pairs}
    assert list(told)[-4:] == ["candidates", "resegment", "agglomerate", "finish"]
    assert told["agglomerate"]["unit"] == "a table of 1,752,046 objects"
    assert told["candidates"]["unit"] == "a block of 128 x 512 x 512"


def test_agglomeration_stands_beside_a_simulation() -> None:
    words = ("plan", "--shape-zyx", "600", "--gpus", "2", "--simulate", "--agglomerate")
    document = petavoxel(*words, "-o", "json").document
    expected = document["gpu_hours_of_pairs"] / 2
    assert document["simulation"]["wall_hours_of_pairs"] == pytest.approx(expected)
    assert document["simulation"]["planned_wall_hours"] == pytest.approx(document["gpu_hours"] / 2)
    assert "hours of pairs behind it, not simulated" in petavoxel(*words).out
    off = petavoxel(*words[:-1], "-o", "json").document
    assert off["simulation"]["wall_hours_of_pairs"] is None


def test_the_largest_subvolume_of_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("plan", "--shape-zyx", "2000", "--subvolume", "512", "--overlap", "32", "-o", "json")
    assert "device" not in petavoxel(*words).document
    found = petavoxel(*words, "--device-gib", "40").document["device"]
    assert found["largest_subvolume_zyx"] == [624, 624, 624]
    assert (found["planned_voxels"], found["fits"]) == (512**3, True)
    assert petavoxel(*words, "--device-gib", "16").document["device"]["fits"] is False
    small = petavoxel(*words, "--device-gib", "40", "--network", "4,8,17").document["device"]
    assert small["largest_subvolume_zyx"][0] >= 624

    monkeypatch.setenv("PETAVOXEL_HOME", str(tmp_path))
    place = '{ id = "6f3b1d1c-5f1e-5b43-9a6e-0d1f5d0c7a11", base_path = "/data" }'
    profile = tmp_path / "large.toml"
    profile.write_text(
        f'name = "large"\ndevice_gib = 80\ninstrument = {place}\nscratch = {place}\npublication = {place}\n'
        'compute = { endpoint_id = "6f3b1d1c-5f1e-5b43-9a6e-0d1f5d0c7a11" }\n'
    )
    of_site = petavoxel(*words, "--site", profile).document["device"]
    assert (of_site["device_gib"], of_site["largest_subvolume_zyx"][0]) == (80.0, 792)
