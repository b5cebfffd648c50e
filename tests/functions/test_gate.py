"""The gate behind stitching and alignment: what is wrong is named, what is not is left alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from flows.lint import SINGLE_BYTES
from functions import evidence, gate, stitch
from functions.model.gate import GateDocument
from functions.model.parameters import GateParameters, Parameters
from functions.model.transform import SectionLayout, SectionTransform, Warp
from functions.runtime import execute
from functions.store.evidence import gate_path, load_gate, load_pair
from functions.store.files import write_json
from functions.store.run import Run
from functions.store.transforms import load_layout, load_transform, read_arrays, save_transform, write_arrays
from functions.tasks import StepResult
from tests.functions.registration_scenes import start, write_montage
from tests.functions.test_align import align, write_stack

MOVED_PX = np.array([12.0, -16.0])
"""20 px."""
WRONG_TILE = "g0_r001_c001"


def stitched(root: Path) -> Run:
    """A section of 2 x 3 tiles, stitched."""
    section, _ = write_montage(root / "acq")
    run = start(root / "work", root / "acq", [section])
    run.cell("stitch", "z00000").run_unit("z00000", lambda: stitch.compute(run, "z00000"))
    return run


def move_tile(run: Run, tile_id: str, move_yx: np.ndarray) -> None:
    """What a wrong match does that pulled a tile along: its residuals stay as small as they were."""
    layout = load_layout(run, "z00000")
    tiles = []
    for tile in layout.tiles:
        (ay, by, ty), (ax, bx, tx) = tile.affine
        move = move_yx if tile.tile_id == tile_id else np.zeros(2)
        affine = ((ay, by, ty + move[0]), (ax, bx, tx + move[1]))
        tiles.append(tile.model_copy(update={"affine": affine}))
    moved = layout.model_copy(update={"tiles": tuple(tiles)})
    write_json(run.cell("stitch", "z00000").file("layout.json"), moved.to_json())


def aligned(root: Path, zs: tuple[int, ...] = (0, 1, 2, 3), **limits: float) -> Run:
    """A stack of single tiles, aligned."""
    sections, _ = write_stack(root / "acq", list(zs))
    parameters = Parameters(gate=GateParameters.model_validate(limits))
    run = start(root / "work", root / "acq", sections, parameters=parameters)
    assert align(run) == []
    return run


def move_section(run: Run, name: str, move_yx: np.ndarray) -> None:
    """A section 20 px off, and all its matches with it: no residual tells."""
    old = load_transform(run, name)
    affine = old.warp.affine.copy()
    affine[:, 2] += move_yx
    save_transform(
        run,
        SectionTransform(section=name, shape_yx=old.shape_yx, warp=Warp(affine=affine, sheet=old.warp.sheet)),
    )
    new = load_transform(run, name)
    for unit in run.pairs:
        path = run.cell("align_pairs", unit).file("match.npz")
        names = ("a_yx", "b_yx", "peak", "ratio", "affine")
        arrays = dict(zip(names, read_arrays(path, *names), strict=True))
        for end, key in zip(unit.split("-"), ("a_yx", "b_yx"), strict=True):
            if end == name:
                arrays[key] = new.inverse(old.apply(arrays[key])).astype(np.float32)
        write_arrays(path, arrays)


def test_a_stitched_section_in_order_passes(tmp_path: Path) -> None:
    verdict = gate.stitch_verdict(stitched(tmp_path), "z00000")
    assert (verdict.verdict, verdict.reasons) == ("pass", ())
    assert len(verdict.seams) == 7
    assert all(seam.windows >= 3 for seam in verdict.seams)
    assert max(seam.shift_px for seam in verdict.seams if seam.shift_px is not None) < 0.5
    assert min(seam.ncc for seam in verdict.seams if seam.ncc is not None) > 0.9


def test_a_tile_in_the_wrong_place_is_named_by_its_images_alone(tmp_path: Path) -> None:
    run = stitched(tmp_path)
    move_tile(run, WRONG_TILE, MOVED_PX)
    verdict = gate.stitch_verdict(run, "z00000")
    assert verdict.verdict == "fail"
    assert verdict.residual_px_p95 is not None
    assert verdict.residual_px_p95 < 0.5  # its matches see nothing
    failed = {(seam.a, seam.b) for seam in verdict.seams if seam.verdict == "fail"}
    own = {(seam.a, seam.b) for seam in verdict.seams if WRONG_TILE in (seam.a, seam.b)}
    assert failed == own
    assert len(own) == 3
    named = [reason.subject for reason in verdict.reasons if reason.code == "tile_displaced"]
    assert named == [f"z00000: tile {WRONG_TILE}"]
    shifts = [reason.value for reason in verdict.reasons if reason.code == "seam_shift"]
    assert shifts
    np.testing.assert_allclose(shifts, 20.0, atol=0.5)


def test_the_answer_of_a_stitch_shard_tells_and_the_kept_mark_does_not(tmp_path: Path) -> None:
    run = stitched(tmp_path)
    mark = run.cell("stitch", "z00000").mark("z00000")
    assert gate.after_stitch(run, mark) == mark
    other = stitched(tmp_path / "other")
    move_tile(other, WRONG_TILE, MOVED_PX)
    told = gate.after_stitch(other, mark)
    assert (told.status, told.problems[0]["code"]) == ("look", "gate_fail")
    assert any(WRONG_TILE in problem["subject"] for problem in told.problems)
    assert other.cell("stitch", "z00000").mark("z00000").status == "ok"


def test_a_stack_in_order_passes(tmp_path: Path) -> None:
    document = gate.judge(aligned(tmp_path))
    assert (document.verdict, document.every_reason) == ("pass", ())
    near = [pair for pair in document.pairs if pair.steps == 1]
    assert len(near) == 3
    assert max(pair.shift_px for pair in near if pair.shift_px is not None) < 0.5
    assert all(pair.displaced == pair.unlike == 0 for pair in near)
    assert all(s.coverage is not None and s.coverage > 0.9 for s in document.sections)


def test_a_section_in_the_wrong_place_is_named_and_refused(tmp_path: Path) -> None:
    run = aligned(tmp_path)
    move_section(run, "z00002", MOVED_PX)
    answer = execute("align_solve", {"run": run.spec.to_json()})
    assert answer["status"] == "failed"
    assert answer["reused"] == 1  # the solve itself stays as it is
    document = load_gate(run)
    assert document.verdict == "fail"
    assert [s.section for s in document.sections if s.verdict == "fail"] == ["z00002"]
    assert all(p.residual_px_p95 is not None and p.residual_px_p95 < 1.0 for p in document.pairs)
    bad = {p.pair: p.shift_px for p in document.pairs if p.verdict == "fail"}
    assert set(bad) == {"z00001-z00002", "z00002-z00003"}
    np.testing.assert_allclose([bad[name] for name in sorted(bad)], 20.0, atol=0.7)
    told = answer["problems"][0]
    assert told["code"] == "gate_fail"
    assert "25 % of the sections" in told["subject"]
    assert "z00002" in answer["problems"][1]["subject"]
    assert "--on-gate-fail continue" in told["remedy"]
    assert len(json.dumps(answer)) < SINGLE_BYTES


def test_looser_limits_reuse_everything_but_the_verdict(tmp_path: Path) -> None:
    run = aligned(tmp_path)
    move_section(run, "z00002", MOVED_PX)
    assert gate.judge(run).verdict == "fail"
    loose = GateParameters(shift_look_px=30.0, shift_fail_px=40.0, unlike_look=1.0, unlike_fail=1.0)
    again = Run(run.spec.model_copy(update={"parameters": Parameters(gate=loose)}))
    for step, unit in (("stitch", "z00000"), ("align_pairs", "z00000-z00001"), ("align_solve", "all")):
        assert again.cell(step, unit).path == run.cell(step, unit).path  # type: ignore[arg-type]
    assert again.segment_key == run.segment_key
    assert again.pair_evidence_cell.path == run.pair_evidence_cell.path
    assert again.gate_cell.path != run.gate_cell.path
    assert again.finish_key != run.finish_key  # the report tells the verdict
    attempts = run.pair_evidence_cell.attempts()
    assert gate.judge(again).verdict == "pass"
    assert run.pair_evidence_cell.attempts() == attempts == dict.fromkeys(attempts, 1)
    assert load_gate(run).verdict == "fail"


def test_one_bad_section_of_many_asks_for_a_look_only(tmp_path: Path) -> None:
    run = aligned(tmp_path, bad_sections_fail=0.3)
    move_section(run, "z00002", MOVED_PX)
    result = gate.after_solve(run, StepResult(step="align_solve"))
    assert result.status == "look"
    assert result.figures["sections_failed"] == 1
    assert load_gate(run).every_reason[0].level == "fail"


def test_a_section_that_nothing_ties_asks_for_a_look(tmp_path: Path) -> None:
    sections, _ = write_stack(tmp_path / "acq", [0, 1, 2, 3], foreign=1)
    run = start(tmp_path / "work", tmp_path / "acq", sections)
    align(run)
    document = gate.judge(run)
    by_name = {s.section: s for s in document.sections}
    assert by_name["z00001"].placed == "interpolated"
    assert by_name["z00001"].verdict == "look"
    assert {r.code for r in by_name["z00001"].reasons} >= {"interpolated"}
    assert [r.code for r in document.reasons] == ["interpolated_share"]  # a quarter of this stack
    assert by_name["z00003"].verdict == "pass"


def test_evidence_is_kept_and_a_verdict_that_was_given_is_read(tmp_path: Path) -> None:
    run = aligned(tmp_path, (0, 1))
    document = gate.given(run)
    assert GateDocument.parse(gate_path(run).read_bytes(), source="gate") == document
    gate_path(run).write_text(json.dumps(document.model_copy(update={"judged": False}).to_json()))
    assert not gate.given(run).judged
    before = load_pair(run, "z00000-z00001")
    evidence.measure_pairs(run)
    np.testing.assert_array_equal(load_pair(run, "z00000-z00001").ncc, before.ncc)
    assert run.pair_evidence_cell.attempts() == {"z00000-z00001": 1}


def test_a_stack_that_came_aligned_is_not_judged(tmp_path: Path) -> None:
    sections, _ = write_stack(tmp_path / "acq", [0, 1])
    run = start(tmp_path / "work", tmp_path / "acq", sections, aligned=True)
    align(run)
    document = gate.judge(run)
    assert (document.verdict, document.judged, document.sections) == ("pass", False, ())


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"seam_look_px": 9.0}, "seam_fail_px 8 is below seam_look_px 9"),
        ({"coverage_fail": 0.6}, "coverage_fail 0.6 is above coverage_look 0.5"),
    ],
)
def test_limits_that_contradict_each_other_are_refused(limits: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GateParameters.model_validate(limits)


def test_a_layout_without_seams_has_none_to_judge(tmp_path: Path) -> None:
    run = aligned(tmp_path, (0, 1))
    layout: SectionLayout = load_layout(run, "z00000")
    assert layout.seams == ()
    assert gate.stitch_verdict(run, "z00000").seams == ()
