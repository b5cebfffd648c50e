"""The flow over HTTP, by clients of globus-sdk that know an address and a secret: the same bytes come out."""

from __future__ import annotations

from pathlib import Path

import globus_sdk
import pytest

from flows.definition import OPTIONAL
from flows.inputs import RunRequest
from flows.local.builtin import FLOW_ID
from flows.local.registered import function_ids
from flows.records import RunStatus, StepStatus
from flows.run import Runs
from flows.service import Service, start_retries
from flows.site import EngineName, local_site
from functions.model.parameters import Parameters
from tests.e2e.site import tree_digest
from tests.e2e.worlds import SMALL, write_small_acquisition
from tests.flows.loopback import client_app, served

ROOT = Path(__file__).parents[2]
ENTRY_POINTS = "functions.entrypoints"


@pytest.mark.parametrize("engine", [None, pytest.param("globus-compute", marks=pytest.mark.slow)])
def test_over_http_the_published_volume_is_the_same_to_the_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: EngineName | None
) -> None:
    if engine is not None:
        pytest.importorskip("globus_compute_endpoint")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    asked = RunRequest(
        source=str(write_small_acquisition(tmp_path)), parameters=Parameters.model_validate_json(SMALL)
    )
    here = Runs(local_site(tmp_path / "here", workers=1), home=tmp_path / "here").start(asked, wait=True)
    assert here.published_path is not None

    with served(tmp_path / "served", entry_points=ENTRY_POINTS, engine=engine) as loopback:
        for name, value in loopback.variables.items():
            monkeypatch.setenv(name, value)
        app = client_app(loopback)
        service = Service(
            flows=globus_sdk.FlowsClient(app=app),
            flow=lambda id_: globus_sdk.SpecificFlowClient(id_, app=app, retry_config=start_retries()),
            transfer=globus_sdk.TransferClient(app=app),
            search=globus_sdk.SearchClient(app=app),
            compute=globus_sdk.ComputeClientV3(app=app),
            compute_v2=globus_sdk.ComputeClientV2(app=app),
        )
        compute = loopback.site.compute.model_copy(update={"functions": function_ids(ENTRY_POINTS)})
        lab = loopback.site.model_copy(update={"name": "lab", "compute": compute})
        runs = Runs(lab, home=tmp_path / "nowhere", service=service, flow_id=FLOW_ID)
        run = runs.start(asked)
        last = list(runs.follow(run.id, poll_seconds=1.0))[-1]
        assert (last.run.status, last.run.error) == (RunStatus.SUCCEEDED, None)
        statuses = {step.name: step.status for step in runs.show(run.id)[1]}
        assert {statuses.pop(step) for step in OPTIONAL} == {StepStatus.SKIPPED}
        assert set(statuses.values()) <= {StepStatus.SUCCEEDED, StepStatus.LOOK}
        assert last.run.published_path is not None
        subject = service.search.search(lab.search_index, "*")["gmeta"][0]["subject"]
        assert subject.endswith(run.id)
        listing = service.transfer.operation_ls(lab.publication.id, path=f"/small/{run.id}")
        assert {"volume.zarr", "report.html"} <= {entry["name"] for entry in listing}
    volume = "volume.zarr"
    assert tree_digest(Path(last.run.published_path) / volume) == tree_digest(
        Path(here.published_path) / volume
    )
