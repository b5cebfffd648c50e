"""Unmodified Globus clients against the loopback over HTTP."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import globus_sdk
import pytest
import requests
from globus_sdk.scopes import FlowsScopes, SearchScopes

from flows.local.builtin import FLOW_ID
from flows.local.documents import OWNER_ID
from tests.flows.loopback import client_app, served, wait_until

ROOT = Path(__file__).parents[2]
PASS = {"StartAt": "a", "States": {"a": {"Type": "Pass", "End": True}}}
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def loopback(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        with served(tmp_path_factory.mktemp("home")) as running:
            for name, value in running.variables.items():
                patch.setenv(name, value)
            yield running


@pytest.fixture(scope="module")
def app(loopback):
    return client_app(loopback)


@pytest.fixture(scope="module")
def flows(app):
    return globus_sdk.FlowsClient(app=app)


def test_a_flow_is_validated_created_changed_listed_and_deleted(flows):
    with pytest.raises(globus_sdk.FlowsAPIError) as caught:
        flows.validate_flow({"StartAt": "a", "States": {"a": {"Type": "Pass"}}})
    assert (caught.value.http_status, caught.value.code) == (422, "UNPROCESSABLE_ENTITY")
    assert "Next" in caught.value.messages[0]
    for definition, schema, where in (
        ({"StartAt": "a", "States": {"a": 3}}, {}, "an object with a Type"),
        ({"StartAt": "a"}, {}, "States: an object"),
        (PASS, {"type": "nonsense"}, "'nonsense' is not valid"),
    ):
        with pytest.raises(globus_sdk.FlowsAPIError, match=where):
            flows.validate_flow(definition, schema)
    assert flows.validate_flow(PASS, SCHEMA)["scopes"] == {"User": []}
    made = flows.create_flow("Zebra", PASS, SCHEMA, subtitle="stripes", keywords=["k"])
    assert made.http_status == 201
    assert made["globus_auth_scope"].endswith(f"/flow_{made['id'].replace('-', '_')}_user")
    changed = flows.update_flow(made["id"], description="black and white")
    assert (changed["title"], changed["description"]) == ("Zebra", "black and white")
    found = flows.list_flows(filter_fulltext="stripes", filter_roles="flow_owner")
    assert [flow["id"] for flow in found] == [made["id"]]
    titles = [flow["title"] for flow in flows.list_flows(orderby=("title DESC", "id ASC"))]
    assert titles == sorted(titles, reverse=True)
    assert {"Zebra", "Petavoxel"} <= set(titles)
    assert flows.delete_flow(made["id"])["DELETED"] is True
    with pytest.raises(globus_sdk.FlowsAPIError, match="No Flow exists"):
        flows.get_flow(made["id"])


def test_a_run_is_started_followed_relabelled_and_released(app, flows):
    flow_id = flows.create_flow("Runs", PASS, SCHEMA)["id"]
    flow = globus_sdk.SpecificFlowClient(flow_id, app=app)
    assert flow.validate_run({"n": 1})["message"] == "validation successful"
    with pytest.raises(globus_sdk.FlowsAPIError) as caught:
        flow.run_flow({"n": "one"})
    assert (caught.value.http_status, caught.value.code) == (422, "FLOW_INPUT_ERROR")
    assert caught.value.messages == ["'one' is not of type 'integer'"]
    people = [f"urn:globus:auth:identity:{OWNER_ID}"]
    run = flow.run_flow({"n": 1}, label="one", tags=["a  b", "c"], run_monitors=people)
    assert (run["status"], run["details"]["code"], run["tags"]) == ("ACTIVE", "FlowStarting", ["a b", "c"])
    wait_until(lambda: flows.get_run(run["run_id"])["status"] != "ACTIVE")
    ended = flows.get_run(run["run_id"], include_flow_description=True)
    assert (ended["status"], ended["details"]["output"]) == ("SUCCEEDED", {"n": 1})
    assert ended["flow_description"]["title"] == "Runs"
    assert ended["run_monitors"] == people
    lines = list(flows.paginated.get_run_logs(run["run_id"], limit=1).items())
    assert [line["code"] for line in lines] == ["FlowStarted", "PassCompleted", "FlowSucceeded"]
    assert lines[0]["details"] == {"input": {"n": 1}}
    assert lines[1]["details"]["state_type"] == "Pass"
    backwards = flows.get_run_logs(run["run_id"], reverse_order=True)
    assert next(iter(backwards))["code"] == "FlowSucceeded"
    assert flows.get_run_definition(run["run_id"])["definition"] == PASS
    assert flows.update_run(run["run_id"], label="two", tags=["d"])["label"] == "two"
    assert flows.cancel_run(run["run_id"])["status"] == "SUCCEEDED"
    with pytest.raises(globus_sdk.FlowsAPIError) as caught:
        flow.resume_run(run["run_id"])
    assert (caught.value.http_status, caught.value.code) == (409, "STATE_CONFLICT")
    flows.delete_run(run["run_id"])
    with pytest.raises(globus_sdk.FlowsAPIError) as caught:
        flows.get_run(run["run_id"])
    assert caught.value.http_status == 404


def test_lists_of_runs_come_in_pages_newest_first(loopback, app, flows):
    flow_id = flows.create_flow("Many", PASS, {})["id"]
    flow = globus_sdk.SpecificFlowClient(flow_id, app=app)
    with loopback.world.site.here(True):  # nobody carries them out
        ids = [flow.run_flow({}, label=str(i))["run_id"] for i in range(23)]
    pages = list(flows.paginated.list_runs(filter_flow_id=flow_id).pages())
    assert [len(page["runs"]) for page in pages] == [20, 3]
    assert [run["run_id"] for page in pages for run in page["runs"]] == ids[::-1]
    assert len(list(flows.list_runs(filter_flow_id=[flow_id, FLOW_ID], filter_roles="run_owner"))) == 20
    for run_id in ids:
        loopback.world.site._held.pop(run_id).release()
        flows.cancel_run(run_id)
    ended = flows.get_run(ids[0])
    assert (ended["status"], ended["details"]["code"]) == ("FAILED", "FlowCanceled")


def test_tokens_are_checked_for_scope_and_expiry(loopback, app):
    viewer = globus_sdk.FlowsClient(app=client_app(loopback), app_scopes=[FlowsScopes.view_flows])
    assert viewer.get_flow(FLOW_ID)["title"] == "Petavoxel"
    with pytest.raises(globus_sdk.FlowsAPIError) as caught:
        viewer.delete_flow(FLOW_ID)
    assert (caught.value.http_status, caught.value.code) == (403, "MISSING_SCOPE")
    loopback.world.tokens.expire_all()
    assert viewer.get_flow(FLOW_ID)["title"] == "Petavoxel"  # the client got a new token by itself
    raw = requests.get(f"{loopback.url}flows/flows", headers={"Authorization": "Bearer old"}, timeout=10)
    assert (raw.status_code, raw.json()["error"]["code"]) == (401, "AUTHENTICATION_ERROR")
    wrong = globus_sdk.ConfidentialAppAuthClient(loopback.world.client.id, "guess")
    with pytest.raises(globus_sdk.AuthAPIError) as denied:
        wrong.oauth2_client_credentials_tokens(requested_scopes=[FlowsScopes.all])
    assert denied.value.http_status == 401


def test_auth_tells_who_a_token_belongs_to(loopback, app):
    auth = globus_sdk.AuthClient(app=app)
    assert auth.userinfo()["sub"] == OWNER_ID
    assert auth.get_identities(ids=[OWNER_ID])["identities"][0]["username"] == "petavoxel@loopback"
    assert auth.get_identities(usernames="nobody@example.org")["identities"] == []
    login = globus_sdk.ConfidentialAppAuthClient(loopback.world.client.id, loopback.world.client.secret())
    scopes = [FlowsScopes.view_flows, SearchScopes.search]
    tokens = login.oauth2_client_credentials_tokens(requested_scopes=scopes)
    assert set(tokens.by_resource_server) == {"flows.globus.org", "search.api.globus.org"}
    text = tokens.by_resource_server["search.api.globus.org"]["access_token"]
    assert login.oauth2_token_introspect(text)["scope"] == str(SearchScopes.search)
    login.oauth2_revoke_token(text)
    assert login.oauth2_token_introspect(text).data == {"active": False}
    with pytest.raises(globus_sdk.AuthAPIError, match="Unknown scope"):
        login.oauth2_client_credentials_tokens(requested_scopes=["nonsense"])


def test_files_are_copied_listed_and_deleted(loopback, app, tmp_path):
    source = tmp_path / "acq"
    source.mkdir()
    (source / "a.tif").write_bytes(b"a" * 1000)
    site = loopback.site
    transfer = globus_sdk.TransferClient(app=app)
    assert transfer.get_endpoint(site.scratch.id)["display_name"] == "scratch"
    data = globus_sdk.TransferData(
        source_endpoint=site.instrument.id, destination_endpoint=site.scratch.id, label="in"
    )
    data.add_item(str(source), "/acq/raw", recursive=True)
    first = transfer.submit_transfer(data)
    again = transfer.submit_transfer(data)
    assert (first["code"], again["code"]) == ("Accepted", "Duplicate")
    assert again["task_id"] == first["task_id"]
    assert transfer.task_wait(first["task_id"], timeout=30, polling_interval=1)
    task = transfer.get_task(first["task_id"])
    assert (task["status"], task["files_transferred"], task["bytes_transferred"]) == ("SUCCEEDED", 1, 1000)
    assert (Path(site.scratch.base_path) / "acq/raw/a.tif").read_bytes() == b"a" * 1000
    assert [entry["name"] for entry in transfer.operation_ls(site.scratch.id, path="/acq/raw")] == ["a.tif"]
    assert transfer.operation_stat(site.scratch.id, "/acq/raw/a.tif")["size"] == 1000
    transfer.operation_mkdir(site.scratch.id, "/acq/new")
    data = globus_sdk.DeleteData(endpoint=site.scratch.id, recursive=True)
    data.add_item("/acq/raw")
    task_id = transfer.submit_delete(data)["task_id"]
    assert transfer.task_wait(task_id, timeout=30, polling_interval=1)
    assert [e["name"] for e in transfer.operation_ls(site.scratch.id, path="/acq")] == ["new"]
    assert [t["type"] for t in transfer.task_list()] == ["DELETE", "TRANSFER"]
    with pytest.raises(globus_sdk.TransferAPIError) as caught:
        transfer.operation_ls(site.scratch.id, path="/../..")
    assert "leaves its collection" in caught.value.message


def test_entries_are_indexed_and_found(loopback, app):
    reader = globus_sdk.SearchClient(app=app)
    search = globus_sdk.SearchClient(app=client_app(loopback), app_scopes=[SearchScopes.all])
    index = loopback.site.search_index
    entry = {"subject": "globus://x/y", "visible_to": ["public"], "content": {"title": "A fly brain"}}
    document = {"ingest_type": "GMetaEntry", "ingest_data": entry}
    with pytest.raises(globus_sdk.SearchAPIError) as caught:
        reader.ingest(index, document)  # the client asks for the scope to search only
    assert (caught.value.http_status, caught.value.code) == (403, "Forbidden.Generic")
    assert search.ingest(index, document)["success"]
    assert search.get_subject(index, "globus://x/y")["entries"][0]["content"] == entry["content"]
    assert search.search(index, "fly brain")["total"] == 1
    assert search.post_search(index, {"q": "mouse"})["gmeta"] == []
    search.delete_subject(index, "globus://x/y")
    with pytest.raises(globus_sdk.SearchAPIError) as caught:
        search.get_subject(index, "globus://x/y")
    assert (caught.value.http_status, caught.value.code) == (404, "NotFound.Generic")


def test_functions_run_as_registered_source(loopback, app):
    from globus_compute_sdk import Client
    from globus_compute_sdk.serialize import JSONData

    compute = Client(app=app, data_serialization_strategy=JSONData(), do_version_check=False)
    base = f"{loopback.url}compute/"  # Client knows production and port 5000 only
    compute._compute_web_client.v2.base_url = compute._compute_web_client.v3.base_url = base
    compute.version_check()
    endpoint = loopback.site.compute.endpoint_id
    function = compute.register_source_code("def double(x):\n    return {'y': 2 * x}\n", "double")
    failing = compute.register_source_code("def fail():\n    raise ValueError('no')\n", "fail")
    assert compute.get_function(function)["function_name"] == "double"
    assert compute.get_endpoint_status(endpoint)["status"] == "online"
    batch = compute.create_batch()
    for x in (1, 2):
        batch.add(function, kwargs={"x": x})
    ids = compute.batch_run(endpoint, batch)["tasks"][function]
    wait_until(lambda: not any(task["pending"] for task in compute.get_batch_result(ids).values()))
    results = compute.get_batch_result(ids)
    assert [results[id_]["result"] for id_ in ids] == [{"y": 2}, {"y": 4}]
    bad = compute.run(endpoint_id=endpoint, function_id=failing)
    wait_until(lambda: globus_sdk.ComputeClientV2(app=app).get_task(bad)["status"] == "failed")
    assert "ValueError: no" in globus_sdk.ComputeClientV2(app=app).get_task(bad)["exception"]
    with pytest.raises(globus_sdk.GlobusAPIError, match="not registered"):
        compute.run(endpoint_id=endpoint, function_id=OWNER_ID)


def test_many_callers_at_once(loopback, app, flows):
    flow_id = flows.create_flow("Busy", PASS, {})["id"]
    starter = globus_sdk.SpecificFlowClient(flow_id, app=app)

    def work(number: int) -> str:
        run_id = starter.run_flow({}, label=str(number))["run_id"]
        assert flows.update_run(run_id, tags=[f"n:{number}"])["tags"] == [f"n:{number}"]
        assert len(list(flows.list_runs(filter_flow_id=flow_id))) <= 20
        return str(flows.get_run(run_id)["label"])

    with loopback.world.site.here(True), ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(40))) == [str(number) for number in range(40)]
    listed = list(flows.paginated.list_runs(filter_flow_id=flow_id).items())
    assert sorted(int(run["label"]) for run in listed) == list(range(40))
    for run in listed:
        loopback.world.site._held.pop(run["run_id"]).release()


def test_what_is_not_there_says_so(loopback, app, flows):
    for call in (
        flows.list_registered_apis,
        globus_sdk.TransferClient(app=app).bookmark_list,
        lambda: globus_sdk.SearchClient(app=app).get_role_list(OWNER_ID),
        globus_sdk.AuthClient(app=app).get_projects,
        lambda: globus_sdk.ComputeClientV2(app=app).lock_endpoint(OWNER_ID),
    ):
        with pytest.raises(globus_sdk.GlobusAPIError) as caught:
            call()
        assert caught.value.http_status == 501
        assert "not implemented by the loopback Globus" in caught.value.text


def test_the_secret_lies_in_a_file_of_its_owner(loopback):
    path = loopback.world.client.secret_path
    assert path.stat().st_mode & 0o777 == 0o600
    secret = path.read_bytes()
    others = [f for f in loopback.home.rglob("*") if f.is_file() and f != path]
    assert others
    assert not any(secret in f.read_bytes() for f in others)


def free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.skipif(not free(5000), reason="port 5000 is taken")
def test_an_unmodified_compute_client_finds_port_5000(tmp_path, monkeypatch):
    from globus_compute_sdk import Client

    with served(tmp_path, port=5000) as running:
        for name, value in running.variables.items():
            monkeypatch.setenv(name, value)
        compute = Client(local_compute_services=True, app=client_app(running))
        assert compute.web_service_address == "http://localhost:5000"
        assert compute.get_endpoint_status(running.site.compute.endpoint_id)["status"] == "online"
        assert [e["uuid"] for e in compute.get_endpoints()] == [running.site.compute.endpoint_id]
