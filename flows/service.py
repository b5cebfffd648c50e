"""The clients through which everything above speaks with Globus, wherever that is.

Those of a login and those of the embedded site are the unmodified clients of globus-sdk, so what is built
on them is the same code for both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from globus_sdk import (
        ComputeClientV2,
        ComputeClientV3,
        FlowsClient,
        SearchClient,
        SpecificFlowClient,
        TransferClient,
    )
    from globus_sdk.transport import RetryConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Clients of one site's Globus, logged in."""

    flows: FlowsClient
    flow: Callable[[str], SpecificFlowClient]
    """The client of one flow, by its id. It repeats a start only as `start_retries` allows."""
    transfer: TransferClient
    search: SearchClient
    compute: ComputeClientV3
    compute_v2: ComputeClientV2


def start_retries() -> RetryConfig:
    """Retries for a client that starts runs: only what the service says it has not done.

    Flows has no idempotency key, and the SDK repeats a POST after a lost connection or a 5xx, though the
    first one may have been carried out: the run would be started twice. A 429 or 401 was refused, and is
    repeated.
    """
    from globus_sdk.transport import (
        RetryCheckCollection,
        RetryCheckResult,
        RetryConfig,
        RetryContext,
    )

    def refused_only(context: RetryContext) -> RetryCheckResult:
        unsure = context.exception is not None or (
            context.response is not None and context.response.status_code >= 500
        )
        return RetryCheckResult.do_not_retry if unsure else RetryCheckResult.no_decision

    checks = RetryCheckCollection()
    checks.register_check(refused_only)
    return RetryConfig(checks=checks)
