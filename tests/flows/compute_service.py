"""The Compute web service as an endpoint sees it: Auth, registration, submission and results, over a broker.

PROVISIONAL: written from what the released endpoint and SDK send and read; only the live service can confirm
the messages on its queues. It stands at http://localhost:5000, where `local_compute_services` looks for it.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

import uvicorn
from globus_compute_common import messagepack
from globus_compute_common.messagepack.message_types import EPStatusReport, Result, Task
from globus_compute_sdk.serialize import ComputeSerializer
from pamqp.commands import Basic
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.flows.broker import Broker, Message

PORT = 5000
RESULTS = "results."
OWNER = str(uuid.uuid5(uuid.NAMESPACE_URL, "owner"))
Json = dict[str, Any]


class ComputeService:
    """Runs in a thread of its own while its context lasts."""

    def __init__(self) -> None:
        self.broker = Broker()
        self.endpoints: dict[str, Json] = {}
        self.tasks: dict[str, Json] = {}
        self.reports: list[EPStatusReport] = []
        self.started: list[str] = []
        """Names of the user endpoints that were asked for."""
        self._functions: dict[str, str] = {}
        self._ready = threading.Event()
        config = uvicorn.Config(self._app(), host="127.0.0.1", port=PORT, log_level="warning", lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> ComputeService:
        self._thread.start()
        assert self._ready.wait(20)
        while not self._server.started:
            assert self._thread.is_alive(), f"port {PORT} is taken"
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(20)

    async def _serve(self) -> None:
        await self.broker.start()
        self._ready.set()
        await self._server.serve()
        self.broker.stop()

    def _app(self) -> Starlette:
        routes: list[tuple[str, str, Callable[[Request], Awaitable[Json]]]] = [
            ("POST", "/v2/oauth2/token", self._token),
            ("GET", "/v2/oauth2/userinfo", self._userinfo),
            ("GET", "/v2/version", self._version),
            ("POST", "/v3/endpoints", self._register),
            ("PUT", "/v3/endpoints/{endpoint}", self._register),
            ("POST", "/v3/functions", self._function),
            ("POST", "/v3/endpoints/{endpoint}/submit", self._submit),
            ("GET", "/v2/tasks/{task}", self._task),
            ("GET", "/v2/get_amqp_result_connection_url", self._result_queues),
        ]

        def answering(handle: Callable[[Request], Awaitable[Json]]) -> Callable[..., Awaitable[JSONResponse]]:
            async def answer(request: Request) -> JSONResponse:
                return JSONResponse(await handle(request))

            return answer

        return Starlette(routes=[Route(path, answering(to), methods=[verb]) for verb, path, to in routes])

    # -- Auth -----------------------------------------------------------------------------------------------
    async def _token(self, request: Request) -> Json:
        asked = parse_qs((await request.body()).decode()).get("scope", [""])[0].split()

        def grant(server: str, scopes: list[str]) -> Json:
            return {
                "access_token": f"token-of-{server}",
                "token_type": "Bearer",
                "expires_in": 172800,
                "resource_server": server,
                "scope": " ".join(scopes),
            }

        compute = [scope for scope in asked if scope.endswith("/all")]
        auth = [scope for scope in asked if scope not in compute]
        servers = (("funcx_service", compute), ("auth.globus.org", auth))
        first, *others = [grant(server, scopes) for server, scopes in servers if scopes]
        return {**first, "other_tokens": others}

    async def _userinfo(self, request: Request) -> Json:
        return {"sub": OWNER, "identity_set": [{"sub": OWNER}]}

    # -- Compute --------------------------------------------------------------------------------------------
    async def _version(self, request: Request) -> Json:
        return {"api": "1.0", "min_ep_version": "4.0.0", "min_sdk_version": "4.0.0"}

    async def _register(self, request: Request) -> Json:
        id_ = request.path_params.get("endpoint") or str(uuid.uuid4())
        self.endpoints[id_] = await request.json()
        return {
            "endpoint_id": id_,
            "command_queue_info": self._queue_info(f"{id_}.commands"),
            "heartbeat_queue_info": self._queue_info(f"{id_}.heartbeats", self._heartbeat),
        }

    def _queue_info(self, name: str, taker: Callable[[Message], None] | None = None) -> Json:
        self.broker.queue(name, taker)
        return {
            "connection_url": f"amqp://guest:guest@127.0.0.1:{self.broker.port}/%2F",
            "queue": name,
            "exchange": "compute",
            "queue_publish_kwargs": {"exchange": "compute", "routing_key": name, "mandatory": True},
        }

    async def _function(self, request: Request) -> Json:
        body = await request.json()
        id_ = str(uuid.uuid4())
        text = f"st\n{body['function_name']}:{body['function_code']}"
        self._functions[id_] = ComputeSerializer.pack_buffers([text])
        return {"function_uuid": id_}

    async def _submit(self, request: Request) -> Json:
        body = await request.json()
        name = self._user_endpoint(request.path_params["endpoint"], body)
        group = body.get("task_group_id") or str(uuid.uuid4())
        ids: dict[str, list[str]] = {}
        for function, payloads in body["tasks"].items():
            for payload in payloads:
                task = uuid.uuid4()
                self.tasks[str(task)] = {"task_id": str(task), "status": "waiting", "at": name}
                if body.get("create_queue"):
                    self.tasks[str(task)]["queue"] = f"{RESULTS}{group}"
                packed = messagepack.pack(Task(task_id=task, task_buffer=self._functions[function] + payload))
                headers = {"function_uuid": function, "task_uuid": str(task)}
                headers["result_serializers"] = body.get("result_serializers", [])
                self.broker.queue(f"{name}.tasks").put(Message(packed, Basic.Properties(headers=headers)))
                ids.setdefault(function, []).append(str(task))
        return {
            "tasks": ids,
            "task_group_id": group,
            "endpoint_id": request.path_params["endpoint"],
            "request_id": str(uuid.uuid4()),
        }

    async def _result_queues(self, request: Request) -> Json:
        """Where the SDK's Executor takes results from: a queue of each task group."""
        url = f"amqp://guest:guest@127.0.0.1:{self.broker.port}/%2F"
        return {"queue_prefix": RESULTS, "connection_url": url}

    def _user_endpoint(self, endpoint: str, body: Json) -> str:
        """The user endpoint for these options; its endpoint is asked to start it, or to go on with it."""
        options = body.get("user_endpoint_config", {})
        name = f"uep.{uuid.uuid5(uuid.UUID(endpoint), json.dumps(options, sort_keys=True))}"
        credentials = {
            "endpoint_id": str(uuid.uuid5(uuid.NAMESPACE_URL, name)),
            "task_queue_info": self._queue_info(f"{name}.tasks"),
            "result_queue_info": self._queue_info(f"{name}.results", self._result),
            "heartbeat_queue_info": self._queue_info(
                f"{name}.heartbeats", lambda m: self._heartbeat(m, name)
            ),
        }
        command = {
            "command": "cmd_start_endpoint",
            "args": [],
            "kwargs": {
                "name": name,
                "user_opts": options,
                "user_runtime": body.get("user_runtime", {}),
                "amqp_creds": credentials,
            },
            "globus_effective_identity": OWNER,
            "globus_username": "owner@example.org",
            "globus_identity_set": [{"sub": OWNER}],
        }
        properties = Basic.Properties(content_type="application/json", timestamp=datetime.now(UTC))
        self.broker.queue(f"{endpoint}.commands").put(Message(json.dumps(command).encode(), properties))
        self.started.append(name)
        return name

    def _result(self, message: Message) -> None:
        result = messagepack.unpack(message.body)
        assert isinstance(result, Result)
        key = "exception" if result.is_error else "result"
        status = "failed" if result.is_error else "success"
        task = self.tasks[str(result.task_id)]
        task |= {"status": status, key: result.data, "completion_t": "0"}
        if "queue" in task:
            self.broker.queue(task["queue"]).put(Message(message.body, Basic.Properties()))

    def _heartbeat(self, message: Message, name: str = "") -> None:
        """Keep the report; one of a user endpoint that could not start fails what waits for it."""
        report = messagepack.unpack(message.body)
        self.reports.append(report)
        if error := report.global_state.get("error"):
            for task in self.tasks.values():
                if task["at"] == name and task["status"] == "waiting":
                    task |= {"status": "failed", "exception": error, "completion_t": "0"}

    async def _task(self, request: Request) -> Json:
        return self.tasks[request.path_params["task"]]
