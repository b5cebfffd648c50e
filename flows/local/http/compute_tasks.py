"""Compute tasks of the loopback: registered source text, in the embedded site's engine.

One thread submits them all: worker processes die with the thread that made them.
"""

from __future__ import annotations

import time
import traceback
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from flows.errors import ActionError
from flows.local.actions import ActionStatus, Json
from flows.local.catalog import Catalog
from flows.local.compute import ComputeProvider
from flows.local.engines import new_engine
from flows.local.registered import RegisteredFunction, registered_functions
from flows.site import Site


@dataclass(slots=True)
class _Task:
    group: str
    refusal: str = ""
    ended: float | None = None


@dataclass(slots=True)
class ComputeTasks:
    """Tasks that were submitted to the site's one endpoint."""

    site: Site
    catalog: Catalog
    logs: Path
    """Where a real engine keeps its logs."""
    _tasks: dict[str, _Task] = field(default_factory=dict)
    _keeper: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="compute")
    )
    _functions: dict[str, RegisteredFunction] = field(default_factory=dict)
    _provider: ComputeProvider | None = None

    def submit(self, packed: dict[str, list[str]], *, group: str | None) -> tuple[str, dict[str, list[str]]]:
        """Submit tasks given as packed args and kwargs by function; the group's id and the tasks' ids.

        Raises:
            ActionError: a function nobody registered.
        """
        known = self._known()
        for function_id in packed:
            if function_id not in known and self.catalog.function_document(function_id) is None:
                raise ActionError(f"function {function_id}: not registered", remedy="register it first")
        group = group or str(uuid.uuid4())
        ids: dict[str, list[str]] = {}
        for function_id, payloads in packed.items():
            ids[function_id] = [str(uuid.uuid4()) for _ in payloads]
            for task_id, payload in zip(ids[function_id], payloads, strict=True):
                self._tasks[task_id] = _Task(group=group)
                self._keeper.submit(self._begin, task_id, function_id, payload)
        return group, ids

    def _known(self) -> dict[str, RegisteredFunction]:
        return {**self.catalog.functions(), **registered_functions(self.site.entry_points)}

    def _begin(self, task_id: str, function_id: str, payload: str) -> None:
        """In the keeper's thread. What cannot be begun is a failed task, as on an endpoint."""
        try:
            args, kwargs = _unpacked(payload)
            body: Json = {"tasks": [{"function_id": function_id, "args": args, "kwargs": kwargs}]}
            self._running().start(task_id, body)
        except Exception as error:
            self._tasks[task_id].refusal = "".join(traceback.format_exception_only(error)).strip()

    def _running(self) -> ComputeProvider:
        self._functions.update(self._known())
        if self._provider is None:
            self._provider = ComputeProvider(
                self._functions, new_engine=lambda: new_engine(self.site, self.logs)
            )
        return self._provider

    def document(self, task_id: str) -> Json | None:
        """A task as it stands; None for one nobody submitted."""
        task = self._tasks.get(task_id)
        if task is None:
            return None
        if task.refusal:
            return self._ended(task, {"task_id": task_id, "status": "failed", "exception": task.refusal})
        status = self._keeper.submit(self._status, task_id).result()
        if status.status == "ACTIVE":
            return {"task_id": task_id, "status": "pending"}
        if status.status == "FAILED":
            return self._ended(task, {"task_id": task_id, "status": "failed", "exception": status.cause})
        output = _serialised(status.details["result"][0])
        return self._ended(task, {"task_id": task_id, "status": "success", "result": output})

    def _status(self, task_id: str) -> ActionStatus:
        if self._provider is None or self._tasks[task_id].refusal:
            return ActionStatus(status="FAILED", cause=self._tasks[task_id].refusal)
        return self._provider.status(task_id)

    @staticmethod
    def _ended(task: _Task, document: Json) -> Json:
        task.ended = task.ended or time.time()
        return {**document, "completion_t": str(task.ended)}

    def group(self, group: str) -> list[str]:
        """The tasks of a group."""
        return [task_id for task_id, task in self._tasks.items() if task.group == group]

    def close(self) -> None:
        """End the worker processes."""
        if self._provider is not None:
            self._keeper.submit(self._provider.close).result()
        self._keeper.shutdown()


def _unpacked(payload: str) -> tuple[list[object], Json]:
    """Args and kwargs that a client packed; pickles are refused, as on an endpoint that allows JSON only."""
    from globus_compute_sdk.serialize import ComputeSerializer, JSONData, PureSourceTextInspect

    serializer = ComputeSerializer(
        PureSourceTextInspect(), JSONData(), allowed_deserializer_types=[PureSourceTextInspect, JSONData]
    )
    args, kwargs = (serializer.deserialize(buffer) for buffer in serializer.unpack_buffers(payload))
    return list(args), dict(kwargs)


def _serialised(output: object) -> str:
    from globus_compute_sdk.serialize import ComputeSerializer, JSONData

    return str(ComputeSerializer(strategy_data=JSONData()).serialize(output))
