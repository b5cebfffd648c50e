"""Runs of the loopback: start, list, look at, cancel, resume, relabel, release.

PROVISIONAL: that a start whose input the schema refuses is a 422 FLOW_INPUT_ERROR (the SDK's fixture of
validate_run shows 400), and that a cancelled run answers ACTIVE until its runner has seen the request.
"""

from __future__ import annotations

from jsonschema import Draft7Validator
from starlette.routing import BaseRoute

from flows.local.actions import Json
from flows.local.catalog import StoredFlow
from flows.local.documents import flow_document, flow_scope, listed_run, log_line
from flows.local.http.calls import Call, World, rest, route
from flows.local.http.errors import ApiError
from flows.local.http.flows import PAGE, PRINCIPALS, SERVICE, find, refused, scopes
from flows.local.http.paging import number, words

ROLES = ("run_owner", "run_manager", "run_monitor", "flow_run_manager", "flow_run_monitor")
LOG_PAGE, LONGEST_LOG_PAGE = 10, 100
_LABEL = 64
_DESCRIPTION = ("created_at", "flow_owner", "created_by", "description", "globus_auth_scope", "id",
                "keywords", "subtitle", "title", "updated_at")  # fmt: skip


def routes(world: World) -> list[BaseRoute]:
    """The routes of runs, and whatever else Flows has."""
    status, manage = scopes("run_status", "run_manage"), scopes("run_manage")
    return [
        route(world, SERVICE, "POST", "/flows/{id}/run", start, _flow_user, status=201),
        route(world, SERVICE, "POST", "/flows/{id}/validate_run", validate, _flow_user),
        route(world, SERVICE, "GET", "/runs", list_runs, status),
        route(world, SERVICE, "GET", "/runs/{id}", get, _readers),
        route(world, SERVICE, "GET", "/runs/{id}/log", log, _readers),
        route(world, SERVICE, "GET", "/runs/{id}/definition", definition, _readers),
        route(world, SERVICE, "PUT", "/runs/{id}", update, manage),
        route(world, SERVICE, "POST", "/runs/{id}/cancel", cancel, manage),
        route(world, SERVICE, "POST", "/runs/{id}/release", release, manage),
        route(world, SERVICE, "POST", "/runs/{id}/resume", resume, _resumers),
        rest(SERVICE),
    ]


def _flow_user(call: Call) -> tuple[str, ...]:
    return (flow_scope(call.path["id"]),)


def _of_run(call: Call) -> tuple[str, ...]:
    return (flow_scope(call.site.store.load(call.path["id"]).head.flow_id),)


def _readers(call: Call) -> tuple[str, ...]:
    return scopes("run_status", "run_manage")


def _resumers(call: Call) -> tuple[str, ...]:
    return (*_of_run(call), *scopes("run_manage"))


def start(call: Call) -> Json:
    """POST /flows/{id}/run."""
    flow, document = find(call), call.json()
    _check_input(flow, document, status=422)
    run_id = call.site.start(
        flow,
        document.get("body") or {},
        label=document.get("label") or "",
        tags=_tags(document),
        managers=tuple(document.get("run_managers") or ()),
        monitors=tuple(document.get("run_monitors") or ()),
    )
    return call.site.document(run_id)


def validate(call: Call) -> Json:
    """POST /flows/{id}/validate_run."""
    _check_input(find(call), call.json(), status=400)
    return {"message": "validation successful"}


def _check_input(flow: StoredFlow, document: Json, *, status: int) -> None:
    """Refuse a start whose body the flow's schema refuses, or whose label or roles are too long."""
    _check_labels(document)
    body = document.get("body")
    errors = sorted(Draft7Validator(flow.fields["input_schema"]).iter_errors(body), key=lambda e: e.json_path)
    if errors:
        detail = [
            {"loc": [error.json_path], "type": "InvalidActionInput", "msg": error.message} for error in errors
        ]
        count = f"{len(errors)} error{'s' if len(errors) > 1 else ''}"
        message = f"Input failed schema validation with {count}."
        raise ApiError(status, "FLOW_INPUT_ERROR", detail, message=message)


def _check_labels(document: Json) -> None:
    if len(document.get("label") or "") > _LABEL:
        raise refused([(["body", "label"], f"at most {_LABEL} characters")])
    for name in ("run_managers", "run_monitors"):
        if len(document.get(name) or ()) > PRINCIPALS:
            raise refused([(["body", name], f"at most {PRINCIPALS} principals; use groups")])


def _tags(document: Json) -> tuple[str, ...]:
    """Tags as the service normalises them: every run of white space becomes a blank."""
    return tuple(" ".join(str(tag).split()) for tag in document.get("tags") or ())


def list_runs(call: Call) -> Json:
    """GET /runs with filter_flow_id, filter_roles and marker, newest first. The caller owns every run."""
    for role in words(call.query, "filter_roles"):
        if role not in ROLES:
            raise refused([(["query", "filter_roles"], f"{role!r} is not a role")])
    page = number(call.query, "per_page", default=PAGE, least=1, most=100)
    below = number(call.query, "marker", default=0, most=10**12)
    heads = call.site.store.heads(
        flow_ids=tuple(words(call.query, "filter_flow_id")), below=below or None, limit=page + 1
    )
    more = len(heads) > page
    shown = heads[:page]
    return {
        "runs": [listed_run(head, interrupted=call.site.interrupted(head)) for head in shown],
        "limit": page,
        "has_next_page": more,
        "marker": str(shown[-1].position) if more else None,
    }


def get(call: Call) -> Json:
    """GET /runs/{id}."""
    document = call.site.document(call.path["id"])
    flow = call.site.catalog.find_flow(document["flow_id"])
    if call.query.get("include_flow_description", "").lower() == "true" and flow is not None:
        told = flow_document(flow)
        document["flow_description"] = {name: told[name] for name in _DESCRIPTION}
    return document


def log(call: Call) -> Json:
    """GET /runs/{id}/log with limit, reverse_order and marker."""
    stored = call.site.store.load(call.path["id"])
    limit = number(call.query, "limit", default=LOG_PAGE, least=1, most=LONGEST_LOG_PAGE)
    first = number(call.query, "marker", default=0, most=10**9)
    newest = call.query.get("reverse_order", "").lower() == "true"
    entries = call.site.store.logs(stored.head.id, after=first, limit=limit + 1, newest=newest)
    more = len(entries) > limit
    return {
        "entries": [log_line(entry, stored.definition) for entry in entries[:limit]],
        "limit": limit,
        "has_next_page": more,
        "marker": str(first + limit) if more else None,
    }


def definition(call: Call) -> Json:
    """GET /runs/{id}/definition: as of the run's start."""
    stored = call.site.store.load(call.path["id"])
    flow = call.site.catalog.find_flow(stored.head.flow_id)
    schema = flow.fields["input_schema"] if flow is not None else {}
    return {"flow_id": stored.head.flow_id, "definition": stored.definition, "input_schema": schema}


def update(call: Call) -> Json:
    """PUT /runs/{id}: label, tags, managers, monitors."""
    document = call.json()
    run_id = call.site.store.load(call.path["id"]).head.id
    _check_labels(document)
    fields: dict[str, str | tuple[str, ...]] = {}
    if document.get("label") is not None:
        fields["label"] = str(document["label"])
    if document.get("tags") is not None:
        fields["tags"] = _tags(document)
    for name in ("run_managers", "run_monitors"):
        if document.get(name) is not None:
            fields[name] = tuple(document[name])
    call.site.store.relabel(run_id, **fields)
    return call.site.document(run_id)


def cancel(call: Call) -> Json:
    """POST /runs/{id}/cancel."""
    call.site.cancel(call.path["id"])
    return call.site.document(call.path["id"])


def resume(call: Call) -> Json:
    """POST /runs/{id}/resume."""
    call.site.resume(call.path["id"])
    return call.site.document(call.path["id"])


def release(call: Call) -> Json:
    """POST /runs/{id}/release."""
    return call.site.release(call.path["id"])
