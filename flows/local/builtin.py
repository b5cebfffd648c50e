"""The flow that the embedded site has from the start: the package's own, under a fixed id."""

from __future__ import annotations

import uuid

from flows.local.actions import Json

_NAMESPACE = uuid.UUID("6f3b1d1c-5f1e-5b43-9a6e-0d1f5d0c7a11")


def local_id(name: str) -> str:
    """A fixed id of something that belongs to the embedded site."""
    return str(uuid.uuid5(_NAMESPACE, name))


FLOW_ID = local_id("flow")
TITLE = "Petavoxel"


def flow_fields() -> Json:
    """What a deployment of the package's flow says of it."""
    from flows.definition import definition
    from flows.schema import input_schema

    flow = definition()
    return {
        "title": TITLE,
        "subtitle": str(flow["Comment"]),
        "description": "",
        "keywords": ["connectomics"],
        "definition": flow,
        "input_schema": input_schema(),
    }
