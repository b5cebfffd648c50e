"""Parsl's HighThroughputExecutor behind the face of an `Engine`: no part of Globus Compute is needed.

It reads the same configuration as the GlobusComputeEngine, that of an endpoint: its `engine` table without
what only an endpoint knows. Providers and launchers are Parsl's own, by name: LocalProvider, SlurmProvider,
PBSProProvider and the others.
"""

from __future__ import annotations

import json
import sys
import uuid
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from flows.errors import SiteError
from flows.local.engine_config import local_config, read_config
from flows.local.engines import lost
from flows.local.interchange import InterchangeEngine
from flows.local.worker import run_packed

TYPES = ("GlobusComputeEngine", "HighThroughputExecutor")
ENDPOINTS_OWN = ("type", "label", "allowed_serializers", "working_dir")
"""What an endpoint's `engine` table says and this executor need not know."""
POLLING = {"strategy": "simple", "max_idletime": 120.0, "strategy_period": 5.0}
"""How blocks come and go unless `job_status_kwargs` says otherwise: the endpoint's defaults."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """An executor to be started, how its blocks are looked after, and how often a lost task is retried."""

    executor: Any
    polling: dict[str, Any]
    retries: int


class ParslEngine(InterchangeEngine):
    """A started executor. Its interchange, and workers on this machine, end with it or with this process."""

    def __init__(self, folder: Path, *, workers: int, config: Path | None = None) -> None:
        """Start it; logs and batch scripts go to a new folder under `folder`.

        Raises:
            SiteError: the configuration does not load, or the executor does not start.
        """
        super().__init__(folder)
        self._poller: Any = None
        try:
            text = (
                read_config(config)
                if config
                else local_config(workers=workers, leash=self.leash, programs=Path(sys.executable).parent)
            )
            loaded = load_executor(text, source=str(config or "the built-in configuration"))
            self.executor, self._retries = loaded.executor, loaded.retries
            self._start(loaded.polling)
        except BaseException:
            self._release()
            raise
        self._watch()

    def _start(self, polling: dict[str, Any]) -> None:
        from parsl.jobs.job_status_poller import JobStatusPoller

        interchange = "parsl.executors.high_throughput.interchange"
        self.executor.interchange_launch_cmd = [*self.leash, sys.executable, "-m", interchange]
        self.executor.run_dir = str(self.folder)
        scripts = self.folder / "submit_scripts"
        scripts.mkdir()
        self.executor.provider.script_dir = str(scripts)
        try:
            self.executor.start()
        except Exception as error:
            self.executor.shutdown()
            raise SiteError(
                f"engine: it did not start: {error}", remedy=f"look at the logs in {self.folder}"
            ) from error
        self._poller = JobStatusPoller(**polling)
        self._poller.add_executors([self.executor])

    def _send(self, task_id: uuid.UUID, packed: str, *, losses: int = 0) -> None:
        try:
            remote = self.executor.submit(run_packed, {}, packed)
        except Exception as error:  # no block worked, so Parsl takes no more tasks
            self._answer(task_id, self._failure(error))
            return
        remote.add_done_callback(partial(self._ended, task_id, packed, losses))

    def _ended(self, task_id: uuid.UUID, packed: str, losses: int, done: Future[str]) -> None:
        from parsl.executors.high_throughput.errors import ManagerLost, WorkerLost

        try:
            outcome = done.result()
        except (WorkerLost, ManagerLost) as error:
            if losses < self._retries:
                self._send(task_id, packed, losses=losses + 1)
                return
            message = lost(losses + 1, str(error))
            outcome = json.dumps({"error": type(error).__name__, "message": message})
        except Exception as error:
            outcome = self._failure(error)
        self._answer(task_id, outcome)

    def _failure(self, error: Exception) -> str:
        """What a person is told of a task that no worker took: why no block works, if that is so."""
        reason = self.executor.executor_exception or error
        return json.dumps({"error": type(reason).__name__, "message": str(reason)})

    def _shut_down(self) -> None:
        if self._poller is not None:
            self._poller.close()  # cancels the blocks, too
        self.executor.shutdown()


def load_executor(text: str, *, source: str) -> Loaded:
    """The executor that the `engine` table of an endpoint's configuration describes.

    Raises:
        SiteError: not YAML, no such table, a type that Parsl does not have, or settings it does not take.
    """
    import parsl.launchers
    import parsl.providers
    import yaml
    from parsl.executors import HighThroughputExecutor

    try:
        engine = dict(yaml.safe_load(text)["engine"])
    except (yaml.YAMLError, TypeError, KeyError, ValueError) as error:
        raise _refusal(f"{source}: engine: {type(error).__name__}: {error}") from None
    if engine.get("type") not in TYPES:
        raise _refusal(f"{source}: engine.type: {engine.get('type')!r}: one of {', '.join(TYPES)} is needed")
    polling = POLLING | engine.pop("job_status_kwargs", {})
    retries = int(engine.pop("max_retries_on_system_failure", 0))
    settings = {name: value for name, value in engine.items() if name not in ENDPOINTS_OWN}
    provider = dict(settings.pop("provider", {"type": "LocalProvider"}))
    if "launcher" in provider:
        made = _made(parsl.launchers, provider["launcher"], f"{source}: engine.provider.launcher")
        provider["launcher"] = made
    settings["provider"] = _made(parsl.providers, provider, f"{source}: engine.provider")
    if isinstance(settings.get("address"), dict):
        settings["address"] = _address(settings["address"], f"{source}: engine.address")
    executor = _called(HighThroughputExecutor, {"label": "parsl", **settings}, f"{source}: engine")
    return Loaded(executor=executor, polling=polling, retries=retries)


def _made(module: Any, table: dict[str, Any], field: str) -> Any:
    """The object of `table`: its `type` names a class of `module`, the rest are the arguments."""
    name = str(table.get("type"))
    if name not in module.__all__:
        raise _refusal(f"{field}.type: {name!r}: Parsl has {', '.join(module.__all__)}")
    return _called(getattr(module, name), {key: v for key, v in table.items() if key != "type"}, field)


def _address(table: dict[str, Any], field: str) -> Any:
    """What workers call this machine, by a function of Parsl such as `address_by_interface`."""
    from parsl import addresses

    name = str(table.get("type"))
    if not name.startswith("address_by_") or not hasattr(addresses, name):
        raise _refusal(f"{field}.type: {name!r}: a function address_by_... of parsl.addresses is needed")
    return _called(getattr(addresses, name), {key: v for key, v in table.items() if key != "type"}, field)


def _called(make: Any, arguments: dict[str, Any], field: str) -> Any:
    try:
        return make(**arguments)
    except Exception as error:  # TypeError, typeguard's own, OSError of an interface that is not there
        raise _refusal(f"{field}: {error}") from None


def _refusal(message: str) -> SiteError:
    return SiteError(message, remedy="correct the engine's configuration")
