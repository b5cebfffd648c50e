"""Real engines, here and through Slurm and PBS Pro, publish the bytes that the process pool publishes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from flows.inputs import RunRequest
from flows.records import RunStatus
from flows.run import Runs
from flows.site import local_site
from functions.model.parameters import Parameters
from tests.benchmarks.phantom_stack import parameters_of, write_stack
from tests.e2e.site import tree_digest
from tests.e2e.worlds import SMALL, write_small_acquisition
from tests.flows.batch import FakePbs, FakeSlurm

pytest.importorskip("globus_compute_endpoint")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the engine is for Linux"),
]


def published(home: Path, acquisition: Path, parameters: str = SMALL, **engine: str) -> dict[str, str]:
    """Digests of the published volume's files."""
    site = local_site(home, workers=2).model_copy(update=engine)
    request = RunRequest(source=str(acquisition), parameters=Parameters.model_validate_json(parameters))
    run = Runs(site, home=home).start(request, wait=True)
    assert (run.status, run.error) == (RunStatus.SUCCEEDED, None)
    assert run.published_path
    return tree_digest(Path(run.published_path) / "volume.zarr")


def test_the_engines_publish_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    acquisition = write_small_acquisition(tmp_path)
    pool = published(tmp_path / "pool", acquisition)
    assert len(pool) > 20
    assert published(tmp_path / "local", acquisition, engine="globus-compute") == pool

    slurm = FakeSlurm.write(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{slurm.root / 'bin'}:{os.environ['PATH']}")
    config = tmp_path / "engine.yaml"
    config.write_text(slurm.engine_config())
    through_slurm = published(
        tmp_path / "cluster", acquisition, engine="globus-compute", engine_config=str(config)
    )
    assert through_slurm == pool
    assert slurm.calls("sbatch")


def test_parsl_publishes_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    subvolume, overlap = (20, 32, 32), (4, 8, 8)
    stack = write_stack(
        tmp_path, "stack", counts_zyx=(1, 3, 3), subvolume_zyx_px=subvolume, overlap_zyx_px=overlap
    )
    parameters = parameters_of(subvolume, overlap).model_dump_json()
    pool = published(tmp_path / "pool", stack, parameters)
    assert len(pool) > 20
    assert published(tmp_path / "local", stack, parameters, engine="parsl") == pool

    pbs = FakePbs.write(tmp_path / "pbs")
    monkeypatch.setenv("PATH", f"{pbs.root / 'bin'}:{os.environ['PATH']}")
    config = tmp_path / "engine.yaml"
    config.write_text(pbs.engine_config())
    through_pbs = published(
        tmp_path / "cluster", stack, parameters, engine="parsl", engine_config=str(config)
    )
    assert through_pbs == pool
    assert pbs.calls("qsub")
    assert len(pbs.calls("qdel")) == len(pbs.calls("qsub"))
