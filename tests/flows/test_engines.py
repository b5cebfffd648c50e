"""The same tests over every kind of engine: answers, errors, lost workers, workers' numbers, no leftovers."""

from __future__ import annotations

import os
from concurrent import futures
from concurrent.futures import Executor
from pathlib import Path

import pytest

from flows.errors import RemoteError
from flows.local.registered import RegisteredFunction
from tests.flows.engine_kinds import KINDS, kind_of
from tests.flows.test_compute import (
    BROKEN,
    DOUBLE,
    HELPER,
    HUGE,
    KILLED,
    NO_JSON,
    NUMBERED,
    WORKER,
    body,
    finish,
)
from tests.flows.test_run import gone, wait_until

CHAINED = RegisteredFunction(
    "chained",
    "def chained(x):\n    try:\n        int(x)\n    except ValueError as error:\n"
    "        raise RuntimeError('tiles.csv: row 17:\\n  no number') from error\n",
)
NAMELESS = RegisteredFunction("nameless", "def nameless(x):\n    raise StopIteration\n")
DEADLY = RegisteredFunction("deadly", "def deadly(x):\n    import os\n    os._exit(9)\n")
SLOW = RegisteredFunction(
    "slow",
    "def slow(x):\n    import os, pathlib, time\n    path = pathlib.Path(x)\n"
    "    path.with_suffix('.new').write_text(str(os.getpid()))\n"
    "    path.with_suffix('.new').rename(path)\n"
    "    while not path.with_suffix('.go').exists():\n        time.sleep(0.05)\n    return 'went'\n",
)
FUNCTIONS = {
    f.id: f
    for f in (
        DOUBLE,
        BROKEN,
        NO_JSON,
        HUGE,
        HELPER,
        WORKER,
        KILLED,
        NUMBERED,
        CHAINED,
        NAMELESS,
        DEADLY,
        SLOW,
    )
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request, tmp_path_factory):
    with kind_of(request.param, tmp_path_factory.mktemp("engine"), workers=2) as kind:
        yield kind
        wait_until(lambda: kind.left_behind() == [], seconds=15)
        assert list(kind.folder.glob("logs/**/certificates")) == []


@pytest.fixture(scope="module")
def provider(kind):
    provider = kind.provider(FUNCTIONS)
    yield provider
    provider.close()


@pytest.fixture(scope="module")
def engine(kind):
    with kind.new_engine() as engine:
        yield engine


# -- as the Compute provider of a flow sees it --------------------------------------------------------------
def test_results_come_in_order(provider):
    provider.start("order", body(DOUBLE, *range(20)))
    assert [result["y"] for result in finish(provider, "order").details["result"]] == list(range(0, 40, 2))


@pytest.mark.parametrize(
    ("function", "cause"),
    [
        (BROKEN, "tile 1: cut; copy it"),
        (HUGE, "MaxResultSizeExceeded: Task result of 11534341B exceeded current limit of 10485760B"),
        (HELPER, "NameError: name 'helper' is not defined"),
        (NAMELESS, "StopIteration: StopIteration()"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_errors_read_the_same(provider, function, cause):
    provider.start(function.name, body(function, 1))
    status = finish(provider, function.name)
    assert (status.status, status.cause) == ("FAILED", cause)


def test_the_last_of_chained_errors_is_told_with_all_its_lines(provider):
    provider.start("chained", body(CHAINED, "a"))
    assert finish(provider, "chained").cause == "tiles.csv: row 17:\n  no number"


def test_what_is_no_json_is_refused(provider):
    provider.start("no_json", body(NO_JSON, 1))
    assert finish(provider, "no_json").cause.startswith("SerializationError: ")


def test_workers_are_numbered_and_have_one_thread(provider, tmp_path):
    provider.start("numbered", body(NUMBERED, str(tmp_path), str(tmp_path)))
    assert sorted(finish(provider, "numbered").details["result"]) == [0, 1]
    provider.start("threads", body(WORKER, 1))
    ((pid, threads),) = finish(provider, "threads").details["result"]
    assert (pid != os.getpid(), threads) == (True, "1")


def test_a_lost_worker_is_replaced_and_its_task_tried_again(provider, tmp_path):
    provider.start("killed", body(KILLED, str(tmp_path / "mark")))
    assert finish(provider, "killed").details["result"] == ["alive"]


def test_a_task_that_kills_its_worker_twice_fails_readably(provider):
    provider.start("deadly", body(DEADLY, 1))
    status = finish(provider, "deadly")
    assert status.status == "FAILED"
    assert status.cause.startswith("a worker process died twice (")
    assert status.cause.endswith("); give each worker more memory, or a --memory-gib to see what takes it")
    provider.start("after", body(DOUBLE, 4))
    assert finish(provider, "after").details["result"] == [{"y": 8}]


# -- as `concurrent.futures` has it -------------------------------------------------------------------------
def triple(x, offset=0):
    import math

    return {"y": math.floor(x) * 3 + offset}


def test_it_is_an_executor(engine):
    assert isinstance(engine, Executor)
    assert engine.submit(triple, 2, offset=1).result(timeout=120) == {"y": 7}
    assert [answer["y"] for answer in engine.map(triple, range(5))] == [0, 3, 6, 9, 12]
    asked = [engine.submit(DOUBLE, x) for x in range(4)]
    done, waiting = futures.wait(asked, timeout=120)
    assert (len(done), waiting) == (4, set())


def test_what_a_function_raises_comes_back_with_its_text(engine):
    with pytest.raises(RemoteError, match=r"^tile 3: cut; copy it$"):
        engine.submit(BROKEN, 3).result(timeout=120)
    with pytest.raises(RemoteError, match=r"^NameError: name 'helper' is not defined$"):
        engine.submit(HELPER, 3).result(timeout=120)
    assert engine.submit(DOUBLE, 4).result(timeout=120) == {"y": 8}


def begun(path: Path) -> int:
    """Wait for a SLOW task; the process that is at it."""
    wait_until(path.exists, seconds=120)
    return int(path.read_text())


def test_who_cancels_is_told_so_and_the_others_get_their_answers(engine, tmp_path):
    running = [engine.submit(SLOW, str(tmp_path / name)) for name in ("a", "b")]
    begun(tmp_path / "a")
    begun(tmp_path / "b")
    queued = [engine.submit(DOUBLE, x) for x in range(8)]
    assert queued[-1].cancel()
    assert queued[-1].cancelled()
    for name in ("a", "b"):
        (tmp_path / name).with_suffix(".go").touch()
    assert [answer.result(timeout=120) for answer in running] == ["went", "went"]
    assert [answer.result(timeout=120)["y"] for answer in queued[:-1]] == list(range(0, 14, 2))
    with pytest.raises(futures.CancelledError):
        queued[-1].result(timeout=10)


def test_shutdown_waits_for_what_was_submitted(kind):
    engine = kind.new_engine()
    asked = [engine.submit(DOUBLE, x) for x in range(6)]
    engine.shutdown()
    assert [answer.result(timeout=0)["y"] for answer in asked] == list(range(0, 12, 2))


def test_closed_in_the_middle_of_tasks_it_leaves_no_process(kind, tmp_path):
    provider = kind.provider(FUNCTIONS)
    provider.start("slow", body(SLOW, str(tmp_path / "pid")))
    worker = begun(tmp_path / "pid")
    provider.cancel("slow")
    if kind.name == "compute-endpoint":  # Globus Compute calls no task back: shards stop by their sentinel
        assert not gone(worker)
        (tmp_path / "pid").with_suffix(".go").touch()
        return
    wait_until(lambda: gone(worker), seconds=10)
