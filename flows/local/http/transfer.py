"""Globus Transfer of the loopback: tasks between the site's collections, and looking into them."""

from __future__ import annotations

import fnmatch
import uuid
from datetime import UTC, datetime
from pathlib import Path

from starlette.routing import BaseRoute

from flows.local.actions import Json, Progress
from flows.local.catalog import StoredTask
from flows.local.documents import OWNER_ID
from flows.local.http.calls import Call, Service, World, rest, route
from flows.local.http.errors import ApiError
from flows.local.http.paging import number

SERVICE = Service(name="transfer", unauthorised="AuthenticationFailed", forbidden="ConsentRequired")
SCOPES = ("urn:globus:auth:scope:transfer.api.globus.org:all",)
LONGEST_LISTING = 100_000


def routes(world: World) -> list[BaseRoute]:
    """The routes of Transfer."""
    table = [
        ("GET", "/v0.10/submission_id", submission_id),
        ("POST", "/v0.10/transfer", submit_transfer),
        ("POST", "/v0.10/delete", submit_delete),
        ("GET", "/v0.10/task_list", task_list),
        ("GET", "/v0.10/task/{id}", get_task),
        ("POST", "/v0.10/task/{id}/cancel", cancel_task),
        ("GET", "/v0.10/endpoint/{id}", endpoint),
        ("POST", "/v0.10/endpoint/{id}/access", grant),
        ("GET", "/v0.10/operation/endpoint/{id}/ls", ls),
        ("GET", "/v0.10/operation/endpoint/{id}/stat", stat),
        ("POST", "/v0.10/operation/endpoint/{id}/mkdir", mkdir),
    ]
    own = [route(world, SERVICE, method, path, handler, SCOPES) for method, path, handler in table]
    return [*own, rest(SERVICE)]


def submission_id(call: Call) -> Json:
    """GET /submission_id."""
    return {"DATA_TYPE": "submission_id", "value": str(uuid.uuid4())}


def submit_transfer(call: Call) -> Json:
    """POST /transfer."""
    return _submitted(call, "TRANSFER", ("source_endpoint", "destination_endpoint"))


def submit_delete(call: Call) -> Json:
    """POST /delete."""
    return _submitted(call, "DELETE", ("endpoint",))


def _submitted(call: Call, kind: str, endpoints: tuple[str, ...]) -> Json:
    """The same submission id again is answered with the task that it made."""
    body, word = call.json(), kind.lower()
    for name in ("submission_id", *endpoints):
        if not body.get(name):
            raise ApiError(400, "ClientError.BadRequest", f"{name}: is needed")
    if not body.get("DATA"):
        code = f"ClientError.BadRequest.No{kind.title()}Items"
        raise ApiError(400, code, f"A {word} requires at least one item")
    for name in endpoints:
        _root(call, body[name])
    task_id, new = call.world.transfers.submit(kind, body)
    message = f"The {word} has been accepted and a task has been created and queued for execution"
    return {
        "DATA_TYPE": f"{word}_result",
        "code": "Accepted" if new else "Duplicate",
        "message": message if new else f"Duplicate of a {word} submitted before",
        "request_id": uuid.uuid4().hex[:9],
        "resource": f"/v0.10/{word}",
        "submission_id": body["submission_id"],
        "task_id": task_id,
        "task_link": {
            "DATA_TYPE": "link",
            "href": f"/v0.10/task/{task_id}?format=json",
            "rel": "related",
            "resource": "task",
            "title": "related task",
        },
    }


def task_list(call: Call) -> Json:
    """GET /task_list with limit and offset, newest first."""
    limit = number(call.query, "limit", default=10, least=1, most=1000)
    offset = number(call.query, "offset", default=0, most=10**9)
    tasks = call.site.catalog.tasks()
    shown = [call.world.transfers.document(task) for task in tasks[offset : offset + limit]]
    return {
        "DATA_TYPE": "task_list",
        "DATA": shown,
        "length": len(shown),
        "limit": limit,
        "offset": offset,
        "total": len(tasks),
    }


def get_task(call: Call) -> Json:
    """GET /task/{id}."""
    return call.world.transfers.document(_task(call))


def cancel_task(call: Call) -> Json:
    """POST /task/{id}/cancel."""
    done = call.world.transfers.cancel(_task(call))
    message = "The task has been cancelled successfully." if done else "The task completed before."
    return {
        "DATA_TYPE": "result",
        "code": "Canceled" if done else "TaskComplete",
        "message": message,
        "resource": f"/task/{call.path['id']}/cancel",
        "request_id": uuid.uuid4().hex[:9],
    }


def _task(call: Call) -> StoredTask:
    task = call.site.catalog.find_task(call.path["id"])
    if task is None:
        raise ApiError(404, "TaskNotFound", f"No task with id {call.path['id']}")
    return task


# -- collections --------------------------------------------------------------------------------------------
def endpoint(call: Call) -> Json:
    """GET /endpoint/{id}."""
    _root(call, call.path["id"])
    return {
        "DATA_TYPE": "endpoint",
        "id": call.path["id"],
        "display_name": call.world.transfers.names[call.path["id"]],
        "entity_type": "GCSv5_guest_collection",
        "owner_id": OWNER_ID,
        "owner_string": "petavoxel@loopback",
        "organization": "",
        "description": "a folder of this machine",
        "public": False,
        "default_directory": "/",
        "high_assurance": False,
        "acl_available": True,
        "DATA": [],
    }


def grant(call: Call) -> Json:
    """POST /endpoint/{id}/access: noted, as the embedded site has one user."""
    _root(call, call.path["id"])
    body = {**call.json(), "operation": "CREATE", "endpoint_id": call.path["id"]}
    answer = call.site.index.grant(body, Progress())
    return {
        "DATA_TYPE": "access_create_result",
        "code": "Created",
        "access_id": answer["access_id"],
        "message": "Access rule created successfully.",
        "request_id": uuid.uuid4().hex[:9],
        "resource": f"/endpoint/{call.path['id']}/access",
    }


def ls(call: Call) -> Json:
    """GET /operation/endpoint/{id}/ls with path, show_hidden, limit, offset and a filter by name."""
    folder = _file(call)
    if not folder.is_dir():
        raise ApiError(502, "ExternalError.DirListingFailed.NotDirectory", f"{folder.name}: not a folder")
    hidden = call.query.get("show_hidden", "1").lower() in ("1", "true")
    pattern = call.query.get("filter", "").removeprefix("name:").removeprefix("~") or "*"
    names = [n.name for n in folder.iterdir() if hidden or not n.name.startswith(".")]
    names = sorted(name for name in names if fnmatch.fnmatchcase(name, pattern))
    limit = number(call.query, "limit", default=LONGEST_LISTING, least=1, most=LONGEST_LISTING)
    offset = number(call.query, "offset", default=0, most=10**9)
    path = "/" + call.query.get("path", "/").strip("/")
    return {
        "DATA_TYPE": "file_list",
        "DATA": [_facts(folder / name) for name in names[offset : offset + limit]],
        "absolute_path": f"{path.rstrip('/')}/",
        "path": f"{path.rstrip('/')}/",
        "endpoint": call.path["id"],
        "length": len(names[offset : offset + limit]),
        "limit": limit,
        "offset": offset,
        "total": len(names),
        "request_id": uuid.uuid4().hex[:9],
    }


def stat(call: Call) -> Json:
    """GET /operation/endpoint/{id}/stat."""
    return _facts(_file(call))


def mkdir(call: Call) -> Json:
    """POST /operation/endpoint/{id}/mkdir."""
    path = call.world.transfers.collections.resolve(call.path["id"], call.json()["path"], field="path")
    if path.exists():
        raise ApiError(502, "ExternalError.MkdirFailed.Exists", f"{path.name}: exists")
    path.mkdir()
    return {
        "DATA_TYPE": "mkdir_result",
        "code": "DirectoryCreated",
        "message": "The directory was created successfully",
        "request_id": uuid.uuid4().hex[:9],
        "resource": f"/v0.10/operation/endpoint/{call.path['id']}/mkdir",
    }


def _root(call: Call, collection: str) -> Path:
    root = call.world.transfers.collections.roots.get(collection)
    if root is None:
        raise ApiError(404, "EndpointNotFound", f"No such endpoint '{collection}'")
    return root


def _file(call: Call) -> Path:
    _root(call, call.path["id"])
    path = call.query.get("path", "/")
    found = call.world.transfers.collections.resolve(call.path["id"], path, field="path")
    if not found.exists():
        raise ApiError(404, "ClientError.NotFound", f"{path}: No such file or directory")
    return found


def _facts(path: Path) -> Json:
    facts = path.lstat()
    return {
        "DATA_TYPE": "file",
        "name": path.name,
        "type": "dir" if path.is_dir() else "file",
        "size": facts.st_size,
        "last_modified": datetime.fromtimestamp(facts.st_mtime, tz=UTC).isoformat(" ", timespec="seconds"),
        "permissions": f"{facts.st_mode & 0o7777:04o}",
        "user": str(facts.st_uid),
        "group": str(facts.st_gid),
        "link_target": None,
    }
