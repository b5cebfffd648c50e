"""The watcher over unmodified clients of globus-sdk and a loopback Globus that fails a fifth of its calls."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import globus_sdk
import pytest

from flows.local.http.faults import Rule
from flows.run import Runs
from flows.service import Service, start_retries
from flows.site import Site
from flows.watch.starting import RunsStarter
from functions.testing.microscopes import Script, faults_of
from tests.flows.loopback import client_app, served
from tests.flows.watching import World

ROOT = Path(__file__).parents[2]
PASS = {"StartAt": "a", "States": {"a": {"Type": "Pass", "End": True}}}
SHARE = 0.025
HTTP_SECONDS = 2.0
FAILURES = [
    {"kind": "429", "seconds": 0.0},
    {"kind": "500"},
    {"kind": "502"},
    {"kind": "drop"},
    {"kind": "drop", "carried_out": True},
    {"kind": "timeout", "carried_out": True, "seconds": HTTP_SECONDS + 0.5},
    {"kind": "slow", "seconds": HTTP_SECONDS + 0.2},
    {"kind": "expire"},
]


@pytest.fixture
def loopback(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with served(tmp_path / "site") as found:
        for name, value in found.variables.items():
            monkeypatch.setenv(name, value)
        yield found


def service_of(loopback) -> Service:
    app = client_app(loopback)
    clients = {
        "flows": globus_sdk.FlowsClient(app=app),
        "transfer": globus_sdk.TransferClient(app=app),
        "search": globus_sdk.SearchClient(app=app),
        "compute": globus_sdk.ComputeClientV3(app=app),
        "compute_v2": globus_sdk.ComputeClientV2(app=app),
    }
    flow: dict[str, globus_sdk.SpecificFlowClient] = {}

    def client(flow_id: str) -> globus_sdk.SpecificFlowClient:
        if flow_id not in flow:
            flow[flow_id] = globus_sdk.SpecificFlowClient(flow_id, app=app, retry_config=start_retries())
            flow[flow_id].transport.http_timeout = HTTP_SECONDS
        return flow[flow_id]

    clients["flows"].transport.http_timeout = HTTP_SECONDS
    return Service(flow=client, **clients)


def test_each_section_version_is_started_once(loopback, tmp_path):
    from flows.local.registered import function_ids

    service = service_of(loopback)
    flow_id = service.flows.create_flow("watched", PASS, {})["id"]
    ids = function_ids(loopback.site.entry_points)
    compute = loopback.site.compute.model_copy(update={"functions": ids})
    site = Site.parse(
        loopback.site.model_copy(update={"name": "remote", "compute": compute}).model_dump(), source="site"
    )
    world = World(tmp_path)
    runs = Runs(site, home=tmp_path / "site", service=service, flow_id=flow_id)
    world.starter = RunsStarter(runs, mark="watch:0123abcd")
    world.again()
    for seed, failure in enumerate(FAILURES):
        loopback.world.faults.add(Rule(fraction=SHARE, seed=seed, service="flows", **failure))
    script = Script(sections=5, tile_px=8, faults=faults_of("sbemimage"), seed=2)
    truth = world.acquire("sbemimage", script, crash_every=10)
    versions = sum(map(len, truth.states.values()))
    for _ in range(60):
        world.rest(40, every=20)
        if len(world.ledger.starts("ended")) == versions:
            break
    struck = {str(told["kind"]): told["struck"] for told in loopback.world.faults.told()}
    loopback.world.faults.clear()
    tags = Counter(
        tag
        for run in service.flows.paginated.list_runs(filter_flow_id=flow_id).items()
        for tag in run["tags"]
        if tag.startswith("section-version")
    )
    expected = {
        f"section-version:stack:{z}:{version}"
        for z, states in truth.states.items()
        for version in range(1, len(states) + 1)
    }
    assert tags == dict.fromkeys(expected, 1)
    assert sum(struck.values()) > 0
