"""Least scopes for each role, secrets kept by their owner alone and told to nobody, consents asked for."""

from __future__ import annotations

import io
import logging
import os
import stat
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, urlparse

import globus_sdk
import pytest
import responses

from flows.auth import GRANTS, app_of, authorise, authorization_for, connect, service_of
from flows.credentials import ID_VARIABLE, SECRET_VARIABLE, from_environment, from_file, refusal
from flows.errors import AuthError, RunError
from flows.remote import explain
from flows.site import Site
from tests.flows.auth_fake import FakeAuth, all_text
from tests.flows.globus_fake import FLOWS
from tests.flows.sites import filled_site, some_id

SECRET = "the-microscope's-client-secret-4711"
FLOW_ID = some_id("deployed flow")
FLOW_SCOPE = f"https://auth.globus.org/scopes/{FLOW_ID}/flow_{FLOW_ID.replace('-', '_')}_user"
FLOWS_SCOPES = "https://auth.globus.org/scopes/eec9b274-0c81-4334-bdc2-54e90e689b9a/"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for name in (ID_VARIABLE, SECRET_VARIABLE):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return filled_site(tmp_path)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """The default place of site `lab`'s secret."""
    path = tmp_path / "secrets" / "lab.env"
    path.parent.mkdir(mode=0o700)
    path.write_text(
        f"# the microscope's client\n{ID_VARIABLE}={some_id('client')}\n{SECRET_VARIABLE}={SECRET}\n"
    )
    path.chmod(0o600)
    return path


@pytest.fixture
def auth() -> Iterator[FakeAuth]:
    fake = FakeAuth()
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        fake.install(mock)
        mock.add("GET", f"{FLOWS}/runs", json={"runs": [], "has_next_page": False})
        mock.add("GET", f"{FLOWS}/flows", json={"flows": [], "has_next_page": False})
        mock.add("POST", f"{FLOWS}/flows/{FLOW_ID}/run", json={"run_id": some_id("run")})
        yield fake


# -- the secret ---------------------------------------------------------------------------------------------
def test_a_secret_of_its_owner_alone_is_taken(secret):
    credentials = from_file(secret)
    assert credentials.client_id == some_id("client")
    assert credentials.client_secret == SECRET
    assert SECRET not in repr(credentials)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o644, 0o666, 0o610, 0o777])
def test_a_wider_file_is_refused(secret, mode):
    secret.chmod(mode)
    with pytest.raises(AuthError, match="others may read or change it; chmod 600") as raised:
        from_file(secret)
    assert SECRET not in str(raised.value)


def test_a_folder_that_others_may_write_to_is_refused(secret):
    secret.parent.chmod(0o777)
    with pytest.raises(AuthError, match="others may write to its folder"):
        from_file(secret)
    secret.parent.chmod(0o1777)
    with pytest.raises(AuthError, match="others may write to its folder"):
        from_file(secret)


def test_a_folder_further_up_that_others_may_replace_is_refused(secret, tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(AuthError, match="others may replace a folder"):
        from_file(secret)
    tmp_path.chmod(0o1777)  # as /tmp: what is ours stays ours
    assert from_file(secret).client_secret == SECRET


@pytest.mark.parametrize(
    ("file", "folder", "reason"),
    [
        ({"st_uid": 1001}, {}, "belongs to another user"),
        ({"st_uid": 0}, {}, "belongs to another user"),
        ({}, {"st_uid": 1001}, "others may write to its folder"),
        ({"st_mode": stat.S_IFIFO | 0o600}, {}, "not a plain file"),
        ({}, {"st_uid": 0}, ""),
        ({"st_mode": stat.S_IFREG | 0o400}, {}, ""),
    ],
)
def test_who_owns_it(file, folder, reason):
    mine = {"st_uid": 1000, "st_mode": stat.S_IFREG | 0o600}
    ours = {"st_uid": 1000, "st_mode": stat.S_IFDIR | 0o700}
    found = refusal(SimpleNamespace(**mine | file), [SimpleNamespace(**ours | folder)], user=1000)
    assert found == reason


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_somebody_elses_file_is_refused(secret):
    os.chown(secret, 12345, 12345)
    with pytest.raises(AuthError, match="belongs to another user"):
        from_file(secret)


def test_a_link_is_not_followed(secret, tmp_path):
    link = tmp_path / "secrets" / "link.env"
    link.symlink_to(secret)
    with pytest.raises(AuthError, match="no link"):
        from_file(link)


def test_an_incomplete_file_does_not_tell_the_secret(secret):
    secret.write_text(f"{ID_VARIABLE}=not-an-id\n{SECRET_VARIABLE}={SECRET}\n")
    with pytest.raises(AuthError, match=f"{ID_VARIABLE}: not a UUID") as raised:
        from_file(secret)
    assert SECRET not in all_text(str(raised.value), "".join(traceback.format_exception(raised.value)))
    with pytest.raises(AuthError, match="no file with the microscope's client id and secret"):
        from_file(secret.with_name("none.env"))


def test_the_environment_comes_first():
    assert from_environment({}) is None
    found = from_environment({ID_VARIABLE: some_id("client"), SECRET_VARIABLE: SECRET})
    assert found is not None
    assert found.client_secret == SECRET
    with pytest.raises(AuthError, match=SECRET_VARIABLE):
        from_environment({ID_VARIABLE: some_id("client")})


# -- scopes -------------------------------------------------------------------------------------------------
def test_the_trigger_asks_for_its_flow_and_nothing_more(site, secret, auth, tmp_path):
    service = connect(site, "trigger", tmp_path)
    service.flow(FLOW_ID).run_flow({"input": {}})
    service.flows.list_runs(filter_flow_id=FLOW_ID)
    assert {scope for asked in auth.asked for scope in asked} == {
        FLOW_SCOPE,
        f"{FLOWS_SCOPES}run_status",
    }
    assert {body["grant_type"] for body in auth.bodies} == {"client_credentials"}


@pytest.mark.parametrize("role", GRANTS)
def test_no_role_asks_for_more_than_its_grant(site, tmp_path, role, monkeypatch):
    monkeypatch.setenv(ID_VARIABLE, some_id("client"))
    monkeypatch.setenv(SECRET_VARIABLE, SECRET)
    app = app_of(site, role, tmp_path)
    service = service_of(app, role, site)
    grant = GRANTS[role]
    if grant.starts:
        service.flow(FLOW_ID)
    else:
        with pytest.raises(AuthError, match=f"role {role}: may not start runs"):
            service.flow(FLOW_ID)
    expected = {"auth.globus.org": ["openid"], "flows.globus.org": [FLOWS_SCOPES + n for n in grant.flows]}
    if grant.starts:
        expected[FLOW_ID] = [FLOW_SCOPE]
    if grant.compute:
        expected["funcx_service"] = [str(globus_sdk.scopes.ComputeScopes.all)]
    if grant.transfer:
        expected["transfer.api.globus.org"] = [str(globus_sdk.scopes.TransferScopes.all)]
    if grant.search:
        expected["search.api.globus.org"] = [str(globus_sdk.scopes.SearchScopes.search)]
    asked = {server: sorted({str(s) for s in scopes}) for server, scopes in app.scope_requirements.items()}
    assert asked == {server: sorted(scopes) for server, scopes in expected.items()}


def test_only_the_deployer_manages_flows():
    assert [role for role, grant in GRANTS.items() if "manage_flows" in grant.flows] == ["deployer"]
    assert not any(name == "all" for grant in GRANTS.values() for name in grant.flows)


def test_mapped_collections_get_their_consent(site, secret, tmp_path):
    instrument = site.instrument.model_copy(update={"data_access": True})
    mapped = site.model_copy(update={"instrument": instrument})
    app = app_of(mapped, "trigger", tmp_path)
    service_of(app, "trigger", mapped).flow(FLOW_ID)
    asked = " ".join(str(s) for s in app.scope_requirements[FLOW_ID])
    assert f"{FLOW_SCOPE}[*urn:globus:auth:scope:transfer.api.globus.org:all[" in asked
    assert f"https://auth.globus.org/scopes/{instrument.id}/data_access" in asked
    assert site.scratch.id not in asked


# -- people -------------------------------------------------------------------------------------------------
class Terminal(io.StringIO):
    """Somebody at a keyboard."""

    def isatty(self) -> bool:
        return True


def test_a_person_logs_in_once(site, auth, tmp_path, monkeypatch, capsys):
    auth.client_id = site.auth.client_id
    auth.pending = ["openid", *(FLOWS_SCOPES + name for name in GRANTS["viewer"].flows)]
    monkeypatch.setattr("sys.stdin", Terminal("the-code\n"))
    connect(site, "viewer", tmp_path).flows.list_runs()
    shown = capsys.readouterr()
    assert shown.out == ""
    (link,) = [line.strip() for line in shown.err.splitlines() if "authorize" in line]
    query = parse_qs(urlparse(link).query)
    assert query["client_id"] == [site.auth.client_id]
    assert query["access_type"] == ["offline"]
    assert set(query["scope"][0].split()) == set(auth.pending)
    assert auth.bodies[0]["code"] == "the-code"
    (file,) = (tmp_path / "tokens").rglob("*.json")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert "REFRESH-TOKEN-flows.globus.org" in file.read_text()
    monkeypatch.setattr("sys.stdin", Terminal(""))
    connect(site, "viewer", tmp_path).flows.list_runs()
    assert len(auth.bodies) == 1
    assert capsys.readouterr().err == ""


def test_nobody_is_asked_without_a_terminal(site, auth, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("the-code\n"))
    with pytest.raises(AuthError, match="this is no terminal; repeat the command in a terminal"):
        connect(site, "viewer", tmp_path).flows.list_runs()
    assert auth.bodies == []


def test_a_profile_without_a_client_is_named(site, tmp_path):
    with pytest.raises(AuthError, match=r"site lab: auth\.client_id: missing"):
        connect(site.model_copy(update={"auth": None}), "viewer", tmp_path)


def test_the_trigger_needs_its_secret(site, tmp_path):
    with pytest.raises(AuthError, match=r"secrets/lab\.env: no file"):
        connect(site, "trigger", tmp_path)


# -- secrets stay secret ------------------------------------------------------------------------------------
def test_no_secret_is_shown_or_kept(site, secret, auth, tmp_path, caplog, capsys):
    caplog.set_level(logging.DEBUG)
    for name in ("globus_sdk", "urllib3", "requests"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    app = app_of(site, "trigger", tmp_path)
    service = service_of(app, "trigger", site)
    service.flow(FLOW_ID).run_flow({"input": {}})
    refused = {"error": {"code": "FORBIDDEN", "detail": "no"}}
    auth.mock.replace("GET", f"{FLOWS}/runs", json=refused, status=403)
    with pytest.raises(globus_sdk.GlobusAPIError) as raised:
        service.flows.list_runs()
    told = explain(raised.value)
    assert "Globus Flows answered 403 FORBIDDEN" in str(told)
    assert told.remedy
    shown = capsys.readouterr()
    trace = "".join(traceback.format_exception(raised.value, chain=True))
    everything = all_text(
        repr(app), repr(service), repr(service.flows), str(told), repr(raised.value), trace,
        caplog.text, shown.out, shown.err,
    )  # fmt: skip
    written = [p for p in tmp_path.rglob("*") if p.is_file() and p != secret]
    everything += "".join(p.read_text() for p in written)
    assert caplog.text
    assert SECRET not in everything
    assert "ACCESS-TOKEN" not in everything


# -- runs that wait -----------------------------------------------------------------------------------------
RUN_ID = some_id("run")
CONSENT = {
    "code": "ConsentRequired",
    "authorization_parameters": {
        "session_message": "Missing required data_access consent",
        "required_scopes": [f"{FLOW_SCOPE}[urn:globus:auth:scope:transfer.api.globus.org:all]"],
    },
}
SESSION = {
    "code": "AuthorizationRequired",
    "authorization_parameters": {
        "session_message": "Log in with your ALCF identity",
        "session_required_mfa": True,
    },
}


def waiting(details: object, status: str = "INACTIVE") -> dict[str, object]:
    return {"run_id": RUN_ID, "flow_id": FLOW_ID, "status": status, "details": details}


def resumed_as_service(site: Site, home: Path, run: dict[str, object], auth: FakeAuth) -> None:
    """A run is resumed by the microscope's client, as `Runs.resume` does it."""
    app = app_of(site, "trigger", home)
    auth.mock.add("POST", f"{FLOWS}/runs/{RUN_ID}/resume", json={**run, "status": "ACTIVE"})
    flow = service_of(app, "trigger", site).flow(FLOW_ID)
    authorise(app, run)
    assert flow.resume_run(RUN_ID)["status"] == "ACTIVE"


def test_a_run_that_waits_for_a_consent_gets_it_and_goes_on(site, secret, auth, tmp_path):
    resumed_as_service(site, tmp_path, waiting(CONSENT), auth)
    login = auth.bodies[-1]["scope"]
    assert f"{FLOW_SCOPE}[urn:globus:auth:scope:transfer.api.globus.org:all]" in login
    assert auth.mock.calls[-1].request.path_url == f"/runs/{RUN_ID}/resume"


def test_a_run_that_waits_for_a_person_says_so(site, secret, auth, tmp_path):
    with pytest.raises(AuthError, match=r"Log in with your ALCF identity.*app\.globus\.org/runs/"):
        resumed_as_service(site, tmp_path, waiting(SESSION), auth)


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (waiting(CONSENT, "FAILED"), "is FAILED, not INACTIVE; .*run rerun"),
        (waiting({"code": "?"}), r"does not say which consent.*app\.globus\.org/runs/"),
        (waiting(None), "does not say which consent"),
    ],
)
def test_other_runs_are_not_resumed(site, secret, auth, tmp_path, run, said):
    with pytest.raises(RunError, match=said):
        resumed_as_service(site, tmp_path, run, auth)


def test_older_consent_errors_are_understood():
    legacy = {"code": "ConsentRequired", "required_scopes": [FLOW_SCOPE], "message": "Missing consent"}
    needed = authorization_for(legacy)
    assert needed is not None
    assert needed.required_scopes == [FLOW_SCOPE]
