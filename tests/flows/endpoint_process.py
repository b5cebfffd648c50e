"""The real globus-compute-endpoint process, unmodified, between a small broker and a small web service."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import globus_sdk
import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
TEMPLATE = """
local_compute_services: true
heartbeat_period: 5
engine:
  type: GlobusComputeEngine
  address: 127.0.0.1
  max_workers_per_node: {{ workers|default(1) }}
  cores_per_worker: 0.1
  max_retries_on_system_failure: 1
  heartbeat_period: 2
  allowed_serializers:
    - globus_compute_sdk.serialize.PureSourceTextInspect
    - globus_compute_sdk.serialize.JSONData
  job_status_kwargs: {strategy_period: 1}
  provider:
    type: LocalProvider
    init_blocks: 1
    min_blocks: 1
    max_blocks: 1
    worker_init: export QUEUE={{ queue }}
"""
SCHEMA = """
{
  "type": "object",
  "properties": {"queue": {"type": "string"}, "workers": {"type": "integer", "minimum": 1, "maximum": 4}},
  "required": ["queue"],
  "additionalProperties": false
}
"""


@contextmanager
def service() -> Iterator[Any]:
    """The web service and its broker, where the released SDK looks for a local one."""
    from tests.flows.compute_service import PORT, ComputeService

    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", PORT)) == 0:
            pytest.skip(f"port {PORT}, where the released SDK looks for a local service, is taken")
    with ComputeService() as running:
        yield running


@contextmanager
def endpoint(running: Any, home: Path) -> Iterator[str]:
    """A configured and started endpoint in `home`; its id. No process of it is left behind."""
    environment = os.environ | {
        "HOME": str(home),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "GLOBUS_COMPUTE_USER_DIR": str(home / ".globus_compute"),
        "GLOBUS_COMPUTE_CLIENT_ID": "0a0e6b5e-4a5b-4a66-8d27-43cf3c3a21e2",
        "GLOBUS_COMPUTE_CLIENT_SECRET": "for this test alone",
        "GLOBUS_SDK_SERVICE_URL_AUTH": "http://localhost:5000/",
    }
    # a privileged endpoint serves many users; in a name space of its own even root is nobody in particular
    nobody = ["unshare", "-U"] if os.getuid() == 0 else []
    run = [*nobody, "globus-compute-endpoint"]
    (home / "config.yaml").write_text("local_compute_services: true\nheartbeat_period: 5\n")
    (home / "template.yaml.j2").write_text(TEMPLATE)
    (home / "schema.json").write_text(SCHEMA)
    subprocess.run(
        [*run, "configure", "testing", "--core-config", home / "config.yaml",
         "--template-config", home / "template.yaml.j2", "--schema-config", home / "schema.json"],
        env=environment, check=True, timeout=60, stdout=2,
    )  # fmt: skip
    process = subprocess.Popen(
        [*run, "start", "testing"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=2,  # standard output is for a benchmark's document
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not (running.endpoints and running.reports):
            assert time.monotonic() < deadline, "the endpoint did not register"
            assert process.poll() is None, "the endpoint ended"
            time.sleep(0.05)
        yield next(iter(running.endpoints))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        end(processes_of(home))


def processes_of(home: Path) -> list[Any]:
    """User endpoints and workers: they name the endpoint's folder, and end once its process is gone."""
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            named = str(home) in " ".join(process.cmdline()) or process.environ().get("HOME") == str(home)
        except psutil.Error:
            continue
        if named:
            found.append(process)
    return found


def end(processes: list[Any]) -> None:
    """Wait for their end, and kill those that do not come to one."""
    import psutil

    for process in psutil.wait_procs(processes, timeout=30)[1]:
        process.kill()


def new_client() -> Any:
    """A client of that web service."""
    from globus_compute_sdk import Client
    from globus_compute_sdk.serialize import JSONData

    return Client(
        local_compute_services=True,
        authorizer=globus_sdk.AccessTokenAuthorizer("token"),
        data_serialization_strategy=JSONData(),
    )
