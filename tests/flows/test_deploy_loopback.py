"""The way to a live site, against the loopback over HTTP: log in as the client, deploy, check, resume."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from globus_sdk import NetworkError

from flows.auth import connect
from flows.credentials import ID_VARIABLE, SECRET_VARIABLE
from flows.deploy import Deployer
from flows.doctor import Visit, examine
from flows.endpoint import new_profile
from flows.errors import DeployError, RunError, ServiceError
from flows.inputs import RunRequest
from flows.local.http.faults import Rule
from flows.lock import deployed_site
from flows.run import Runs
from flows.site import Site
from tests.flows.loopback import served, wait_until
from tests.flows.sites import fill, filled_site
from tests.typer_cli.invoking import petavoxel

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def loopback(tmp_path_factory) -> Iterator[SimpleNamespace]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        with served(tmp_path_factory.mktemp("home")) as running:
            for name, value in running.variables.items():
                patch.setenv(name, value)
            patch.setenv(ID_VARIABLE, running.world.client.id)
            patch.setenv(SECRET_VARIABLE, running.world.client.secret())
            yield running


@pytest.fixture(scope="module")
def site(loopback, tmp_path_factory) -> Site:
    """A profile of a live site that names the loopback's collections, endpoint and index."""
    folder = tmp_path_factory.mktemp("microscope")
    filled = filled_site(tmp_path_factory.mktemp("profiles"), "workstation")
    local = loopback.site
    return filled.model_copy(
        update={
            "instrument": local.instrument.model_copy(update={"base_path": str(folder), "root": str(folder)}),
            "scratch": local.scratch,
            "publication": local.publication,
            "compute": filled.compute.model_copy(
                update={"endpoint_id": local.compute.endpoint_id, "user_endpoint_config": {"accelerators": 0}}
            ),
            "search_index": local.search_index,
            "search_visible_to": local.search_visible_to,
        }
    )


@pytest.fixture(scope="module")
def deployer(site, loopback) -> Deployer:
    return Deployer(
        site=site, service=connect(site, "deployer", loopback.home), path=loopback.home / "lab.lock.json"
    )


def test_deploy_and_deploy_again(deployer):
    lock = deployer.deploy()
    before = deployer.path.read_bytes()
    served_flow = deployer.service.flows.get_flow(lock.flow.id)
    assert served_flow["title"] == "Petavoxel: lab"
    assert served_flow["flow_starters"] == list(deployer.site.people.starters)
    assert deployer.plan().empty
    assert deployer.deploy() == lock
    assert deployer.path.read_bytes() == before
    assert deployer.service.flows.get_flow(lock.flow.id)["updated_at"] == served_flow["updated_at"]


def test_a_change_from_elsewhere_is_found(deployer):
    lock = deployer.deploy()
    deployer.service.flows.update_flow(lock.flow.id, subtitle="by hand")
    with pytest.raises(DeployError, match="was changed elsewhere"):
        deployer.deploy()
    deployer.deploy(take_over=True)
    assert deployer.plan().empty


def test_a_lost_lock_makes_no_second_flow(deployer, tmp_path):
    lock = deployer.deploy()
    other = Deployer(site=deployer.site, service=deployer.service, path=tmp_path / "lab.lock.json")
    assert other.plan().flow_action == "note"
    assert other.plan().flow_id == lock.flow.id


def test_the_doctor_finds_the_loopback_well(deployer, site, loopback):
    lock = deployer.deploy()
    visit = Visit(site=site, lock=lock, service=connect(site, "checker", loopback.home), limit_s=240)
    findings = {f.check: f for f in examine(visit)}
    wrong = {n: (f.status, f.message) for n, f in findings.items() if f.status == "failed"}
    space = findings["space"]
    if space.status == "failed":  # this machine's disk may be small
        assert "GiB free on scratch" in space.message
        wrong.pop("space")
    assert wrong == {}
    assert findings["paths"].message == f"the worker sees / as {site.scratch.base_path}"
    assert findings["accelerators"].status in ("ok", "skipped")
    for collection in (site.scratch, site.publication):
        assert list(Path(collection.base_path).glob(".petavoxel-check-*")) == []


def test_the_trigger_may_start_and_look_and_nothing_else(deployer, site, loopback, tmp_path):
    import globus_sdk

    lock = deployer.deploy()
    service = connect(site, "trigger", loopback.home)
    assert list(service.flows.list_runs(filter_flow_id=lock.flow.id)) == []
    with pytest.raises(globus_sdk.FlowsAPIError) as refused:
        service.flows.update_flow(lock.flow.id, subtitle="not mine")
    assert refused.value.http_status == 403
    folder = Path(site.instrument.base_path) / "s0001"
    folder.mkdir()
    runs = Runs(deployed_site(site, lock), home=loopback.home, service=service, flow_id=lock.flow.id)
    started = runs.start(RunRequest(source=str(folder), stop_after="transfer", tags=("section:1",)))
    wait_until(lambda: runs.show(started.id)[0].status.ended)
    assert [run.id for run in runs.tagged("section:1")] == [started.id]
    with pytest.raises(ServiceError, match="cancel run"):
        runs.cancel(runs.start(RunRequest(source=str(folder), stop_after="transfer")).id)


def test_a_run_that_waits_for_a_consent_is_resumed(deployer, site, loopback):
    waiting = {
        "StartAt": "w",
        "States": {"w": {"Type": "Wait", "Seconds": 1, "Next": "p"}, "p": {"Type": "Pass", "End": True}},
    }
    flow_id = deployer.service.flows.create_flow("waits", waiting, {})["id"]
    service = connect(site, "operator", loopback.home)
    loopback.world.faults.add(Rule(kind="inactive", next=1, path="/run$"))
    run_id = service.flow(flow_id).run_flow({})["run_id"]
    wait_until(lambda: service.flows.get_run(run_id)["status"] == "INACTIVE")
    runs = Runs(site, home=loopback.home, service=service, flow_id=flow_id)
    runs.resume(run_id)
    wait_until(lambda: service.flows.get_run(run_id)["status"] == "SUCCEEDED")
    with pytest.raises(RunError, match="does not wait for anything"):
        runs.resume(run_id)


def test_a_creation_whose_answer_was_lost_makes_one_flow(deployer, loopback, tmp_path):
    other = Deployer(
        site=deployer.site.model_copy(update={"name": "lossy"}),
        service=deployer.service,
        path=tmp_path / "lossy.lock.json",
    )
    loopback.world.faults.add(
        Rule(kind="drop", next=1, service="flows", method="POST", path="/flows$", carried_out=True)
    )
    with pytest.raises(NetworkError):
        other.deploy()
    lock = other.deploy()
    titles = [flow["title"] for flow in deployer.service.flows.paginated.list_flows().items()]
    assert titles.count("Petavoxel: lossy") == 1
    assert other.plan().empty
    assert lock.flow is not None


def test_a_run_is_started_and_listed_by_the_command_line(site, loopback, tmp_path, monkeypatch):
    """From the profile in its file to a run: the same commands as on the embedded site."""
    home = tmp_path / "person"
    monkeypatch.setenv("PETAVOXEL_HOME", str(home))
    path = home / "sites" / "cli.toml"
    new_profile("cli", "workstation", path=path)
    acquisitions = tmp_path / "em"
    (acquisitions / "b7").mkdir(parents=True)
    (acquisitions / "b7" / "acquisition.json").write_text('{"id": "b7"}')
    (acquisitions / "b7" / "tiles.csv").write_text("a tile")
    values = {
        "instrument__id": site.instrument.id,
        "instrument__base_path": str(acquisitions),
        "scratch__id": site.scratch.id,
        "scratch__base_path": site.scratch.base_path,
        "publication__id": site.publication.id,
        "publication__base_path": site.publication.base_path,
        "compute__endpoint_id": site.compute.endpoint_id,
    }
    fill(path, **values)
    text = path.read_text().replace('root = "/"  ', f'root = "{acquisitions}"  ', 1)
    path.write_text(text)
    assert petavoxel("flow", "deploy", "--site", "cli").code == 0
    started = petavoxel(
        "run", "start", acquisitions / "b7", "--site", "cli", "--stop-after", "transfer", "--wait",
        "--output", "json",
    )  # fmt: skip
    assert started.code == 0, started.err
    assert started.document["status"] == "SUCCEEDED"
    assert "acquisition:b7" in started.document["tags"]
    assert (Path(site.scratch.base_path) / "b7" / "raw" / "tiles.csv").read_text() == "a tile"
    listed = petavoxel("run", "list", "--site", "cli", "--output", "json")
    assert [run["id"] for run in listed.document["runs"]] == [started.document["id"]]


def test_no_secret_is_left_behind(deployer, loopback):
    secret = loopback.world.client.secret()
    deployer.deploy()
    lock = json.loads(deployer.path.read_text())
    assert secret not in json.dumps(lock)
    files = [p for p in loopback.home.rglob("*") if p.is_file() and p != loopback.world.client.secret_path]
    assert files
    assert not any(secret.encode() in p.read_bytes() for p in files)
