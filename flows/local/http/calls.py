"""One call to the loopback Globus, and how a plain function answers it.

A route is a function `Call -> JSON` with the scopes that allow it. Bearer tokens are checked here, errors
become answers in their service's shape here, and the work is done in a thread: the server stays awake.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flows.errors import ActionError, FlowsError, RunError
from flows.local.actions import Json
from flows.local.embedded import ConflictError, EmbeddedSite
from flows.local.http.compute_tasks import ComputeTasks
from flows.local.http.errors import ApiError, not_implemented, response
from flows.local.http.faults import Faults
from flows.local.http.tokens import Client, Token, Tokens
from flows.local.http.transfer_tasks import TransferTasks

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """All that the routes share."""

    site: EmbeddedSite
    client: Client
    tokens: Tokens
    faults: Faults
    transfers: TransferTasks
    compute: ComputeTasks


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request, read."""

    world: World
    path: dict[str, str]
    query: QueryParams
    headers: Headers
    content: bytes
    token: Token | None = None

    @property
    def site(self) -> EmbeddedSite:
        """The embedded site."""
        return self.world.site

    def json(self) -> Json:
        """The body as a JSON object.

        Raises:
            ApiError: it is none.
        """
        try:
            document = json.loads(self.content or b"{}")
        except ValueError as error:
            raise ApiError(400, "BAD_REQUEST", f"the body is not JSON: {error}") from None
        if not isinstance(document, dict):
            raise ApiError(400, "BAD_REQUEST", "the body is not a JSON object")
        return document

    def form(self) -> dict[str, str]:
        """The body as a form."""
        return dict(parse_qsl(self.content.decode()))


Handler = Callable[[Call], Any]
Scopes = tuple[str, ...] | Callable[[Call], tuple[str, ...]]
OPEN: Scopes = ()
"""A route that asks for no token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """How one service is spoken to."""

    name: str
    unauthorised: str
    """Code of a 401."""
    forbidden: str
    """Code of a 403."""


def route(
    world: World,
    service: Service,
    method: str,
    path: str,
    handler: Handler,
    scopes: Scopes,
    *,
    status: int = 200,
) -> Route:
    """A route answered by `handler` for callers whose token has one of `scopes`."""

    async def endpoint(request: Request) -> Response:
        call = Call(
            world=world,
            path=dict(request.path_params),
            query=request.query_params,
            headers=request.headers,
            content=await request.body(),
        )
        try:
            answer = await run_in_threadpool(_answered, handler, call, service, scopes)
        except ApiError as error:
            return response(error, service.name, request)
        return answer if isinstance(answer, Response) else JSONResponse(answer, status_code=status)

    return Route(path, endpoint, methods=[method])


def rest(service: Service) -> Route:
    """Whatever a service has and the loopback has not."""

    async def endpoint(request: Request) -> Response:
        return response(not_implemented(service.name, request), service.name, request)

    return Route("/{path:path}", endpoint, methods=METHODS)


def _answered(handler: Handler, call: Call, service: Service, scopes: Scopes) -> Any:
    """The handler's answer, if the caller may ask; errors of ours become answers."""
    try:
        return handler(_authorised(call, service, scopes))
    except ConflictError as error:
        raise ApiError(409, "STATE_CONFLICT", str(error)) from None
    except RunError as error:
        raise ApiError(404, "NOT_FOUND", str(error)) from None
    except ActionError as error:
        raise ApiError(400, "ClientError.BadRequest", str(error)) from None
    except FlowsError as error:
        raise ApiError(400, "BAD_REQUEST", str(error)) from None


def _authorised(call: Call, service: Service, scopes: Scopes) -> Call:
    """The call with its token.

    Raises:
        ApiError: 401 without a good token, 403 with one for something else.
    """
    allowed = scopes if isinstance(scopes, tuple) else scopes(call)
    if not allowed:
        return call
    scheme, _, text = call.headers.get("authorization", "").partition(" ")
    token = call.world.tokens.check(text) if scheme.lower() == "bearer" else None
    if token is None:
        raise ApiError(401, service.unauthorised, "Expired or invalid Bearer token")
    if not set(allowed) & set(token.scopes):
        raise ApiError(
            403, service.forbidden, f"This action requires the following scope: {' or '.join(allowed)}"
        )
    return replace(call, token=token)
