"""A reduced precision runs with a passing verdict, or when somebody takes it upon himself."""

import json
from pathlib import Path

import pytest

from functions.model.errors import ModelError
from functions.networks import load
from functions.store.run import Run
from functions.store.verdicts import GateVerdict, find_verdict, gate_path, read_verdicts, write_verdict
from tests.functions.test_segment_progress import flood, slabs_run

FIGURES = {"voi_split": 0.01, "voi_merge": 0.0}


def verdict(run: Run, **more: object) -> GateVerdict:
    values: dict[str, object] = {
        "precision": "bf16", "device": "cpu", "passed": True, "reasons": (), "emulated": False,
        "sha256": load(run.model_path).sha256, "box": "slabs", "shape_zyx": (26, 24, 28),
        "figures": FIGURES, "thresholds": {"voi_sum": 0.15}, **more,
    }  # fmt: skip
    return GateVerdict.model_validate(values)


def test_full_precision_needs_no_verdict(tmp_path: Path) -> None:
    assert flood(slabs_run(tmp_path)).status == "ok"


def test_without_a_verdict_it_is_refused_with_the_command_that_gives_one(tmp_path: Path) -> None:
    run = slabs_run(tmp_path, precision="bf16")
    with pytest.raises(ModelError, match=r"segment\.precision: bf16 on cpu was never judged") as caught:
        flood(run)
    assert f"petavoxel model gate {run.model_path} --precision bf16 --device cpu" in caught.value.remedy
    assert "segment.allow_ungated=true" in caught.value.remedy


def test_with_a_passing_verdict_it_runs(tmp_path: Path) -> None:
    run = slabs_run(tmp_path, precision="bf16")
    write_verdict(run.model_path, verdict(run))
    report = flood(run)
    assert report.status == "ok"
    assert report.figures["segments"] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"passed": False, "reasons": ("VOI between the two 0.9",)},
            r"did not pass \(VOI between the two 0.9",
        ),
        ({"sha256": "0" * 64}, "was never judged"),
        ({"device": "cuda"}, "was never judged"),
        ({"precision": "int8"}, "was never judged"),
    ],
    ids=["failed", "other weights", "other device", "other precision"],
)
def test_no_other_verdict_will_do(tmp_path: Path, change: dict[str, object], message: str) -> None:
    run = slabs_run(tmp_path, precision="bf16")
    write_verdict(run.model_path, verdict(run, **change))
    with pytest.raises(ModelError, match=message):
        flood(run)


def test_taken_upon_oneself_it_asks_for_a_look(tmp_path: Path) -> None:
    run = slabs_run(tmp_path, precision="int8", allow_ungated=True)
    report = flood(run)
    assert report.status == "look"
    assert [p["code"] for p in report.problems] == ["precision_ungated"]
    assert report.figures["segments"] == 2


def test_verdicts_are_kept_one_for_each_precision_and_device(tmp_path: Path) -> None:
    run = slabs_run(tmp_path)
    model = run.model_path
    assert read_verdicts(model) == ()
    for change in ({"passed": False}, {"device": "cuda"}, {"precision": "int8", "emulated": True}, {}):
        path = write_verdict(model, verdict(run, **change))
    assert path == gate_path(model) == model.with_name("model.gate.json")
    assert [(v.precision, v.device, v.passed) for v in read_verdicts(model)] == [
        ("bf16", "cpu", True), ("bf16", "cuda", True), ("int8", "cpu", True),
    ]  # fmt: skip
    found = find_verdict(model, sha256=load(model).sha256, precision="int8", device="cpu")
    assert found is not None
    assert found.emulated
    assert json.loads(path.read_text())["format"] == "petavoxel.gate/1"
    assert sorted(p.name for p in model.parent.iterdir() if p.suffix != "") == [
        "model.gate.json", "model.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize("content", ["{", "[]", '{"verdicts": [{}]}', '{"format": "other"}'])
def test_a_damaged_file_of_verdicts_is_named(tmp_path: Path, content: str) -> None:
    run = slabs_run(tmp_path, precision="bf16")
    gate_path(run.model_path).write_text(content)
    with pytest.raises(ModelError, match=r"model\.gate\.json.*remove model\.gate\.json"):
        flood(run)


def test_a_device_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"segment\.device: 'xpu' is not available"):
        flood(slabs_run(tmp_path, device="xpu"))
