"""Commands that need no run: one JSON document on standard output, tables otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from flows.definition import definition
from functions.model.artefacts import FOLD, NAMES, RESIN
from functions.publication.omezarr import write_image, write_labels
from tests.typer_cli.invoking import petavoxel
from typer_cli.boundary import ExitCode


@pytest.fixture
def acquisition(tmp_path: Path) -> Path:
    stack = np.random.default_rng(5).integers(0, 255, (4, 32, 40), dtype=np.uint8)
    np.save(tmp_path / "stack.npy", stack)
    done = petavoxel(
        "volume", "import", tmp_path / "stack.npy", "--to", tmp_path / "imported", "--voxel-nm", "40,4,4",
        "--box", "1:4,0:32,8:40", "--output", "json",
    )  # fmt: skip
    assert done.code == 0
    return Path(done.document["acquisition"])


def test_import_and_check(acquisition: Path) -> None:
    done = petavoxel("acquisition", "check", acquisition, "--output", "json")
    assert done.code == 0
    assert done.document["complete"] is True
    assert done.document["sections"] == 3
    assert done.document["voxel_size_zyx_nm"] == [40, 4, 4]


def test_an_incomplete_acquisition_ends_with_3(acquisition: Path) -> None:
    (acquisition / "tiles" / "z00001.tif").unlink()
    done = petavoxel("acquisition", "check", acquisition)
    assert done.code == ExitCode.NO
    assert "complete" in done.out
    assert done.err == ""
    found = petavoxel("acquisition", "check", acquisition, "-o", "json").document
    assert found["complete"] is False
    assert "z00001" in json.dumps(found["findings"])


def test_plan_as_json_and_as_a_table() -> None:
    arguments = ["plan", "--volume", "1mm3", "--voxel-nm", "10", "--gpus", "50000", "--overlap-factor", "1.2"]
    document = petavoxel(*arguments, "-o", "json").document
    figures = {f["name"]: f["value"] for f in document["figures"]}
    assert all(document[name] == value for name, value in figures.items())
    assert (document["gpu_hours_without_overlap"], document["gpu_hours"]) == (1e6, 1.2e6)
    assert document["wall_hours"] == 24.0
    assert figures["voxels"] == 1e15
    assert figures["hours_on_50000_gpus"] == 24.0
    text = petavoxel(*arguments).out
    assert "1.2 M GPU-h" in text
    assert "1.741 x" in text


def test_plan_by_shape_and_tiling() -> None:
    done = petavoxel(
        "plan", "--shape-zyx", "128", "--subvolume", "80", "--overlap", "32", "--rate", "1MVx/h", "-o", "json"
    )
    figures = {f["name"]: f["value"] for f in done.document["figures"]}
    assert figures["subvolumes"] == 8
    assert figures["overlap_factor"] == pytest.approx(8 * 80**3 / 128**3)


def test_plan_against_an_allocation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["plan", "--volume", "1mm3", "--rate", "1GVx/h", "--gpus", "50000", "--overlap-factor", "1.2"]
    done = petavoxel(*arguments, "--allocation-node-hours", "300000", "-o", "json")
    assert done.code == 0
    assert done.document["allocation"] == {
        "granted_node_hours": 300_000, "needed_node_hours": 300_000, "spare_node_hours": 0,
        "enough": True, "surely_enough": True,
    }  # fmt: skip
    short = petavoxel(*arguments, "--allocation-node-hours", "250000")
    assert short.code == ExitCode.NO
    assert "not enough, 50 k node-h are missing" in short.out

    monkeypatch.setenv("PETAVOXEL_HOME", str(tmp_path))
    place = '{ id = "6f3b1d1c-5f1e-5b43-9a6e-0d1f5d0c7a11", base_path = "/data" }'
    profile = tmp_path / "six.toml"
    profile.write_text(
        f'name = "six"\ngpus_per_node = 6\ninstrument = {place}\nscratch = {place}\npublication = {place}\n'
        'compute = { endpoint_id = "6f3b1d1c-5f1e-5b43-9a6e-0d1f5d0c7a11" }\n'
    )
    six = petavoxel(*arguments, "--site", profile, "--allocation-node-hours", "250000", "-o", "json")
    assert six.code == 0
    assert six.document["node_hours"] == pytest.approx(200_000)
    own = petavoxel(*arguments, "--site", profile, "--gpus-per-node", "8", "-o", "json").document
    assert own["node_hours"] == pytest.approx(150_000)


def test_plan_simulated(tmp_path: Path) -> None:
    figures = tmp_path / "site.toml"
    figures.write_text("queue_wait_hours = 0\nledger_ops_per_s = 2.0\n")
    arguments = [
        "plan", "--shape-zyx", "1000", "--subvolume", "100", "--overlap", "10", "--rate", "10MVx/h",
        "--gpus", "50", "--simulate", "--sim-file", figures, "--set-sim", "ledger_ops_per_s=3",
    ]  # fmt: skip
    document = petavoxel(*arguments, "-o", "json").document
    found = document["simulation"]
    for dispatch in ("claiming", "static"):
        assert found[dispatch]["gpus"] == 50
        assert found[dispatch]["subvolumes"] == document["subvolumes"] == 11**3
        assert sum(found[dispatch]["shares"].values()) == pytest.approx(1)
        assert found[dispatch]["wall_hours"] > document["wall_hours"]
    parameters = {row["name"]: row for row in found["parameters"]}
    assert parameters["ledger_ops_per_s"]["value"] == 3
    assert (parameters["ledger_ops_per_s"]["source"], parameters["queue_wait_hours"]["source"]) == (
        "--set-sim", "site.toml",
    )  # fmt: skip
    assert found["breaks_first"]["resource"] == "ledger"
    text = petavoxel(*arguments).out
    assert "of these, the first to break: ledger is full at" in text
    assert petavoxel(*arguments, "--set-sim", "tasks").code == ExitCode.PUT_RIGHT
    assert "no such figure" in petavoxel(*arguments, "--set-sim", "task=1").err
    stalled = petavoxel(*arguments, "--set-sim", "walltime_hours=0.09", "--set-sim", "worker_start_s=0",
                        "--set-sim", "checkpoint_seconds=0")  # fmt: skip
    assert stalled.code == ExitCode.PUT_RIGHT
    assert "work is lost as it is done" in stalled.err


def test_plan_of_training() -> None:
    arguments = ["plan", "--training", "--gpus", "1", "--gpus", "128", "--batch-per-gpu", "4"]
    document = petavoxel(*arguments, "-o", "json").document
    figures = {f["name"]: f["value"] for f in document["figures"]}
    assert figures["weights"] == 638_433
    alone, many = document["scaling"]
    assert (alone["efficiency"], alone["batch"], many["batch"]) == (1.0, 4, 512)
    assert many["examples"] == 3e8
    assert 0.9 < many["efficiency"] < 1.0
    text = petavoxel(*arguments).out
    assert "assumed; of one GPU, not its peak" in text
    assert "Scaling, by this model" in text


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--volume", "1mm3", "--shape-zyx", "1,1,1"],
        ["--volume", "1mm3", "--subvolume", "64"],
        ["--volume", "1mm3", "--subvolume", "64", "--overlap", "64"],
        ["--volume", "1mm3", "--subvolume", "64", "--overlap", "8", "--overlap-factor", "1.2"],
        ["--volume", "1mm3", "--voxel-nm", "0"],
        ["--volume", "1mm3", "--voxel-nm", "1,2"],
        ["--shape-zyx", "0,1,1"],
        ["--volume", "1mm3", "--calibrate"],
        ["--run", "last", "--calibrate", "--rate", "1GVx/h"],
        ["--volume", "1mm3", "--set-sim", "tasks=1"],
        ["--training", "--volume", "1mm3"],
        ["--training", "--simulate"],
        ["--training", "--network", "12,32"],
        ["--training", "--network", "12,32,32"],
        ["--training", "--gpus", "0"],
    ],
)
def test_plan_refuses(arguments: list[str]) -> None:
    assert petavoxel("plan", *arguments).code == ExitCode.USAGE


def test_flow_show() -> None:
    assert petavoxel("flow", "show").document == json.loads(json.dumps(definition()))
    diagram = petavoxel("flow", "show", "--format", "mermaid").out
    assert diagram.startswith("stateDiagram-v2\n    [*] --> StartAt")
    assert "PlanStitch --> Stitch" in diagram


def test_flow_lint(tmp_path: Path) -> None:
    assert petavoxel("flow", "lint", "-o", "json").document == {"findings": []}
    flow = json.loads(json.dumps(definition()))
    flow["States"]["Orphan"] = {"Type": "Pass", "End": True}
    file = tmp_path / "flow.json"
    file.write_text(json.dumps(flow))
    done = petavoxel("flow", "lint", file, "-o", "json")
    assert done.code == ExitCode.NO
    assert {f["state"] for f in done.document["findings"]} == {"Orphan"}
    assert "unreachable" in {f["rule"] for f in done.document["findings"]}


def test_model_describe() -> None:
    document = petavoxel("model", "describe", "demo", "-o", "json").document
    assert document["network"]["fov_zyx"] == [17, 17, 17]
    assert document["bytes"] < 1 << 20
    assert len(document["sha256"]) == 64


def test_evaluate(tmp_path: Path) -> None:
    truth = np.zeros((12, 16, 16), np.uint32)
    truth[:, :8], truth[:, 8:] = 1, 2
    split = truth.astype(np.uint64) << np.uint64(40)
    split[:, :8, 8:] = 7
    np.savez(tmp_path / "truth.npz", labels=truth)
    np.save(tmp_path / "seg.npy", split)
    files = (tmp_path / "seg.npy", tmp_path / "truth.npz")
    whole = petavoxel("volume", "evaluate", *files, "-o", "json").document
    assert whole["voi_split_keep"] == pytest.approx(0.5)
    assert whole["voi_merge_keep"] == pytest.approx(0)
    half = petavoxel("volume", "evaluate", *files, "--box", "0:12,8:16,0:16", "--rim", "1", "-o", "json")
    assert half.document["voi_split_keep"] == pytest.approx(0)
    assert half.document["voxels"] == 10 * 6 * 14


def test_evaluate_in_little_memory_says_the_same(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    truth = np.repeat(random.integers(0, 5, (6, 8, 8)), 4, axis=0).astype(np.uint32)
    np.savez(tmp_path / "truth.npz", truth=truth)
    np.save(tmp_path / "seg.npy", np.where(random.random(truth.shape) < 0.3, 0, truth).astype(np.uint64))
    words = ("volume", "evaluate", tmp_path / "seg.npy", tmp_path / "truth.npz", "--rim", "1", "-o", "json")
    whole = petavoxel(*words)
    assert whole.code == 0, whole.err
    assert petavoxel(*words, "--memory-gib", "4").document == whole.document
    without = petavoxel(*words, "--no-skeletons").document
    assert (without["erl_um"], without["voi_sum_fill"]) == (None, whole.document["voi_sum_fill"])


@pytest.mark.parametrize("box", ["0:12", "0:99,0:1,0:1"])
def test_evaluate_names_the_file(tmp_path: Path, box: str) -> None:
    np.save(tmp_path / "seg.npy", np.zeros((4, 4, 4), np.uint8))
    done = petavoxel("volume", "evaluate", tmp_path / "seg.npy", tmp_path / "seg.npy", "--box", box)
    assert done.code == ExitCode.PUT_RIGHT
    assert "seg.npy" in done.err
    assert "leaves the shape (4, 4, 4)" in done.err


def published(tmp_path: Path, truth: np.ndarray) -> Path:
    """A bundle with a segmentation that is wrong under a fold, and nowhere else."""
    labels, codes = truth.astype(np.uint32), np.ones(truth.shape, np.uint8)
    codes[:, :, 6:10], codes[0] = FOLD, RESIN
    labels[1:, :, 6:10] = 0
    volume = tmp_path / "bundle" / "volume.zarr"
    image = np.full(truth.shape, 120, np.uint8)
    frame = {"shape_zyx": truth.shape, "voxel_size_zyx_nm": (10.0, 10.0, 10.0)}
    write_image(volume, read=lambda box: image[box.slices], name="v", **frame)
    write_labels(volume, read=lambda box: labels[box.slices], dtype="uint32", **frame)
    write_labels(
        volume,
        read=lambda box: codes[box.slices],
        dtype="uint8",
        name="artefacts",
        value_names=NAMES,
        **frame,
    )
    return tmp_path / "bundle"


def test_evaluate_leaves_out_what_the_volume_says(tmp_path: Path) -> None:
    truth = np.zeros((12, 16, 16), np.uint32)
    truth[:, :8], truth[:, 8:] = 1, 2
    np.savez(tmp_path / "truth.npz", labels=truth)
    files = (published(tmp_path, truth), tmp_path / "truth.npz")
    own = petavoxel("volume", "evaluate", *files, "-o", "json").document
    fold = 11 * 16 * 4 / truth.size
    assert own["mask"] == {
        "path": str(tmp_path / "bundle/volume.zarr/labels/artefacts"),
        "codes": {"outside": 0.0, "fold": round(fold, 4), "crack": 0.0, "charging": 0.0},
    }
    assert own["masked_fraction"] == round(fold, 4)
    assert own["labelled_fraction"] == 1.0
    assert own["voi_split_keep"] == own["voi_merge_keep"] == 0
    whole = petavoxel("volume", "evaluate", *files, "--mask", "none", "-o", "json").document
    assert (whole["mask"], whole["masked_fraction"]) == (None, 0.0)
    assert whole["labelled_fraction"] < 0.8
    assert whole["voi_split_keep"] > 0.5
    named = petavoxel("volume", "evaluate", files[1], files[1], "--mask", files[0], "-o", "json").document
    assert named["mask"] == own["mask"]
    np.save(tmp_path / "mask.npy", (truth == 1).astype(np.uint8))
    half = petavoxel(
        "volume", "evaluate", *files, "--mask", tmp_path / "mask.npy", "--rim", "1", "-o", "json"
    )
    assert half.document["mask"]["codes"] == {"nonzero": 0.5}
    assert half.document["true_objects"] == 1
    text = petavoxel("volume", "evaluate", *files).out
    assert "masked: fold" in text
    assert "masked_fraction" in text


def test_evaluate_names_a_mask_that_does_not_fit(tmp_path: Path) -> None:
    np.save(tmp_path / "seg.npy", np.ones((4, 4, 4), np.uint8))
    np.save(tmp_path / "mask.npy", np.ones((4, 4, 3), np.uint8))
    files = (tmp_path / "seg.npy", tmp_path / "seg.npy")
    done = petavoxel("volume", "evaluate", *files, "--mask", tmp_path / "mask.npy")
    assert done.code == ExitCode.PUT_RIGHT
    assert "mask (4, 4, 3), truth (4, 4, 4)" in done.err
    done = petavoxel("volume", "evaluate", *files, "--mask", tmp_path / "gone.npy")
    assert done.code == ExitCode.PUT_RIGHT
    assert "gone.npy: no such file" in done.err
