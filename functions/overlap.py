"""Units one after the other whose reading and writing go on beside the computing of their neighbours.

    unit 1   read  COMPUTE  write
    unit 2         read ... COMPUTE  write            COMPUTE: one at a time, in the order of the units
    unit 3                           read  COMPUTE ...

Two threads take turns with whole units, so at most one is read ahead and one written behind. Each is carried
out as if it were alone, and who asks for a unit gets it when it is written: results are the same, and so is
what is left by a killed process, but for a neighbour's files without a mark.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import Context, ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, TypeVar

from functions.store.traffic import Traffic, counted, note_traffic

Result = TypeVar("Result")
AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Turn:
    """A unit's place in the order: it computes once the one `before` it has `passed`."""

    before: threading.Event
    passed: threading.Event


_turn: ContextVar[Turn | None] = ContextVar("petavoxel_turn", default=None)


@contextmanager
def computing() -> Iterator[None]:
    """What a unit does between its reading and its writing, once: never two units of a lane at a time."""
    turn = _turn.get()
    if turn is None:
        yield
        return
    turn.before.wait()
    try:
        yield
    finally:
        turn.passed.set()


class Lane(Generic[Result]):
    """Carries out units that are asked for in order; the one that follows is begun ahead of its turn.

    At the end of a `with` block it waits for what was begun ahead and is not wanted after all.
    """

    def __init__(self, carry_out: Callable[[str], Result]) -> None:
        self._carry_out = carry_out
        self._last = threading.Event()
        self._last.set()
        self._begun: dict[str, Future[tuple[Result, Traffic]]] = {}
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="unit")
        _start(self._threads)

    def __enter__(self) -> Lane[Result]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(cancel_futures=True)

    def take(self, unit: str, *, following: str | None = None) -> Result:
        """The result of a unit, once it is written; what it raised is raised here. `following` is read
        meanwhile."""
        asked = self._begin(unit)
        if following is not None:
            self._begin(following)
        del self._begun[unit]
        result, traffic = asked.result()
        note_traffic(traffic)
        return result

    def _begin(self, unit: str) -> Future[tuple[Result, Traffic]]:
        if unit not in self._begun:
            turn = Turn(before=self._last, passed=threading.Event())
            self._last = turn.passed
            self._begun[unit] = self._threads.submit(Context().run, self._alone, unit, turn)
        return self._begun[unit]

    def _alone(self, unit: str, turn: Turn) -> tuple[Result, Traffic]:
        """In a context of its own: bytes that are read ahead count for the unit that they belong to."""
        _turn.set(turn)
        try:
            with counted() as traffic:
                return self._carry_out(unit), traffic
        finally:
            turn.passed.set()  # also of a unit that had nothing to compute


def _start(threads: ThreadPoolExecutor) -> None:
    """Have both threads of a lane: a unit whose thread is refused later leaves its neighbour waiting."""
    met = threading.Barrier(AT_ONCE)
    try:
        for waiting in [threads.submit(met.wait) for _ in range(AT_ONCE)]:
            waiting.result()
    except BaseException:
        met.abort()
        threads.shutdown(wait=False)
        raise
