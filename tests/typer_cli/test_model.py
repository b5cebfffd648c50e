"""`petavoxel model`: judge, try, hand on, bring back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from ffn.checkpoint import load_model, save_model
from functions.store.edge_list import write_edges
from functions.store.named import DEMO_MODEL
from functions.store.thresholds import read_thresholds
from tests.ffn.test_inference import brightness_model, two_slabs
from tests.functions.test_thresholding import edge, quarters
from tests.typer_cli.invoking import petavoxel
from typer_cli.boundary import ExitCode


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_model(tmp_path / "slabs.safetensors", brightness_model())
    image, truth = two_slabs()
    np.savez(tmp_path / "box.npz", image=image, labels=truth)
    return tmp_path / "slabs.safetensors"


def test_gate_and_describe(model: Path) -> None:
    box = model.with_name("box.npz")
    done = petavoxel(
        "model", "gate", model, "--precision", "bf16", "--device", "cpu", "--image", box, "--truth", box,
        "--output", "json",
    )  # fmt: skip
    assert done.code == ExitCode.DONE, done.err
    assert done.document["passed"] is True
    assert done.document["file"] == str(model.with_name("slabs.gate.json"))
    assert done.document["figures"]["objects_reduced"] == 2
    described = petavoxel("model", "describe", model, "-o", "json").document
    assert described["gate"] == {"bf16 on cpu": "passed"}
    text = petavoxel("model", "gate", model, "--precision", "int8", "--device", "cpu", "--image", box).out
    assert "int8 on cpu: passed" in text


def test_a_precision_that_does_not_pass_ends_with_3(model: Path) -> None:
    np.save(model.with_name("flat.npy"), np.full((20, 20, 20), 190, np.uint8))
    arguments = ["model", "gate", model, "--precision", "bf16", "--device", "cpu"]
    done = petavoxel(*arguments, "--image", model.with_name("flat.npy"))
    assert done.code == ExitCode.NO
    assert "decides nothing" in done.out
    assert "did not pass" in done.out
    assert petavoxel(*arguments).code == ExitCode.PUT_RIGHT  # the phantom has other voxels
    assert petavoxel(*arguments, "--box", "0:20").code == ExitCode.PUT_RIGHT
    assert petavoxel("model", "gate", model).code == ExitCode.USAGE


def test_evaluate(model: Path) -> None:
    box = model.with_name("box.npz")
    arguments = [
        "model",
        "evaluate",
        model,
        "--image",
        box,
        "--truth",
        box,
        "--device",
        "cpu",
        "--no-background",
    ]
    done = petavoxel(*arguments, "-o", "json")
    assert done.code == ExitCode.DONE, done.err
    assert done.document["figures"]["voi_merge_fill"] == 0
    assert done.document["figures"]["erl_um"] > 0
    assert done.document["counters"]["objects"] == 2
    part = petavoxel(
        *arguments, "--box", "0:26,0:24,0:13", "--mode", "model", "--rim", "1", "-o", "json"
    ).document
    assert part["figures"]["true_objects"] == 1
    assert part["figures"]["voxels"] == 24 * 22 * 11
    assert "voi sum fill" in petavoxel(*arguments).out.replace("_", " ")
    wrong = petavoxel(*arguments[:-2], "abacus", "-o", "json")
    assert wrong.code == ExitCode.PUT_RIGHT
    assert "device" in wrong.document["error"]["message"]


def test_evaluate_chooses_a_threshold_for_an_edge_list(tmp_path: Path, model: Path) -> None:
    labels, truth = quarters()
    folder = tmp_path / "bundle"
    zarr.create_group(str(folder / "volume.zarr"))
    zarr.create_group(str(folder / "volume.zarr/labels"))
    zarr.create_array(store=str(folder / "volume.zarr/labels/supervoxels"), data=labels)
    pairs = [edge(1, 2, agreement=0.7, speculative=0.7), edge(1, 3, agreement=0.4, speculative=0.65)]
    write_edges(folder / "edges.csv", pairs)
    np.save(tmp_path / "truth.npy", truth)
    arguments = ["model", "evaluate", model, "--edges", folder, "--truth", tmp_path / "truth.npy"]
    done = petavoxel(*arguments, "--to", tmp_path / "t.json", "-o", "json")
    assert done.code == ExitCode.DONE, done.err
    assert done.document["before"]["voi_sum"] == 1.0
    assert done.document["thresholds"]["voi_split"] == 0.5
    chosen = read_thresholds(tmp_path / "t.json")
    assert (chosen.seeds, chosen.min_score, chosen.truth) == ("both", 0.4, "truth.npy")
    text = petavoxel(*arguments).out
    assert "before: 1.0000; best: 0.5000" in text
    both = petavoxel(*arguments, "--image", tmp_path / "truth.npy", "-o", "json")
    assert both.code == ExitCode.PUT_RIGHT
    assert "--image, --edges" in both.document["error"]["message"]


def test_export_and_import_again(tmp_path: Path) -> None:
    done = petavoxel("model", "export", "demo", "--to", tmp_path / "demo.npz", "-o", "json")
    assert done.code == ExitCode.DONE, done.err
    words = done.document["import"].split()
    assert words[:3] == ["petavoxel", "model", "import"]
    words[words.index("FILE")] = str(tmp_path / "back.safetensors")
    back = petavoxel(*words[1:], "-o", "json")
    assert back.code == ExitCode.DONE, back.err
    original, found = load_model(DEMO_MODEL), load_model(tmp_path / "back.safetensors")
    assert found.sha256 == original.sha256
    assert found.network.config == original.network.config
    assert found.normalisation == original.normalisation
    assert found.voxel_size_zyx_nm == original.voxel_size_zyx_nm
    copy = petavoxel("model", "export", "demo", "--to", tmp_path / "m.safetensors", "--format", "safetensors")
    assert copy.code == ExitCode.DONE
    assert load_model(tmp_path / "m.safetensors").inference == original.inference


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_bytes(b"not a model")
    for command in (["export", "--to", tmp_path / "x.npz"], ["gate", "--precision", "bf16"]):
        done = petavoxel("model", command[0], tmp_path / "m.pt", *command[1:], "-o", "json")
        assert done.code == ExitCode.PUT_RIGHT
        assert "not a safetensors file" in done.document["error"]["message"]
    assert not (tmp_path / "x.npz").exists()
