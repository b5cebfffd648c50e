"""The real globus-compute-endpoint process, unmodified, between a small broker and a small web service."""

from __future__ import annotations

import sys
import time

import pytest

from flows.local.registered import registered_functions
from tests.flows import endpoint_process

pytest.importorskip("globus_compute_endpoint")
pytest.importorskip("pamqp")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the endpoint is for Linux"),
]
SOURCE = """
def place(x):
    import os
    return {"queue": os.environ["QUEUE"], "workers": os.environ["PARSL_WORKER_COUNT"], "twice": 2 * x}
"""


@pytest.fixture(scope="module")
def service():
    with endpoint_process.service() as running:
        yield running


@pytest.fixture(scope="module")
def endpoint(service, tmp_path_factory):
    """A configured and started endpoint; its id."""
    with endpoint_process.endpoint(service, tmp_path_factory.mktemp("endpoint-home")) as id_:
        yield id_


@pytest.fixture(scope="module")
def client(service):
    return endpoint_process.new_client()


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
