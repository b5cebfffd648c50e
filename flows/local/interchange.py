"""What engines on Parsl's HighThroughputExecutor share: a leash for all they start, and who waits for what.

this process ── interchange ── managers (one a node) ── workers
                    └── on the leash, as are managers of this machine; those of batch jobs end with their job
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import sys
import tempfile
import threading
import time
import uuid
from abc import abstractmethod
from concurrent.futures import BrokenExecutor, Future
from pathlib import Path
from typing import Any

from flows.local.engines import Engine, lost

END_SECONDS = 20.0
_TRACEBACK = "Traceback (most recent call last):\n"


class InterchangeEngine(Engine):
    """An engine whose interchange, and workers on this machine, end with it or with this process."""

    executor: Any
    """The HighThroughputExecutor."""

    def __init__(self, folder: Path) -> None:
        """Make a new folder under `folder` for logs and batch scripts, and take the lease."""
        super().__init__()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="engine-", dir=folder.resolve()))
        self._lease = _take_lease(self.folder / "lease")
        self._answers: dict[uuid.UUID, Future[str]] = {}
        self._lock = threading.Lock()
        self._closing = False
        self._broken = False

    @property
    def leash(self) -> tuple[str, ...]:
        """The beginning of a command that is to end with this engine."""
        return (sys.executable, str(Path(__file__).with_name("leash.py")), str(self.folder / "lease"))

    def _watch(self) -> None:
        """Have it noticed that the interchange is gone, which Parsl does not."""
        threading.Thread(target=self._wait_for_interchange, name="watch-interchange", daemon=True).start()

    def _wait_for_interchange(self) -> None:
        self.executor.interchange_proc.wait()
        with self._lock:
            if self._closing:
                return
            self._broken = True
            lost = list(self._answers.values())
            self._answers.clear()
        for answer in lost:
            if answer.set_running_or_notify_cancel():
                answer.set_exception(BrokenExecutor("the engine's interchange died"))

    def _submit(self, packed: str) -> Future[str]:
        """Queue a task; one whose worker was lost is tried again, as the configuration says."""
        task_id = uuid.uuid4()
        answer: Future[str] = Future()
        with self._lock:
            if self._broken:
                raise BrokenExecutor("the engine's interchange died")
            self._answers[task_id] = answer
        self._send(task_id, packed)
        return answer

    @abstractmethod
    def _send(self, task_id: uuid.UUID, packed: str) -> None:
        """Hand a packed task to the interchange, and its end to `_answer`."""

    def _answer(self, task_id: uuid.UUID, outcome: str) -> None:
        """Tell who waits for a task how it ended."""
        with self._lock:
            answer = self._answers.pop(task_id, None)
        if answer is not None and answer.set_running_or_notify_cancel():
            answer.set_result(outcome)

    def close(self, *, at_once: bool) -> None:
        """Shut it down: jobs are cancelled, interchange and workers of this machine have ended.

        A task under way ends with its worker, at once or not: Parsl knows no other way.
        """
        with self._lock:
            if self._closing:
                return
            self._closing = True
        try:
            if self._broken:
                self._cancel_jobs()
            else:
                self._shut_down()
        finally:
            self._release()

    @abstractmethod
    def _shut_down(self) -> None:
        """End the executor and its blocks."""

    def _cancel_jobs(self) -> None:
        """A regular shutdown would ask the dead interchange which workers are idle, and wait for ever."""
        self.executor.provider.cancel(list(self.executor.blocks_to_job_id.values()))

    def _release(self) -> None:
        """Let go of what is on the leash, wait for its end, and remove the keys of this engine's sockets."""
        leashes = [int(line) for line in (self.folder / "lease").read_text().split()]
        self._lease.close()
        deadline = time.monotonic() + END_SECONDS
        while any(is_alive(pid) for pid in leashes) and time.monotonic() < deadline:
            time.sleep(0.02)
        for keys in self.folder.glob("*/certificates"):
            shutil.rmtree(keys, ignore_errors=True)


def raised(traceback: str) -> tuple[str, str]:
    """Name and message of the exception that a formatted traceback ends with."""
    lines = traceback.rpartition(_TRACEBACK)[2].rstrip("\n").split("\n")
    start = next((i for i, line in enumerate(lines) if line and not line[0].isspace()), 0)
    name, colon, message = "\n".join(lines[start:]).partition(": ")
    name = name.rpartition(".")[2]
    return name, message if colon else f"{name}()"


_RULE = re.compile(r"^\+{68}\n(?:Traceback from attempt: .*\n)?", re.MULTILINE)


def reported(text: str) -> tuple[str, str]:
    """Name and message of what an engine of Globus Compute says of a task that no worker could answer."""
    name, message = raised(_RULE.split(text)[-1].removesuffix("-" * 68))
    if name in ("WorkerLost", "ManagerLost"):
        message = lost(text.count("Traceback from attempt: ") or 1, message)
    return name, message


def _take_lease(path: Path) -> Any:
    lease = open(path, "wb")  # noqa: SIM115 - held until the engine is closed
    fcntl.flock(lease, fcntl.LOCK_EX)
    return lease


def is_alive(pid: int) -> bool:
    """Whether there is a process of this number, one that ended and was not waited for among them."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
