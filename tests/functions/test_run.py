"""Keys: a change invalidates what lies downstream of it, and nothing else."""

from pathlib import Path

import pytest

from functions.model.acquisition import Finding
from functions.model.errors import UpstreamError
from functions.model.parameters import AlignParameters, Parameters, ReconcileParameters
from functions.store.files import write_json
from functions.store.run import IngestManifest, Run
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

    reconciled = with_parameters(Parameters(reconcile=ReconcileParameters(min_voxels=7)))
    assert reconciled.segment_key == base.segment_key
    assert reconciled.reconcile_key != base.reconcile_key
    assert reconciled.finish_key != base.finish_key

    aligned = with_parameters(Parameters(align=AlignParameters(neighbours=1)))
    assert aligned.cell("stitch", "z00001") == base.cell("stitch", "z00001")
    assert aligned.solve_key != base.solve_key
    assert aligned.segment_key != base.segment_key


def changed(run: Run, manifest: IngestManifest) -> Run:
    """The run after an ingest that found something else."""
    write_json(run.manifest_path, manifest.to_json())
    return Run(run.spec)


@pytest.mark.parametrize("what", [{"stage_uncertainty_px": 55.0}, {"aligned": True}])
def test_what_stitching_reads_of_the_acquisition_is_in_its_keys(
    tmp_path: Path, what: dict[str, object]
) -> None:
    before = ingested(tmp_path, (0, 1))
    manifest = before.manifest
    keys = [before.stitch_key(section) for section in before.sections]
    acquisition = manifest.acquisition.model_copy(update=what)
    after = changed(before, manifest.model_copy(update={"acquisition": acquisition}))
    assert not set(keys) & {after.stitch_key(section) for section in after.sections}


def test_what_only_the_documents_tell_makes_a_new_bundle_and_nothing_else(tmp_path: Path) -> None:
    before = ingested(tmp_path, (0, 1))
    manifest = before.manifest
    keys = before.reconcile_key, before.finish_key
    finding = Finding(severity="warning", code="one_tile", subject="s0.tif", message="look")
    renamed = manifest.acquisition.model_copy(update={"instrument": "another"})
    for update in ({"findings": (finding,)}, {"acquisition": renamed}):
        after = changed(before, manifest.model_copy(update=update))
        assert after.reconcile_key == keys[0]
        assert after.finish_key != keys[1]
