"""The face of an action provider: start, ask, cancel."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionStatus:
    """Where an action stands. While it is ACTIVE, `details` may hold what is known so far."""

    status: Literal["ACTIVE", "SUCCEEDED", "FAILED"]
    details: Json = field(default_factory=dict)
    done: int = 0
    """Parts done (tasks, files), of `total`."""
    total: int = 0
    cause: str = ""
    """Readable reason of a failure."""


class ActionProvider(Protocol):
    """One service that carries out actions."""

    def start(self, action_id: str, body: Json) -> None:
        """Begin; a second call with a known id does nothing.

        Raises:
            ActionError: the body is not acceptable (the flow sees ActionUnableToRun).
        """

    def status(self, action_id: str) -> ActionStatus:
        """Where a started action stands."""
        ...

    def cancel(self, action_id: str) -> None:
        """Stop it as soon as possible."""


class Progress:
    """Counters that a worker thread writes and the interpreter reads."""

    def __init__(self) -> None:
        self.done = 0
        self.total = 0
        self.stop = threading.Event()


class ThreadProvider:
    """A provider whose actions each run in a daemon thread: `work(body, progress) -> details`."""

    def __init__(self, work: Callable[[Json, Progress], Json]) -> None:
        self._work = work
        self._actions: dict[str, tuple[Future[Json], Progress]] = {}

    def start(self, action_id: str, body: Json) -> None:
        """Begin in a thread of its own."""
        if action_id in self._actions:
            return
        future: Future[Json] = Future()
        progress = Progress()
        self._actions[action_id] = (future, progress)
        threading.Thread(
            target=self._run, args=(future, body, progress), name=f"action-{action_id[:8]}", daemon=True
        ).start()

    def _run(self, future: Future[Json], body: Json, progress: Progress) -> None:
        try:
            future.set_result(self._work(body, progress))
        except Exception as error:
            future.set_exception(error)

    def status(self, action_id: str) -> ActionStatus:
        """Done when its thread is; an exception's text is the cause."""
        future, progress = self._actions[action_id]
        now = ActionStatus(status="ACTIVE", done=progress.done, total=progress.total)
        if not future.done():
            return now
        error = future.exception()
        if error is None:
            return replace(now, status="SUCCEEDED", details=future.result())
        return replace(now, status="FAILED", details={"error": str(error)}, cause=str(error))

    def cancel(self, action_id: str) -> None:
        """Ask the thread to stop at its next file and wait shortly for it."""
        future, progress = self._actions[action_id]
        progress.stop.set()
        if not future.done():
            try:
                future.exception(timeout=5)
            except TimeoutError:
                return
