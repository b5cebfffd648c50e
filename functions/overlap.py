"""Units one after the other whose reading and writing go on beside the computing of their neighbours.

    unit 1   read  COMPUTE  write
    unit 2         read ... COMPUTE  write            COMPUTE: one at a time, in the order of the units
    unit 3                           read  COMPUTE ...

Two threads take turns with whole units, so at most one unit is read ahead and one written behind. Each is
carried out as if it were alone, mark last: results are the same, and so is what is left when it is killed.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import TypeVar

Unit = TypeVar("Unit")
Result = TypeVar("Result")
AT_ONCE = 2

_turn: ContextVar[threading.Lock | None] = ContextVar("petavoxel_turn", default=None)


@contextmanager
def computing() -> Iterator[None]:
    """What a unit does between its reading and its writing: never two units at once."""
    turn = _turn.get()
    if turn is None:
        yield
    else:
        with turn:
            yield


def overlapped(units: Iterable[Unit], carry_out: Callable[[Unit], Result]) -> Iterator[Result]:
    """The result of every unit, in order, each when it is written.

    The first error ends it, once the unit beside it has ended, too. `units` is asked for the next one when it
    is about to be read.
    """
    turn, pending = threading.Lock(), deque[Future[Result]]()

    def alone(unit: Unit) -> Result:
        _turn.set(turn)
        return carry_out(unit)

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="unit") as threads:
        for unit in units:
            pending.append(threads.submit(copy_context().run, alone, unit))
            if len(pending) == AT_ONCE:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
