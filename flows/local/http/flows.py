"""Deployed flows of the loopback: validate, create, list, change, delete."""

from __future__ import annotations

from typing import Any

from jsonschema import Draft7Validator
from jsonschema.exceptions import SchemaError
from starlette.routing import BaseRoute

from flows.lint import Finding, lint
from flows.local.actions import Json
from flows.local.catalog import FLOW_FIELDS, StoredFlow
from flows.local.documents import flow_document
from flows.local.http.calls import Call, Service, World, route
from flows.local.http.errors import ApiError
from flows.local.http.paging import number, words
from flows.local.http.tokens import FLOWS_CLIENT
from flows.states import COMPUTE, PERMISSION, SEARCH, STAT, TRANSFER

SERVICE = Service(name="flows", unauthorised="AUTHENTICATION_ERROR", forbidden="MISSING_SCOPE")
PAGE = 20
PRINCIPALS = 16
"""At most this many in a list of roles."""
_REFUSED = ("start", "unreachable", "target", "next", "type")
"""Findings of our lint for which the service refuses a definition; the others show only when a run fails."""
_TRANSFER_SCOPE = "urn:globus:auth:scope:transfer.api.globus.org:all"
_SCOPES = {
    COMPUTE: "https://auth.globus.org/scopes/facd7ccc-c5f4-42aa-916b-a0e270e2c2a9/all",
    TRANSFER: _TRANSFER_SCOPE,
    STAT: _TRANSFER_SCOPE,
    PERMISSION: _TRANSFER_SCOPE,
    SEARCH: "urn:globus:auth:scope:search.api.globus.org:ingest",
}
ROLES = ("flow_viewer", "flow_starter", "flow_administrator", "flow_owner", "run_monitor", "run_manager")
ORDERS = ("id", "scope_string", "flow_owners", "flow_administrators", "title", "created_at", "updated_at")


def scopes(*names: str) -> tuple[str, ...]:
    """Scopes of the Flows service; `all` allows what any of them allows."""
    return tuple(f"https://auth.globus.org/scopes/{FLOWS_CLIENT}/{name}" for name in (*names, "all"))


def routes(world: World) -> list[BaseRoute]:
    """The routes of flows."""
    manage, view = scopes("manage_flows"), scopes("view_flows", "manage_flows")
    return [
        route(world, SERVICE, "POST", "/flows/validate", validate, manage),
        route(world, SERVICE, "POST", "/flows", create, manage, status=201),
        route(world, SERVICE, "GET", "/flows", list_flows, view),
        route(world, SERVICE, "GET", "/flows/{id}", get, view),
        route(world, SERVICE, "PUT", "/flows/{id}", update, manage),
        route(world, SERVICE, "DELETE", "/flows/{id}", delete, manage),
    ]


def validate(call: Call) -> Json:
    """POST /flows/validate."""
    document = call.json()
    definition = document.get("definition") or {}
    _check(definition, document.get("input_schema") or {})
    states = definition.get("States", {}).values()
    urls = [state["ActionUrl"] for state in states if "ActionUrl" in state]
    found = dict.fromkeys(_SCOPES[url] for url in urls if url in _SCOPES)
    return {"scopes": {"User": list(found)}, "analysis": {"number_of_possibilities": 1}}


def create(call: Call) -> Json:
    """POST /flows."""
    fields = _fields(call.json())
    for name in ("title", "definition", "input_schema"):
        if name not in fields:
            raise refused([(["body", name], "Field required")])
    _check(fields["definition"], fields["input_schema"])
    return flow_document(call.site.catalog.create_flow(fields))


def update(call: Call) -> Json:
    """PUT /flows/{id}."""
    flow = find(call)
    fields = _fields(call.json())
    _check(
        fields.get("definition", flow.fields["definition"]),
        fields.get("input_schema", flow.fields["input_schema"]),
    )
    return flow_document(call.site.catalog.update_flow(flow, fields))


def get(call: Call) -> Json:
    """GET /flows/{id}."""
    return flow_document(find(call))


def delete(call: Call) -> Json:
    """DELETE /flows/{id}."""
    flow = find(call)
    call.site.catalog.remove_flow(flow.id)
    return {**flow_document(flow), "DELETED": True, "deleted_at": flow.updated}


def list_flows(call: Call) -> Json:
    """GET /flows with filter_roles, filter_fulltext, orderby and marker. The caller owns every flow."""
    for role in words(call.query, "filter_roles"):
        if role not in ROLES:
            raise refused([(["query", "filter_roles"], f"{role!r} is not a role")])
    wanted = call.query.get("filter_fulltext", "").lower()
    found = [flow_document(flow) for flow in call.site.catalog.flows()]
    found = [flow for flow in found if wanted in _text(flow)]
    for order in reversed(words(call.query, "orderby") or ["updated_at DESC"]):
        name, _, way = order.partition(" ")
        if name not in ORDERS or way.upper() not in ("", "ASC", "DESC"):
            raise refused([(["query", "orderby"], f"{order!r} is not an order")])
        key = {"scope_string": "globus_auth_scope", "flow_owners": "flow_owner"}.get(name, name)
        found.sort(key=lambda flow, key=key: str(flow[key]), reverse=way.upper() == "DESC")  # type: ignore[misc]
    first = number(call.query, "marker", default=0, most=10**9)
    page = number(call.query, "per_page", default=PAGE, least=1, most=100)
    more = first + page < len(found)
    return {
        "flows": found[first : first + page],
        "limit": page,
        "has_next_page": more,
        "marker": str(first + page) if more else None,
    }


def _text(flow: Json) -> str:
    names = ("id", "title", "subtitle", "description", "flow_owner", "flow_administrators")
    return " ".join(str(flow[name]) for name in names).lower()


def find(call: Call) -> StoredFlow:
    """The flow that the path names.

    Raises:
        ApiError: there is none.
    """
    flow = call.site.catalog.find_flow(call.path["id"])
    if flow is None:
        raise ApiError(404, "NOT_FOUND", f"No Flow exists with id value {call.path['id']}")
    return flow


def _fields(document: Json) -> Json:
    """What a client may say of a flow; roles are short lists."""
    wrong = [(["body", name], "Extra inputs are not permitted") for name in document if name not in _KNOWN]
    for name in ("flow_viewers", "flow_starters", "flow_administrators", "run_managers", "run_monitors"):
        if len(document.get(name) or []) > PRINCIPALS:
            wrong.append((["body", name], f"at most {PRINCIPALS} principals; use groups"))
    for name, most in (("title", 128), ("description", 4096)):
        if len(document.get(name) or "") > most:
            wrong.append((["body", name], f"at most {most} characters"))
    if wrong:
        raise refused(wrong)
    return {name: value for name, value in document.items() if name in FLOW_FIELDS}


_KNOWN = (*FLOW_FIELDS, "flow_owner")


def _check(definition: Any, schema: Any) -> None:
    """Refuse what the service refuses of a definition and its input schema."""
    states = definition.get("States") if isinstance(definition, dict) else None
    if not isinstance(states, dict):
        raise refused([(["definition"], "States: an object is needed")])
    for name, state in states.items():
        if not isinstance(state, dict) or "Type" not in state:
            raise refused([(["definition", "States", name], "an object with a Type is needed")])
    try:
        Draft7Validator.check_schema(schema)
    except SchemaError as error:
        raise refused([(["input_schema", *error.path], error.message)]) from None
    findings = [f for f in lint(definition, schema=schema) if f.rule in _REFUSED]
    if findings:
        raise refused([(_location(finding), finding.message) for finding in findings])


def _location(finding: Finding) -> list[str]:
    return ["definition", "States", finding.state] if finding.state else ["definition"]


def refused(wrong: list[tuple[list[Any], str]]) -> ApiError:
    """422, with what is wrong where."""
    detail = [{"loc": where, "msg": what, "type": "value_error"} for where, what in wrong]
    told = "; ".join(f"$.{'.'.join(map(str, where))}: {what}" for where, what in wrong)
    count = f"{len(wrong)} validation error{'s' if len(wrong) > 1 else ''} in body. "
    return ApiError(422, "UNPROCESSABLE_ENTITY", detail, message=count + told)
