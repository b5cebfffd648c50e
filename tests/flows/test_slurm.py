"""The real SlurmProvider on a Slurm of shell scripts: from zero blocks to results, and back to zero."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from flows.local.compute import ComputeProvider
from flows.local.registered import RegisteredFunction
from flows.records import RunStatus
from flows.run import Runs
from flows.site import local_site
from tests.flows.batch import FakeSlurm
from tests.flows.sites import filled_site
from tests.flows.test_endpoint import rendered
from tests.flows.test_run import ask, counts

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the engine is for Linux"),
]
ROOT = Path(__file__).parents[2]
PLACE = RegisteredFunction(
    "place",
    "def place(x):\n    import os\n    return {k: os.environ.get(k) for k in"
    " ('SLURM_JOB_ID', 'MODULES', 'CUDA_VISIBLE_DEVICES', 'ZE_AFFINITY_MASK')}\n",
)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    fake = FakeSlurm.write(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{fake.root / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield fake
    wait_until(lambda: fake.running() == [], seconds=10)


def wait_until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_blocks_come_with_work_and_go_when_idle(slurm, tmp_path):
    from flows.local.globus_engine import GlobusEngine

    config = tmp_path / "engine.yaml"
    config.write_text(slurm.engine_config(available_accelerators=2))
    engine = GlobusEngine(tmp_path / "logs", workers=1, config=config)
    provider = ComputeProvider({PLACE.id: PLACE}, new_engine=lambda: engine)

    def run(action):
        task = {"function_id": PLACE.id, "kwargs": {"x": 1}}
        provider.start(action, {"tasks": [task, task]})
        wait_until(lambda: provider.status(action).status != "ACTIVE")
        status = provider.status(action)
        assert status.status == "SUCCEEDED", status.cause
        return status.details["result"]

    try:
        time.sleep(2.5)
        assert slurm.calls("sbatch") == []
        found = run("first")
        assert {place["SLURM_JOB_ID"] for place in found} == {"1"}
        assert {place["MODULES"] for place in found} == {"loaded"}
        assert all(place["CUDA_VISIBLE_DEVICES"] in ("0", "1") for place in found)
        assert all(place["ZE_AFFINITY_MASK"] == place["CUDA_VISIBLE_DEVICES"] for place in found)
        script = (slurm.root / "jobs/1/script").read_text()
        assert "#SBATCH --partition=gpu" in script
        assert "#SBATCH --account=m1234" in script
        assert "srun --ntasks 1 -l --gpus-per-node 2 bash" in script
        wait_until(lambda: slurm.calls("scancel") == ["1"])
        wait_until(lambda: slurm.running() == [])
        assert {place["SLURM_JOB_ID"] for place in run("second")} == {"2"}
    finally:
        provider.close()
    assert slurm.calls("scancel") == ["1", "2"]


def test_the_shipped_template_for_slurm_runs_tasks(slurm, tmp_path):
    from flows.local.globus_engine import GlobusEngine

    environment = sys.prefix
    if not (Path(environment) / "bin/activate").exists():
        pytest.skip("the tests do not run in a virtual environment")
    site = filled_site(tmp_path, "slurm-gpu")
    compute = site.compute.model_copy(update={"environment": environment})
    asked = {"account": "m1234", "queue": "gpu", "workers_per_node": 2, "accelerators": 2}
    code, text = rendered(tmp_path / "files", site.model_copy(update={"compute": compute}), asked)
    assert code == 0, text
    # no network here, and no minute to wait for
    text = text.replace("engine:\n", "engine:\n  address: 127.0.0.1\n").replace("period: 60", "period: 1")
    (tmp_path / "engine.yaml").write_text(text)
    engine = GlobusEngine(tmp_path / "logs", workers=1, config=tmp_path / "engine.yaml")
    provider = ComputeProvider({PLACE.id: PLACE}, new_engine=lambda: engine)
    try:
        provider.start("a", {"tasks": [{"function_id": PLACE.id, "kwargs": {"x": 1}}]})
        wait_until(lambda: provider.status("a").status != "ACTIVE")
        ((place,), cause) = provider.status("a").details["result"], provider.status("a").cause
    finally:
        provider.close()
    assert (place["SLURM_JOB_ID"], cause) == ("1", "")
    assert place["CUDA_VISIBLE_DEVICES"] in ("0", "1")
    script = (slurm.root / "jobs/1/script").read_text()
    for option in ("--gpus-per-node=2", "--partition=gpu", "--account=m1234", "--exclusive"):
        assert f"#SBATCH {option}\n" in script
    assert f"source {environment}/bin/activate || exit 1\n" in script


def test_from_zero_blocks_to_a_published_volume(slurm, tmp_path):
    source = tmp_path / "acq"
    source.mkdir()
    (source / "a.tif").write_bytes(b"a" * 100)
    config = tmp_path / "engine.yaml"
    config.write_text(slurm.engine_config())
    home = tmp_path / "home"
    site = local_site(home, entry_points="tests.flows.fake_steps").model_copy(
        update={"engine": "globus-compute", "engine_config": str(config)}
    )
    runs = Runs(site, home=home)
    run = runs.start(ask(source), wait=True)
    assert (run.status, run.error) == (RunStatus.SUCCEEDED, None)
    assert len(json.loads((Path(run.published_path) / "search.json").read_text())) == 48
    assert set(counts(run).values()) == {1}
    assert slurm.calls("sbatch")
    assert len(slurm.calls("scancel")) == len(slurm.calls("sbatch"))


def test_a_bad_worker_init_ends_the_run_instead_of_submitting_for_ever(slurm, tmp_path):
    source = tmp_path / "acq"
    source.mkdir()
    config = tmp_path / "engine.yaml"
    bad = slurm.engine_config().replace(
        "MODULES=loaded", "; source /no/such/environment/bin/activate; exit 3"
    )
    config.write_text(bad)
    home = tmp_path / "home"
    site = local_site(home, entry_points="tests.flows.fake_steps").model_copy(
        update={"engine": "globus-compute", "engine_config": str(config)}
    )
    run = Runs(site, home=home).start(ask(source, stop_after="ingest"), wait=True)
    assert run.status is RunStatus.FAILED
    assert "/no/such/environment/bin/activate: No such file or directory" in run.error
    assert len(slurm.calls("sbatch")) <= 3
