"""The Compute provider: source text in, JSON out, through any executor."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import pytest

from flows.errors import ActionError
from flows.local.compute import ComputeProvider
from flows.local.engines import PoolEngine, process_pool
from flows.local.process import begun
from flows.local.registered import RegisteredFunction, function_ids, registered_functions
from flows.local.worker import run_packed
from functions.store.cells import Cell
from functions.store.presence import myself

DOUBLE = RegisteredFunction(
    "double", "def double(x):\n    import math\n    return {'y': math.floor(x) * 2}\n"
)
BROKEN = RegisteredFunction("broken", "def broken(x):\n    raise RuntimeError(f'tile {x}: cut; copy it')\n")
NO_JSON = RegisteredFunction("no_json", "def no_json(x):\n    return {1, 2}\n")
HUGE = RegisteredFunction("huge", "def huge(x):\n    return 'x' * (11 << 20)\n")
HELPER = RegisteredFunction("lost", "def lost(x):\n    return helper(x)\n")
WORKER = RegisteredFunction(
    "worker", "def worker(x):\n    import os\n    return [os.getpid(), os.environ.get('OMP_NUM_THREADS')]\n"
)
KILLED = RegisteredFunction(
    "killed",
    "def killed(x):\n    import os, pathlib\n    mark = pathlib.Path(x)\n    if mark.exists():\n"
    "        return 'alive'\n    mark.touch()\n    os._exit(9)\n",
)
NUMBERED = RegisteredFunction(  # waits for the other worker, so that neither does both tasks
    "numbered",
    "def numbered(x):\n    import os, pathlib, time\n    folder = pathlib.Path(x)\n"
    "    (folder / str(os.getpid())).touch()\n    while len(list(folder.iterdir())) < 2:\n"
    "        time.sleep(0.01)\n    from functions.model.workers import worker_number\n"
    "    return worker_number()\n",
)
FUNCTIONS = {f.id: f for f in (DOUBLE, BROKEN, NO_JSON, HUGE, HELPER, WORKER, KILLED, NUMBERED)}


def body(function, *values):
    return {"tasks": [{"function_id": function.id, "kwargs": {"x": value}} for value in values]}


def finish(provider, action_id="a"):
    deadline = time.monotonic() + 300
    while (status := provider.status(action_id)).status == "ACTIVE":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return status


@pytest.fixture
def provider():
    provider = ComputeProvider(FUNCTIONS, new_engine=lambda: PoolEngine(ThreadPoolExecutor(2)))
    yield provider
    provider.close()


def test_results_come_twice_and_in_order(provider):
    provider.start("a", body(DOUBLE, 3, 1.5, 2))
    status = finish(provider)
    assert status.status == "SUCCEEDED"
    assert status.details["result"] == [{"y": 6}, {"y": 2}, {"y": 4}]
    assert [result["output"] for result in status.details["results"]] == status.details["result"]
    assert (status.done, status.total) == (3, 3)


def test_a_second_start_of_the_same_action_does_nothing(provider):
    provider.start("a", body(DOUBLE, 3))
    provider.start("a", body(DOUBLE, 3, 4))
    assert finish(provider).total == 1


@pytest.mark.parametrize(
    ("function", "cause"),
    [
        (BROKEN, "tile 1: cut; copy it"),
        (NO_JSON, "SerializationError"),
        (HUGE, "MaxResultSizeExceeded: Task result of 11534341B exceeded current limit of 10485760B"),
        (HELPER, "NameError: name 'helper' is not defined"),
    ],
)
def test_a_failed_task_fails_the_action_readably(provider, function, cause):
    provider.start("a", {"tasks": body(DOUBLE, 1)["tasks"] + body(function, 1)["tasks"]})
    status = finish(provider)
    assert status.status == "FAILED"
    assert status.cause.startswith(cause)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "at least one task"),
        ({"tasks": []}, "at least one task"),
        ({"tasks": [{"function_id": "x"}]}, r"tasks\[0\]: function_id and kwargs"),
        ({"tasks": [{"function_id": "x", "kwargs": {}}]}, "not registered at this site"),
    ],
)
def test_refuses_bodies(provider, wrong, message):
    with pytest.raises(ActionError, match=message):
        provider.start("a", wrong)


def test_pickles_are_refused():
    from globus_compute_sdk.serialize import ComputeSerializer

    serializer = ComputeSerializer()  # its default data strategy is a pickle
    packed = serializer.pack_buffers(
        [DOUBLE.payload(), serializer.serialize([]), serializer.serialize({"x": 1})]
    )
    assert "disabled by current" in run_packed(packed)


def test_payload_is_what_the_sdk_registers():
    from globus_compute_sdk.serialize import ComputeSerializer, PureSourceTextInspect

    from functions import entrypoints

    functions = {f.name: f for f in registered_functions("functions.entrypoints").values()}
    assert functions["plan"].payload() == ComputeSerializer(PureSourceTextInspect()).serialize(
        entrypoints.plan
    )


def test_ids_follow_the_text():
    ids = function_ids("functions.entrypoints")
    assert set(ids) >= {"plan", "ingest", "stitch", "segment", "publish"}
    assert len(set(ids.values())) == len(ids)
    assert RegisteredFunction("f", "def f(): ...").id != RegisteredFunction("f", "def f(): pass").id


class DyingPool(Executor):
    """An executor that breaks on its first task, like a pool whose worker was killed."""

    def __init__(self, deaths: list[int]) -> None:
        self.deaths = deaths
        self.inner = ThreadPoolExecutor(1)

    def submit(self, fn, /, *args, **kwargs):
        if self.deaths:
            self.deaths.pop()
            future: Future = Future()
            future.set_exception(BrokenProcessPool("a child process terminated abruptly"))
            return future
        return self.inner.submit(fn, *args, **kwargs)

    def shutdown(self, wait=True, *, cancel_futures=False):
        self.inner.shutdown(wait=wait, cancel_futures=cancel_futures)


@pytest.mark.parametrize(("deaths", "status"), [(1, "SUCCEEDED"), (2, "FAILED")])
def test_a_broken_pool_is_replaced_once(deaths, status):
    toll = [0] * deaths
    pools = []

    def new_engine():
        pools.append(DyingPool(toll))
        return PoolEngine(pools[-1])

    provider = ComputeProvider(FUNCTIONS, new_engine=new_engine)
    provider.start("a", body(DOUBLE, 5))
    ended = finish(provider)
    provider.close()
    assert ended.status == status
    assert len(pools) == 2
    assert "died twice" in ended.cause or ended.details["result"] == [{"y": 10}]


@pytest.mark.parametrize(("begun", "status"), [([1, 2, 3], "SUCCEEDED"), ([1, 2, 2], "FAILED")])
def test_lost_workers_are_replaced_as_long_as_they_begin_units(begun, status):
    toll = [0] * 3
    counts = iter(begun)
    provider = ComputeProvider(
        FUNCTIONS, new_engine=lambda: PoolEngine(DyingPool(toll)), begun=lambda: next(counts)
    )
    provider.start("a", body(DOUBLE, 5))
    ended = finish(provider)
    provider.close()
    assert ended.status == status


def test_a_node_that_goes_takes_the_workers_of_several_tasks_and_each_is_replaced_once():
    class Node(Executor):
        """Loses both tasks at the same time, so many times."""

        def __init__(self, times: int) -> None:
            self.left = 2 * times

        def submit(self, fn, /, *args, **kwargs):
            future: Future = Future()
            self.left -= 1
            lost = '{"error": "ManagerLost", "message": "node 7"}'
            future.set_result(lost if self.left >= 0 else fn(*args, **kwargs))
            return future

    for times, status in ((1, "SUCCEEDED"), (2, "FAILED")):
        engine = PoolEngine(Node(times))
        provider = ComputeProvider(FUNCTIONS, new_engine=lambda engine=engine: engine)
        provider.start("a", body(DOUBLE, 5, 6))
        ended = finish(provider)
        assert (ended.status, ended.cause) == (status, "" if status == "SUCCEEDED" else "node 7")


def test_real_workers_have_one_thread_survive_a_death_and_end_with_close(tmp_path):
    provider = ComputeProvider(FUNCTIONS, new_engine=lambda: process_pool(1))
    provider.start("k", body(KILLED, str(tmp_path / "mark")))
    assert finish(provider, "k").details["result"] == ["alive"]
    provider.start("w", body(WORKER, 1))
    ((pid, threads),) = finish(provider, "w").details["result"]
    assert threads == "1"
    assert pid != os.getpid()
    provider.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_real_workers_are_numbered_so_that_each_can_choose_its_accelerator(tmp_path):
    provider = ComputeProvider(FUNCTIONS, new_engine=lambda: process_pool(2))
    provider.start("n", body(NUMBERED, str(tmp_path), str(tmp_path)))
    assert sorted(finish(provider, "n").details["result"]) == [0, 1]
    provider.close()


def test_cancel_drops_what_is_queued():
    gate = threading.Event()

    class Slow(ThreadPoolExecutor):
        def submit(self, fn, /, *args, **kwargs):
            return super().submit(lambda: (gate.wait(10), fn(*args, **kwargs))[1])

    provider = ComputeProvider(FUNCTIONS, new_engine=lambda: PoolEngine(Slow(1)))
    provider.start("a", body(DOUBLE, *range(5)))
    gate.set()
    provider.cancel("a")
    assert provider.status("a").done < 5


def test_a_step_of_one_unit_is_not_begun_for_ever(tmp_path):
    """No attempt at it is ever the last: only units of planned steps are put aside."""
    body = {"input": {"run": {"work": str(tmp_path), "acquisition": "any"}}}
    Cell(tmp_path / "align_solve" / "key").ledger.single("all").take_next(myself()).begin("all")
    assert begun(body) == 0
    ledger = Cell(tmp_path / "segment" / "key").ledger
    ledger.number(["u"], size=1)
    claim = ledger.lot(0).take_next(myself())
    before = begun(body)
    claim.begin("u")
    assert begun(body) > before > 0
