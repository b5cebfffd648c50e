"""What a worker is made of: versions, accelerators, free space, and whether our import names are ours."""

from __future__ import annotations

import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from functions.tasks import Problem, StepResult

NAMES = ("ffn", "functions", "flows", "typer_cli")


def perform() -> StepResult:
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
    return StepResult(
        step="probe",
        status="failed" if problems else "ok",
        figures={"cuda_devices": torch.cuda.device_count(), "home_free_gib": round(free / 2**30, 1)},
        paths={
            "python": sys.version.split()[0],
            "petavoxel": version("petavoxel"),
            "torch": torch.__version__,
            "parsl": _version("parsl"),
        },
        problems=tuple(problems),
        problem_count=len(problems),
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
