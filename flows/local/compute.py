"""The Compute action provider (v3 bodies) over an engine.

Functions travel as registered source text through the real Compute serialiser, data as JSON; what works here
works on an endpoint. Any failed task fails the action; the others' finished units stay marked.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor, Future
from dataclasses import dataclass, field, replace

from flows.errors import ActionError, FlowsError
from flows.local.actions import ActionStatus, Json
from flows.local.engines import Engine, explained, lost
from flows.local.registered import RegisteredFunction, pack_task

MAX_BODY_BYTES = 10 * 1024 * 1024
_NAMESPACE = uuid.UUID("0b4a63a6-7e2f-5a0c-8a8e-5b0f3c1f6d11")


ALL = -1
"""Stands for all tasks of an action: a pool that lost a worker has lost them all."""
LOST = ("WorkerLost", "ManagerLost")
"""Errors by which Parsl says that a worker, or a node's manager, is gone."""


@dataclass(slots=True)
class _Action:
    packed: list[str]
    futures: list[Future[str]]
    outputs: list[Json | None]
    lost_at: dict[int, int] = field(default_factory=dict)
    """What had been begun when the worker of a task was last lost, by task; `ALL` when all were."""
    cause: str = ""
    ids: list[str] = field(default_factory=list)


class ComputeProvider:
    """Runs the tasks of Compute actions in one engine, created at first need and kept for the run."""

    def __init__(
        self,
        functions: Mapping[str, RegisteredFunction],
        *,
        new_engine: Callable[[], Engine],
        begun: Callable[[], int] = lambda: 0,
    ) -> None:
        """Args:
        begun: a count that grows with each unit of work that a worker begins. A lost worker is replaced
            while it grows, since a unit that ends workers is put aside; else once.
        """
        self._functions = functions
        self._new_engine = new_engine
        self._begun = begun
        self._engine: Engine | None = None
        self._actions: dict[str, _Action] = {}

    def start(self, action_id: str, body: Json) -> None:
        """Submit every task.

        Raises:
            ActionError: no tasks, an unknown function, a body over 10 MB, or an engine that does not start.
        """
        if action_id in self._actions:
            return
        packed = [self._packed(task) for task in _tasks(body)]
        self._actions[action_id] = _Action(
            packed=packed,
            futures=self._submit(packed),
            outputs=[None] * len(packed),
            ids=[str(uuid.uuid5(_NAMESPACE, f"{action_id}:{i}")) for i in range(len(packed))],
        )

    def _packed(self, task: Json) -> str:
        function = self._functions.get(task["function_id"])
        if function is None:
            raise ActionError(
                f"function {task['function_id']}: not registered at this site",
                remedy="start a new run; its input takes the ids of this version",
            )
        return pack_task(function, task.get("args", []), task["kwargs"])

    def _submit(self, packed: list[str]) -> list[Future[str]]:
        engine = self._engine or self._begin()
        try:
            return [engine.submit_packed(text) for text in packed]
        except BrokenExecutor:
            engine = self._begin()
            return [engine.submit_packed(text) for text in packed]

    def _begin(self) -> Engine:
        """A new engine, in place of the one there may be."""
        self.close()
        try:
            self._engine = self._new_engine()
        except FlowsError as error:
            raise ActionError(str(error)) from error
        return self._engine

    def status(self, action_id: str) -> ActionStatus:
        """Collect finished tasks; an engine that was lost is replaced, and unfinished tasks go again."""
        action = self._actions[action_id]
        for index, future in enumerate(action.futures):
            if action.outputs[index] is None and not action.cause and future.done():
                self._collect(action, index, future)
                if ALL in action.lost_at and not action.futures[index].done():
                    break
        done = sum(output is not None for output in action.outputs)
        total = len(action.outputs)
        if action.cause:
            return ActionStatus(
                status="FAILED", cause=action.cause, done=done, total=total, details={"error": action.cause}
            )
        finished = [output for output in action.outputs if output is not None]
        details = {
            "result": [output["output"] for output in finished],
            "results": [
                {"task_id": id_, "output": output["output"]}
                for id_, output in zip(action.ids, action.outputs, strict=True)
                if output is not None
            ],
        }
        now = ActionStatus(status="ACTIVE", details=details, done=done, total=total)
        return replace(now, status="SUCCEEDED") if done == total else now

    def _collect(self, action: _Action, index: int, future: Future[str]) -> None:
        try:
            outcome: Json = json.loads(future.result())
        except BrokenExecutor as error:
            self._recover(action, str(error))
            return
        except Exception as error:
            action.cause = f"{type(error).__name__}: {error}"
        else:
            if "output" in outcome:
                action.outputs[index] = outcome
                return
            if outcome["error"] in LOST and self._may_go_on(action, index):
                self._submit_again(action, [index])
                return
            action.cause = explained(outcome)
        for other in action.futures:
            other.cancel()

    def _may_go_on(self, action: _Action, index: int) -> bool:
        """Whether a lost worker is replaced: the first one, and as long as they begin units before going."""
        before, now = action.lost_at.get(index), self._begun()
        action.lost_at[index] = now
        return before is None or now > before

    def _recover(self, action: _Action, reason: str) -> None:
        """A worker of a pool was killed (out of memory, say), which ends all: go on in a new engine."""
        if not self._may_go_on(action, ALL):
            action.cause = lost(2, reason)
            return
        self.close()
        self._submit_again(action, [i for i, output in enumerate(action.outputs) if output is None])

    def _submit_again(self, action: _Action, indices: list[int]) -> None:
        try:
            futures = self._submit([action.packed[i] for i in indices])
        except (ActionError, BrokenExecutor) as error:
            action.cause = str(error)
            return
        for index, future in zip(indices, futures, strict=True):
            action.futures[index] = future

    def cancel(self, action_id: str) -> None:
        """Drop what is queued and end the workers; they may die at any point, units are marked last."""
        for future in self._actions[action_id].futures:
            future.cancel()
        self.close()

    def close(self) -> None:
        """End the engine and its processes; at once when tasks are under way (units are marked last)."""
        engine, self._engine = self._engine, None
        if engine is not None:
            under_way = any(not f.done() for action in self._actions.values() for f in action.futures)
            engine.close(at_once=under_way)


def _tasks(body: Json) -> list[Json]:
    tasks = body.get("tasks")
    if not isinstance(tasks, list) or not tasks:
        raise ActionError("tasks: at least one task is needed", remedy="plan the step again")
    if len(json.dumps(body)) > MAX_BODY_BYTES:
        raise ActionError("tasks: the body is over 10 MB", remedy="pass paths, not data")
    for index, task in enumerate(tasks):
        if not isinstance(task, dict) or "function_id" not in task or "kwargs" not in task:
            raise ActionError(f"tasks[{index}]: function_id and kwargs are needed", remedy="correct the plan")
    return tasks
