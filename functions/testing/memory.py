"""Peak memory of a process and all its children, sampled from /proc: what a demo may say about itself."""

from __future__ import annotations

import os
import resource
import threading
from pathlib import Path
from types import TracebackType

PROC = Path("/proc")


class PeakMemory:
    """Samples while the `with` block runs; `gib` is the highest sum seen of proportional set sizes.

    A page shared by n processes counts 1/n in each, so the sum is what the machine gives. Without /proc it is
    the largest single process.
    """

    def __init__(self, *, every_seconds: float = 0.5) -> None:
        self._every = every_seconds
        self._peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def gib(self) -> float:
        """The peak so far."""
        if self._peak == 0:
            who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
            return max(resource.getrusage(w).ru_maxrss for w in who) / 2**20
        return self._peak / 2**30

    def _watch(self) -> None:
        while not self._stop.is_set():
            self._peak = max(self._peak, sum(_bytes(pid) for pid in _family(os.getpid())))
            self._stop.wait(self._every)


def _family(root: int) -> set[int]:
    """`root` and all its descendants."""
    parents: dict[int, int] = {}
    for entry in PROC.iterdir() if PROC.is_dir() else ():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    family = {root}
    while grown := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= grown
    return family


def _bytes(pid: int) -> int:
    try:
        for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return 0
    return 0
