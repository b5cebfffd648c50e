"""`petavoxel site` and `petavoxel flow plan|deploy`, from a new profile to a checked site."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import responses

from flows.credentials import ID_VARIABLE, SECRET_VARIABLE
from flows.site import load_site
from tests.flows.auth_fake import FakeAuth
from tests.flows.doctor_fake import FakeSite
from tests.flows.globus_fake import FLOWS
from tests.flows.sites import fill, some_id
from tests.typer_cli.invoking import petavoxel

SECRET = "not-for-any-output-0815"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Petavoxel home of its own, with the service's secret in the environment."""
    monkeypatch.setenv("PETAVOXEL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv(ID_VARIABLE, some_id("client"))
    monkeypatch.setenv(SECRET_VARIABLE, SECRET)
    return tmp_path / "home"


@pytest.fixture
def globus(home: Path, tmp_path: Path) -> Iterator[FakeSite]:
    """A filled profile `lab`, and the services that it names."""
    assert petavoxel("site", "init", "lab", "--from", "workstation").code == 0
    path = home / "sites" / "lab.toml"
    folders = {name: tmp_path / name for name in ("instrument", "scratch", "publication")}
    for folder in folders.values():
        folder.mkdir()
    fill(path, **{f"{name}__base_path": str(folder) for name, folder in folders.items()})
    fake = FakeSite(site=load_site("lab", home=home), versions={"parsl": "2026.10.26"})
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        FakeAuth().install(mock)
        fake.install(mock)
        yield fake


def test_a_new_profile_is_shown_with_what_is_missing(home):
    made = petavoxel("site", "init", "lab", "--from", "polaris", "--output", "json")
    assert made.code == 0
    assert made.document["profile"] == str(home / "sites" / "lab.toml")
    assert "scratch.id" in made.document["unfilled"]
    shown = petavoxel("site", "show", "lab", "--output", "json")
    assert shown.code == 3
    assert shown.document["unfilled"] == made.document["unfilled"]
    fill(home / "sites" / "lab.toml")
    shown = petavoxel("site", "show", "lab", "--output", "json")
    assert shown.code == 0
    assert shown.document["site"]["compute"]["user_endpoint_config"]["queue"] == "prod"


def test_what_does_not_fit_is_shown(home):
    petavoxel("site", "init", "lab", "--from", "polaris")
    path = home / "sites" / "lab.toml"
    fill(path)
    path.write_text(path.read_text().replace('walltime = "03:00:00"', 'walltime = "six hours"'))
    shown = petavoxel("site", "show", "lab", "--output", "json")
    assert shown.code == 3
    assert any("compute.user_endpoint_config.walltime" in p for p in shown.document["problems"])
    path.write_text(path.read_text().replace("shards", "sharts").replace("# sharts", "sharts"))
    shown = petavoxel("site", "show", "lab", "--output", "json")
    assert any("sharts: Extra inputs" in p for p in shown.document["problems"])


def test_commands_name_what_is_not_filled_in(home):
    petavoxel("site", "init", "lab", "--from", "polaris")
    for words in (("flow", "plan", "--site", "lab"), ("site", "check", "lab")):
        done = petavoxel(*words)
        assert done.code == 1
        assert "not filled in yet" in done.err
        assert "compute.endpoint_id" in done.err


def test_the_embedded_site_needs_neither(home):
    assert "has no deployment" in petavoxel("flow", "plan", "--site", "local").err
    assert "nothing to check" in petavoxel("site", "check", "local").err
    assert petavoxel("site", "show", "local").code == 0


def test_from_plan_to_a_checked_site(home, globus, tmp_path):
    planned = petavoxel("flow", "plan", "--site", "lab")
    assert planned.code == 0
    assert "+ create flow\n" in planned.out
    assert "+ create function stitch" in planned.out
    assert globus.writes == []

    deployed = petavoxel("flow", "deploy", "--site", "lab", "--output", "json")
    assert deployed.code == 0
    flow_id = deployed.document["lock"]["flow"]["id"]
    assert deployed.document["page"] == f"https://app.globus.org/flows/{flow_id}"
    lock = json.loads((home / "sites" / "lab.lock.json").read_text())
    assert lock == deployed.document["lock"]

    globus.writes.clear()
    again = petavoxel("flow", "deploy", "--site", "lab")
    assert again.code == 0
    assert "no change" in again.err
    assert f"https://app.globus.org/flows/{flow_id}" in again.out
    assert globus.writes == []

    folder = tmp_path / "endpoint"
    assert petavoxel("site", "endpoint-config", "lab", "--to", folder).code == 0
    ids = sorted(f["id"] for f in lock["functions"].values())
    assert "\n".join(f"  - {id_}" for id_ in ids) in (folder / "config.yaml").read_text()

    checked = petavoxel("site", "check", "lab", "--output", "json")
    assert {f["check"]: f["status"] for f in checked.document["findings"] if f["status"] != "ok"} == {
        "search": "skipped"
    }
    assert checked.code == 0
    everything = "".join((d.out + d.err) for d in (planned, deployed, again, checked))
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    everything += "".join(p.read_text() for p in files)
    assert SECRET not in everything
    assert "ACCESS-TOKEN" not in everything


def test_a_sick_site_ends_with_3_and_says_what_to_do(globus):
    petavoxel("flow", "deploy", "--site", "lab")
    globus.status = "offline"
    checked = petavoxel("site", "check", "lab")
    assert checked.code == 3
    assert "globus-compute-endpoint start NAME" in " ".join(checked.out.split())


def test_a_conflict_ends_a_plan_with_3_and_a_deployment_with_1(globus):
    deployed = petavoxel("flow", "deploy", "--site", "lab", "--output", "json")
    globus.change(deployed.document["lock"]["flow"]["id"], subtitle="theirs")
    planned = petavoxel("flow", "plan", "--site", "lab")
    assert planned.code == 3
    assert "! conflict flow: was changed elsewhere" in planned.out
    refused = petavoxel("flow", "deploy", "--site", "lab", "--output", "json")
    assert refused.code == 1
    assert refused.document["error"]["code"] == "deploy"
    assert "--take-over" in refused.document["error"]["remedy"]
    assert petavoxel("flow", "deploy", "--site", "lab", "--take-over").code == 0


def test_a_refusal_of_the_service_is_a_message_with_a_remedy(globus):
    body = {"error": {"code": "FORBIDDEN", "detail": "You may not"}}
    globus.mock.replace("GET", f"{FLOWS}/flows", json=body, status=403)
    done = petavoxel("flow", "deploy", "--site", "lab", "--output", "json")
    assert done.code == 1
    assert done.document["error"]["message"] == "Globus Flows answered 403 FORBIDDEN: You may not"
    assert "role or consent" in done.document["error"]["remedy"]
    assert SECRET not in done.out + done.err
