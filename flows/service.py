"""The clients through which everything above speaks with Globus, wherever that is.

`embedded` gives clients that end in this process; a live site's come from a login. Both are the unmodified
clients of globus-sdk, so what is built on them is the same code for both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.errors import FlowsError, InputError, RunError, ServiceError
from flows.remote import explain
from flows.site import Site, local_site

if TYPE_CHECKING:
    from globus_sdk import (
        ComputeClientV2,
        ComputeClientV3,
        FlowsClient,
        GlobusApp,
        SearchClient,
        SpecificFlowClient,
        TransferClient,
    )
    from globus_sdk.transport import RetryConfig

    from flows.local.http.calls import World


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
    world: World | None = None
    """The embedded site behind the clients; None for a live one."""
    app: GlobusApp | None = None
    """The login behind the clients of a live site."""


def embedded(home: Path, *, site: Site | None = None) -> Service:
    """Clients of the embedded site in `home`, in this process and without a socket.

    Args:
        site: the profile; by default the built-in one.
    """
    import globus_sdk

    from flows.local.http.app import application, new_world
    from flows.local.wire import HOSTS, wire_transport

    world = new_world(home, site or local_site(home))
    app = application(world)
    transport = wire_transport(app)
    login = globus_sdk.ConfidentialAppAuthClient(
        world.client.id,
        world.client.secret(),
        environment="production",
        base_url=HOSTS["auth"],
        transport=transport,
    )

    def ready(kind: type[Any], service: str, *scopes: Any) -> Any:
        authorizer = globus_sdk.ClientCredentialsAuthorizer(login, scopes=list(scopes))
        return kind(
            environment="production", base_url=HOSTS[service], authorizer=authorizer, transport=transport
        )

    def flow(flow_id: str) -> SpecificFlowClient:
        scope = globus_sdk.scopes.SpecificFlowScopes(flow_id).user
        client = globus_sdk.SpecificFlowClient(
            flow_id,
            environment="production",
            authorizer=globus_sdk.ClientCredentialsAuthorizer(login, scopes=[scope]),
            transport=transport,
            retry_config=start_retries(),
        )
        client.base_url = HOSTS["flows"]  # it takes no base_url, and the environment may name another
        return client

    scopes = globus_sdk.scopes
    return Service(
        flows=ready(globus_sdk.FlowsClient, "flows", scopes.FlowsScopes.all),
        flow=flow,
        transfer=ready(globus_sdk.TransferClient, "transfer", scopes.TransferScopes.all),
        search=ready(globus_sdk.SearchClient, "search", scopes.SearchScopes.all),
        compute=ready(globus_sdk.ComputeClientV3, "compute", scopes.ComputeScopes.all),
        compute_v2=ready(globus_sdk.ComputeClientV2, "compute", scopes.ComputeScopes.all),
        world=world,
    )


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


@contextmanager
def told(doing: str, *, of_run: bool = True) -> Iterator[None]:
    """Within it, what the service refuses and what the network loses become errors of ours.

    Args:
        doing: what was tried, for the message: "start a run".
        of_run: whether it is about a run that is there.

    Raises:
        InputError: the input was refused.
        RunError: no such run, or it is not in a state that allows this.
        ServiceError: anything else.
    """
    import globus_sdk

    try:
        yield
    except globus_sdk.GlobusError as error:
        raise _told(doing, explain(error), of_run=of_run) from error


def _told(doing: str, error: ServiceError, *, of_run: bool) -> FlowsError:
    """What an answer means to who did this."""
    message, status = f"{doing}: {error.message}", error.http_status
    if status == 422:
        return InputError(message, remedy="correct the named fields")
    if of_run and status in (404, 409):
        return RunError(message, remedy="see `petavoxel run list`")
    remedy = error.remedy
    if status is None:
        remedy = "it may have been carried out: look before you try again"
    if status == 404:
        remedy = "deploy the flow again, or ask for a role in it"
    return ServiceError(message, remedy=remedy, http_status=status)
