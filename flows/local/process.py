"""The runner: carries out one run of the embedded site, here or as a process of its own.

    python -m flows.local.process HOME RUN_ID [LOCK_FD]

One runner a run: it holds a lock on `<home>/runs/<id>.lock` for as long as it lives, so a run that is ACTIVE
with nobody holding its lock was interrupted. The lock is taken before the process starts and handed over, so
there is no moment in which a started run looks interrupted.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from flows import locks
from flows.errors import RunError
from flows.local.actions import ActionProvider, Json, Progress, ThreadProvider
from flows.local.catalog import Catalog
from flows.local.compute import ComputeProvider
from flows.local.documents import run_document
from flows.local.engines import ended_by_sigterm, new_engine
from flows.local.interpreter import Execution, Interpreter
from flows.local.recorder import Recorder
from flows.local.registered import registered_functions
from flows.local.search import LocalIndex
from flows.local.store import Store
from flows.local.transfer import Collections, stat, transfer
from flows.records import RunEvent
from flows.site import Site
from flows.states import COMPUTE, PERMISSION, SEARCH, STAT
from flows.states import TRANSFER as TRANSFER_URL
from flows.tracking import record_of
from functions.tasks import RunSpec

STORE_NAME = "runs.sqlite"
INDEX_NAME = "index.sqlite"


class RunLock:
    """The right to carry out a run; held by an open file, so it goes with its process, however that ends."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def take(cls, home: Path, run_id: str) -> RunLock | None:
        """The lock, or None while somebody holds it."""
        descriptor = locks.take(_lock_path(home, run_id))
        return None if descriptor is None else cls(descriptor)

    @staticmethod
    def held(home: Path, run_id: str) -> bool:
        """Whether a runner holds the lock now."""
        return locks.is_held(_lock_path(home, run_id))

    def release(self) -> None:
        """Give it up here; a process it was handed to keeps it."""
        os.close(self.descriptor)


def _lock_path(home: Path, run_id: str) -> Path:
    return home / "runs" / f"{run_id}.lock"


class SystemClock:
    """The machine's time."""

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


def spawn(home: Path, run_id: str, lock: RunLock) -> int:
    """Start a detached runner that takes over `lock`; returns its process id. Its output goes to a file."""
    with open(home / "runs" / f"{run_id}.out", "ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.local.process", str(home), run_id, str(lock.descriptor)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(lock.descriptor,),
            start_new_session=True,
        )
    lock.release()
    process.returncode = 0  # it is on its own: no warning when this object goes
    return process.pid


def carry_out(
    home: Path, run_id: str, *, store: Store, on_event: Callable[[RunEvent], None] | None = None
) -> Execution:
    """Run `run_id` from where it is to its end. The caller holds its lock."""
    stored = store.load(run_id)
    site, body = stored.site, stored.body
    if steps := store.steps(run_id):
        RunSpec.parse(body["input"]["run"], source=f"run {run_id}").sentinel_path.unlink(missing_ok=True)
    functions = Catalog(store.database).functions() | registered_functions(site.entry_points)
    logs = home / "runs" / f"{run_id}.engine"
    compute = ComputeProvider(functions, new_engine=lambda: new_engine(site, logs), begun=lambda: begun(body))
    document = run_document(stored, steps=steps, entry=None, interrupted=False)
    clock = SystemClock()
    recorder = Recorder(
        store,
        site=site,
        clock=clock,
        record=record_of(document, site, body=body),
        resumed=stored.execution,
        on_event=on_event,
    )
    interpreter = Interpreter(
        stored.definition, providers(site, home, compute=compute), clock=clock, journal=recorder
    )
    context = {"run_id": run_id, "flow_id": stored.head.flow_id}
    with ended_by_sigterm():
        try:
            return interpreter.run(stored.execution or interpreter.begin(body, context=context))
        finally:
            compute.close()


def begun(body: Json) -> int:
    """Bytes of the ledgers of planned steps under a run's work root: they grow with each unit that a worker
    begins. A step of one unit is never put aside, so a worker that it ends is replaced once."""
    work = Path(RunSpec.parse(body["input"]["run"], source="run input").work)
    total = 0
    for plan in work.glob("*/*/ledger/plan"):
        ledger = plan.parent
        for folder, _, names in os.walk(ledger):
            for name in names:
                with suppress(FileNotFoundError):  # made void meanwhile
                    total += os.stat(os.path.join(folder, name)).st_size
    return total


def providers(site: Site, home: Path, *, compute: ActionProvider) -> dict[str, ActionProvider]:
    """The action providers of the embedded site, by URL."""
    roots = {place.id: Path(place.base_path) for place in (site.instrument, site.scratch, site.publication)}
    for place in (site.scratch, site.publication):
        Path(place.base_path).mkdir(parents=True, exist_ok=True)
    collections = Collections(roots)
    index = LocalIndex(home / INDEX_NAME)

    def copy(body: Json, progress: Progress) -> Json:
        return transfer(collections, body, progress)

    def probe(body: Json, progress: Progress) -> Json:
        return stat(collections, body, progress)

    return {
        COMPUTE: compute,
        TRANSFER_URL: ThreadProvider(copy),
        STAT: ThreadProvider(probe),
        PERMISSION: ThreadProvider(index.grant),
        SEARCH: ThreadProvider(index.ingest),
    }


def main(arguments: list[str]) -> int:
    """Entry of the detached process."""
    home, run_id = Path(arguments[0]), arguments[1]
    if len(arguments) > 2:
        lock: RunLock | None = RunLock(int(arguments[2]))
        os.set_inheritable(int(arguments[2]), False)
    else:
        lock = RunLock.take(home, run_id)
    if lock is None:
        raise RunError(f"{run_id}: somebody runs it already", remedy="follow it")
    store = Store(home / STORE_NAME)
    try:
        carry_out(home, run_id, store=store)
    finally:
        store.close()
        lock.release()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
