"""Where a unit of registration computes, and how long its stages take: its algorithms know no clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from functions.model.errors import TaskError

if TYPE_CHECKING:
    import torch

Key = TypeVar("Key")
Value = TypeVar("Value")


class Stages:
    """Wall seconds of each stage of a unit. A stage inside another counts for itself alone."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._seconds: dict[str, float] = {}
        self._inner = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what happens inside to stage `name`, also when it raises."""
        started, outer = self._clock(), self._inner
        self._inner = 0.0
        try:
            yield
        finally:
            whole = self._clock() - started
            self._seconds[name] = self._seconds.get(name, 0.0) + whole - self._inner
            self._inner = outer + whole

    def timed(self, name: str, function: Callable[[Key], Value]) -> Callable[[Key], Value]:
        """`function`, each call of which counts to stage `name`."""

        def call(key: Key) -> Value:
            with self.stage(name):
                return function(key)

        return call

    @property
    def figures(self) -> dict[str, float]:
        """`<stage>_seconds` of each stage, for a unit's mark."""
        return {f"{name}_seconds": round(seconds, 3) for name, seconds in self._seconds.items()}


def device_of(name: str, *, group: str) -> torch.device:
    """The device named by the parameter `device` of a group.

    Raises:
        TaskError: it is not there.
    """
    from ffn.device import choose_device

    try:
        return choose_device(name)
    except ValueError as error:
        raise TaskError(f"{group}.{error}", remedy=f"set {group}.device") from None
