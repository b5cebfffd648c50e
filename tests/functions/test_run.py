"""Keys: a change invalidates what lies downstream of it, and nothing else."""

from pathlib import Path

import pytest

from functions.model.errors import UpstreamError
from functions.model.parameters import AlignParameters, Parameters, ReconcileParameters
from functions.store.run import Run
from tests.functions.worlds import ingested, spec


def test_before_ingest_everything_downstream_is_an_upstream_error(tmp_path: Path) -> None:
    with pytest.raises(UpstreamError, match="start the run at ingest"):
        _ = Run(spec(tmp_path)).sections


def test_pairs_bridge_missing_sections(tmp_path: Path) -> None:
    run = ingested(tmp_path, (3, 4, 7))
    assert set(run.pairs) == {"z00003-z00004", "z00003-z00007", "z00004-z00007"}


def test_an_aligned_stack_has_no_pairs(tmp_path: Path) -> None:
    assert ingested(tmp_path, (0, 1, 2), aligned=True).pairs == {}


def test_one_changed_section_keeps_the_cells_of_the_others(tmp_path: Path) -> None:
    z = (0, 1, 2, 3, 4, 5)
    before, after = ingested(tmp_path / "a", z), ingested(tmp_path / "b", z, changed=5)
    stitches = zip(before.sections, after.sections, strict=True)
    assert [a.section.z for a, b in stitches if before.stitch_key(a) != after.stitch_key(b)] == [5]
    changed = [unit for unit in before.pairs if before.pair_key(unit) != after.pair_key(unit)]
    assert changed == ["z00003-z00005", "z00004-z00005"]
    assert before.solve_key != after.solve_key


def test_parameters_of_a_step_do_not_touch_what_lies_upstream(tmp_path: Path) -> None:
    base = ingested(tmp_path, (0, 1, 2))

    def with_parameters(parameters: Parameters) -> Run:
        return Run(base.spec.model_copy(update={"parameters": parameters}))

    reconciled = with_parameters(Parameters(reconcile=ReconcileParameters(min_overlap_voxels=7)))
    assert reconciled.segment_key == base.segment_key
    assert reconciled.reconcile_key != base.reconcile_key
    assert reconciled.finish_key != base.finish_key

    aligned = with_parameters(Parameters(align=AlignParameters(neighbours=1)))
    assert aligned.cell("stitch", "z00001") == base.cell("stitch", "z00001")
    assert aligned.solve_key != base.solve_key
    assert aligned.segment_key != base.segment_key
