"""A network on a box: figures, and the verdict on fewer bits."""

import json
from pathlib import Path

import numpy as np
import pytest

from ffn.checkpoint import save_model
from ffn.gate import GateThresholds
from functions.model.errors import MemoryBudgetError, ModelError, VolumeError
from functions.model.geometry import Box
from functions.model.parameters import SegmentParameters
from functions.store.named import DEMO_MODEL
from functions.store.verdicts import gate_path, read_verdicts
from functions.trials import Trial, evaluate_model, gate_model, phantom_trial, read_trial
from tests.ffn.test_inference import brightness_model, two_slabs

CPU = SegmentParameters(device="cpu")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "slabs.safetensors"
    save_model(path, brightness_model())
    return path


def slabs() -> Trial:
    image, truth = two_slabs()
    return Trial(name="slabs", image=image, truth=truth)


def test_a_network_is_compared_with_the_truth(model: Path) -> None:
    found = evaluate_model(model, slabs(), parameters=CPU, background_counts=False)
    assert found.evaluation.voi_split_labelled == found.evaluation.voi_merge_labelled == 0
    assert found.evaluation.voi_sum_fill == pytest.approx(0, abs=0.01)
    assert 0.8 < found.evaluation.labelled_fraction < 1
    assert found.evaluation.erl_um is not None
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert document["counters"]["objects"] == document["figures"]["objects"] == 2
    assert document["counters"]["fovs"] > 0
    assert document["voxels_per_second"] > 0
    assert (document["device"], document["precision"]) == ("cpu", "fp32")


def test_the_parameters_of_a_run_apply(model: Path) -> None:
    none = evaluate_model(
        model, slabs(), parameters=SegmentParameters(device="cpu", min_segment_voxels=10**6)
    )
    assert none.evaluation.objects == 0
    fewer = evaluate_model(model, slabs(), parameters=SegmentParameters(device="cpu", min_move_distance_px=3))
    assert fewer.counters.fovs < evaluate_model(model, slabs(), parameters=CPU).counters.fovs
    reduced = evaluate_model(model, slabs(), parameters=SegmentParameters(device="cpu", precision="int8"))
    assert reduced.precision == "int8"  # ungated: nothing is kept of it


def test_a_box_that_cannot_be_flooded_in_the_memory_is_refused_and_figures_do_not_depend_on_it(
    model: Path,
) -> None:
    with pytest.raises(MemoryBudgetError, match=r"slabs: flooding [\d,]+ voxels takes \d+ MiB, there are 20"):
        evaluate_model(model, slabs(), parameters=CPU, room_mib=20.0)
    found = [
        evaluate_model(model, slabs(), parameters=CPU, room_mib=room).evaluation for room in (None, 80.0)
    ]
    assert found[0] == found[1]


def test_a_box_without_truth_or_with_nonsense_is_refused(model: Path) -> None:
    image, truth = two_slabs()
    with pytest.raises(VolumeError, match=r"slabs: has no truth; .*--truth"):
        evaluate_model(model, Trial(name="slabs", image=image, truth=None), parameters=CPU)
    bright = Trial(name="slabs", image=image.astype(np.uint16) * 257, truth=truth)
    with pytest.raises(VolumeError, match="slabs: image: its uint16 values"):
        evaluate_model(model, bright, parameters=CPU)
    with pytest.raises(VolumeError, match="slabs: image: its uint16 values"):
        gate_model(model, precision="bf16", device="cpu", trial=bright)


def test_boxes_are_read_from_files(tmp_path: Path) -> None:
    image, truth = two_slabs()
    np.savez(tmp_path / "both.npz", raw=image, gt=truth)
    box = Box(offset_zyx=(1, 2, 3), shape_zyx=(20, 20, 20))
    trial = read_trial(tmp_path / "both.npz", tmp_path / "both.npz", box=box)
    assert np.array_equal(trial.image, image[box.slices])
    assert trial.truth is not None
    assert np.array_equal(trial.truth, truth[box.slices])
    assert trial.name == "both.npz (1, 2, 3) to (21, 22, 23)"
    np.save(tmp_path / "small.npy", truth[:5])
    with pytest.raises(VolumeError, match=r"small\.npy: shape \(5, 24, 28\), .* has \(26, 24, 28\)"):
        read_trial(tmp_path / "both.npz", tmp_path / "small.npy")
    with pytest.raises(VolumeError, match=r"none\.npz: no such file"):
        read_trial(tmp_path / "none.npz", None)
    np.save(tmp_path / "floats.npy", image.astype(np.float32))
    with pytest.raises(VolumeError, match="3 axes of float32, expected three of integers"):
        read_trial(tmp_path / "floats.npy", None)


@pytest.mark.parametrize(("precision", "emulated"), [("bf16", False), ("int8", True)])
def test_the_verdict_lies_beside_the_weights(model: Path, precision: str, emulated: bool) -> None:
    verdict = gate_model(model, precision=precision, device="cpu", trial=slabs())  # type: ignore[arg-type]
    assert verdict.passed
    assert verdict.emulated is emulated
    assert read_verdicts(model) == (verdict,)
    assert gate_path(model).name == "slabs.gate.json"
    assert verdict.shape_zyx == (26, 24, 28)
    assert verdict.figures["objects_reference"] == verdict.figures["objects_reduced"] == 2
    assert verdict.figures["truth_voi_reference"] >= 0
    assert verdict.thresholds["voi_sum"] == GateThresholds().voi_sum


def test_a_failing_verdict_takes_the_place_of_a_passing_one(model: Path) -> None:
    assert gate_model(model, precision="int8", device="cpu", trial=slabs()).passed
    empty = Trial(name="empty", image=np.full((20, 20, 20), 190, np.uint8), truth=None)
    failing = gate_model(model, precision="int8", device="cpu", trial=empty)
    assert not failing.passed
    assert "decides nothing" in failing.reasons[0]
    assert read_verdicts(model) == (failing,)


def test_what_cannot_be_judged_is_said(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="gate bf16, fp16 or int8"):
        gate_model(model, precision="fp32", device="cpu")
    with pytest.raises(ModelError, match=r"voxels of \(10\.0, 10\.0, 10\.0\) nm, .*--image FILE"):
        gate_model(model, precision="bf16", device="cpu")
    with pytest.raises(ModelError, match=r"none\.safetensors"):
        gate_model(tmp_path / "none.safetensors", precision="bf16", device="cpu", trial=slabs())


def test_the_phantom_suits_the_demo_network() -> None:
    from functions.networks import load

    trial = phantom_trial(load(DEMO_MODEL))
    assert trial.image.shape == (48, 160, 160)
    assert trial.truth is not None
    assert len(np.unique(trial.truth)) > 20


@pytest.mark.slow
def test_the_demo_network_may_run_in_bf16(tmp_path: Path) -> None:
    path = tmp_path / "demo.safetensors"
    path.write_bytes(DEMO_MODEL.read_bytes())
    verdict = gate_model(path, precision="bf16", device="cpu")
    assert verdict.passed, verdict.reasons
    assert verdict.figures["voi_split"] + verdict.figures["voi_merge"] < 0.15
