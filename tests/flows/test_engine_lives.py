"""An engine lives as long as its run's process and no longer, however either ends."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.local.compute import ComputeProvider
from flows.local.engines import ended_by_sigterm, new_engine
from flows.records import RunStatus
from flows.run import Runs
from flows.site import local_site
from tests.flows.engine_kinds import leashes, needs
from tests.flows.test_compute import DOUBLE, KILLED, body, finish
from tests.flows.test_run import ask, children_of, counts, gone, runner_of, wait_until

ROOT = Path(__file__).parents[2]
FUNCTIONS = {f.id: f for f in (DOUBLE, KILLED)}
linux = pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")
on_parsl = pytest.mark.parametrize(
    "name",
    [
        pytest.param("parsl", marks=needs("parsl")),
        pytest.param("globus-compute", marks=needs("globus_compute_endpoint")),
    ],
)


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@on_parsl
@pytest.mark.slow
def test_an_interchange_that_dies_is_noticed_and_the_engine_replaced(tmp_path, name):
    site = local_site(tmp_path, workers=1).model_copy(update={"engine": name})
    engines = []

    def begin():
        engines.append(new_engine(site, tmp_path / "logs"))
        return engines[-1]

    provider = ComputeProvider(FUNCTIONS, new_engine=begin)
    provider.start("first", body(DOUBLE, 1))
    finish(provider, "first")
    provider.start("lost", body(KILLED, str(tmp_path / "mark")))
    (interchange,) = children_of(engines[0].executor.interchange_proc.pid)
    os.kill(interchange, signal.SIGKILL)
    assert finish(provider, "lost").details["result"] == ["alive"]
    assert len(engines) == 2
    provider.close()
    wait_until(lambda: all(gone(pid) for pid in leashes(tmp_path)), seconds=10)


@on_parsl
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_runner_that_is_ended_takes_its_engine_along_and_a_rerun_uses_the_same(tmp_path, number, name):
    source, home = tmp_path / "acq", tmp_path / "home"
    source.mkdir()
    site = local_site(home, workers=1, entry_points="tests.flows.fake_steps")
    runs = Runs(site.model_copy(update={"engine": name}), home=home)
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
