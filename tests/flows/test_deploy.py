"""Deploying: a plan first, idempotent, valid before anything changes, never over somebody else's work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import responses
from globus_sdk import NetworkError
from requests import ConnectionError

from flows.deploy import Deployer
from flows.errors import DeployError
from flows.inputs import FunctionIds
from flows.local.registered import registered_functions
from flows.lock import deployed, read_lock
from flows.site import Site
from tests.flows.globus_fake import FakeGlobus, service
from tests.flows.sites import STARTER, filled_site, some_id

NAMES = {f.name for f in registered_functions("functions.entrypoints").values()}


@pytest.fixture
def globus() -> Iterator[FakeGlobus]:
    fake = FakeGlobus()
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        fake.install(mock)
        yield fake


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return filled_site(tmp_path)


@pytest.fixture
def deployer(site: Site, tmp_path: Path) -> Deployer:
    return Deployer(site=site, service=service(), path=tmp_path / "lab.lock.json")


def test_first_deployment_creates_everything(globus, deployer):
    plan = deployer.plan()
    assert {c.action for c in plan.changes} == {"create"}
    assert {c.what for c in plan.changes} == {"flow", *(f"function {name}" for name in NAMES)}
    assert globus.writes == []
    lock = deployer.deploy()
    assert globus.writes == ["register function"] * len(NAMES) + ["create flow"]
    assert read_lock(deployer.path) == lock
    assert set(lock.functions) == NAMES
    FunctionIds.parse({k: v for k, v in lock.function_ids.items() if k != "probe"}, source="lock")
    flow = globus.flows[lock.flow.id]
    assert flow["title"] == "Petavoxel: lab"
    assert flow["flow_starters"] == [STARTER]
    assert flow["flow_viewers"] == flow["run_monitors"] == flow["run_managers"] == []
    assert "site:lab" in flow["keywords"]
    assert flow["input_schema"]["required"] == ["input"]


def test_functions_travel_as_source_text(globus, deployer):
    from functions import entrypoints

    deployer.deploy()
    stitch = next(f for f in globus.functions.values() if f["function_name"] == "stitch")
    assert stitch["serialized"] is False
    assert stitch["function_code"].startswith("def stitch(task):")
    assert set(stitch["meta"]) == {"python_version", "sdk_version"}
    assert "group" not in stitch
    assert entrypoints.stitch.__name__ in stitch["function_code"]


def test_registration_is_what_the_sdk_would_send(globus, deployer):
    """The body of `Client.register_source_code`, but for the description."""
    from globus_compute_sdk.sdk.client import FunctionRegistrationData, FunctionRegistrationMetadata

    deployer.deploy()
    sent = next(f for f in globus.functions.values() if f["function_name"] == "plan")
    meta = FunctionRegistrationMetadata(**sent["meta"])
    theirs = FunctionRegistrationData(
        function_code=sent["function_code"], function_name="plan", metadata=meta, serialized=False
    ).to_dict()
    assert {k: v for k, v in sent.items() if k != "description"} == theirs


def test_second_deployment_writes_nothing(globus, deployer):
    first = deployer.deploy()
    stamp = (deployer.path.read_bytes(), deployer.path.stat().st_mtime_ns)
    globus.writes.clear()
    assert deployer.plan().empty
    assert deployer.deploy() == first
    assert globus.writes == []
    assert (deployer.path.read_bytes(), deployer.path.stat().st_mtime_ns) == stamp


def test_only_what_changed_is_changed(globus, site, deployer):
    first = deployer.deploy()
    globus.writes.clear()
    group = f"urn:globus:groups:id:{some_id('lab group')}"
    people = site.people.model_copy(update={"monitors": (group,)})
    second = Deployer(site=site.model_copy(update={"people": people}), service=service(), path=deployer.path)
    (change,) = [c for c in second.plan().changes if c.action != "keep"]
    assert (change.what, change.action) == ("flow", "update")
    assert any(group in line and line.startswith("+") for line in change.diff)
    assert not any(STARTER in line for line in change.diff)
    lock = second.deploy()
    assert globus.writes == ["update flow"]
    assert lock.flow.id == first.flow.id
    assert lock.functions == first.functions
    assert globus.flows[lock.flow.id]["run_monitors"] == [group]
    assert second.plan().empty


def test_a_changed_function_is_registered_alone(globus, deployer):
    lock = deployer.deploy()
    globus.writes.clear()
    stale = lock.functions["stitch"].model_copy(update={"sha256": "0" * 64})
    old = lock.model_copy(update={"functions": {**lock.functions, "stitch": stale}})
    deployer.path.write_text(json.dumps(old.to_json()))
    again = deployer.deploy()
    assert globus.writes == ["register function"]
    assert again.functions["stitch"].id != stale.id
    assert {k: v for k, v in again.functions.items() if k != "stitch"} == {
        k: v for k, v in lock.functions.items() if k != "stitch"
    }


def test_other_callers_need_other_registrations(globus, site, deployer):
    deployer.deploy()
    globus.writes.clear()
    group = some_id("callers")
    compute = site.compute.model_copy(update={"callers_group": group})
    other = Deployer(site=site.model_copy(update={"compute": compute}), service=service(), path=deployer.path)
    other.deploy()
    assert globus.writes == ["register function"] * len(NAMES)
    assert {f["group"] for f in list(globus.functions.values())[-len(NAMES) :]} == {group}


def test_nothing_changes_when_the_service_refuses_the_definition(globus, deployer):
    globus.refuses = "States.Stitch: unknown field"
    with pytest.raises(DeployError, match=r"States\.Stitch: unknown field; nothing was changed"):
        deployer.deploy()
    assert globus.writes == []
    assert not deployer.path.exists()


def test_somebody_elses_deployment_is_not_overwritten(globus, deployer):
    lock = deployer.deploy()
    globus.writes.clear()
    theirs = {"Comment": "mine", "StartAt": "A", "States": {"A": {"Type": "Pass", "End": True}}}
    globus.change(lock.flow.id, definition=theirs)
    plan = deployer.plan()
    (conflict,) = plan.conflicts
    assert "was changed elsewhere" in conflict.why
    assert lock.flow.updated_at in conflict.why
    assert any('"mine"' in line for line in conflict.diff)
    with pytest.raises(DeployError, match="--take-over"):
        deployer.deploy()
    assert globus.writes == []
    assert globus.flows[lock.flow.id]["definition"] == theirs
    deployer.deploy(take_over=True)
    assert globus.writes == ["update flow"]
    assert deployer.plan().empty


def test_a_machine_without_the_lock_finds_the_flow(globus, site, deployer, tmp_path):
    """No second flow beside the first, and the first not overwritten."""
    first = deployer.deploy()
    globus.change(first.flow.id, subtitle="changed by hand")
    globus.writes.clear()
    other = Deployer(site=site, service=service(), path=tmp_path / "other.lock.json")
    with pytest.raises(DeployError, match="exists already"):
        other.deploy()
    assert globus.writes == []
    assert other.deploy(take_over=True).flow.id == first.flow.id
    assert len(globus.flows) == 1


def test_two_flows_of_one_site_are_told_apart_by_a_person(globus, site, deployer, tmp_path):
    first = deployer.deploy()
    globus.flows[some_id("twin")] = globus.flows[first.flow.id] | {"id": some_id("twin")}
    other = Deployer(site=site, service=service(), path=tmp_path / "other.lock.json")
    with pytest.raises(DeployError, match="several flows say site:lab") as raised:
        other.deploy()
    assert first.flow.id in str(raised.value)
    assert deployer.plan().empty


def test_an_equal_flow_is_adopted_without_writing_it(globus, site, deployer, tmp_path):
    first = deployer.deploy()
    globus.writes.clear()
    other = Deployer(site=site, service=service(), path=tmp_path / "other.lock.json")
    assert next(c for c in other.plan().changes if c.what == "flow").action == "note"
    assert other.deploy().flow.id == first.flow.id
    assert "update flow" not in globus.writes
    assert "create flow" not in globus.writes


def test_two_machines_deploy_in_turn(globus, site, deployer, tmp_path):
    """B takes A's lock and deploys; A, whose lock is then old, is told so instead of undoing B's."""
    deployer.deploy()
    b = tmp_path / "b.lock.json"
    b.write_bytes(deployer.path.read_bytes())
    people = site.people.model_copy(update={"managers": (STARTER,)})
    Deployer(site=site.model_copy(update={"people": people}), service=service(), path=b).deploy()
    globus.writes.clear()
    with pytest.raises(DeployError, match="was changed elsewhere"):
        deployer.deploy()
    assert globus.writes == []
    deployer.path.write_bytes(b.read_bytes())  # A pulls B's lock: now its change is a change like any other
    assert deployer.plan().flow_action == "update"


def test_a_service_that_writes_the_flow_otherwise_is_no_conflict(globus, deployer):
    """The service may order and complete what it is given; the lock knows it as it is served."""
    create = globus._create

    def completing(request):
        status, headers, text = create(request)
        flow = json.loads(text)
        globus.flows[flow["id"]]["definition"]["States"]["Finished"]["Comment"] = ""
        return status, headers, json.dumps(flow)

    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        globus._create = completing
        globus.install(mock)
        deployer.deploy()
        globus.writes.clear()
        assert deployer.plan().empty
        deployer.deploy()
    assert globus.writes == []


def test_a_deleted_flow_is_created_again(globus, deployer):
    lock = deployer.deploy()
    globus.flows.clear()
    globus.writes.clear()
    change = next(c for c in deployer.plan().changes if c.what == "flow")
    assert change.action == "create"
    assert lock.flow.id in change.why
    deployer.deploy()
    assert globus.writes == ["create flow"]


def test_a_creation_whose_answer_was_lost_is_not_repeated(globus, deployer):
    create = globus._create

    def lost(request):
        create(request)
        raise ConnectionError("connection reset")

    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        globus._create = lost
        globus.install(mock)
        with pytest.raises(NetworkError):
            deployer.deploy()
    assert globus.writes.count("create flow") == 1
    lock = deployer.deploy()  # finds it by its keyword
    assert list(globus.flows) == [lock.flow.id]
    assert globus.writes.count("create flow") == 1


def test_an_interrupted_deployment_registers_nothing_twice(globus, deployer):
    seen: list[str] = []

    def stop(text: str) -> None:
        seen.append(text)
        if len(seen) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deployer.deploy(on_change=stop)
    deployer.deploy()
    assert globus.writes.count("register function") == len(NAMES)
    assert deployed(deployer.path).flow is not None


def test_a_lock_of_another_site_is_refused(globus, site, deployer):
    deployer.deploy()
    other = Deployer(site=site.model_copy(update={"name": "b"}), service=service(), path=deployer.path)
    with pytest.raises(DeployError, match="belongs to site lab, not b"):
        other.plan()


def test_a_damaged_lock_is_named(deployer):
    deployer.path.write_text("<<<<<<< HEAD\n")
    with pytest.raises(DeployError, match=r"lab\.lock\.json"):
        deployer.plan()


def test_the_lock_has_ids_and_hashes_only(globus, deployer):
    deployer.deploy()
    document = json.loads(deployer.path.read_text())
    assert set(document) == {"version", "site", "package", "functions", "flow"}
    assert STARTER not in deployer.path.read_text()
    with pytest.raises(DeployError, match="is not deployed here"):
        deployed(deployer.path.with_name("none.lock.json"))
