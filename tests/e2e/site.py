"""Drive the embedded site from outside, as processes that can be killed."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from functions.store.cells import Cell

START = """
import sys
from pathlib import Path
from flows.inputs import RunRequest
from flows.run import Runs
from flows.site import local_site
home, source, run_id = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
runs = Runs(local_site(home, workers=2), home=home)
record = runs.rerun(run_id, wait=True) if run_id else runs.start(
    RunRequest(source=source, parameters=PARAMETERS), wait=True)
print(record.id, record.status.value, record.error or "")
sys.exit(record.status.value != "SUCCEEDED")
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteProcess:
    """The embedded site in a process group of its own: runner and workers die together by `kill`."""

    process: subprocess.Popen[str]

    def kill(self) -> None:
        """`kill -9` of the runner and every worker."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def finish(self) -> str:
        """Wait for the end; what it printed.

        Raises:
            AssertionError: the run did not succeed.
        """
        output, _ = self.process.communicate(timeout=540)
        assert self.process.returncode == 0, output
        return output


def start(home: Path, source: Path, *, parameters: str, run_id: str = "") -> SiteProcess:
    """Start a run of `source` on the site in `home`, or go on with `run_id`; `parameters` is a JSON text."""
    code = START.replace("PARAMETERS", f"__import__('functions.model.parameters', fromlist=['Parameters'])"
                         f".Parameters.model_validate_json({parameters!r})")  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(home), str(source), run_id],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | {"PETAVOXEL_HOME": str(home), "OMP_NUM_THREADS": "1"},
    )
    return SiteProcess(process=process)


def cells(work: Path) -> Iterator[tuple[str, Cell]]:
    """Every cell of a work root, with its step."""
    for folder in sorted(work.glob("*/*/")):
        if folder.parent.name != "plans" and folder.name != "workers":
            yield folder.parent.name, Cell(folder)


def attempts(work: Path) -> dict[tuple[str, str, str], int]:
    """How often each unit was begun, by step, key and unit."""
    return {
        (step, cell.path.name, unit): count
        for step, cell in cells(work)
        for unit, count in cell.attempts().items()
    }


def done(work: Path) -> set[tuple[str, str, str]]:
    """Units with a done mark, by step, key and unit."""
    return {(step, cell.path.name, mark.unit) for step, cell in cells(work) for mark in cell.marks()}


def begun(home: Path, acquisition: str, step: str) -> int:
    """How much of a step has been begun: units, or files for the steps that copy or check files."""
    scratch, published = home / "scratch" / acquisition, home / "published"
    if step == "transfer":
        return sum(1 for _ in scratch.glob(".raw*/**/*.tif"))
    if step == "ingest":
        return sum(1 for _ in scratch.glob("work/ingest/*/checks/*.json"))
    if step == "publish":
        return sum(1 for _ in published.glob("**/.*.partial/**/zarr.json"))
    return sum(count for (s, _, _), count in attempts(scratch / "work").items() if s == step)


def wait_until_begun(site: SiteProcess, home: Path, acquisition: str, step: str) -> bool:
    """Wait until more of `step` is begun than now; False when the run ended before."""
    before, limit = begun(home, acquisition, step), time.monotonic() + 900
    while time.monotonic() < limit:
        if begun(home, acquisition, step) > before:
            return True
        if site.process.poll() is not None:
            return False
        time.sleep(0.01)
    raise AssertionError(f"nothing of {step} was begun in 900 s")


def tree_digest(folder: Path) -> dict[str, str]:
    """SHA-256 of every file under `folder`, by relative path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
