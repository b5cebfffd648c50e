"""What carries out the tasks of Compute actions: a pool of processes, or the real GlobusComputeEngine.

Both take a packed task (function source text and JSON data, as the Compute serialiser packs them) and answer
JSON text, so nobody above this file knows which of them it is.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Protocol

from flows.errors import SiteError
from flows.local.worker import prepare, run_packed
from flows.site import Site


class Engine(Protocol):
    """Carries out packed tasks until it is closed."""

    def submit(self, packed: str) -> Future[str]:
        """Queue a task. The answer is JSON text: `{"output": ...}`, or `{"error": name, "message": text}`.

        Raises:
            BrokenExecutor: here or from the future: the engine is lost, only a new one can go on.
        """
        ...

    def close(self, *, at_once: bool) -> None:
        """End it and every process it started; with `at_once` in the middle of tasks."""
        ...


class PoolEngine:
    """Any `concurrent.futures` executor."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def submit(self, packed: str) -> Future[str]:
        """Queue a task."""
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
    """The engine that an embedded site asks for; a real one keeps its logs under `folder`.

    Raises:
        SiteError: it is not installed, its configuration does not load, or it does not start.
    """
    check_engine(site, folder)
    if site.engine != "globus-compute":
        return process_pool(site.workers)
    from flows.local.globus_engine import GlobusEngine

    config = Path(site.engine_config) if site.engine_config else None
    return GlobusEngine(folder, workers=site.workers, config=config)


def check_engine(site: Site, folder: Path) -> None:
    """Refuse at once, before anything is started, what `new_engine` could not make.

    Raises:
        SiteError: the extra is not installed, no such file, or a folder whose name would break scripts.
    """
    if site.engine != "globus-compute":
        if site.engine_config:
            raise SiteError(
                f"engine_config: {site.engine_config}: the process pool takes none",
                remedy="add --engine globus-compute",
            )
        return
    if importlib.util.find_spec("globus_compute_endpoint") is None:
        raise SiteError(
            "engine: globus-compute-endpoint is not installed",
            remedy="pip install 'petavoxel[hpc]' (Linux only), or leave --engine out",
        )
    if site.engine_config and not Path(site.engine_config).is_file():
        raise SiteError(
            f"engine_config: {site.engine_config}: no such file",
            remedy="give a rendered endpoint template (globus-compute-endpoint render-user-config)",
        )
    if re.search(r"[\s'\"]", str(folder)):
        raise SiteError(
            f"{folder}: Parsl's scripts cannot take spaces or quotes in a path",
            remedy="set PETAVOXEL_HOME to a folder without them",
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
