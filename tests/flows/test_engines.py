"""The process pool and the real GlobusComputeEngine: one face, the same answers and errors, no orphans."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest

from flows.errors import SiteError
from flows.local.compute import ComputeProvider, RegisteredFunction
from flows.local.engines import check_engine, ended_by_sigterm, new_engine
from flows.records import RunStatus
from flows.run import Runs
from flows.site import local_site
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
from tests.flows.test_run import ask, children_of, counts, gone, runner_of, wait_until

ROOT = Path(__file__).parents[2]
CHAINED = RegisteredFunction(
    "chained",
    "def chained(x):\n    try:\n        int(x)\n    except ValueError as error:\n"
    "        raise RuntimeError('tiles.csv: row 17:\\n  no number') from error\n",
)
NAMELESS = RegisteredFunction("nameless", "def nameless(x):\n    raise StopIteration\n")
DEADLY = RegisteredFunction("deadly", "def deadly(x):\n    import os\n    os._exit(9)\n")
FUNCTIONS = {
    f.id: f
    for f in (DOUBLE, BROKEN, NO_JSON, HUGE, HELPER, WORKER, KILLED, NUMBERED, CHAINED, NAMELESS, DEADLY)
}
real = pytest.mark.skipif(
    sys.platform != "linux" or importlib.util.find_spec("globus_compute_endpoint") is None,
    reason="needs Linux and petavoxel[hpc]",
)
linux = pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")
ENGINES = ["process-pool", pytest.param("globus-compute", marks=[real, pytest.mark.slow])]


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def provider_of(engine: str, folder: Path, *, workers: int) -> ComputeProvider:
    site = local_site(folder, workers=workers).model_copy(update={"engine": engine})
    return ComputeProvider(FUNCTIONS, new_engine=lambda: new_engine(site, folder / "logs"))


def leashes(folder: Path) -> list[int]:
    return [int(line) for lease in folder.rglob("lease") for line in lease.read_text().split()]


@pytest.fixture(scope="module", params=ENGINES)
def provider(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        folder = tmp_path_factory.mktemp("engine")
        provider = provider_of(request.param, folder, workers=2)
        yield provider
        provider.close()
        assert all(gone(pid) for pid in leashes(folder))


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
    assert status.cause.endswith("); give each worker more memory")
    provider.start("after", body(DOUBLE, 4))
    assert finish(provider, "after").details["result"] == [{"y": 8}]


@pytest.mark.parametrize("engine", ["process-pool", pytest.param("globus-compute", marks=real)])
def test_close_in_the_middle_of_tasks_leaves_no_process(engine, tmp_path):
    slow = RegisteredFunction(
        "slow",
        "def slow(x):\n    import os, pathlib, time\n    pathlib.Path(x).write_text(str(os.getpid()))\n"
        "    time.sleep(600)\n",
    )
    FUNCTIONS[slow.id] = slow
    provider = provider_of(engine, tmp_path, workers=1)
    provider.start("slow", body(slow, str(tmp_path / "pid")))
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    worker = int((tmp_path / "pid").read_text())
    provider.cancel("slow")
    wait_until(lambda: gone(worker), seconds=5)
    assert len(leashes(tmp_path)) == (2 if engine == "globus-compute" else 0)  # interchange and workers
    assert all(gone(pid) for pid in leashes(tmp_path))
    assert list(tmp_path.rglob("certificates")) == []


@real
@pytest.mark.slow
def test_an_interchange_that_dies_is_noticed_and_the_engine_replaced(tmp_path):
    site = local_site(tmp_path, workers=1).model_copy(update={"engine": "globus-compute"})
    engines = []

    def begin():
        engines.append(new_engine(site, tmp_path / "logs"))
        return engines[-1]

    provider = ComputeProvider(FUNCTIONS, new_engine=begin)
    provider.start("first", body(DOUBLE, 1))
    finish(provider, "first")
    provider.start("lost", body(KILLED, str(tmp_path / "mark")))
    (interchange,) = children_of(engines[0]._engine.executor.interchange_proc.pid)
    os.kill(interchange, signal.SIGKILL)
    assert finish(provider, "lost").details["result"] == ["alive"]
    assert len(engines) == 2
    provider.close()
    wait_until(lambda: all(gone(pid) for pid in leashes(tmp_path)), seconds=10)


@real
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_runner_that_is_ended_takes_its_engine_along_and_a_rerun_uses_the_same(tmp_path, number):
    source, home = tmp_path / "acq", tmp_path / "home"
    source.mkdir()
    site = local_site(home, workers=1, entry_points="tests.flows.fake_steps")
    runs = Runs(site.model_copy(update={"engine": "globus-compute"}), home=home)
    run = runs.start(ask(source, "slow"))
    wait_until(lambda: any(s.shards_done for s in runs.show(run.id)[1] if s.name == "stitch"))
    os.kill(runner_of(run.id), number)
    wait_until(lambda: runs.show(run.id)[0].status is RunStatus.INTERRUPTED)
    assert len(leashes(home)) == 2
    wait_until(lambda: all(gone(pid) for pid in leashes(home)), seconds=15)

    plain = Runs(site, home=home)  # nothing said about the engine
    assert plain.rerun(run.id, wait=True).status is RunStatus.SUCCEEDED
    assert len(leashes(home)) == 4
    again = plain.rerun(run.id, start_at="finish", stop_after="finish", wait=True)
    assert again.status is RunStatus.SUCCEEDED
    assert (home / "runs" / f"{again.id}.engine").is_dir()
    assert set(counts(run).values()) <= {1, 2}


@linux
def test_a_leash_ends_its_command_when_the_lease_is_dropped(tmp_path):
    lease = open(tmp_path / "lease", "wb")  # noqa: SIM115
    fcntl.flock(lease, fcntl.LOCK_EX)
    leash = ROOT / "flows/local/leash.py"
    script = f"sleep 600 & echo $! > {tmp_path}/child; wait"
    process = subprocess.Popen([sys.executable, leash, tmp_path / "lease", "bash", "-c", script])
    wait_until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text().strip())
    time.sleep(0.3)
    assert process.poll() is None
    assert leashes(tmp_path) == [process.pid]
    lease.close()
    assert process.wait(timeout=10) != 0
    wait_until(lambda: gone(int((tmp_path / "child").read_text())), seconds=5)


@linux
def test_a_leash_that_is_killed_takes_its_command_along(tmp_path):
    lease = open(tmp_path / "lease", "wb")  # noqa: SIM115
    fcntl.flock(lease, fcntl.LOCK_EX)
    command = [sys.executable, ROOT / "flows/local/leash.py", tmp_path / "lease", "sleep", "600"]
    process = subprocess.Popen(command)
    wait_until(lambda: leashes(tmp_path) and children_of(process.pid))
    (child,) = children_of(process.pid)
    process.kill()
    process.wait(timeout=10)
    wait_until(lambda: gone(child), seconds=5)
    lease.close()


@linux
def test_a_leash_hands_on_the_exit_status(tmp_path):
    with open(tmp_path / "lease", "wb") as lease:
        fcntl.flock(lease, fcntl.LOCK_EX)
        command = [sys.executable, ROOT / "flows/local/leash.py", tmp_path / "lease", "bash", "-c", "exit 7"]
        assert subprocess.run(command, check=False, timeout=20).returncode == 7


def test_sigterm_unwinds():
    def waits():
        with ended_by_sigterm():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

    with pytest.raises(SystemExit) as ended:
        waits()
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"engine_config": "e.yaml"}, "the process pool takes none; add --engine globus-compute"),
        pytest.param(
            {"engine": "globus-compute", "engine_config": "/no/e.yaml"},
            "/no/e.yaml: no such file",
            marks=real,
        ),
    ],
)
def test_engines_that_cannot_be_are_refused_before_a_run_is_kept(tmp_path, fields, message):
    site = local_site(tmp_path, entry_points="tests.flows.fake_steps").model_copy(update=fields)
    runs = Runs(site, home=tmp_path)
    (tmp_path / "acq").mkdir()
    with pytest.raises(SiteError, match=message):
        runs.start(ask(tmp_path / "acq"))
    assert runs.list() == []


@real
def test_a_folder_that_parsl_cannot_name_is_refused(tmp_path):
    site = local_site(tmp_path).model_copy(update={"engine": "globus-compute"})
    with pytest.raises(SiteError, match="spaces or quotes"):
        check_engine(site, tmp_path / "my runs")


def test_without_the_extra_the_remedy_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    site = local_site(tmp_path).model_copy(update={"engine": "globus-compute"})
    with pytest.raises(SiteError, match=r"pip install 'petavoxel\[hpc\]'"):
        check_engine(site, tmp_path)


@real
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("engine: {type: GlobusComputeEngine, max_workers: [", "e.yaml: Invalid config syntax"),
        ("engine: {type: NoSuchEngine}", "e.yaml: 'NoSuchEngine' is not a valid engine"),
        ("engine: {type: ThreadPoolEngine}", "type GlobusComputeEngine is needed"),
        ("display_name: an endpoint", "type GlobusComputeEngine is needed"),
    ],
)
def test_configurations_that_do_not_load_are_refused(text, message):
    from flows.local.globus_engine import load_engine

    with pytest.raises(SiteError, match=message):
        load_engine(text, source="e.yaml")


def _fail(error: BaseException) -> str:
    try:
        raise error
    except BaseException:
        return traceback.format_exc()


def test_what_a_traceback_ends_with():
    from flows.local.globus_engine import raised

    assert raised(_fail(KeyError("z"))) == ("KeyError", "'z'")
    assert raised(_fail(SiteError("a: b", remedy="c"))) == ("SiteError", "a: b; c")
    assert raised(_fail(AssertionError())) == ("AssertionError", "AssertionError()")
    assert raised("parsl.errors.Lost: gone\n") == ("Lost", "gone")
