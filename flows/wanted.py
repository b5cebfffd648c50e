"""What should be deployed: the flow with its roles, as Globus Flows takes it, and the functions as text."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

from flows.definition import definition
from flows.lock import digest
from flows.schema import input_schema
from flows.site import Site

Json = dict[str, Any]
ROLES = ("flow_viewers", "flow_starters", "flow_administrators", "run_managers", "run_monitors")
MANAGED = ("title", "subtitle", "description", "keywords", "definition", "input_schema", *ROLES)
"""Fields of a flow that a deployment decides."""


def wanted_flow(site: Site) -> Json:
    """The flow of a site, as `create_flow` and `update_flow` take it.

    The keywords let a person, and a machine that lost its lock, find it again and see which version it is.
    """
    people = site.people
    flow = {
        "title": f"Petavoxel: {site.name}"[:128],
        "subtitle": "From electron microscope tiles to a published, segmented volume",
        "description": f"Deployed by petavoxel {version('petavoxel')}; changed by `petavoxel flow deploy`.",
        "definition": definition(),
        "input_schema": input_schema(),
        "flow_viewers": sorted(people.monitors),
        "flow_starters": sorted(people.starters),
        "flow_administrators": sorted(people.administrators),
        "run_managers": sorted(people.managers),
        "run_monitors": sorted(people.monitors),
    }
    return {**flow, "keywords": ["petavoxel", site_keyword(site), f"version:{digest(flow)[:12]}"]}


def site_keyword(site: Site) -> str:
    """The keyword that says whose flow it is."""
    return f"site:{site.name}"


def managed(flow: Json) -> Json:
    """The fields of a served flow that a deployment decides; lists of people in one order."""
    empty: Json = {"definition": {}, "input_schema": {}}
    found = {
        name: flow.get(name) or empty.get(name, [] if name in (*ROLES, "keywords") else "")
        for name in MANAGED
    }
    return {name: sorted(value) if name in (*ROLES, "keywords") else value for name, value in found.items()}


def registration(name: str, source: str, site: Site) -> Json:
    """A function in the form of `Client.register_source_code`: plain text, which the service packs."""
    from globus_compute_sdk import __version__

    body: Json = {
        "function_name": name,
        "function_code": source,
        "serialized": False,
        "meta": {"python_version": platform.python_version(), "sdk_version": __version__},
        "description": f"petavoxel {name}",
    }
    group = site.compute.callers_group
    return {**body, "group": group} if group else body
