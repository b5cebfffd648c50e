"""The real, unmodified GlobusComputeEngine (Parsl's HighThroughputExecutor) behind the face of an `Engine`.

Tasks go out as the Compute protocol's Task messages and come back as its Result messages: what an endpoint
would do with them, without web service and message broker. An endpoint's rendered configuration can be given,
and then its provider (Slurm, PBS) starts the workers; without one they run on this machine.
"""

from __future__ import annotations

import json
import shutil
import sys
import uuid
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from flows.errors import SiteError
from flows.local.engine_config import JSON_DATA, local_config, read_config
from flows.local.interchange import InterchangeEngine, raised, reported

PROGRAM = "globus-compute-endpoint"


class GlobusEngine(InterchangeEngine):
    """A started engine. Its interchange, and workers on this machine, end with it or with this process."""

    def __init__(self, folder: Path, *, workers: int, config: Path | None = None) -> None:
        """Start it; logs and batch scripts go to a new folder under `folder`.

        Raises:
            SiteError: the configuration does not load, or the engine does not start.
        """
        super().__init__(folder)
        try:
            programs = Path(_program()).parent
            text = (
                read_config(config)
                if config
                else local_config(workers=workers, leash=self.leash, programs=programs)
            )
            self._engine = load_engine(text, source=str(config or "the built-in engine configuration"))
            self.executor = self._engine.executor
            command = self.executor.interchange_launch_cmd
            self.executor.interchange_launch_cmd = [*self.leash, _program(), *command[1:]]
            self._start()
        except BaseException:
            self._release()
            raise
        self._watch()

    def _start(self) -> None:
        try:
            self._engine.start(endpoint_id=uuid.uuid4(), run_dir=str(self.folder))
        except Exception as error:
            self._engine.shutdown()
            raise SiteError(
                f"engine: it did not start: {error}", remedy=f"look at the logs in {self.folder}"
            ) from error

    def _send(self, task_id: uuid.UUID, packed: str) -> None:
        from globus_compute_common import messagepack
        from globus_compute_common.messagepack.message_types import Task
        from globus_compute_endpoint.engines.base import GCFuture

        def answer(done: Future[bytes]) -> None:
            try:
                outcome = outcome_of(done.result())
            except Exception as error:
                outcome = json.dumps({"error": type(error).__name__, "message": str(error)})
            self._answer(task_id, outcome)

        remote = GCFuture(task_id)
        remote.add_done_callback(answer)
        self._engine.submit(
            remote,
            messagepack.pack(Task(task_id=task_id, task_buffer=packed)),
            resource_specification={},
            result_serializers=[JSON_DATA],
        )

    def _shut_down(self) -> None:
        self._engine.shutdown()


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
        name, message = reported(result.data)
    elif result.error_details.code != "RemoteExecutionError":
        name = result.error_details.code
        message = result.error_details.user_message.removeprefix("remote error: ")
    else:
        name, message = raised(result.data)
    return json.dumps({"error": name, "message": message})


def _program() -> str:
    """The endpoint's command beside this interpreter, whatever PATH says."""
    beside = Path(sys.executable).parent / PROGRAM
    found = str(beside) if beside.exists() else shutil.which(PROGRAM)
    if found is None:
        raise SiteError(f"{PROGRAM}: not beside {sys.executable}", remedy="pip install 'petavoxel[hpc]'")
    return found
