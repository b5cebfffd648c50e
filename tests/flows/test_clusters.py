"""Parsl on the shipped templates of clusters, rendered from a profile: Slurm and PBS Pro of shell scripts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from flows.local.engine_config import read_config
from flows.local.registered import RegisteredFunction
from tests.flows.batch import FakePbs, FakeSlurm
from tests.flows.engine_kinds import ROOT, needs
from tests.flows.sites import filled_profile
from tests.flows.test_run import wait_until

pytestmark = [pytest.mark.slow, needs("parsl")]
PLACE = RegisteredFunction(
    "place",
    "def place(folder):\n    import os, pathlib, time\n"
    "    (pathlib.Path(folder) / os.environ['PARSL_WORKER_RANK']).touch()\n"
    "    while len(list(pathlib.Path(folder).iterdir())) < 4:\n        time.sleep(0.05)\n"
    "    names = ('PARSL_WORKER_RANK', 'CUDA_VISIBLE_DEVICES', 'SLURM_JOB_ID', 'PBS_JOBID')\n"
    "    return {name: os.environ[name] for name in names if name in os.environ}\n",
)
"""Waits until four workers are at it, so that each does one."""
CLUSTERS = {
    "slurm-gpu": (
        FakeSlurm,
        {"SLURM_JOB_ID": "1"},
        [
            "#SBATCH --gpus-per-node=2",
            "#SBATCH --partition=gpu",
            "#SBATCH --account=m1234",
            "#SBATCH --exclusive",
        ],
    ),
    "polaris": (
        FakePbs,
        {"PBS_JOBID": "1.fake"},
        ["#PBS -l select=1:ncpus=64:ngpus=4", "#PBS -l walltime=03:00:00", "#PBS -l filesystems=home:eagle"],
    ),
}


@pytest.mark.parametrize("ready_made", CLUSTERS)
def test_two_workers_a_gpu_through_the_shipped_template(ready_made, tmp_path, monkeypatch):
    from flows.local.parsl_engine import ParslEngine

    if not (Path(sys.prefix) / "bin/activate").exists():
        pytest.skip("the tests do not run in a virtual environment")
    kind, job, options = CLUSTERS[ready_made]
    cluster = kind.write(tmp_path / "cluster")
    monkeypatch.setenv("PATH", f"{cluster.root / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    path = filled_profile(
        tmp_path, ready_made,
        environment=f'"{sys.prefix}"', account='"m1234"', queue='"gpu"', nodes="1",
        workers_per_node="4", accelerators="2",
    )  # fmt: skip
    text = read_config(path)
    for there, here in (
        ("address: {type: address_by_interface, ifname: bond0}", "address: 127.0.0.1"),
        ("cpu_affinity: list:24-31,56-63:16-23,48-55:8-15,40-47:0-7,32-39", "cpu_affinity: none"),
        ("cpu_affinity: block", "cpu_affinity: none"),  # four workers, and this machine may have two cores
        ("strategy_period: 60", "strategy_period: 1"),
        ("engine:\n", "engine:\n  cores_per_worker: 0.01\n"),
    ):
        text = text.replace(there, here)
    if "address:" not in text:
        text = text.replace("engine:\n", "engine:\n  address: 127.0.0.1\n")
    (tmp_path / "engine.yaml").write_text(text)
    (tmp_path / "workers").mkdir()
    with ParslEngine(tmp_path / "logs", workers=1, config=tmp_path / "engine.yaml") as engine:
        asked = [engine.submit(PLACE, str(tmp_path / "workers")) for _ in range(4)]
        found = [answer.result(timeout=120) for answer in asked]
    devices = {place["PARSL_WORKER_RANK"]: place["CUDA_VISIBLE_DEVICES"] for place in found}
    assert devices == {"0": "0", "1": "0", "2": "1", "3": "1"}
    assert all(job.items() <= place.items() for place in found)
    script = (cluster.root / "jobs/1/script").read_text().splitlines()
    assert [option for option in options if option not in script] == []
    assert cluster.calls(cluster.cancel) == list(job.values())
    wait_until(lambda: cluster.running() == [], seconds=10)
