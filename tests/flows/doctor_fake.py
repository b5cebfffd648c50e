"""What the doctor asks, behind `responses`: collections are folders, and a task really runs the probe."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import responses
from globus_compute_sdk.serialize import ComputeSerializer, JSONData
from requests import PreparedRequest

from flows.site import Site
from functions.runtime import execute
from tests.flows.globus_fake import COMPUTE, SEARCH, TRANSFER, Answer, FakeGlobus, answer, body_of
from tests.flows.sites import some_id

ANY_ID = r"[0-9a-f-]{36}"
TASK = some_id("probe task")


@dataclass
class FakeSite(FakeGlobus):
    """A site that is well until a test changes one thing."""

    site: Site = None  # type: ignore[assignment]
    status: str = "online"
    workers: list[int] = field(default_factory=lambda: [1])
    """Workers at each look while the task waits; the last one stays."""
    runs_after: int = 0
    """Looks at the task before it has run; more than a test takes: never."""
    figures: dict[str, float] = field(default_factory=lambda: {"cuda_devices": 4})
    versions: dict[str, str] = field(default_factory=dict)
    exception: str = ""
    permissions: list[str] = field(default_factory=lambda: ["writer"])
    broken: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Routes (by a part of their URL) that answer with a status and a code instead."""
    lost_functions: set[str] = field(default_factory=set)
    hidden: bool = False
    """Workers do not see the folder that the collection shows."""
    free_gib: float = 1000.0
    looked: int = 0
    submitted: dict[str, Any] = field(default_factory=dict)
    slept: list[float] = field(default_factory=list)
    now: float = 0.0

    def install(self, mock: responses.RequestsMock) -> None:
        """All routes of the five services that the doctor needs."""
        super().install(mock)
        get, post = "GET", "POST"
        operation = f"{TRANSFER}/operation/endpoint/{ANY_ID}"
        for method, pattern, reply in (
            (get, rf"{operation}/ls", self._ls),
            (post, rf"{operation}/mkdir", self._mkdir),
            (get, rf"{TRANSFER}/submission_id", lambda r: answer({"value": some_id("submission")})),
            (post, rf"{TRANSFER}/delete", self._delete),
            (get, rf"{TRANSFER}/task_list", lambda r: answer({"DATA": []})),
            (get, rf"{COMPUTE}/v2/endpoints$", lambda r: answer([])),
            (get, rf"{TRANSFER}/task/{ANY_ID}", lambda r: answer({"status": "SUCCEEDED"})),
            (get, rf"{COMPUTE}/v2/endpoints/{ANY_ID}/status", self._status),
            (get, rf"{COMPUTE}/v2/functions/{ANY_ID}", self._function),
            (post, rf"{COMPUTE}/v3/endpoints/{ANY_ID}/submit", self._submit),
            (get, rf"{COMPUTE}/v2/tasks/{ANY_ID}", self._task),
            (get, rf"{SEARCH}/v1/index/{ANY_ID}", lambda r: answer({"permissions": self.permissions})),
        ):
            mock.add_callback(method, re.compile(pattern), self._unless_broken(reply))

    def sleep(self, seconds: float) -> None:
        """Time that passes at once."""
        self.slept.append(seconds)
        self.now += seconds

    def _unless_broken(self, reply: Any) -> Any:
        def replied(request: PreparedRequest) -> Answer:
            for part, (status, code) in self.broken.items():
                if part in str(request.url):
                    return answer({"code": code, "message": f"{code} for {part}"}, status)
            found: Answer = reply(request)
            return found

        return replied

    def _folder(self, request: PreparedRequest, path: str) -> Path:
        places = (self.site.instrument, self.site.scratch, self.site.publication)
        return next(p for p in places if p.id in str(request.url)).file_path(path)

    def _ls(self, request: PreparedRequest) -> Answer:
        folder = self._folder(request, parse_qs(urlparse(str(request.url)).query)["path"][0])
        if not folder.is_dir():
            return answer({"code": "ClientError.NotFound", "message": "Directory not found"}, 404)
        return answer({"DATA": [{"name": p.name} for p in folder.iterdir()][:1]})

    def _mkdir(self, request: PreparedRequest) -> Answer:
        self.writes.append("mkdir")
        self._folder(request, body_of(request)["path"]).mkdir()
        return answer({"code": "DirectoryCreated"}, 202)

    def _delete(self, request: PreparedRequest) -> Answer:
        body = body_of(request)
        places = (self.site.scratch, self.site.publication)
        place = next(p for p in places if p.id == body["endpoint"])
        for item in body["DATA"]:
            shutil.rmtree(place.file_path(item["path"]))
        return answer({"task_id": some_id("delete"), "code": "Accepted"}, 202)

    def _status(self, request: PreparedRequest) -> Answer:
        count = self.workers[min(self.looked, len(self.workers)) - 1]
        return answer({"status": self.status, "details": {"total_workers": count, "managers": count}})

    def _function(self, request: PreparedRequest) -> Answer:
        id_ = str(request.url).rsplit("/", 1)[1]
        found = self.functions.get(id_)
        if found is None or found["function_name"] in self.lost_functions:
            return answer({"code": "FUNCTION_NOT_FOUND", "reason": "no such function"}, 404)
        return answer({"function_uuid": id_, "function_name": found["function_name"]})

    def _submit(self, request: PreparedRequest) -> Answer:
        self.submitted = body_of(request)
        return answer({"tasks": {function: [TASK] for function in self.submitted["tasks"]}})

    def _task(self, request: PreparedRequest) -> Answer:
        self.looked += 1
        if self.looked <= self.runs_after:
            return answer({"task_id": TASK, "status": "waiting-for-nodes"})
        if self.exception:
            return answer({"task_id": TASK, "status": "failed", "exception": self.exception})
        return answer({"task_id": TASK, "status": "success", "result": self._probed()})

    def _probed(self) -> str:
        """What the endpoint's worker would answer: the real probe, with the test's figures put in."""
        serializer = ComputeSerializer(strategy_data=JSONData())
        ((function, (packed,)),) = self.submitted["tasks"].items()
        assert self.functions[function]["function_name"] == "probe"
        args, kwargs = (serializer.deserialize(b) for b in serializer.unpack_buffers(packed))
        assert args == []
        result = execute("probe", kwargs["task"])
        result["figures"] |= self.figures
        result["paths"] |= self.versions
        result["folders"] = [f | {"free_gib": self.free_gib} for f in result["folders"]]
        if self.hidden:
            result["folders"] = [f | {"exists": False, "writable": False} for f in result["folders"]]
        return serializer.serialize(json.loads(json.dumps(result)))
