"""Errors of the loopback Globus, each in the shape of the service that it stands for.

The shapes are those of the SDK's own fixtures (`globus_sdk.testing`); codes that these do not show are
PROVISIONAL.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from flows.local.actions import Json

_log = logging.getLogger(__name__)


class ApiError(Exception):
    """An answer other than success."""

    def __init__(self, status: int, code: str, detail: Any, *, message: str = "") -> None:
        super().__init__(f"{status} {code}: {message or detail}")
        self.status = status
        self.code = code
        self.detail = detail
        """Text, or (Flows) a list of what is wrong where."""
        self.message = message
        self.headers: dict[str, str] = {}


Shape = Callable[[ApiError, str], Json]


def flows_shape(error: ApiError, resource: str) -> Json:
    """Globus Flows."""
    inner: Json = {"code": error.code, "detail": error.detail}
    if error.message:
        inner["message"] = error.message
    return {"error": inner, "debug_id": str(uuid.uuid4())}


def auth_shape(error: ApiError, resource: str) -> Json:
    """Globus Auth, and OAuth2 within it."""
    one = {"status": str(error.status), "id": str(uuid.uuid4()), "code": error.code, "detail": error.detail}
    return {
        "errors": [{**one, "title": error.code.replace("_", " ").title()}],
        "error": error.code.lower(),
        "error_description": error.detail,
    }


def transfer_shape(error: ApiError, resource: str) -> Json:
    """Globus Transfer."""
    return {
        "code": error.code,
        "message": error.detail,
        "request_id": uuid.uuid4().hex[:9],
        "resource": resource,
    }


def search_shape(error: ApiError, resource: str) -> Json:
    """Globus Search."""
    return {
        "@datatype": "GError",
        "@version": "2017-09-01",
        "code": error.code,
        "message": error.detail,
        "status": error.status,
        "request_id": uuid.uuid4().hex[:9],
    }


def compute_shape(error: ApiError, resource: str) -> Json:
    """Globus Compute."""
    return {
        "status": "Failed",
        "code": error.status,
        "error_args": [],
        "reason": error.detail,
        "http_status_code": error.status,
    }


SHAPES: dict[str, Shape] = {
    "auth": auth_shape,
    "flows": flows_shape,
    "transfer": transfer_shape,
    "search": search_shape,
    "compute": compute_shape,
}


def response(error: ApiError, service: str, request: Request) -> Response:
    """The answer that tells of an error."""
    body = SHAPES[service](error, request.url.path)
    return JSONResponse(body, status_code=error.status, headers=error.headers)


def not_implemented(service: str, request: Request) -> ApiError:
    """A route that the loopback does not have: said loudly, so that nobody takes silence for an answer."""
    route = f"{request.method} {request.url.path}"
    _log.warning("%s: the loopback Globus has no such route", route)
    return ApiError(501, "NOT_IMPLEMENTED", f"{route}: not implemented by the loopback Globus ({service})")
