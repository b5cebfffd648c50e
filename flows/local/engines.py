"""What carries out the tasks of Compute actions: executors of `concurrent.futures`, wherever workers are.

    process-pool       processes of this machine
    parsl              Parsl's HighThroughputExecutor: this machine, or blocks of Slurm, PBS Pro, ...
    globus-compute     the GlobusComputeEngine, as an endpoint runs it, without an endpoint
    compute-endpoint   an endpoint that runs somewhere, through Globus Compute's own Executor

All take a task packed as the Compute serialiser packs it (function source text and JSON data) and answer JSON
text, so nobody above this file knows which of them it is.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import multiprocessing
import os
import re
import signal
import sys
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from flows.errors import RemoteError, SiteError
from flows.local.registered import RegisteredFunction, pack_task
from flows.local.worker import prepare, run_packed
from flows.site import ENGINES_OF_PARSL, Site

SELF_EXPLAINING = ("StepFailed", "RuntimeError", "WorkerLost", "ManagerLost")
"""Errors whose message is what a person needs; the name of any other one stands before its message."""

_TIMES = {1: "once", 2: "twice"}


class Engine(Executor):
    """An executor of functions that travel as source text, with JSON in and out."""

    def __init__(self) -> None:
        self._unanswered: set[Future[str]] = set()

    def submit(
        self, fn: Callable[..., Any] | RegisteredFunction, /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        """Queue a call of a self-contained function: imports in its body, JSON in and out.

        The future raises RemoteError, with the worker's message, for whatever the function raised there.
        """
        if not isinstance(fn, RegisteredFunction):
            fn = RegisteredFunction(fn.__name__, inspect.getsource(fn))
        return _Answer(self.submit_packed(pack_task(fn, args, kwargs)))

    def submit_packed(self, packed: str) -> Future[str]:
        """Queue a packed task. The answer: `{"output": ...}`, or `{"error": name, "message": text}`.

        A future that is cancelled is no longer waited for; its task is withdrawn only while it waits in this
        process. What a batch job's worker has begun ends with the engine, or by the run's sentinel.

        Raises:
            BrokenExecutor: here or from the future: the engine is lost, only a new one can go on.
        """
        future = self._submit(packed)
        self._unanswered.add(future)
        future.add_done_callback(self._unanswered.discard)
        return future

    @abstractmethod
    def _submit(self, packed: str) -> Future[str]:
        """Hand a packed task on."""

    @abstractmethod
    def close(self, *, at_once: bool) -> None:
        """End it and every process it started; with `at_once` in the middle of tasks."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As `concurrent.futures` has it: end when what was submitted is done, or what runs if the rest is
        cancelled."""
        waiting = list(self._unanswered)
        if cancel_futures:
            waiting = [future for future in waiting if not future.cancel()]

        def finish() -> None:
            futures.wait(waiting)
            self.close(at_once=False)

        if wait:
            finish()
        else:
            threading.Thread(target=finish, name="engine-shutdown").start()


class _Answer(Future[Any]):
    """The value behind a future of an engine's JSON text."""

    def __init__(self, text: Future[str]) -> None:
        super().__init__()
        self._text = text
        text.add_done_callback(self._take)

    def cancel(self) -> bool:
        return self._text.cancel()

    def running(self) -> bool:
        return self._text.running()

    def _take(self, text: Future[str]) -> None:
        if text.cancelled():
            super().cancel()
            self.set_running_or_notify_cancel()
            return
        self.set_running_or_notify_cancel()
        try:
            outcome = json.loads(text.result())
            if "output" not in outcome:
                raise RemoteError(explained(outcome))
        except BaseException as error:
            self.set_exception(error)
        else:
            self.set_result(outcome["output"])


def explained(outcome: Mapping[str, str]) -> str:
    """What a person is told of an outcome that is an error."""
    message, name = outcome["message"], outcome["error"]
    return message if name in SELF_EXPLAINING else f"{name}: {message}"


def lost(times: int, message: str) -> str:
    """What to say when the worker of a task died so many times."""
    told = _TIMES.get(times, f"{times} times")
    remedy = "give each worker more memory, or a --memory-gib to see what takes it"
    return f"a worker process died {told} ({message}); {remedy}"


class PoolEngine(Engine):
    """Any `concurrent.futures` executor that can import this package in its workers."""

    def __init__(self, executor: Executor) -> None:
        super().__init__()
        self._executor = executor

    def _submit(self, packed: str) -> Future[str]:
        return self._executor.submit(run_packed, packed)

    def close(self, *, at_once: bool) -> None:
        """End it, and its processes; at once by killing them (units are marked last)."""
        if at_once:
            for process in list((getattr(self._executor, "_processes", None) or {}).values()):
                process.kill()
        self._executor.shutdown(wait=True, cancel_futures=True)


def process_pool(workers: int) -> PoolEngine:
    """Workers that start clean (spawn) and die with this process. Submit from the thread that keeps it."""
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(
        workers,
        mp_context=context,
        initializer=prepare,
        initargs=(os.getpid(), context.Value("i", 0)),
    )
    return PoolEngine(executor)


def new_engine(site: Site, folder: Path) -> Engine:
    """The engine that an embedded site asks for; those that keep logs do so under `folder`.

    Raises:
        SiteError: it is not installed, its configuration does not load, or it does not start.
        AuthError: a login at Globus is needed.
    """
    check_engine(site, folder)
    config = Path(site.engine_config) if site.engine_config else None
    if site.engine == "parsl":
        from flows.local.parsl_engine import ParslEngine

        return ParslEngine(folder, workers=site.workers, config=config)
    if site.engine == "globus-compute":
        from flows.local.globus_engine import GlobusEngine

        return GlobusEngine(folder, workers=site.workers, config=config)
    if site.engine == "compute-endpoint":
        from flows.local.endpoint_engine import endpoint_of

        assert config
        return endpoint_of(config)
    return process_pool(site.workers)


NEEDS = {"parsl": "parsl", "globus-compute": "globus_compute_endpoint"}
"""The module without which an engine cannot be."""


def check_engine(site: Site, folder: Path) -> None:
    """Refuse at once, before anything is started, what `new_engine` could not make.

    Raises:
        SiteError: the extra is not installed, no such file, or a folder whose name would break scripts.
        AuthError: a login at Globus is needed, and this is no terminal.
    """
    module = NEEDS.get(site.engine or "")
    if module and importlib.util.find_spec(module) is None:
        raise SiteError(
            f"engine: {module.replace('_', '-')} is not installed",
            remedy="pip install 'petavoxel[hpc]' (Linux only), or leave --engine out",
        )
    _check_config(site)
    if site.engine == "compute-endpoint":  # in a terminal, before the run goes to the background
        from flows.local.endpoint_engine import logged_in

        logged_in(Path(site.engine_config or ""))
    if site.engine in ENGINES_OF_PARSL and re.search(r"[\s'\"]", str(folder)):
        raise SiteError(
            f"{folder}: Parsl's scripts cannot take spaces or quotes in a path",
            remedy="set PETAVOXEL_HOME to a folder without them",
        )


def _check_config(site: Site) -> None:
    config = site.engine_config
    if site.engine in (None, "process-pool"):
        if config:
            raise SiteError(
                f"engine_config: {config}: the process pool takes none",
                remedy="add --engine parsl, globus-compute or compute-endpoint",
            )
        return
    if site.engine == "compute-endpoint" and not (config and config.endswith(".toml")):
        raise SiteError(
            "engine: compute-endpoint: which one?",
            remedy="name the site's profile: --engine-config <home>/sites/NAME.toml",
        )
    if config and not Path(config).is_file():
        raise SiteError(
            f"engine_config: {config}: no such file",
            remedy="give a site's profile (`petavoxel site init`), or a rendered endpoint template",
        )


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the main thread by SystemExit(143), so that engines are closed on the way out.

    A batch job of an engine would otherwise stay queued: only a closed engine takes its jobs back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(_number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
