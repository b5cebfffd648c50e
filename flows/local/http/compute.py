"""Globus Compute of the loopback, v2 and v3: functions, tasks, and the site's one endpoint.

Results are fetched by asking; there is no message queue (`Executor` needs one, `Client` does not).
"""

from __future__ import annotations

import platform
import uuid
from importlib.metadata import version
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from flows.local.actions import Json
from flows.local.documents import OWNER_ID
from flows.local.http.calls import Call, Service, World, rest, route
from flows.local.http.errors import ApiError
from flows.local.http.tokens import COMPUTE_CLIENT
from flows.local.registered import registered_functions

SERVICE = Service(name="compute", unauthorised="401", forbidden="403")
SCOPES = (f"https://auth.globus.org/scopes/{COMPUTE_CLIENT}/all",)
API_VERSION = "1.23.0"


def routes(world: World) -> list[BaseRoute]:
    """The routes of Compute; `rest` is left to who mounts them."""
    table = [
        ("GET", "/v2/version", api_version),
        ("POST", "/v2/functions", register),
        ("POST", "/v3/functions", register),
        ("GET", "/v2/functions/{id}", function),
        ("DELETE", "/v2/functions/{id}", remove_function),
        ("POST", "/v2/submit", submit_v2),
        ("POST", "/v3/endpoints/{id}/submit", submit_v3),
        ("GET", "/v2/tasks/{id}", task),
        ("POST", "/v2/batch_status", batch_status),
        ("GET", "/v2/taskgroup/{id}", task_group),
        ("GET", "/v2/endpoints", endpoints),
        ("GET", "/v2/endpoints/{id}", endpoint),
        ("GET", "/v2/endpoints/{id}/status", endpoint_status),
        ("GET", "/v3/endpoints/{id}/allowed_functions", allowed_functions),
    ]
    open_to_all = ("/v2/version",)
    return [
        route(world, SERVICE, method, path, handler, () if path in open_to_all else SCOPES)
        for method, path, handler in table
    ]


def compute_rest() -> BaseRoute:
    """Whatever else Compute has."""
    return rest(SERVICE)


def api_version(call: Call) -> Response:
    """GET /v2/version. The real client reads `min_ep_version`, the SDK's fixture has another name: both."""
    if call.query.get("service") != "all":
        return JSONResponse(API_VERSION)
    least = "1.0.0"
    return JSONResponse(
        {
            "api": API_VERSION,
            "min_sdk_version": least,
            "min_ep_version": least,
            "min_endpoint_version": least,
            "git_sha": "0" * 40,
        }
    )


# -- functions ----------------------------------------------------------------------------------------------
def register(call: Call) -> Json:
    """POST functions: packed code (`serialized`), or source text as register_source_code sends it."""
    document = call.json()
    for name in ("function_name", "function_code"):
        if not isinstance(document.get(name), str) or not document[name]:
            raise ApiError(400, "400", f"{name}: is needed")
    return {"function_uuid": call.site.catalog.register({"serialized": True, **document})}


def function(call: Call) -> Json:
    """GET /v2/functions/{id}."""
    function_id = call.path["id"]
    built_in = registered_functions(call.site.site.entry_points).get(function_id)
    document = call.site.catalog.function_document(function_id)
    if built_in is not None:
        document = {"function_name": built_in.name, "function_code": built_in.source, "meta": {}}
    if document is None:
        raise ApiError(404, "404", f"Function {function_id} could not be resolved")
    return {
        "function_uuid": function_id,
        "function_name": document["function_name"],
        "function_code": document["function_code"],
        "description": document.get("description"),
        "metadata": document.get("meta"),
    }


def remove_function(call: Call) -> Json:
    """DELETE /v2/functions/{id}."""
    call.site.catalog.remove_function(call.path["id"])
    return {"result": 302}


# -- tasks --------------------------------------------------------------------------------------------------
def submit_v3(call: Call) -> Json:
    """POST /v3/endpoints/{id}/submit: packed args and kwargs by function."""
    _require_endpoint(call, call.path["id"])
    document = call.json()
    group, ids = call.world.compute.submit(document.get("tasks") or {}, group=document.get("task_group_id"))
    return {
        "request_id": str(uuid.uuid4()),
        "task_group_id": group,
        "endpoint_id": call.path["id"],
        "tasks": ids,
    }


def submit_v2(call: Call) -> Json:
    """POST /v2/submit: a list of [function, endpoint, packed args and kwargs]."""
    document = call.json()
    group = document.get("task_group_id")
    results = []
    for function_id, endpoint_id, payload in document.get("tasks") or []:
        _require_endpoint(call, endpoint_id)
        group, ids = call.world.compute.submit({function_id: [payload]}, group=group)
        told = {"status": "success", "http_status_code": 200, "reason": None}
        results.append({**told, "task_uuid": ids[function_id][0]})
    return {"response": "success", "task_group_id": group, "results": results}


def task(call: Call) -> Json:
    """GET /v2/tasks/{id}."""
    document = call.world.compute.document(call.path["id"])
    if document is None:
        raise ApiError(404, "404", f"Task {call.path['id']} could not be resolved")
    return {**document, "details": _worker()}


def batch_status(call: Call) -> Json:
    """POST /v2/batch_status."""
    found = {id_: call.world.compute.document(id_) for id_ in call.json().get("task_ids") or []}
    known = {id_: {**document, "details": _worker()} for id_, document in found.items() if document}
    return {"response": "batch", "results": known}


def task_group(call: Call) -> Json:
    """GET /v2/taskgroup/{id}."""
    ids = call.world.compute.group(call.path["id"])
    if not ids:
        raise ApiError(404, "404", f"Task group {call.path['id']} could not be resolved")
    return {"taskgroup_id": call.path["id"], "tasks": [{"id": task_id} for task_id in ids]}


def _worker() -> Json:
    """What the worker is, for the client's comparison of versions."""
    return {
        "os": platform.platform(),
        "python_version": platform.python_version(),
        "dill_version": version("dill"),
        "globus_compute_sdk_version": version("globus-compute-sdk"),
    }


# -- the endpoint -------------------------------------------------------------------------------------------
def endpoints(call: Call) -> Response:
    """GET /v2/endpoints."""
    return JSONResponse([{**_endpoint(call), "owner": OWNER_ID}])


def endpoint(call: Call) -> Json:
    """GET /v2/endpoints/{id}."""
    _require_endpoint(call, call.path["id"])
    return _endpoint(call)


def _endpoint(call: Call) -> Json:
    return {
        "uuid": call.site.site.compute.endpoint_id,
        "name": "petavoxel-loopback",
        "display_name": "Petavoxel loopback",
        "multi_user": False,
        "public": False,
        "description": "worker processes of this machine",
        "endpoint_version": version("globus-compute-sdk"),
        "sdk_version": version("globus-compute-sdk"),
        "user_config_schema": {},
    }


def endpoint_status(call: Call) -> Json:
    """GET /v2/endpoints/{id}/status."""
    _require_endpoint(call, call.path["id"])
    workers = call.site.site.workers
    return {"status": "online", "details": {"total_workers": workers, "managers": 1}}


def allowed_functions(call: Call) -> Json:
    """GET /v3/endpoints/{id}/allowed_functions."""
    _require_endpoint(call, call.path["id"])
    return {"endpoint_id": call.path["id"], "restricted": False, "functions": []}


def _require_endpoint(call: Call, endpoint_id: Any) -> None:
    if endpoint_id != call.site.site.compute.endpoint_id:
        raise ApiError(404, "404", f"Endpoint {endpoint_id} could not be resolved")
