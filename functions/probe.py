"""What a worker is made of: versions, accelerators, folders, and whether our import names are ours."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from functions.tasks import ProbeResult, ProbeTask, Problem, SeenFolder

NAMES = ("ffn", "functions", "flows", "typer_cli")


def perform(task: ProbeTask) -> ProbeResult:
    """Look around; a shadowed import name is a problem, since PyPI has other projects of these names."""
    home = Path(__file__).parents[1]
    problems = []
    for name in NAMES:
        spec = find_spec(name)
        origin = Path(spec.origin).parents[1] if spec and spec.origin else None
        if origin != home:
            problems.append(
                Problem(
                    code="shadowed",
                    subject=f"{name}: {origin}",
                    remedy="install petavoxel in an empty environment",
                )
            )
    import torch

    free = shutil.disk_usage(Path.home()).free
    return ProbeResult(
        step="probe",
        status="failed" if problems else "ok",
        figures={
            "cuda_devices": torch.cuda.device_count(),
            "xpu_devices": torch.xpu.device_count(),
            "home_free_gib": round(free / 2**30, 1),
        },
        paths={
            "python": sys.version.split()[0],
            "petavoxel": version("petavoxel"),
            "torch": torch.__version__,
            "parsl": _version("parsl"),
        },
        problems=tuple(problems),
        problem_count=len(problems),
        folders=tuple(_seen(Path(folder)) for folder in task.folders),
    )


def _seen(folder: Path) -> SeenFolder:
    if not folder.is_dir():
        return SeenFolder(path=str(folder), exists=False)
    free = shutil.disk_usage(folder).free
    writable = os.access(folder, os.W_OK | os.X_OK)
    return SeenFolder(path=str(folder), exists=True, writable=writable, free_gib=round(free / 2**30, 1))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
