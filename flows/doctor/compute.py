"""The endpoint, and what its workers are: asked by running the registered `probe` there."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from globus_sdk import GlobusAPIError

from flows.doctor.visit import Answer, Visit, failed, ok, skipped
from functions.tasks import ProbeResult

POLL_S = 5.0
LOST = ("WorkerLost", "ManagerLost")
BROKEN_INIT = (
    "on the endpoint's machine: look into the newest submit_scripts/*.stderr under ~/.globus_compute; stop"
    " the endpoint (if it comes back by itself, remove its daemon.pid); correct the environment that"
    " worker_init activates; `petavoxel site endpoint-config` and start it again"
)


def endpoint(visit: Visit) -> Answer:
    """Online."""
    status = _status(visit)
    if status.get("status") != "online":
        return failed(
            f"endpoint {visit.site.compute.endpoint_id} is {status.get('status', 'unknown')}",
            "start it where it runs: globus-compute-endpoint start NAME",
        )
    return ok(f"endpoint {visit.site.compute.endpoint_id} is online")


def functions(visit: Visit) -> Answer:
    """All that the lock names exist at the service, with our names."""
    assert visit.lock
    if not visit.lock.functions:
        return failed("none is registered", "petavoxel flow deploy")
    missing = [name for name, known in visit.lock.functions.items() if not _is_known(visit, name, known.id)]
    if missing:
        return failed(
            f"not registered, or not yours to call: {', '.join(missing)}",
            "have whoever deployed set compute.callers_group; or remove them from the lock file and deploy",
        )
    return ok(f"{len(visit.lock.functions)} are registered")


def _is_known(visit: Visit, name: str, function_id: str) -> bool:
    try:
        return bool(visit.service.compute_v2.get_function(function_id)["function_name"] == name)
    except GlobusAPIError as error:
        if error.http_status in (403, 404):
            return False
        raise


@dataclass(slots=True)
class Looks:
    """What was seen of the endpoint while a task waited: how many workers, look by look."""

    workers: list[int] = field(default_factory=list)

    @property
    def departures(self) -> int:
        """How often all workers were gone after some had been there."""
        pairs = zip(self.workers, self.workers[1:], strict=False)
        return sum(before > 0 and after == 0 for before, after in pairs)


def worker(visit: Visit) -> Answer:
    """Run `probe` there and keep what it says; tells no worker, workers that die and a failing task apart."""
    task_id = _submit(visit)
    begin = visit.clock()
    looks = Looks()
    while (task := _task(visit, task_id)).get("status", "").lower() not in ("success", "failed"):
        looks.workers.append(_workers(_status(visit)))
        if visit.clock() - begin >= visit.limit_s:
            return _still_waiting(looks, visit.limit_s)
        visit.sleep(POLL_S)
    if task["status"].lower() == "failed":
        return _task_failed(str(task.get("exception", "")))
    visit.probe = ProbeResult.parse(_unpacked(task["result"]), source="probe")
    return ok(f"a worker answered after {visit.clock() - begin:.0f} s")


def _submit(visit: Visit) -> str:
    """Ask for one `probe`; arguments and answer are JSON, which is all that the endpoint takes."""
    from globus_compute_sdk.serialize import ComputeSerializer, JSONData

    assert visit.lock
    serializer = ComputeSerializer(strategy_data=JSONData())
    folder = str(PurePosixPath(visit.site.scratch.base_path) / visit.marker)
    kwargs = {"task": {"folders": [folder]}}
    packed = serializer.pack_buffers([serializer.serialize([]), serializer.serialize(kwargs)])
    function_id = visit.lock.functions["probe"].id
    body: dict[str, Any] = {
        "tasks": {function_id: [packed]},
        "create_queue": False,
        "user_endpoint_config": visit.site.compute.user_endpoint_config,
        "result_serializers": ["globus_compute_sdk.serialize.JSONData"],
    }
    answer = visit.service.compute.submit(visit.site.compute.endpoint_id, body)
    return str(answer["tasks"][function_id][0])


def _task(visit: Visit, task_id: str) -> dict[str, Any]:
    return dict(visit.service.compute_v2.get_task(task_id).data)


def _status(visit: Visit) -> dict[str, Any]:
    return dict(visit.service.compute_v2.get_endpoint_status(visit.site.compute.endpoint_id).data)


def _workers(status: dict[str, Any]) -> int:
    details = status.get("details") or {}
    return int(details.get("total_workers") or details.get("managers") or 0)


def _unpacked(result: str) -> object:
    from globus_compute_sdk.serialize import ComputeSerializer, JSONData, PureSourceTextInspect

    serializer = ComputeSerializer(allowed_deserializer_types=[PureSourceTextInspect, JSONData])
    return serializer.deserialize(result)


def _still_waiting(looks: Looks, limit_s: float) -> Answer:
    waited = f"the task waits after {limit_s:.0f} s"
    if looks.departures > 1 or (looks.departures and not looks.workers[-1]):
        return failed(
            f"{waited} while jobs came and went {looks.departures} times and did not take it",
            BROKEN_INIT,
        )
    if not any(looks.workers):
        return failed(
            f"{waited} and no worker came: the job is queued, or dies before its workers report",
            f"see qstat or squeue: queued: wait, or --wait-s more; jobs that end at once: {BROKEN_INIT}",
        )
    return failed(
        f"{waited} though {looks.workers[-1]} workers are there",
        "they are busy with other tasks; or their parsl is not the endpoint's: compare both versions",
    )


def _task_failed(exception: str) -> Answer:
    lines = [line for line in exception.strip().splitlines() if line.strip()] or ["no reason given"]
    if any(word in exception for word in LOST):
        remedy = "Python's minor version and parsl must be the same for endpoint and workers"
    elif "ModuleNotFoundError" in exception:
        remedy = "install petavoxel in the environment that worker_init activates"
    else:
        remedy = "look into the endpoint's log under ~/.globus_compute"
    return failed(f"the probe failed: {lines[-1].strip()[:300]}", remedy)


def versions(visit: Visit) -> Answer:
    """The worker has the release that deployed, parsl, and import names that are ours."""
    assert visit.probe
    assert visit.lock
    found = visit.probe.paths
    said = ", ".join(f"{name} {found.get(name, '?')}" for name in ("python", "parsl", "petavoxel", "torch"))
    if visit.probe.problems:
        problem = visit.probe.problems[0]
        return failed(f"{problem.subject}: {problem.code}", problem.remedy)
    if found.get("petavoxel") != visit.lock.package:
        return failed(
            f"the worker has petavoxel {found.get('petavoxel')}, deployed was {visit.lock.package}",
            f"install petavoxel {visit.lock.package} in the workers' environment, or deploy with theirs",
        )
    if found.get("parsl") == "not installed":
        return failed(f"no parsl on the worker ({said})", "pip install globus-compute-endpoint there")
    return ok(said)


def accelerators(visit: Visit) -> Answer:
    """As many devices as a worker is meant to have: at least one if the endpoint is asked for any."""
    assert visit.probe
    figures = visit.probe.figures
    seen = int(figures.get("cuda_devices", 0) + figures.get("xpu_devices", 0))
    wanted = visit.site.compute.user_endpoint_config.get("accelerators", 0)
    if seen:
        return ok(f"torch sees {seen} in a worker")
    if wanted:
        return failed(
            f"torch {visit.probe.paths.get('torch')} sees none, {wanted} a node are asked for",
            "install torch for that device (CUDA or XPU) in the workers' environment; is it a GPU queue?",
        )
    return skipped("none is asked for")
