"""Globus Search of the loopback: ingest at once, look up by subject, find by words."""

from __future__ import annotations

import json
import uuid
from itertools import groupby
from typing import Any

from starlette.routing import BaseRoute

from flows.local.actions import Json, Progress
from flows.local.http.calls import Call, Service, World, rest, route
from flows.local.http.errors import ApiError
from flows.local.http.paging import number

SERVICE = Service(name="search", unauthorised="Unauthorized.Generic", forbidden="Forbidden.Generic")
_BASE = "urn:globus:auth:scope:search.api.globus.org:"
WRITE, READ = (f"{_BASE}ingest", f"{_BASE}all"), (f"{_BASE}search", f"{_BASE}all")
LARGEST_PAGE = 10_000


def routes(world: World) -> list[BaseRoute]:
    """The routes of Search."""
    table = [
        ("POST", "/v1/index/{id}/ingest", ingest, WRITE),
        ("GET", "/v1/task/{id}", task, (*WRITE, *READ)),
        ("GET", "/v1/index_list", index_list, READ),
        ("GET", "/v1/index/{id}", index, READ),
        ("GET", "/v1/index/{id}/subject", subject, READ),
        ("DELETE", "/v1/index/{id}/subject", drop, WRITE),
        ("GET", "/v1/index/{id}/search", search, READ),
        ("POST", "/v1/index/{id}/search", post_search, READ),
    ]
    own = [route(world, SERVICE, method, path, handler, scopes) for method, path, handler, scopes in table]
    return [*own, rest(SERVICE)]


def ingest(call: Call) -> Json:
    """POST /index/{id}/ingest: one entry or a list."""
    document = call.json()
    data = document.get("ingest_data")
    kind = document.get("ingest_type")
    if kind not in ("GMetaEntry", "GMetaList") or not isinstance(data, dict):
        message = "ingest_type: GMetaEntry or GMetaList is needed, with ingest_data"
        raise ApiError(400, "BadRequest.ValidationError", message)
    entries = data.get("gmeta", []) if kind == "GMetaList" else [data]
    for entry in entries:
        call.site.index.ingest({"search_index": call.path["id"], **entry}, Progress())
    return {
        "acknowledged": True,
        "success": True,
        "task_id": str(uuid.uuid4()),
        "num_documents_ingested": len(entries),
    }


def task(call: Call) -> Json:
    """GET /task/{id}: an ingest is done when it is answered."""
    return {"task_id": call.path["id"], "task_type": "INGEST", "state": "SUCCESS", "message": None}


def index_list(call: Call) -> Json:
    """GET /index_list: the site's index."""
    site = call.site.site
    return {"index_list": [_index(call, site.search_index)] if site.search_index else []}


def index(call: Call) -> Json:
    """GET /index/{id}."""
    if call.path["id"] != call.site.site.search_index and not _entries(call):
        raise ApiError(404, "NotFound.Generic", f'There is no search index named "{call.path["id"]}"')
    return _index(call, call.path["id"])


def _index(call: Call, index_id: str) -> Json:
    entries = call.site.index.entries(search_index=index_id)
    return {
        "@datatype": "GSearchIndex",
        "@version": "2017-09-01",
        "id": index_id,
        "display_name": "Petavoxel loopback",
        "description": "volumes published by this home folder",
        "status": "open",
        "is_trial": False,
        "subscription_id": None,
        "num_subjects": len({entry["subject"] for entry in entries}),
        "num_entries": len(entries),
        "permissions": ["owner"],
    }


def subject(call: Call) -> Json:
    """GET /index/{id}/subject."""
    wanted = call.query.get("subject", "")
    found = [result for result in _results(_entries(call)) if result["subject"] == wanted]
    if not found:
        raise ApiError(404, "NotFound.Generic", f"No subject {wanted} in the index")
    return found[0]


def drop(call: Call) -> Json:
    """DELETE /index/{id}/subject."""
    call.site.index.drop_subject(search_index=call.path["id"], subject=call.query.get("subject", ""))
    return {"task_id": str(uuid.uuid4())}


def search(call: Call) -> Json:
    """GET /index/{id}/search."""
    return _found(call, call.query.get("q", ""))


def post_search(call: Call) -> Json:
    """POST /index/{id}/search with q, limit and offset."""
    query = call.json()
    if unknown := set(query) - {"q", "limit", "offset", "@datatype", "@version", "advanced"}:
        names = ", ".join(sorted(unknown))
        raise ApiError(501, "NotImplemented.Generic", f"{names}: not implemented by the loopback Globus")
    return _found(call, query.get("q", ""), limit=query.get("limit"), offset=query.get("offset"))


def _found(call: Call, words: str, *, limit: Any = None, offset: Any = None) -> Json:
    """Entries in which every word occurs; `*` finds all."""
    limit = limit or number(call.query, "limit", default=10, least=1, most=LARGEST_PAGE)
    offset = offset or number(call.query, "offset", default=0, most=LARGEST_PAGE)
    wanted = [] if words.strip() == "*" else words.lower().split()
    entries = [entry for entry in _entries(call) if all(word in json.dumps(entry).lower() for word in wanted)]
    results = _results(entries)
    shown = results[offset : offset + limit]
    return {
        "@datatype": "GSearchResult",
        "@version": "2017-09-01",
        "count": len(shown),
        "offset": offset,
        "total": len(results),
        "has_next_page": offset + limit < len(results),
        "gmeta": shown,
        "facet_results": None,
    }


def _entries(call: Call) -> list[Json]:
    return call.site.index.entries(search_index=call.path["id"])


def _results(entries: list[Json]) -> list[Json]:
    """Entries, gathered by subject."""
    return [
        {
            "@datatype": "GMetaResult",
            "@version": "2019-08-27",
            "subject": name,
            "entries": [
                {"content": e["content"], "entry_id": e["id"] or None, "matched_principal_sets": []}
                for e in group
            ],
        }
        for name, group in groupby(entries, key=lambda entry: entry["subject"])
    ]
