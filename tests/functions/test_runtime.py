"""Plans and shards: who computes what, what is skipped, what a wrong task says."""

import errno
import json
import os
from pathlib import Path

import pytest

from functions import plan
from functions.runtime import Answer, StepFailed, execute, read_manifest
from functions.store.cells import Mark, UnitReport
from functions.tasks import SHARD_RESULT_BYTES, PlanResult, PlanTask
from functions.worker import Account
from tests.functions.worlds import ingested


def plan_of(
    root: Path, *, shards: int, sections: int = 5, site_claims: bool = True, **sharing: object
) -> PlanResult:
    run = ingested(root, tuple(range(sections)), parameters={"fan_out": sharing})
    spec = run.spec.model_copy(update={"claiming": site_claims})
    return plan.perform(PlanTask(run=spec, step="stitch", function_id="f", shards=shards))


@pytest.mark.parametrize("who", ["run", "site"])
def test_where_nothing_is_claimed_lots_are_dealt_round_robin(tmp_path: Path, who: str) -> None:
    result = plan_of(tmp_path, shards=2, claiming=who != "run", site_claims=who != "site")
    assert read_manifest(Path(result.paths["manifest"])).dealt == ((0, 2, 4), (1, 3))
    assert [task.kwargs["task"]["shard"] for task in result.tasks] == [0, 1]
    assert {task.function_id for task in result.tasks} == {"f"}


def test_workers_that_claim_are_told_no_units(tmp_path: Path) -> None:
    result = plan_of(tmp_path, shards=2)
    manifest = read_manifest(Path(result.paths["manifest"]))
    assert (manifest.shards, manifest.dealt, len(result.tasks)) == (2, (), 2)


def test_finished_units_are_not_planned_again_and_one_shard_always_remains(tmp_path: Path) -> None:
    run = ingested(tmp_path, tuple(range(3)))
    for k in range(3):
        run.cell("stitch", f"z0000{k}").run_unit(f"z0000{k}", UnitReport)
    result = plan_of(tmp_path, shards=4, sections=3)
    assert (result.units, result.reused, len(result.tasks)) == (3, 3, 1)


def test_the_result_of_a_full_plan_stays_small(tmp_path: Path) -> None:
    result = plan_of(tmp_path, shards=200, sections=1000)
    assert len(result.tasks) == 200
    assert len(json.dumps(result.to_json())) < 60_000


def test_the_result_of_a_shard_full_of_problems_stays_small() -> None:
    problem = {"code": "section_unmatched", "subject": "z00012: " + "x" * 500, "remedy": "look; " + "y" * 500}
    mark = Mark(
        unit="z", seconds=1.0, started=1.0, status="look", problems=(problem,) * 3, figures={"voxels": 1e9}
    )
    answer, account = Answer("align_render"), Account(kept=1)
    for _ in range(5000):
        answer.add(mark)
        account.add(mark)
    result = answer.result(account, expendable=False, left=10_000_000)
    assert (result.status, result.problem_count, len(result.problems)) == ("look", 15_000, 1)
    assert result.figures == {"kept": 1.0, "mvoxel_per_h": 3_600_000.0}
    timed = result.model_copy(update={"seconds": 1_234_567.891})
    assert len(json.dumps(timed.to_json())) <= SHARD_RESULT_BYTES
    assert result.problems[0].subject.startswith("z00012: xxx")


def test_a_step_before_its_upstream_says_where_to_start(tmp_path: Path) -> None:
    run = ingested(tmp_path, (0, 1))
    task = {"run": run.spec.to_json(), "step": "align_pairs", "function_id": "f"}
    with pytest.raises(StepFailed, match=r"plan: stitch: 2 units are not finished .*start the run at stitch"):
        execute("plan", task)


def test_a_worker_of_another_release_refuses_the_shard(tmp_path: Path) -> None:
    result = plan_of(tmp_path, shards=1)
    manifest = Path(result.paths["manifest"])
    document = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(document | {"package": "0.0.9"}))
    with pytest.raises(StepFailed, match=r"on this worker, 0\.0\.9 where the step was planned; install one"):
        execute("stitch", {"manifest": str(manifest), "shard": 0})


@pytest.mark.parametrize(
    ("step", "payload", "message"),
    [
        ("stitch", {"manifest": "m", "shard": -1}, "stitch: stitch task: shard: "),
        ("stitch", {"manifest": "nowhere.json", "shard": 0}, "nowhere.json: no shard manifest"),
        ("ingest", {"run": {"work": "w"}}, "ingest task: run.acquisition: Field required"),
        ("ingest", {"run": {"work": "w", "acquisition": "a", "extra": 1}}, "run.extra"),
        ("dance", {}, "'dance' does not exist; use one of ingest, stitch"),
    ],
)
def test_a_wrong_task_names_its_field(step: str, payload: object, message: str) -> None:
    with pytest.raises(StepFailed) as caught:
        execute(step, payload)
    assert message in str(caught.value)


def test_a_cancelled_run_stops_between_units(tmp_path: Path) -> None:
    result = plan_of(tmp_path, shards=1)
    (tmp_path / "work" / "CANCEL").touch()
    with pytest.raises(StepFailed, match="cancelled"):
        execute("stitch", {"manifest": result.paths["manifest"], "shard": 0})


def test_probe_names_versions_and_finds_no_shadowed_package() -> None:
    result = execute("probe", {})
    assert result["status"] == "ok"
    assert result["paths"]["petavoxel"].count(".") >= 1


def test_a_full_disk_is_told_with_its_remedy_where_no_worker_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "plans/stitch.json")

    run = ingested(tmp_path, (0, 1))
    monkeypatch.setattr(plan, "write_json", full)
    task = PlanTask(run=run.spec, step="stitch", function_id="f")
    with pytest.raises(
        StepFailed, match=r"^plan: .*No space left.*plans/stitch.json'; make room on scratch$"
    ):
        execute("plan", task.to_json())
