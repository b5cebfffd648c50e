"""The real, unmodified GlobusComputeEngine (Parsl's HighThroughputExecutor) behind the face of an `Engine`.

Tasks go out as the Compute protocol's Task messages and come back as its Result messages: what an endpoint
would do with them, without web service and message broker. An endpoint's rendered configuration can be given,
and then its provider (Slurm, PBS) starts the workers; without one they run on this machine.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, Future
from pathlib import Path
from typing import Any

from flows.errors import SiteError
from flows.local.worker import THREAD_VARIABLES

PROGRAM = "globus-compute-endpoint"
SOURCE_TEXT = "globus_compute_sdk.serialize.PureSourceTextInspect"
JSON_DATA = "globus_compute_sdk.serialize.JSONData"
END_SECONDS = 20.0
_TRACEBACK = "Traceback (most recent call last):\n"
_RULE = re.compile(r"^\+{68}\n(?:Traceback from attempt: .*\n)?", re.MULTILINE)


class GlobusEngine:
    """A started engine. Its interchange, and workers on this machine, end with it or with this process."""

    def __init__(self, folder: Path, *, workers: int, config: Path | None = None) -> None:
        """Start it; logs and batch scripts go to a new folder under `folder`.

        Raises:
            SiteError: the configuration does not load, or the engine does not start.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="engine-", dir=folder.resolve()))
        self._lease = _take_lease(self.folder / "lease")
        self._open: dict[uuid.UUID, Future[str]] = {}
        self._lock = threading.Lock()
        self._closing = False
        self._broken = False
        leash = (sys.executable, str(Path(__file__).with_name("leash.py")), str(self.folder / "lease"))
        try:
            text = config.read_text() if config else local_config(workers=workers, leash=leash)
            self._engine = load_engine(text, source=str(config or "the built-in engine configuration"))
            executor = self._engine.executor
            executor.interchange_launch_cmd = [*leash, _program(), *executor.interchange_launch_cmd[1:]]
            self._start()
        except BaseException:
            self._release()
            raise
        threading.Thread(target=self._watch, name="watch-interchange", daemon=True).start()

    def _start(self) -> None:
        try:
            self._engine.start(endpoint_id=uuid.uuid4(), run_dir=str(self.folder))
        except Exception as error:
            self._engine.shutdown()
            raise SiteError(
                f"engine: it did not start: {error}", remedy=f"look at the logs in {self.folder}"
            ) from error

    def submit(self, packed: str) -> Future[str]:
        """Queue a task; the engine itself retries those whose worker was lost, as its configuration says."""
        from globus_compute_common import messagepack
        from globus_compute_common.messagepack.message_types import Task
        from globus_compute_endpoint.engines.base import GCFuture

        task_id = uuid.uuid4()
        answer: Future[str] = Future()
        with self._lock:
            if self._broken:
                raise BrokenExecutor("the engine's interchange died")
            self._open[task_id] = answer
        remote = GCFuture(task_id)
        remote.add_done_callback(lambda done: self._answer(task_id, done))
        self._engine.submit(
            remote,
            messagepack.pack(Task(task_id=task_id, task_buffer=packed)),
            resource_specification={},
            result_serializers=[JSON_DATA],
        )
        return answer

    def _answer(self, task_id: uuid.UUID, done: Future[bytes]) -> None:
        with self._lock:
            answer = self._open.pop(task_id, None)
        if answer is None or not answer.set_running_or_notify_cancel():
            return
        try:
            answer.set_result(outcome_of(done.result()))
        except Exception as error:
            answer.set_exception(error)

    def _watch(self) -> None:
        """Parsl does not notice that its interchange is gone: fail what it was asked for."""
        self._engine.executor.interchange_proc.wait()
        with self._lock:
            if self._closing:
                return
            self._broken = True
            lost = list(self._open.values())
            self._open.clear()
        for answer in lost:
            if answer.set_running_or_notify_cancel():
                answer.set_exception(BrokenExecutor("the engine's interchange died"))

    def close(self, *, at_once: bool) -> None:
        """Shut the engine down: jobs are cancelled, interchange and workers of this machine have ended.

        A task under way ends with its worker, at once or not: the engine knows no other way.
        """
        with self._lock:
            if self._closing:
                return
            self._closing = True
        try:
            if self._broken:
                self._cancel_jobs()
            else:
                self._engine.shutdown()
        finally:
            self._release()

    def _cancel_jobs(self) -> None:
        """A regular shutdown would ask the dead interchange which workers are idle, and wait for ever."""
        executor = self._engine.executor
        executor.provider.cancel(list(executor.blocks_to_job_id.values()))

    def _release(self) -> None:
        """Let go of what is on the leash, wait for its end, and remove the keys of this engine's sockets."""
        leashes = [int(line) for line in (self.folder / "lease").read_text().split()]
        self._lease.close()
        deadline = time.monotonic() + END_SECONDS
        while any(_alive(pid) for pid in leashes) and time.monotonic() < deadline:
            time.sleep(0.02)
        for keys in self.folder.glob("*/certificates"):
            shutil.rmtree(keys, ignore_errors=True)


def local_config(*, workers: int, leash: Sequence[str]) -> str:
    """Configuration of an engine whose workers are processes of this machine, in an endpoint's format."""
    variables = [f"export {name}=1" for name in THREAD_VARIABLES]
    engine = {
        "type": "GlobusComputeEngine",
        "address": "127.0.0.1",
        "max_workers_per_node": workers,
        "cores_per_worker": 0.001,  # max_workers_per_node alone decides
        "max_retries_on_system_failure": 1,
        "heartbeat_period": 2,  # s; also how soon a dead worker is noticed
        "heartbeat_threshold": 60,
        "allowed_serializers": [SOURCE_TEXT, JSON_DATA],
        "job_status_kwargs": {"strategy_period": 1},
        "provider": {
            "type": "LocalProvider",
            "init_blocks": 1,
            "min_blocks": 1,
            "max_blocks": 1,
            "worker_init": "\n".join([f"export PATH={Path(_program()).parent}:$PATH", *variables]),
            "launcher": {"type": "WrappedLauncher", "prepend": shlex.join(leash)},
        },
    }
    return json.dumps({"engine": engine})  # every JSON document is YAML


def load_engine(text: str, *, source: str) -> Any:
    """The engine that an endpoint with this configuration would run.

    Raises:
        SiteError: the text does not load, or asks for an engine without an interchange.
    """
    from click import ClickException
    from globus_compute_endpoint.endpoint.config.utils import load_config_yaml
    from globus_compute_endpoint.engines import GlobusComputeEngine

    try:
        engine = getattr(load_config_yaml(text), "engine", None)
    except ClickException as error:
        raise SiteError(f"{source}: {error.message}", remedy="correct the engine's configuration") from None
    if not isinstance(engine, GlobusComputeEngine):
        raise SiteError(
            f"{source}: engine: type GlobusComputeEngine is needed",
            remedy="give a rendered endpoint template (globus-compute-endpoint render-user-config)",
        )
    return engine


def outcome_of(packed_result: bytes) -> str:
    """A packed Result message as the JSON text that `flows.local.worker.run_packed` would have answered."""
    from globus_compute_common import messagepack
    from globus_compute_sdk.serialize import ComputeSerializer, JSONData, PureSourceTextInspect

    result = messagepack.unpack(packed_result)
    if result.error_details is None:
        serializer = ComputeSerializer(allowed_deserializer_types=[PureSourceTextInspect, JSONData])
        return json.dumps({"output": serializer.deserialize(result.data)})
    if result.details is None:  # only a worker describes itself: this is the engine's own report
        name, message = raised(_RULE.split(result.data)[-1].removesuffix("-" * 68))
        times = result.data.count("Traceback from attempt: ") or 1
        if name in ("WorkerLost", "ManagerLost"):
            message = f"a worker process died {_TIMES.get(times, f'{times} times')} ({message})"
            message += "; give each worker more memory"
        return json.dumps({"error": name, "message": message})
    if result.error_details.code != "RemoteExecutionError":
        message = result.error_details.user_message.removeprefix("remote error: ")
        return json.dumps({"error": result.error_details.code, "message": message})
    name, message = raised(result.data)
    return json.dumps({"error": name, "message": message})


_TIMES = {1: "once", 2: "twice"}


def raised(traceback: str) -> tuple[str, str]:
    """Name and message of the exception that a formatted traceback ends with."""
    lines = traceback.rpartition(_TRACEBACK)[2].rstrip("\n").split("\n")
    start = next((i for i, line in enumerate(lines) if line and not line[0].isspace()), 0)
    name, colon, message = "\n".join(lines[start:]).partition(": ")
    name = name.rpartition(".")[2]
    return name, message if colon else f"{name}()"


def _take_lease(path: Path) -> Any:
    lease = open(path, "wb")  # noqa: SIM115 - held until the engine is closed
    fcntl.flock(lease, fcntl.LOCK_EX)
    return lease


def _program() -> str:
    """The endpoint's command beside this interpreter, whatever PATH says."""
    beside = Path(sys.executable).parent / PROGRAM
    found = str(beside) if beside.exists() else shutil.which(PROGRAM)
    if found is None:
        raise SiteError(f"{PROGRAM}: not beside {sys.executable}", remedy="pip install 'petavoxel[hpc]'")
    return found


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
