"""A site in a process of its own that can be disturbed, and what its ledgers say afterwards.

    python -m tests.benchmarks.chaos_site HOME SOURCE PARAMETERS [--run ID] [--start-at STEP]
        [--stop-after STEP] [--retry]

starts a run of the acquisition SOURCE in HOME, or goes on with run ID, and prints how it ended.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from flows.inputs import RunRequest
from flows.records import RunRecord, RunStatus
from flows.run import Runs
from flows.site import local_site
from functions.model.parameters import Parameters
from functions.store.labels import grid_of
from functions.store.lots import read_records
from functions.store.run import Run
from functions.tasks import RunSpec
from tests.e2e.site import tree_digest

SEAM = Path(__file__).with_name("chaos_seam")
ROOT = Path(__file__).parents[2]
WORKERS = 2


@dataclass(slots=True, kw_only=True)
class Site:
    """One home, one acquisition, one run at a time."""

    home: Path
    source: Path
    parameters: Parameters
    poison: str = ""
    process: subprocess.Popen[str] | None = None
    touched: set[int] = field(default_factory=set)
    """Processes that a kill ended or may have ended: of a pool all workers go with the one that is killed."""

    def start(self, *, start_at: str = "", stop_after: str = "", retry: bool = False) -> None:
        """Start the run, or go on with the newest one."""
        newest = next(iter(self.runs.list()), None)
        if self.process is not None and self.process.stdout is not None:
            self.process.wait()
            self.process.stdout.close()
        command = [
            sys.executable, "-m", "tests.benchmarks.chaos_site", str(self.home), str(self.source),
            self.parameters.model_dump_json(),
            *(["--run", newest.id] if newest else []),
            *(["--start-at", start_at] if start_at else []),
            *(["--stop-after", stop_after] if stop_after else []),
            *(["--retry"] if retry else []),
        ]  # fmt: skip
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env=self._environment(),
            cwd=self.home,
        )

    def _environment(self) -> dict[str, str]:
        clock = self.home / "clock"
        if not clock.exists():
            self.set_clock(0.0)
        seams = {"CHAOS_CLOCK": str(clock), "CHAOS_SEGMENTED": str(self.segmented_log)}
        seams |= {"CHAOS_POISON": self.poison} if self.poison else {}
        path = os.pathsep.join([str(SEAM), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        return os.environ | seams | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}

    def set_clock(self, seconds: float) -> None:
        """Have the clock of all processes of the site go wrong by so much, from now on."""
        with open(self.home / "clock", "r+b" if (self.home / "clock").exists() else "wb") as handle:
            handle.write(struct.pack("d", seconds))

    # -- looking --------------------------------------------------------------------------------------------
    @property
    def runs(self) -> Runs:
        """The site's runs."""
        return Runs(local_site(self.home, workers=WORKERS), home=self.home)

    @property
    def record(self) -> RunRecord:
        """The newest run."""
        return self.runs.list()[0]

    @property
    def run(self) -> Run:
        """What it has on scratch."""
        record, _ = self.runs.show(self.record.id)
        return Run(RunSpec.parse(record.input["input"]["run"], source="run"))

    @property
    def work(self) -> Path:
        """Work root of the acquisition."""
        return self.home / "scratch" / self.source.name / "work"

    @property
    def segmented_log(self) -> Path:
        """What was segmented to its end, and by which process, whatever the ledger says."""
        return self.home / "segmented"

    @property
    def alive(self) -> bool:
        """Whether the process of the site is still there."""
        return self.process is not None and self.process.poll() is None

    def workers(self) -> list[int]:
        """Its worker processes."""
        assert self.process
        try:
            children = psutil.Process(self.process.pid).children(recursive=True)
            return [child.pid for child in children if "spawn_main" in " ".join(child.cmdline())]
        except psutil.Error:
            return []

    def published(self) -> dict[str, str]:
        """Digests of the files of the published volume."""
        path = self.record.published_path
        return tree_digest(Path(path) / "volume.zarr") if path else {}

    # -- ending ---------------------------------------------------------------------------------------------
    def kill(self, victim: int | None) -> None:
        """`kill -9` a worker, or, with None, the site with all its workers."""
        assert self.process
        self.touched |= {*self.workers(), self.process.pid}
        if victim is not None:
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                return
            return
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def finish(self, seconds: float = 3600) -> RunStatus:
        """Wait for the end of the run."""
        assert self.process
        output, _ = self.process.communicate(timeout=seconds)
        print(output.strip()[-600:], file=sys.stderr, flush=True)
        return self.record.status


def boards(work: Path) -> Iterator[tuple[str, Path]]:
    """Ledgers in which units were planned and claimed, with their step."""
    for plan in sorted(work.glob("*/*/ledger/plan")):
        yield plan.parts[-4], plan.parent


@dataclass(slots=True, kw_only=True)
class Account:
    """What the ledgers of a step say of its units' attempts."""

    units: int = 0
    begun: int = 0
    done: int = 0
    lost: int = 0
    """Attempts that were in flight when their process was killed: at most one a process."""
    kept: int = 0
    """Attempts put away in the middle, by workers of a pool that ended because another one was killed: they
    are gone on with, not begun anew."""
    failed: int = 0
    redone: int = 0
    """Attempts beyond one a unit that no kill explains."""
    twice: int = 0
    """Units that were finished more than once."""


def account(work: Path, *, killed: set[int]) -> dict[str, Account]:
    """By step. `killed` are the processes that kills may have ended."""
    found: dict[str, Account] = {}
    for step, ledger in boards(work):
        told = found.setdefault(step, Account())
        begun: Counter[str] = Counter()
        done: Counter[str] = Counter()
        lost: Counter[str] = Counter()
        kept: Counter[str] = Counter()
        failed: Counter[str] = Counter()
        losers: set[str] = set()
        for path in sorted((*ledger.glob("lots/*/*"), *ledger.glob("units/*/*"))):
            if path.suffix in (".done", ".free"):
                continue
            owner, flying = {}, ""
            for record in read_records([path.read_bytes()]):
                if record["do"] == "claim":
                    owner = record["owner"]
                elif record["do"] == "begin":
                    begun[record["unit"]] += 1
                    flying = record["unit"]
                elif record["do"] in ("done", "fail", "drop", "kept"):
                    done[record["unit"]] += record["do"] == "done"
                    failed[record["unit"]] += record["do"] == "fail"
                    kept[record["unit"]] += record["do"] == "kept" and owner.get("pid") in killed
                    flying = ""
            if flying and owner.get("pid") in killed and owner["id"] not in losers:
                lost[flying] += 1
                losers.add(owner["id"])
        told.units += len(begun)
        told.begun += begun.total()
        told.done += done.total()
        told.lost += lost.total()
        told.failed += failed.total()
        told.kept += kept.total()
        told.twice += sum(n > 1 for n in done.values())
        told.redone += sum(max(0, begun[unit] - 1 - lost[unit] - kept[unit]) for unit in begun)
    return found


def begun_in(work: Path, step: str) -> Counter[str]:
    """How often each unit of a step was begun, as its ledgers say."""
    return Counter(
        record["unit"]
        for name, ledger in boards(work)
        if name == step
        for path in (*ledger.glob("lots/*/*"), *ledger.glob("units/*/*"))
        for record in read_records([path.read_bytes()])
        if record["do"] == "begin"
    )


def unaccounted(log: Path, *, begun: Counter[str], killed: set[int]) -> list[str]:
    """Subvolumes that were segmented to their end more often than the ledger knows of, or more than once by
    processes that no kill ended: seen by the processes themselves, not by what they wrote down."""
    ends = [line.split() for line in log.read_text().splitlines()]
    all_ends = Counter(unit for unit, _ in ends)
    survived = Counter(unit for unit, pid in ends if int(pid) not in killed)
    return sorted(unit for unit, n in all_ends.items() if n > begun[unit] or survived[unit] > 1)


def segmented(site: Site) -> int:
    """How many subvolumes are done; 0 before the step began."""
    ledgers = [ledger for step, ledger in boards(site.work) if step == "segment"]
    return sum(
        record["do"] == "done"
        for ledger in ledgers
        for path in ledger.glob("lots/*/*")
        for record in read_records([path.read_bytes()])
    )


def subvolumes(site: Site) -> list[str]:
    """Names of the subvolumes of the newest run."""
    return [subvolume.id for subvolume in grid_of(site.run)]


def main() -> None:
    """Start or go on, and wait."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("home", type=Path)
    parser.add_argument("source")
    parser.add_argument("parameters", type=Parameters.model_validate_json)
    parser.add_argument("--run", default="")
    parser.add_argument("--start-at")
    parser.add_argument("--stop-after")
    parser.add_argument("--retry", action="store_true")
    asked = parser.parse_args()
    runs = Runs(local_site(asked.home, workers=WORKERS), home=asked.home)
    words = {"start_at": asked.start_at, "stop_after": asked.stop_after}
    if asked.run:
        more = {"retry_quarantined": True} if asked.retry else {}
        record = runs.rerun(asked.run, **words, **more, wait=True)
    else:
        given = {name: word for name, word in words.items() if word}
        record = runs.start(RunRequest(source=asked.source, parameters=asked.parameters, **given), wait=True)
    print(json.dumps({"run": record.id, "status": record.status.value, "error": record.error}))
    sys.exit(record.status is not RunStatus.SUCCEEDED)


if __name__ == "__main__":
    main()
