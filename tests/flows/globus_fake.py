"""Flows and Compute as far as a deployment needs them, behind `responses`: unmodified clients, no socket.

Every write is counted, so that a test can say that nothing was written.
"""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass, field
from typing import Any

import responses
from globus_sdk import (
    ComputeClientV2,
    ComputeClientV3,
    FlowsClient,
    SearchClient,
    SpecificFlowClient,
    TransferClient,
)
from requests import PreparedRequest

from flows.service import Service, start_retries
from tests.flows.sites import some_id

FLOWS = "https://flows.automate.globus.org"
COMPUTE = "https://compute.api.globus.org"
TRANSFER = "https://transfer.api.globus.org/v0.10"
SEARCH = "https://search.api.globus.org"
Answer = tuple[int, dict[str, str], str]


def answer(document: object, status: int = 200) -> Answer:
    """An answer as `responses` wants it from a callback."""
    return status, {"Content-Type": "application/json"}, json.dumps(document)


def body_of(request: PreparedRequest) -> dict[str, Any]:
    """The JSON that a client sent."""
    return dict(json.loads(request.body or b"{}"))


def service() -> Service:
    """Unmodified clients without a login."""
    return Service(
        flows=FlowsClient(retry_config=start_retries()),
        flow=SpecificFlowClient,
        transfer=TransferClient(),
        search=SearchClient(),
        compute=ComputeClientV3(),
        compute_v2=ComputeClientV2(),
    )


@dataclass
class FakeGlobus:
    """Two services' state, and what was asked of them."""

    flows: dict[str, dict[str, Any]] = field(default_factory=dict)
    functions: dict[str, dict[str, Any]] = field(default_factory=dict)
    writes: list[str] = field(default_factory=list)
    refuses: str = ""
    """What validate answers with, if not empty."""
    mock: Any = None
    """Where it is installed, for a test that changes a route."""
    clock: Any = field(default_factory=lambda: itertools.count(1))

    def install(self, mock: responses.RequestsMock) -> None:
        """Answer the routes of both services."""
        self.mock = mock
        flow = re.compile(rf"{FLOWS}/flows/[0-9a-f-]{{36}}$")
        mock.add_callback("POST", f"{FLOWS}/flows/validate", self._validate)
        mock.add_callback("POST", f"{FLOWS}/flows", self._create)
        mock.add_callback("GET", flow, self._get)
        mock.add_callback("PUT", flow, self._update)
        mock.add_callback("GET", f"{FLOWS}/flows", self._list)
        mock.add_callback("POST", f"{COMPUTE}/v3/functions", self._register)

    def change(self, flow_id: str, **fields: Any) -> None:
        """What somebody else does to a flow."""
        self.flows[flow_id] |= fields | {"updated_at": self._now()}

    def _now(self) -> str:
        return f"2026-01-01T00:00:{next(self.clock):02d}+00:00"

    def _validate(self, request: PreparedRequest) -> Answer:
        if self.refuses:
            detail = [{"loc": ["definition"], "msg": self.refuses, "type": "value_error"}]
            return answer({"error": {"code": "UNPROCESSABLE_ENTITY", "detail": detail}}, 422)
        return answer({"analysis": {"number_of_possibilities": 1}, "scopes": {}})

    def _create(self, request: PreparedRequest) -> Answer:
        self.writes.append("create flow")
        flow_id = some_id(f"flow {len(self.flows)}")
        self.flows[flow_id] = body_of(request) | {"id": flow_id, "updated_at": self._now()}
        return answer(self.flows[flow_id], 201)

    def _update(self, request: PreparedRequest) -> Answer:
        self.writes.append("update flow")
        flow_id = request.path_url.rsplit("/", 1)[1]
        self.change(flow_id, **body_of(request))
        return answer(self.flows[flow_id])

    def _get(self, request: PreparedRequest) -> Answer:
        flow = self.flows.get(request.path_url.rsplit("/", 1)[1])
        missing = {"error": {"code": "NOT_FOUND", "detail": "No such flow"}}
        return answer(flow) if flow else answer(missing, 404)

    def _list(self, request: PreparedRequest) -> Answer:
        return answer(
            {"flows": list(self.flows.values()), "has_next_page": False, "marker": None, "limit": 50}
        )

    def _register(self, request: PreparedRequest) -> Answer:
        self.writes.append("register function")
        function_id = some_id(f"function {len(self.functions)}")
        self.functions[function_id] = body_of(request)
        return answer({"function_uuid": function_id})
