"""A stack that the gate fails ends the run with a reason; looser limits take over all that was computed."""

import json
from pathlib import Path

from flows.inputs import RunRequest
from flows.records import RunStatus, StepStatus
from flows.run import Runs
from flows.site import local_site
from functions.model.parameters import GateParameters, Parameters
from tests.e2e.worlds import SMALL, write_small_acquisition


def test_a_run_is_refused_and_judged_again_with_other_limits(tmp_path: Path) -> None:
    folder = write_small_acquisition(tmp_path / "acquisition")
    runs = Runs(local_site(tmp_path / "home", workers=1), home=tmp_path / "home")
    usual = Parameters.model_validate_json(SMALL)
    strict = GateParameters(seam_look_px=0.001, seam_fail_px=0.001)
    asked = RunRequest(
        source=str(folder),
        sections=(0, 3),
        stop_after="align_render",
        parameters=usual.model_copy(update={"gate": strict}),
    )
    refused = runs.start(asked, wait=True)
    assert refused.status is RunStatus.FAILED
    assert refused.error is not None
    assert refused.error.startswith("align_solve: the stack: 100 % of the sections do not fit (limit 2 %)")
    assert refused.error.endswith("or rerun with --on-gate-fail continue")
    steps = {step.name: step for step in runs.show(refused.id)[1]}
    assert steps["stitch"].status is StepStatus.LOOK  # each section tells, none stops the run
    assert steps["align_solve"].status is StepStatus.FAILED
    assert steps["align_solve"].figures["sections_failed"] == 3
    assert steps["align_render"].status is StepStatus.WAITING
    (path,) = Path(refused.work_path).glob("gate/*/registration_gate.json")
    document = json.loads(path.read_text())
    assert document["verdict"] == "fail"
    for section in document["sections"]:
        assert "fail" in {seam["verdict"] for seam in section["seams"]}

    loose = runs.request(refused.id).all_parameters.model_copy(update={"gate": GateParameters()})
    again = runs.rerun(refused.id, parameters=loose, wait=True)
    assert (again.status, again.error) == (RunStatus.SUCCEEDED, None)
    steps = {step.name: step for step in runs.show(again.id)[1]}
    assert [steps[name].computed for name in ("stitch", "align_pairs", "align_solve")] == [0, 0, 0]
    assert steps["align_solve"].status is StepStatus.SUCCEEDED
    assert steps["align_render"].computed == 3
