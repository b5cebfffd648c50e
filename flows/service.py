"""The clients through which everything remote is done, at the live service and the embedded site alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from globus_sdk import ComputeClientV3, FlowsClient, SearchClient, SpecificFlowClient, TransferClient


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Unmodified clients of globus-sdk. `compute` also takes the v2 routes, by its `get` and `post`."""

    flows: FlowsClient
    transfer: TransferClient
    search: SearchClient
    compute: ComputeClientV3
    new_flow: Callable[[str], SpecificFlowClient] = field(repr=False)

    def flow(self, flow_id: str) -> SpecificFlowClient:
        """The client that starts and resumes runs of one flow."""
        return self.new_flow(flow_id)
