"""Every kind of engine, set up so that the same tests run over all of them."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows.local.compute import ComputeProvider
from flows.local.engines import Engine, new_engine
from flows.local.interchange import is_alive
from flows.local.registered import RegisteredFunction
from flows.site import Site, local_site
from tests.flows import endpoint_process
from tests.flows.batch import FakeBatch, FakePbs, FakeSlurm

ROOT = Path(__file__).parents[2]


def needs(*modules: str) -> pytest.MarkDecorator:
    """Skip where the engine is not for, or not installed."""
    missing = sys.platform != "linux" or any(importlib.util.find_spec(m) is None for m in modules)
    return pytest.mark.skipif(missing, reason=f"needs Linux and {', '.join(modules)}")


KINDS = [
    "process-pool",
    pytest.param("parsl", marks=[needs("parsl"), pytest.mark.slow]),
    pytest.param("parsl-slurm", marks=[needs("parsl"), pytest.mark.slow]),
    pytest.param("parsl-pbs", marks=[needs("parsl"), pytest.mark.slow]),
    pytest.param("globus-compute", marks=[needs("globus_compute_endpoint"), pytest.mark.slow]),
    pytest.param("compute-endpoint", marks=[needs("globus_compute_endpoint", "pamqp"), pytest.mark.slow]),
]
"""`parsl-slurm` and `parsl-pbs` are the engine `parsl` on a Slurm and a PBS Pro of shell scripts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of engine in a folder of its own: makes engines, and says what they left behind."""

    name: str
    folder: Path
    new_engine: Callable[[], Engine]
    cluster: FakeBatch | None = None

    def provider(self, functions: dict[str, RegisteredFunction]) -> ComputeProvider:
        """A Compute provider over it."""
        return ComputeProvider(functions, new_engine=self.new_engine)

    def left_behind(self) -> list[str]:
        """Processes on a leash and jobs that still live."""
        alive = [f"pid {pid}" for pid in leashes(self.folder) if is_alive(pid)]
        return alive + [f"job {job}" for job in (self.cluster.running() if self.cluster else [])]


@contextmanager
def kind_of(name: str, folder: Path, *, workers: int) -> Iterator[Kind]:
    """Set up what a kind needs: commands on PATH, a service and an endpoint; taken down afterwards."""
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
        if name == "compute-endpoint":
            yield _endpoint(stack, folder, workers=workers)
            return
        engine, _, system = name.partition("-") if name.startswith("parsl") else (name, "", "")
        site = local_site(folder, workers=workers).model_copy(update={"engine": engine})
        cluster = None
        if system:
            cluster = (FakeSlurm if system == "slurm" else FakePbs).write(folder / system)
            patch.setenv("PATH", f"{cluster.root / 'bin'}:{os.environ['PATH']}")
            site = with_cluster(site, cluster, folder / "engine.yaml", workers=workers)
        yield Kind(
            name=name,
            folder=folder,
            new_engine=lambda: new_engine(site, folder / "logs"),
            cluster=cluster,
        )


def with_cluster(site: Site, cluster: FakeBatch, config: Path, *, workers: int) -> Site:
    """The site with its engine's workers on a cluster."""
    config.write_text(cluster.engine_config(max_workers_per_node=workers, cores_per_worker=0.01))
    return site.model_copy(update={"engine_config": str(config)})


def _endpoint(stack: ExitStack, folder: Path, *, workers: int) -> Kind:
    from flows.local.endpoint_engine import EndpointEngine

    home = folder / "endpoint-home"
    home.mkdir()
    service = stack.enter_context(endpoint_process.service())
    endpoint = stack.enter_context(endpoint_process.endpoint(service, home))

    def new() -> Engine:
        return EndpointEngine(
            endpoint_process.new_client(),
            endpoint,
            options={"queue": "debug", "workers": workers},
            registered={},
        )

    return Kind(name="compute-endpoint", folder=folder, new_engine=new)


def leashes(folder: Path) -> list[int]:
    """Process ids of the leashes that engines under a folder have had."""
    return [int(line) for lease in folder.rglob("lease") for line in lease.read_text().split()]
