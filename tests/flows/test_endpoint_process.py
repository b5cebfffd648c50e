"""The real globus-compute-endpoint process, unmodified, between a small broker and a small web service."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import globus_sdk
import pytest

from flows.local.compute import registered_functions

pytest.importorskip("globus_compute_endpoint")
pytest.importorskip("pamqp")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the endpoint is for Linux"),
]
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
SOURCE = """
def place(x):
    import os
    return {"queue": os.environ["QUEUE"], "workers": os.environ["PARSL_WORKER_COUNT"], "twice": 2 * x}
"""


@pytest.fixture(scope="module")
def service():
    from tests.flows.compute_service import PORT, ComputeService

    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", PORT)) == 0:
            pytest.skip(f"port {PORT}, where the released SDK looks for a local service, is taken")
    with ComputeService() as running:
        yield running


@pytest.fixture(scope="module")
def endpoint(service, tmp_path_factory):
    """A configured and started endpoint; its id."""
    home = tmp_path_factory.mktemp("endpoint-home")
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
        env=environment, check=True, timeout=60,
    )  # fmt: skip
    process = subprocess.Popen(
        [*run, "start", "testing"], env=environment, stdin=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 60
        while not (service.endpoints and service.reports):
            assert time.monotonic() < deadline, "the endpoint did not register"
            assert process.poll() is None, "the endpoint ended"
            time.sleep(0.05)
        yield next(iter(service.endpoints))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        end(processes_of(home))


def processes_of(home):
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


def end(processes):
    import psutil

    for process in psutil.wait_procs(processes, timeout=30)[1]:
        process.kill()


@pytest.fixture(scope="module")
def client(service):
    from globus_compute_sdk import Client
    from globus_compute_sdk.serialize import JSONData

    return Client(
        local_compute_services=True,
        authorizer=globus_sdk.AccessTokenAuthorizer("token"),
        data_serialization_strategy=JSONData(),
    )


def submit(client, endpoint, function, kwargs, config, count=1):
    batch = client.create_batch(
        user_endpoint_config=config, result_serializers=["globus_compute_sdk.serialize.JSONData"]
    )
    for _ in range(count):
        batch.add(function, kwargs=kwargs)
    return client.batch_run(endpoint, batch)["tasks"][function]


def result(client, task, seconds=120):
    deadline = time.monotonic() + seconds
    while (status := client.get_task(task))["pending"]:
        assert time.monotonic() < deadline, "no result"
        time.sleep(0.1)
    return status["result"]


def test_a_task_goes_through_the_template_and_comes_back(service, client, endpoint):
    assert service.endpoints[endpoint]["endpoint_name"] == "testing"
    function = client.register_source_code(SOURCE, "place")
    (task,) = submit(client, endpoint, function, {"x": 4}, {"queue": "debug", "workers": 2})
    assert result(client, task) == {"queue": "debug", "workers": "2", "twice": 8}
    tasks = submit(client, endpoint, function, {"x": 5}, {"queue": "debug", "workers": 2}, count=20)
    assert [result(client, task)["twice"] for task in tasks] == [10] * 20
    assert len(set(service.started)) == 1


def test_our_registered_functions_run_on_it(client, endpoint):
    probe = next(f for f in registered_functions("functions.entrypoints").values() if f.name == "probe")
    function = client.register_source_code(probe.source, probe.name)
    (task,) = submit(client, endpoint, function, {"task": {}}, {"queue": "debug", "workers": 2})
    found = result(client, task)
    assert (found["step"], found["paths"]["python"]) == ("probe", sys.version.split()[0])


def test_an_error_comes_back_as_its_traceback(client, endpoint):
    from globus_compute_sdk.errors import TaskExecutionFailed

    function = client.register_source_code("def bad(x):\n    raise RuntimeError('tile 3: cut')\n", "bad")
    (task,) = submit(client, endpoint, function, {"x": 1}, {"queue": "debug", "workers": 2})
    with pytest.raises(TaskExecutionFailed, match="RuntimeError: tile 3: cut"):
        result(client, task)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"queue": "debug", "workers": 100}, "100 is greater than the maximum of 4"),
        ({"queue": "debug", "worker_init": "rm -rf /"}, "Additional properties are not allowed"),
        ({}, "'queue' is a required property"),
    ],
    ids=["too many", "unknown", "missing"],
)
def test_options_outside_the_schema_are_refused_and_the_refusal_comes_back(client, endpoint, config, reason):
    from globus_compute_sdk.errors import TaskExecutionFailed

    function = client.register_source_code(SOURCE, "place")
    (task,) = submit(client, endpoint, function, {"x": 4}, config)
    with pytest.raises(TaskExecutionFailed, match=reason):
        result(client, task)
