"""The shipped Slurm template under the real engine, on a Slurm of scripts: the doctor probes it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import responses
from requests import PreparedRequest

from flows.deploy import Deployer
from flows.doctor import Visit, examine
from flows.endpoint import TEMPLATE, endpoint_files
from flows.local.registered import registered_functions
from tests.flows.batch import FakeSlurm
from tests.flows.doctor_fake import TASK, FakeSite
from tests.flows.globus_fake import Answer, answer, service
from tests.flows.sites import filled_site

pytest.importorskip("globus_compute_endpoint")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the engine is for Linux"),
    # parsl leaves the socket open with which it asks for an interface's address
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
ROOT = Path(__file__).parents[2]
OPTIONS = {"account": "m1234", "queue": "gpu", "workers_per_node": 1, "accelerators": 0}


@dataclass
class EngineSite(FakeSite):
    """A site whose tasks go to a real engine."""

    engine: Any = None
    future: Future[str] | None = None

    def _submit(self, request: PreparedRequest) -> Answer:
        reply = super()._submit(request)
        ((function, (packed,)),) = self.submitted["tasks"].items()
        (known,) = [f for f in registered_functions("functions.entrypoints").values() if f.name == "probe"]
        from globus_compute_sdk.serialize import ComputeSerializer

        assert self.functions[function]["function_code"] == known.source
        serializer = ComputeSerializer()
        arguments = serializer.unpack_buffers(packed)
        self.future = self.engine.submit_packed(serializer.pack_buffers([known.payload(), *arguments]))
        return reply

    def _status(self, request: PreparedRequest) -> Answer:
        report = self.engine._engine.get_status_report().global_state
        return answer({"status": "online", "details": report})

    def _task(self, request: PreparedRequest) -> Answer:
        import json

        from globus_compute_sdk.serialize import ComputeSerializer, JSONData

        assert self.future is not None
        if not self.future.done():
            return answer({"task_id": TASK, "status": "waiting-for-nodes"})
        outcome = json.loads(self.future.result())
        if "error" in outcome:
            text = f"{outcome['error']}: {outcome['message']}"
            return answer({"task_id": TASK, "status": "failed", "exception": text})
        result = ComputeSerializer(strategy_data=JSONData()).serialize(outcome["output"])
        return answer({"task_id": TASK, "status": "success", "result": result})


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> FakeSlurm:
    fake = FakeSlurm.write(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{fake.root / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return fake


@pytest.fixture
def examined(tmp_path, slurm) -> Iterator[Any]:
    """Examine a site whose workers' environment is given: the findings by check."""
    from flows.local.globus_engine import GlobusEngine
    from tests.flows.test_endpoint import rendered

    made: list[GlobusEngine] = []

    def examine_with(environment: str) -> dict[str, Any]:
        site = filled_site(tmp_path / "home", "slurm-gpu")
        for place in ("instrument", "scratch", "publication"):
            (tmp_path / place).mkdir()
            folder = getattr(site, place).model_copy(update={"base_path": str(tmp_path / place)})
            site = site.model_copy(update={place: folder})
        compute = site.compute.model_copy(
            update={"environment": environment, "user_endpoint_config": OPTIONS}
        )
        site = site.model_copy(update={"compute": compute})
        code, text = rendered(tmp_path / "endpoint", site)
        assert code == 0, text
        assert environment in endpoint_files("lab", compute.model_dump(), allowed=[])[TEMPLATE]
        config = tmp_path / "engine.yaml"
        config.write_text(text.replace("strategy_period: 60", "strategy_period: 1"))
        made.append(GlobusEngine(tmp_path / "logs", workers=1, config=config))
        fake = EngineSite(site=site, engine=made[0])
        with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
            fake.install(mock)
            lock = Deployer(site=site, service=service(), path=tmp_path / "lab.lock.json").deploy()
            visit = Visit(site=site, lock=lock, service=service(), limit_s=150)
            return {finding.check: finding for finding in examine(visit)}

    yield examine_with
    for engine in made:
        engine.close(at_once=True)


def test_workers_of_the_template_answer_the_probe(examined, slurm, tmp_path):
    found = examined(sys.prefix)
    assert found["worker"].status == "ok", found["worker"]
    assert found["versions"].status == "ok", found["versions"]
    assert found["paths"].message == f"the worker sees / as {tmp_path / 'scratch'}"
    assert len(slurm.calls("sbatch")) == 1


def test_a_broken_worker_init_is_found_after_one_job(examined, slurm):
    found = examined("/opt/petavoxel/no-such-environment")
    finding = found["worker"]
    assert finding.status == "failed"
    assert "every job ended before a worker came" in finding.message
    assert "/opt/petavoxel/no-such-environment/bin/activate: No such file or directory" in finding.message
    assert "worker_init" in finding.remedy
    assert "daemon.pid" in finding.remedy
    assert len(slurm.calls("sbatch")) == 1
    assert found["removed"].status == "ok"
