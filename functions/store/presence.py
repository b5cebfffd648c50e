"""Who is at work, and who has vanished: heartbeats, and how another worker judges them.

    <step>/workers/<xyz>/<worker>.json     one line, written over again and again by one worker

A worker has vanished when its file has not changed for a lease as its *observer's* own monotonic clock
counts: no time of one machine is ever compared with that of another, so clocks may be wrong or jump. On one
machine it has vanished as soon as its process is gone. A claim into which nobody wrote a name is left behind
much sooner: its owner was killed between two lines.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from functions.store.ledger_files import LedgerFiles
from functions.store.lots import Owner
from functions.store.spread import spread

BEATS_A_LEASE = 10
UNNAMED_SHARE = 1 / 120
"""Of a lease, for a claim without a name: that is written right after the claim is made. Who is so slow sees
that it was overtaken before it begins anything."""


@lru_cache(maxsize=1)
def machine() -> str:
    """A name that two processes share only if they know each other's process numbers; empty: nobody knows."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}-{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def born(pid: int) -> str | None:
    """When the kernel started a process, in its ticks; None where there is no such process, empty if
    unknown."""
    if not machine():
        return ""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else fields[18]


def myself() -> Owner:
    """A new owner in this process."""
    host = socket.gethostname()
    return Owner(
        id=f"{host}-{os.getpid()}-{uuid.uuid4().hex[:8]}",
        host=host,
        pid=os.getpid(),
        machine=machine(),
        born=born(os.getpid()) or "",
    )


def beat_path(workers: Path, worker: str) -> Path:
    """Where a worker's heartbeat is."""
    return spread(workers, f"{worker}.json")


class Heartbeat:
    """This worker's sign of life: a count that grows, and how far it got, renewed by a thread."""

    def __init__(
        self, workers: Path, owner: Owner, *, lease_seconds: float, files: LedgerFiles | None = None
    ) -> None:
        self.owner = owner
        self._path = beat_path(workers, owner.id)
        self._files = files or LedgerFiles()
        self._pause = lease_seconds / BEATS_A_LEASE
        self._count = 0
        self._begun = time.monotonic()
        self._told: dict[str, Any] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self.beat()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """A worker that goes leaves nothing behind; it has handed on what it held."""
        self._end.set()
        self._thread.join()
        with suppress(OSError):
            self._files.remove(self._path)

    def tell(self, **figures: float | str) -> None:
        """What the next beats say beside the count."""
        self._told = {**self._told, **figures}

    def beat(self) -> None:
        """Renew it now; a file system that refuses for a moment, or memory that a unit has taken, is asked
        again by the next one."""
        self._count += 1
        with suppress(OSError, MemoryError):
            line = {
                "count": self._count,
                "host": self.owner.host,
                "pid": self.owner.pid,
                "elapsed": round(time.monotonic() - self._begun, 3),
                **self._told,
            }
            self._files.overwrite(self._path, (json.dumps(line) + "\n").encode())

    def _go_on(self) -> None:
        while True:
            try:
                if self._end.wait(self._pause):
                    return
            except (MemoryError, RuntimeError):  # not even for its lock: a unit has taken all
                time.sleep(self._pause)
            self.beat()


def read_beat(text: bytes | None) -> dict[str, Any] | None:
    """What a heartbeat says; None where it cannot be read (now)."""
    try:
        line = json.loads((text or b"").partition(b"\n")[0])
    except ValueError:
        return None
    return line if isinstance(line, dict) else None


class Watch:
    """What one worker has seen of the others, by its own clock."""

    def __init__(
        self,
        workers: Path,
        *,
        lease_seconds: float,
        files: LedgerFiles | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._workers = workers
        self._lease = lease_seconds
        self._files = files or LedgerFiles()
        self._clock = clock
        self._seen: dict[str, tuple[bytes | None, float]] = {}

    def vanished(self, owner: Owner | None, *, claim: str) -> bool:
        """Whether the owner of a claim is gone; `None` never wrote its name into it, and is known by the
        claim."""
        if owner is None:
            return self._unchanged(claim, None, seconds=self._lease * UNNAMED_SHARE)
        if owner.machine and owner.machine == machine() and born(owner.pid) != owner.born:
            return True
        text = self._files.read(beat_path(self._workers, owner.id))
        return self._unchanged(owner.id, text, seconds=self._lease)

    def _unchanged(self, name: str, text: bytes | None, *, seconds: float) -> bool:
        now = self._clock()
        before = self._seen.get(name)
        if before is None or before[0] != text:
            self._seen[name] = (text, now)
            return False
        return now - before[1] > seconds
