"""Asking for help, planning and looking at the flow load no array library and no Globus SDK."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "zarr", "globus_sdk", "globus_compute_sdk", "scipy", "skimage", "neuroglancer", "numpy")
PROGRAM = """
import json, sys
from typer_cli.app import app
try:
    app(sys.argv[1:], prog_name="petavoxel")
except SystemExit as end:
    print("\\n" + json.dumps({"code": end.code, "modules": sorted(sys.modules)}))
"""


@pytest.mark.parametrize(
    ("arguments", "forbidden"),
    [
        (["--help"], (*HEAVY, "functions.tasks", "flows.run")),
        (["run", "start", "--help"], (*HEAVY, "functions.tasks", "flows.run")),
        (["plan", "--volume", "1mm3", "--output", "json"], HEAVY),
        (["plan", "--shape-zyx", "600", "--gpus", "2", "--simulate", "--output", "json"], HEAVY),
        (["flow", "show"], HEAVY),
        (["site", "show", "local"], HEAVY),
    ],
    ids=["help", "command-help", "plan", "plan-simulate", "flow-show", "site-show"],
)
def test_start_up_is_lazy(arguments: list[str], forbidden: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["code"] in (0, None)
    assert sorted(set(forbidden) & set(found["modules"])) == []


def test_the_facade_starts_without_arrays() -> None:
    program = "import sys, flows.run, flows.inputs, flows.definition, flows.lint; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "zarr"} & set(done.stdout.split())
