"""Runs through the clients of globus-sdk as of a live site: the loopback answers, nothing is known of it."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from flows.definition import definition
from flows.errors import RunError, ServiceError, SiteError
from flows.inputs import RunRequest, build_input
from flows.local.builtin import FLOW_ID
from flows.local.http.faults import Rule
from flows.local.registered import function_ids
from flows.local.store import Store
from flows.records import FLOW_STEPS, RunStatus, StepStatus
from flows.run import Runs
from flows.service import embedded
from flows.site import local_site
from flows.tracking import record_of, steps_from_log
from flows.watch.starting import classified
from functions.model.parameters import Parameters, SegmentParameters
from functions.tasks import RunSpec
from tests.flows.loopback import FAKE_STEPS, wait_until

ROOT = Path(__file__).parents[2]
MONITOR = "urn:globus:groups:id:5a773142-e2ed-11e8-a017-0e8017bdda58"


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "acq"
    folder.mkdir()
    (folder / "a.tif").write_bytes(b"a" * 100)
    return folder


def ask(source, order="demo", **more) -> RunRequest:
    return RunRequest(
        source=str(source), parameters=Parameters(segment=SegmentParameters(model=order)), **more
    )


@pytest.fixture
def service(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    site = local_site(tmp_path / "home", workers=1, entry_points=FAKE_STEPS)
    functions = site.compute.model_copy(update={"functions": function_ids(FAKE_STEPS)})
    lab = site.model_copy(update={"name": "lab", "shards": 2, "compute": functions})
    return embedded(tmp_path / "home", site=lab)


@pytest.fixture
def runs(service, tmp_path):
    """Runs of a site of which only its clients are known."""
    return Runs(
        service.world.site.site,
        home=tmp_path / "elsewhere",
        service=replace(service, world=None),
        flow_id=FLOW_ID,
        monitors=(MONITOR,),
    )


def test_a_live_site_needs_a_login_and_a_flow(runs):
    with pytest.raises(SiteError, match="no flow is deployed, or nobody is logged in"):
        Runs(runs.site)


def test_a_whole_run_and_its_steps_from_the_log(runs, service, source):
    seen = []
    request = ask(source, tags=("section-version:7.2",))
    run = runs.start(request, wait=True, on_event=seen.append)
    assert (run.status, run.site, run.error) == (RunStatus.SUCCEEDED, "lab", None)
    assert run.link == f"https://app.globus.org/runs/{run.id}"
    assert (Path(run.published_path) / "search.json").exists()
    assert service.flows.get_run(run.id)["run_monitors"] == [MONITOR]
    assert {event.step.name for event in seen if event.step} == set(FLOW_STEPS)
    assert [event.log.code for event in seen if event.log] == [e.code for e in runs.logs(run.id)]

    told = runs.show(run.id)[1]
    derived = steps_from_log(list(runs.logs(run.id)), run)
    facts = ("name", "status", "units", "units_done", "computed", "reused", "shards_done", "shards_total")
    assert [[getattr(s, f) for f in facts] for s in derived] == [[getattr(s, f) for f in facts] for s in told]
    assert [s.computed for s in derived if s.name == "segment"] == [6]

    (listed,) = runs.tagged("section-version:7.2")
    assert (listed.id, listed.acquisition_id, listed.stop_after) == (run.id, "acq", "publish")
    assert listed.published_path == run.published_path
    assert runs.request(run.id).tags == request.tags
    again = runs.rerun(run.id, start_at="segment", stop_after="segment", wait=True)
    assert (again.parent_run, f"parent:{run.id}" in again.tags) == (run.id, True)
    assert [r.id for r in runs.tagged(f"parent:{run.id}")] == [again.id]


def test_the_log_of_a_run_that_failed_tells_in_which_step(runs, source):
    run = runs.start(ask(source, "fail:stitch"), wait=True)
    assert run.error == "stitch: sections[3].tiles[0]: blank; image it again"
    status = {s.name: s.status for s in steps_from_log(list(runs.logs(run.id)), run)}
    assert (status["ingest"], status["stitch"]) == (StepStatus.SUCCEEDED, StepStatus.FAILED)
    assert status["segment"] is StepStatus.WAITING
    assert runs.list()[0].error == run.error


def test_cancel_touches_the_sentinel_and_starts_nothing(runs, source):
    run = runs.start(ask(source, "slow"))
    assert run.status is RunStatus.ACTIVE
    with pytest.raises(RunError, match=f"run {run.id} is at work on it"):
        runs.start(ask(source))
    cancelled = runs.cancel(run.id)
    assert (cancelled.status, cancelled.error) == (RunStatus.CANCELLED, "cancelled by the user")
    assert RunSpec.parse(run.input["input"]["run"], source="run").sentinel_path.exists()
    assert [r.id for r in runs.list()] == [run.id]
    assert runs.list()[0].status is RunStatus.CANCELLED


def test_an_inactive_run_says_what_it_waits_for_and_goes_on(runs, service, source):
    run = runs.start(ask(source, "slow", stop_after="stitch"))
    with pytest.raises(RunError, match="does not wait for anything"):
        runs.resume(run.id)

    def stitch() -> StepStatus:
        return {step.name: step.status for step in runs.show(run.id)[1]}["stitch"]

    wait_until(lambda: stitch() is StepStatus.ACTIVE)
    service.world.site.hold(run.id, scopes=("urn:x",), message="log in with the lab's identity")
    assert [event.run.status for event in runs.follow(run.id, poll_seconds=0.1)][-1] is RunStatus.INACTIVE
    assert stitch() is StepStatus.ACTIVE
    asked = []
    done = runs.resume(run.id, login=asked.append, wait=True)
    assert (asked[0].message, asked[0].scopes) == ("log in with the lab's identity", ("urn:x",))
    assert (done.status, stitch()) == (RunStatus.SUCCEEDED, StepStatus.SUCCEEDED)


def test_a_start_whose_answer_is_lost_is_found_by_its_tag(runs, service, source):
    service.world.faults.add(Rule(kind="drop", next=1, path="/run$", carried_out=True))
    with pytest.raises(ServiceError, match="may have been carried out: look before you try again") as lost:
        runs.start(ask(source, stop_after="transfer", tags=("mine:1",)))
    assert type(classified(lost.value)) is ServiceError  # not one that says that it was not carried out
    assert lost.value.http_status is None
    assert service.world.faults.told()[0]["struck"] == 1
    (found,) = runs.tagged("mine:1")
    wait_until(lambda: runs.show(found.id)[0].status is RunStatus.SUCCEEDED)


@pytest.mark.parametrize("kind", ["502", "429"])
def test_a_start_that_failed_says_how(runs, service, source, kind):
    service.world.faults.add(Rule(kind=kind, next=9, path="/run$", seconds=0))
    flow = service.flow(FLOW_ID)
    flow.retry_config.max_retries = 0
    failing = Runs(
        runs.site, service=replace(service, world=None, flow=lambda flow_id: flow), flow_id=FLOW_ID
    )
    with pytest.raises(ServiceError) as caught:
        failing.start(ask(source))
    assert caught.value.http_status == int(kind)
    assert runs.list() == []


def test_a_flow_that_is_gone_is_no_run_to_wait_for(runs, service, source):
    flow_id = service.flows.create_flow("gone", definition(), {})["id"]
    flow = service.flow(flow_id)
    service.flows.delete_flow(flow_id)
    gone = Runs(runs.site, service=replace(service, world=None, flow=lambda flow_id: flow), flow_id=flow_id)
    with pytest.raises(ServiceError):
        gone.start(ask(source))


def test_a_home_of_an_earlier_version_keeps_its_runs(tmp_path, source):
    site = local_site(tmp_path, workers=1, entry_points=FAKE_STEPS)
    request = ask(source, tags=("old",), stop_after="ingest")
    document = build_input(request, site, functions=function_ids(FAKE_STEPS))
    document["input"]["run"]["sentinel"] = "CANCEL"
    with sqlite3.connect(tmp_path / "runs.sqlite") as db:
        db.executescript("""
            CREATE TABLE runs (
              id TEXT PRIMARY KEY, created TEXT, updated TEXT, status TEXT, parent TEXT, site TEXT,
              request TEXT, input TEXT, definition TEXT, execution TEXT, error TEXT, published TEXT,
              stop_requested INTEGER DEFAULT 0);
            CREATE TABLE steps (
              run_id TEXT, position INTEGER, name TEXT, record TEXT, PRIMARY KEY (run_id, name));
            CREATE TABLE logs (
              run_id TEXT, seq INTEGER, time TEXT, code TEXT, state_name TEXT, description TEXT, details TEXT,
              PRIMARY KEY (run_id, seq));
        """)
        now = "2026-01-01T00:00:00.000+00:00"
        run_id = "11111111-2222-3333-4444-555555555555"
        db.execute(
            "INSERT INTO runs (id, created, updated, status, site, request, input, definition, error)"
            " VALUES (?, ?, ?, 'FAILED', ?, ?, ?, ?, 'stitch: no')",
            (run_id, now, now, site.model_dump_json(), request.model_dump_json(), json.dumps(document),
             json.dumps(definition())),
        )  # fmt: skip
        started = json.dumps({"input": document})
        db.execute("INSERT INTO logs VALUES (?, 1, ?, 'FlowStarted', '', '', ?)", (run_id, now, started))
    runs = Runs(site, home=tmp_path)
    (listed,) = runs.list()
    assert (listed.id, listed.status, listed.error) == (run_id, RunStatus.FAILED, "stitch: no")
    assert listed.tags == ("acquisition:acq", "stage:transfer-ingest", "old")
    assert runs.request("1111").stop_after == "ingest"
    assert runs.show("last")[0].source_path == str(source)
    Store(tmp_path / "runs.sqlite").close()  # a second opening finds nothing to do


def test_a_run_of_another_flow_is_carried_out_as_well(service, runs):
    flow = {"StartAt": "a", "States": {"a": {"Type": "Fail", "Error": "Mine", "Cause": "on purpose"}}}
    flow_id = service.flows.create_flow("other", flow, {})["id"]
    run_id = service.flow(flow_id).run_flow({"x": 1})["run_id"]
    wait_until(lambda: service.flows.get_run(run_id)["status"] == "FAILED")
    record = record_of(service.flows.get_run(run_id).data, runs.site)
    assert (record.error, record.acquisition_id) == ("on purpose", "")
    assert "progress" not in service.flows.get_run(run_id)["details"]
    assert runs.list() == []
