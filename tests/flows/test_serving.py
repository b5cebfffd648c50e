"""`petavoxel site serve` as its own process, with globus-cli against it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

ROOT = Path(__file__).parents[2]
GLOBUS = os.environ.get("PETAVOXEL_TEST_GLOBUS_CLI", "")
PASS = {"StartAt": "a", "States": {"a": {"Type": "Pass", "End": True}}}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """What `site serve --output json` says, and the environment that it asks for."""
    home = tmp_path_factory.mktemp("home")
    environment = os.environ | {
        "PETAVOXEL_HOME": str(home / "petavoxel"), "HOME": str(home), "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "typer_cli", "site", "serve", "--workers", "1", "--output", "json"],
        stdout=subprocess.PIPE, text=True, env=environment, cwd=home,
    )  # fmt: skip
    try:
        lines = ""
        while not lines.endswith("}\n") or lines.count("{") != lines.count("}"):
            line = process.stdout.readline()
            assert line, "it ended"
            lines += line
        told = json.loads(lines)
        secret = Path(told["client_secret_path"]).read_text()
        assert secret not in lines
        told["environment"] = environment | told["variables"] | {
            "GLOBUS_CLI_CLIENT_ID": told["client_id"], "GLOBUS_CLI_CLIENT_SECRET": secret,
        }  # fmt: skip
        yield told
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 0


@pytest.mark.skipif(not GLOBUS, reason="PETAVOXEL_TEST_GLOBUS_CLI names no globus-cli")
def test_the_unmodified_globus_cli(site, tmp_path):
    environment = {name: value for name, value in site["environment"].items() if name != "PYTHONPATH"}

    def globus(*words: str) -> str:
        done = subprocess.run([GLOBUS, *words], env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert globus("whoami").strip() == "petavoxel@loopback"
    (tmp_path / "definition.json").write_text(json.dumps(PASS))
    assert "Discovered Scopes" in globus("flows", "validate", str(tmp_path / "definition.json"))
    made = json.loads(globus("flows", "create", "One", str(tmp_path / "definition.json"), "-F", "json"))
    flow = made["id"]
    assert {"One", "Petavoxel"} <= {
        f["title"] for f in json.loads(globus("flows", "list", "-F", "json"))["flows"]
    }
    shown = globus("flows", "show", flow)
    assert "Flow ID:" in shown
    assert "petavoxel@loopback" in shown
    run = json.loads(globus("flows", "start", flow, "--label", "hello", "--tag", "t", "-F", "json"))["run_id"]
    deadline = time.monotonic() + 60
    while "SUCCEEDED" not in (shown := globus("flows", "run", "show", run)):
        assert time.monotonic() < deadline
    assert "hello" in shown
    assert run in globus("flows", "run", "list", "--filter-flow-id", flow)
    logs = globus("flows", "run", "show-logs", run)
    assert [code in logs for code in ("FlowStarted", "PassCompleted", "FlowSucceeded")] == [True] * 3


def test_only_this_machine_by_its_own_name(site):
    assert site["url"].startswith("http://127.0.0.1:")
    answer = requests.get(site["url"], headers={"Host": "evil.example"}, timeout=10)
    assert answer.status_code == 400


def test_a_compute_client_finds_its_routes_at_the_root(site):
    answer = requests.get(f"{site['url']}v2/version", params={"service": "all"}, timeout=10).json()
    assert answer["min_ep_version"] == answer["min_sdk_version"]
    assert requests.get(f"{site['url']}runs/none", timeout=10).status_code == 404
    assert "No runs yet" in requests.get(f"{site['url']}?below=1", timeout=10).text
