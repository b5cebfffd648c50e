"""`petavoxel watch` and `petavoxel microscope`, from the words to the documents."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.watch.mounts import is_remote
from flows.watch.unit import systemd_unit
from tests.typer_cli.invoking import petavoxel

ROOT = Path(__file__).parents[2]


@pytest.fixture
def stack(tmp_path, monkeypatch) -> Path:
    """Two sections of a fake SBEMimage, and a home."""
    monkeypatch.setenv("PETAVOXEL_HOME", str(tmp_path / "home"))
    words = ("--sections", "2", "--rate", "0", "--tile-px", "16", "--truth", str(tmp_path / "truth.json"))
    done = petavoxel("microscope", "simulate", "sbemimage", str(tmp_path / "stack"), *words, "-o", "json")
    assert json.loads(done.out)["versions"] == 2
    return tmp_path / "stack"


def test_simulate_refuses_what_it_does_not_know(stack, tmp_path):
    done = petavoxel("microscope", "simulate", "sbemimage", str(stack))
    assert (done.code, "not empty" in done.err) == (1, True)
    done = petavoxel("microscope", "simulate", "serialem", str(tmp_path / "b"), "--faults", "retake")
    assert (done.code, "faults: retake" in done.err) == (1, True)
    done = petavoxel("microscope", "simulate", "serialem", str(tmp_path / "b"), "--grid", "2")
    assert done.code == 2


def test_status_of_a_folder_that_was_never_watched(stack):
    done = petavoxel("watch", "status", str(stack))
    assert (done.code, "has not been watched" in done.err) == (1, True)


def test_the_unit_can_be_installed(stack, tmp_path):
    done = petavoxel("watch", "unit", str(stack), "--every", "4", "--outbox", str(tmp_path / "my box"))
    lines = done.out.splitlines()
    (command,) = [line for line in lines if line.startswith("ExecStart=")]
    assert command.endswith(
        f'-m typer_cli watch run {stack} --site local --every 4 --outbox "{tmp_path}/my box"'
    )
    assert f'ReadWritePaths={tmp_path}/home "{tmp_path}/my box"' in lines
    assert "Restart=always" in lines


def test_a_watcher_as_a_process_and_its_status(stack, tmp_path):
    """It is stopped gently, another one is refused meanwhile, and the status tells what waits for what."""
    program = (
        "import sys, flows.watch.starting as s\n"
        "s.RunsStarter.start = lambda self, request: (_ for _ in ()).throw(s.BusyError('another run'))\n"
        "from typer_cli.app import main\n"
        "sys.argv[0] = 'petavoxel'\nmain()\n"
    )
    words = ["watch", str(stack), "--quiet-seconds", "3600", "--scan-seconds", "0.5", "-o", "json"]
    child = subprocess.Popen(
        [sys.executable, "-c", program, *words], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            done = petavoxel("watch", "status", str(stack), "-o", "json")
            report = json.loads(done.out)
            if done.code == 0 and any("attempt" in start["outcome"] for start in report["starts"]):
                break
            assert time.monotonic() < deadline, report
            time.sleep(0.3)
        assert report["watched"] is True
        first, second = report["waiting"]
        assert (first["z"], first["state"], first["rule"]) == (100, "starting", "marker")
        assert second["rule"] == "marker"
        assert "attempt 1: another run" in [start["outcome"] for start in report["starts"]]
        refused = petavoxel("watch", str(stack), "--once")
        assert (refused.code, "being watched already" in refused.err) == (1, True)
    finally:
        child.send_signal(signal.SIGTERM)
        out, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    assert json.loads(out)["acquisition"] == "stack"
    text = petavoxel("watch", "status", str(stack)).out
    assert "the service to take its start" in text
    assert "section-version:stack:100:1" in text
    assert json.loads(petavoxel("watch", "finish", str(stack), "-o", "json").out)["finished"] is True


def test_an_outbox_that_the_collection_does_not_show(stack, tmp_path, monkeypatch):
    import flows.site as site

    real = site.local_site

    def narrow(home, **more):
        found = real(home, **more)
        there = found.instrument.model_copy(update={"base_path": str(stack.parent / "stack")})
        return found.model_copy(update={"instrument": there})

    monkeypatch.setattr(site, "local_site", narrow)
    done = petavoxel("watch", str(stack), "--once")
    assert done.code == 1
    assert "--outbox" in done.err


@pytest.mark.parametrize(
    ("folder", "remote"), [("/data/nfs/a", True), ("/data/local", False), ("/media/my share/x", True)]
)
def test_shares_are_polled(tmp_path, folder, remote):
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/sda1 / ext4 rw 0 0\nserver:/x /data/nfs nfs4 rw 0 0\n//pc/x /media/my\\040share cifs rw 0 0\n"
    )
    assert is_remote(Path(folder), mounts=mounts) is remote


def test_the_unit_takes_a_folder_of_any_name(tmp_path):
    folder = Path("/data/it's 5 $HOME 100% a\\b")
    text = systemd_unit(folder, site="local", home=tmp_path / "a b", outbox=None, more=[])
    assert r"""watch run "/data/it's 5 $$HOME 100%% a\\b" --site local""" in text
    assert r"""RequiresMountsFor="/data/it's 5 $HOME 100%% a\\b""" in text
    assert f'Environment="PETAVOXEL_HOME={tmp_path}/a b"\n' in text
