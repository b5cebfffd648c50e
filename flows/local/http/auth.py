"""Globus Auth of the loopback: client credentials, who a token belongs to, and who an identity is.

People cannot log in here (no authorisation code, no refresh tokens): the loopback has one confidential
client, which owns everything.
"""

from __future__ import annotations

import base64
import hmac
import time

from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from flows.local.actions import Json
from flows.local.documents import OWNER_ID
from flows.local.http.calls import OPEN, Call, Service, World, rest, route
from flows.local.http.errors import ApiError
from flows.local.http.tokens import LIFETIME_SECONDS, resource_server

SERVICE = Service(name="auth", unauthorised="UNAUTHORIZED", forbidden="FORBIDDEN")
USERNAME = "petavoxel@loopback"
PROVIDER = "41143743-f3c8-4d60-bbdb-eeecaba85bd9"
_IDENTITIES = ("openid", "urn:globus:auth:scope:auth.globus.org:view_identities",
               "urn:globus:auth:scope:auth.globus.org:view_identity_set")  # fmt: skip


def routes(world: World) -> list[BaseRoute]:
    """The routes of Auth."""
    return [
        route(world, SERVICE, "POST", "/v2/oauth2/token", token, OPEN),
        route(world, SERVICE, "POST", "/v2/oauth2/token/introspect", introspect, OPEN),
        route(world, SERVICE, "POST", "/v2/oauth2/token/validate", introspect, OPEN),
        route(world, SERVICE, "POST", "/v2/oauth2/token/revoke", revoke, OPEN),
        route(world, SERVICE, "GET", "/v2/oauth2/userinfo", userinfo, ("openid",)),
        route(world, SERVICE, "GET", "/v2/api/identities", identities, _IDENTITIES),
        rest(SERVICE),
    ]


def token(call: Call) -> Json:
    """POST /v2/oauth2/token: one token for each service that the scopes belong to."""
    form = call.form()
    _require_client(call)
    if form.get("grant_type") != "client_credentials":
        grant = form.get("grant_type", "")
        raise ApiError(501, "unsupported_grant_type", f"{grant}: the loopback knows client_credentials only")
    by_server: dict[str, list[str]] = {}
    for scope in _scopes(form.get("scope", "")):
        server = resource_server(scope)
        if server is None or not _exists(call, scope):
            raise ApiError(400, "unknown_scope", f"Unknown scope: {scope}")
        by_server.setdefault(server, []).append(scope)
    if not by_server:
        raise ApiError(400, "invalid_scope", "scope: at least one is needed")
    first, *others = [_issued(call, server, scopes) for server, scopes in by_server.items()]
    return {**first, "other_tokens": others}


def _scopes(text: str) -> list[str]:
    """The scopes asked for, without the dependent ones in brackets: `a[b c] d` gives a and d."""
    found, depth, word = [], 0, ""
    for letter in f"{text} ":
        depth += (letter == "[") - (letter == "]")
        if depth == 0 and letter not in "] ":
            word += letter
        elif depth == 0 and letter == " " and word:
            found.append(word.removeprefix("*"))
            word = ""
    return found


def _exists(call: Call, scope: str) -> bool:
    """A flow's own scope comes and goes with the flow."""
    owner, _, name = scope.removeprefix("https://auth.globus.org/scopes/").partition("/")
    return not name.startswith("flow_") or call.site.catalog.find_flow(owner) is not None


def _issued(call: Call, server: str, scopes: list[str]) -> Json:
    return {
        "access_token": call.world.tokens.issue(scopes, server=server),
        "scope": " ".join(scopes),
        "expires_in": LIFETIME_SECONDS,
        "token_type": "Bearer",
        "resource_server": server,
    }


def _require_client(call: Call) -> None:
    """Refuse whoever does not know the client's secret."""
    scheme, _, text = call.headers.get("authorization", "").partition(" ")
    try:
        name, _, secret = base64.b64decode(text, validate=True).decode().partition(":")
    except ValueError:
        name = secret = ""
    client = call.world.client
    right = scheme.lower() == "basic" and hmac.compare_digest(secret.encode(), client.secret().encode())
    if not right or name != client.id:
        raise ApiError(401, "invalid_client", "the client's id or secret is wrong")


def introspect(call: Call) -> Json:
    """POST /v2/oauth2/token/introspect and /validate."""
    _require_client(call)
    found = call.world.tokens.check(call.form().get("token", ""))
    if found is None:
        return {"active": False}
    return {
        "active": True,
        "token_type": "Bearer",
        "scope": " ".join(found.scopes),
        "client_id": call.world.client.id,
        "sub": OWNER_ID,
        "username": USERNAME,
        "name": "Petavoxel loopback",
        "email": None,
        "iat": int(found.issued),
        "nbf": int(found.issued),
        "exp": int(found.expires),
        "aud": [found.resource_server],
        "iss": "https://auth.globus.org",
    }


def revoke(call: Call) -> Json:
    """POST /v2/oauth2/token/revoke."""
    call.world.tokens.revoke(call.form().get("token", ""))
    return {"active": False}


def userinfo(call: Call) -> Json:
    """GET /v2/oauth2/userinfo."""
    identity = _identity()
    return {
        "sub": OWNER_ID,
        "preferred_username": USERNAME,
        "name": identity["name"],
        "email": None,
        "identity_provider": PROVIDER,
        "last_authentication": int(time.time()),
        "identity_set": [{**identity, "sub": OWNER_ID}],
    }


def identities(call: Call) -> Response:
    """GET /v2/api/identities?ids=... or ?usernames=...: those that the loopback knows, which is one."""
    wanted = [w for key in ("ids", "usernames") for w in call.query.get(key, "").split(",") if w]
    known = {OWNER_ID, USERNAME}
    return JSONResponse({"identities": [_identity()] if known & set(wanted) else []})


def _identity() -> Json:
    return {
        "id": OWNER_ID,
        "username": USERNAME,
        "name": "Petavoxel loopback",
        "email": None,
        "organization": None,
        "identity_provider": PROVIDER,
        "identity_type": "login",
        "status": "used",
    }
