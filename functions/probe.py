"""What a worker is made of: versions, accelerators, folders, and whether our import names are ours.

Nothing but the standard library and the task types is imported to begin with: a worker whose torch is missing
or broken is to say so, not to fail.
"""

from __future__ import annotations

import os
import shutil
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from functions.tasks import ProbeResult, ProbeTask, Problem, SeenFolder

NAMES = ("ffn", "functions", "flows", "typer_cli")
PACKAGES = ("petavoxel", "parsl", "globus-compute-endpoint", "globus-compute-sdk")
NOT_INSTALLED = "not installed"
PINNED = ("CUDA_VISIBLE_DEVICES", "ZE_AFFINITY_MASK", "ROCR_VISIBLE_DEVICES")
"""By these an endpoint with `available_accelerators` shows each worker a device of its own."""


def perform(task: ProbeTask) -> ProbeResult:
    """Look around. A shadowed import name is a problem, since PyPI has other projects of these names; so is a
    torch that does not load."""
    problems = _shadowed()
    torch, devices = _torch(problems)
    return ProbeResult(
        step="probe",
        status="failed" if problems else "ok",
        figures={**devices, "home_free_gib": _free_gib(Path.home())},
        paths={
            "python": sys.version.split()[0],
            "executable": sys.executable,
            "torch": torch,
            **{package: _version(package) for package in PACKAGES},
            **{name: os.environ[name] for name in PINNED if name in os.environ},
        },
        problems=tuple(problems),
        problem_count=len(problems),
        folders=tuple(_seen(Path(folder)) for folder in task.folders),
    )


def _shadowed() -> list[Problem]:
    """Import names of ours that another project's folder answers to."""
    home = Path(__file__).parents[1]
    problems = []
    for name in NAMES:
        spec = find_spec(name)
        origin = Path(spec.origin).parents[1] if spec and spec.origin else None
        if origin != home:
            remedy = "install petavoxel in an empty environment"
            problems.append(Problem(code="shadowed", subject=f"{name}: {origin}", remedy=remedy))
    return problems


def _torch(problems: list[Problem]) -> tuple[str, dict[str, float]]:
    """Its version, and how many devices of each kind it sees in this worker."""
    try:
        torch: Any = import_module("torch")
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
        remedy = "install torch for this machine in the environment that worker_init activates"
        problems.append(Problem(code="torch", subject=found[:200], remedy=remedy))
        return NOT_INSTALLED, {"cuda_devices": 0, "xpu_devices": 0}
    kinds = {"cuda_devices": torch.cuda, "xpu_devices": torch.xpu}
    return torch.__version__, {name: kind.device_count() for name, kind in kinds.items()}


def _seen(path: Path) -> SeenFolder:
    """A folder, or a marker file, as this worker sees it."""
    if not path.exists():
        return SeenFolder(path=str(path), exists=False)
    access = os.W_OK | os.X_OK if path.is_dir() else os.W_OK
    return SeenFolder(path=str(path), exists=True, writable=os.access(path, access), free_gib=_free_gib(path))


def _free_gib(path: Path) -> float:
    return round(shutil.disk_usage(path).free / 2**30, 1)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return NOT_INSTALLED
