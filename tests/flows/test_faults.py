"""Faults on demand: over HTTP by the control route, and in this process through the adapter."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import globus_sdk
import pytest
import requests
from globus_sdk.gare import to_gare
from globus_sdk.transport import RetryConfig

from flows.errors import ServiceError
from flows.local.http.faults import Faults, Rule
from flows.service import embedded, told
from flows.site import local_site
from tests.flows.loopback import served, wait_until

ROOT = Path(__file__).parents[2]
PASS = {"StartAt": "a", "States": {"a": {"Type": "Pass", "End": True}}}
WAITING = {"StartAt": "a", "States": {"a": {"Type": "Wait", "Seconds": 1, "End": True}}}


@pytest.fixture
def service(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    made = embedded(tmp_path, site=local_site(tmp_path, workers=1, entry_points="tests.flows.fake_steps"))
    made.flows.retry_config.max_retries = 0
    return made


def count(service, flow_id: str) -> int:
    return len(list(service.flows.list_runs(filter_flow_id=flow_id)))


def test_rules_strike_the_calls_they_name():
    faults = Faults()
    faults.add(Rule(kind="500", next=2, service="flows", method="GET", path="^/flows/runs"))
    struck = [faults.strike("flows", "GET", "/flows/runs") for _ in range(3)]
    assert [rule is not None for rule in struck] == [True, True, False]
    assert faults.strike("flows", "POST", "/flows/runs") is None
    assert faults.strike("search", "GET", "/flows/runs") is None
    assert faults.told()[0] | {"met": 3, "struck": 2} == faults.told()[0]
    faults.clear()

    def drawn(seed: int) -> list[bool]:
        faults = Faults()
        faults.add(Rule(kind="429", fraction=0.2, seed=seed))
        return [faults.strike("flows", "GET", "/") is not None for _ in range(1000)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert 150 < sum(drawn(1)) < 250
    assert faults.strike("auth", "POST", "/auth/v2/oauth2/token") is None  # unless a rule names Auth


@pytest.mark.parametrize("kind", ["429", "500", "502"])
def test_a_refused_call_is_not_carried_out(service, kind):
    service.world.faults.add(Rule(kind=kind, next=1, path="/flows$", method="POST"))
    before = len(list(service.flows.list_flows()))
    with pytest.raises(globus_sdk.FlowsAPIError) as caught:
        service.flows.create_flow("t", PASS, {})
    assert caught.value.http_status == int(kind)
    assert caught.value.headers.get("Retry-After") == ("1" if kind == "429" else None)
    assert len(list(service.flows.list_flows())) == before


@pytest.mark.parametrize(("kind", "error"), [
    ("drop", globus_sdk.NetworkError), ("timeout", globus_sdk.GlobusTimeoutError),
])  # fmt: skip
@pytest.mark.parametrize("carried_out", [False, True])
def test_an_answer_is_lost_before_or_after_the_call_was_carried_out(service, kind, error, carried_out):
    flow_id = service.flows.create_flow("t", PASS, {})["id"]
    service.world.faults.add(Rule(kind=kind, next=1, path="/run$", carried_out=carried_out))
    flow = service.flow(flow_id)
    with service.world.site.here(True), pytest.raises(error):
        flow.run_flow({})  # the client of one flow does not repeat what may have been done
    assert count(service, flow_id) == int(carried_out)
    service.world.faults.add(Rule(kind=kind, next=1, path="/run$"))
    with pytest.raises(ServiceError, match="may have been carried out"), told("start a run"):
        flow.run_flow({})


def test_a_start_is_repeated_where_the_service_refused_it(service):
    flow_id = service.flows.create_flow("t", PASS, {})["id"]
    flow = service.flow(flow_id)
    flow.retry_config.backoff = lambda context: 0.0
    for rule in (
        Rule(kind="429", next=2, path="/run$", seconds=0),
        Rule(kind="expire", next=1, path="/run$"),
    ):
        service.world.faults.add(rule)
        with service.world.site.here(True):
            flow.run_flow({})
    service.flows.retry_config.max_retries = 1  # its token has ended as well
    assert count(service, flow_id) == 2
    assert [rule["struck"] for rule in service.world.faults.told()] == [2, 1]


def test_a_slow_answer_is_an_answer(service):
    service.world.faults.add(Rule(kind="slow", next=1, seconds=0.3))
    begun = time.monotonic()
    assert len(list(service.flows.list_flows())) == 1
    assert time.monotonic() - begun >= 0.3


def test_expired_tokens_are_renewed_by_the_client(service):
    service.flows.list_flows()
    service.world.faults.add(Rule(kind="expire", next=1))
    service.flows.retry_config.max_retries = 1
    assert len(list(service.flows.list_flows())) == 1
    assert service.world.faults.told()[0]["struck"] == 1


def test_a_run_goes_inactive_with_a_gare_and_is_resumed(service):
    flow_id = service.flows.create_flow("t", WAITING, {})["id"]
    service.world.faults.add(Rule(kind="inactive", next=1, path="/run$"))
    flow = service.flow(flow_id)
    run_id = flow.run_flow({})["run_id"]
    wait_until(lambda: service.flows.get_run(run_id)["status"] == "INACTIVE")
    run = service.flows.get_run(run_id)
    gare = to_gare(run["details"])
    assert gare is not None
    assert gare.authorization_parameters.required_scopes == [str(flow.scopes.user)]
    flow.resume_run(run_id)
    wait_until(lambda: service.flows.get_run(run_id)["status"] == "SUCCEEDED")
    codes = [line["code"] for line in service.flows.get_run_logs(run_id, limit=100)]
    assert codes == ["FlowStarted", "FlowInactive", "WaitCompleted", "FlowSucceeded"]


def test_faults_over_http_by_the_control_route(tmp_path, monkeypatch):
    with served(tmp_path) as loopback:
        for name, value in loopback.variables.items():
            monkeypatch.setenv(name, value)
        login = globus_sdk.ConfidentialAppAuthClient(loopback.world.client.id, loopback.world.client.secret())
        flows = globus_sdk.FlowsClient(
            authorizer=globus_sdk.ClientCredentialsAuthorizer(
                login, scopes=[globus_sdk.scopes.FlowsScopes.all]
            ),
            retry_config=RetryConfig(max_retries=0),
        )
        flows.transport.http_timeout = 0.5
        headers = {"Authorization": f"Bearer {loopback.control}"}

        def lay_down(**rule) -> int:
            answer = requests.post(f"{loopback.url}control/faults", json=rule, headers=headers, timeout=10)
            return answer.status_code

        def flows_there() -> int:
            return len(loopback.world.site.catalog.flows())

        assert lay_down(kind="drop", next=1, method="POST", path="/flows/flows$", carried_out=True) == 200
        with pytest.raises(globus_sdk.NetworkError):
            flows.create_flow("t", PASS, {})
        assert flows_there() == 2
        lay_down(kind="timeout", next=1, method="POST", path="/flows/flows$", seconds=1)
        with pytest.raises(globus_sdk.GlobusTimeoutError):
            flows.create_flow("t", PASS, {})
        assert flows_there() == 2
        flows.transport.http_timeout = 30
        lay_down(kind="502", fraction=0.5, seed=3, service="flows")
        seen = Counter()
        for _ in range(20):
            try:
                seen[flows.list_flows().http_status] += 1
            except globus_sdk.FlowsAPIError as error:
                seen[error.http_status] += 1
        assert seen[502] > 3
        assert seen[200] > 3
        assert lay_down(kind="nonsense", next=1) == 422
        told_rules = requests.get(f"{loopback.url}control/faults", headers=headers, timeout=10).json()
        assert [rule["struck"] for rule in told_rules["rules"]] == [1, 1, seen[502]]
        requests.delete(f"{loopback.url}control/faults", headers=headers, timeout=10)
        assert flows.list_flows().http_status == 200
        headers = {"Authorization": "Bearer guess"}
        assert lay_down(kind="500", next=1) == 401
