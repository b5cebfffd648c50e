"""The control route of the loopback: lay down and lift faults, put a run INACTIVE. With a token of its own.

POST   /control/faults            a rule (`flows.local.http.faults.Rule`)
GET    /control/faults            the rules, with what they met and struck
DELETE /control/faults            lift them all
POST   /control/expire            end every token
POST   /control/runs/{id}/hold    {"required_scopes": [...], "message": "..."}
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from pathlib import Path

from starlette.routing import BaseRoute

from flows.local.actions import Json
from flows.local.http.calls import OPEN, Call, Service, World, rest, route
from flows.local.http.errors import ApiError
from flows.local.http.faults import Rule
from flows.local.http.tokens import make_secret, read_secret
from functions.model.errors import TaskError

SERVICE = Service(name="flows", unauthorised="AUTHENTICATION_ERROR", forbidden="FORBIDDEN")
TOKEN_NAME = "control_token"


def control_token(home: Path) -> Path:
    """The file of the control route's token, made with 0600 where there is none."""
    return make_secret(home, TOKEN_NAME)


def routes(world: World) -> list[BaseRoute]:
    """The control routes."""
    table: list[tuple[str, str, Callable[[Call], Json]]] = [
        ("POST", "/faults", add),
        ("GET", "/faults", told),
        ("DELETE", "/faults", clear),
        ("POST", "/expire", expire),
        ("POST", "/runs/{id}/hold", hold),
    ]
    own = [route(world, SERVICE, method, path, _guarded(handler), OPEN) for method, path, handler in table]
    return [*own, rest(SERVICE)]


def _guarded(handler: Callable[[Call], Json]) -> Callable[[Call], Json]:
    """The handler, for those who have the control token."""

    def guarded(call: Call) -> Json:
        given = call.headers.get("authorization", "").removeprefix("Bearer ")
        wanted = read_secret(control_token(call.site.home))
        if not hmac.compare_digest(given.encode(), wanted.encode()):
            raise ApiError(401, SERVICE.unauthorised, "the control token is wrong")
        return handler(call)

    return guarded


def add(call: Call) -> Json:
    """Lay down a rule."""
    try:
        rule = Rule.parse(call.json(), source="rule")
    except TaskError as error:
        raise ApiError(422, "UNPROCESSABLE_ENTITY", str(error)) from None
    call.world.faults.add(rule)
    return {"rule": rule.to_json()}


def told(call: Call) -> Json:
    """The rules, and what they did."""
    return {"rules": call.world.faults.told()}


def clear(call: Call) -> Json:
    """Lift all rules."""
    call.world.faults.clear()
    return {"rules": []}


def expire(call: Call) -> Json:
    """End every token."""
    call.world.tokens.expire_all()
    return {"expired": True}


def hold(call: Call) -> Json:
    """Put a run INACTIVE."""
    document = call.json()
    scopes = document.get("required_scopes") or [call.site.document(call.path["id"])["flow_id"]]
    message = document.get("message") or "a consent is missing"
    call.site.hold(call.path["id"], scopes=tuple(scopes), message=message)
    return {"run_id": call.path["id"], "hold": True}
