"""When a worker has to go: its batch job ends, it is asked to by a signal, or the run is cancelled."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from math import inf
from types import FrameType, TracebackType

END_VARIABLES = ("PETAVOXEL_JOB_END", "SLURM_JOB_END_TIME")
"""Seconds since 1970 by this machine's clock; the first is for `worker_init` of sites that tell nothing."""
CANCEL_CHECK_SECONDS = 5.0


class Stopping:
    """Asks whether to stop. In a `with`, SIGTERM asks to (batch systems send it before they kill)."""

    def __init__(
        self,
        *,
        walltime_seconds: float | None = None,
        drain_seconds: float = 0.0,
        cancelled: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._clock = clock
        self._drain = drain_seconds
        self._cancelled = cancelled
        self._looked = clock()
        self._cancel = False
        self._signalled = False
        self._before: object = None
        self._end = clock() + min(walltime_seconds or inf, job_seconds(environment))

    def left(self) -> float:
        """Seconds until a worker should have put everything away."""
        return 0.0 if self._signalled else self._end - self._drain - self._clock()

    @property
    def cancelled(self) -> bool:
        """Whether the run is cancelled; looks every few seconds."""
        now = self._clock()
        if not self._cancel and now - self._looked >= CANCEL_CHECK_SECONDS:
            self._cancel, self._looked = self._cancelled(), now
        return self._cancel

    def asked(self) -> bool:
        """Whether to put away what is in progress; cheap enough to be asked many times a second."""
        return self.left() <= 0 or self.cancelled

    def look_now(self) -> bool:
        """Whether the run is cancelled, looked up now."""
        self._cancel = self._cancelled()
        return self._cancel

    # -- the signal -----------------------------------------------------------------------------------------
    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)  # type: ignore[arg-type]

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signalled = True


def job_seconds(environment: Mapping[str, str]) -> float:
    """Seconds until the batch job of this process ends; infinite where nobody says."""
    for name in END_VARIABLES:
        text = environment.get(name, "")
        if text.isdecimal():
            return int(text) - time.time()
    return inf
