"""Who asks: people log in (UserApp), the microscope's service has a secret (ClientApp); least scopes each.

    deployer   create and update the flow, register functions
    trigger    start runs of one flow, and look them up: what a microscope's machine holds
    operator   start, cancel and resume runs
    viewer     see the flow and its runs
    checker    the doctor: see the flow, list and write probes to collections, ask endpoint and index

Tokens of a person lie in `<home>/tokens/<site>/<role>.json` (0600 in 0700), so that a command never holds
more than its role needs; those of the service live in memory only.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flows.credentials import Credentials, from_environment, from_file, secret_file
from flows.errors import AuthError, RunError
from flows.remote import run_page
from flows.service import Service, start_retries
from flows.site import Site

if TYPE_CHECKING:
    from globus_sdk import GlobusApp, SpecificFlowClient
    from globus_sdk.gare import GlobusAuthorizationParameters
    from globus_sdk.scopes import Scope

APP_NAME = "Petavoxel"
Role = Literal["deployer", "trigger", "operator", "viewer", "checker"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a role may ask for: scopes of Flows by name, and which other services at all."""

    flows: tuple[str, ...]
    starts: bool = False
    """The flow's own user scope."""
    compute: bool = False
    transfer: bool = False
    search: bool = False


GRANTS: dict[Role, Grant] = {
    "deployer": Grant(flows=("manage_flows", "view_flows"), compute=True),
    "trigger": Grant(flows=("run_status",), starts=True),
    "operator": Grant(flows=("run_status", "run_manage", "view_flows"), starts=True),
    "viewer": Grant(flows=("run_status", "view_flows")),
    "checker": Grant(flows=("view_flows",), compute=True, transfer=True, search=True),
}


def connect(site: Site, role: Role, home: Path) -> Service:
    """The clients of a role at a site. Nothing is sent and nobody is asked before the first call.

    Raises:
        AuthError: the secret is missing or not safe, or the profile names no client.
    """
    return service_of(app_of(site, role, home), role, site)


def app_of(site: Site, role: Role, home: Path) -> GlobusApp:
    """The service's app if the environment holds its secret, or for the trigger; else a person's.

    Raises:
        AuthError: the secret is missing or not safe, or the profile names no client.
    """
    credentials = from_environment()
    if credentials is None and role == "trigger":
        credentials = from_file(secret_file(site, home))
    return _client_app(credentials) if credentials else _user_app(site, role, home)


def _client_app(credentials: Credentials) -> GlobusApp:
    from globus_sdk import ClientApp, GlobusAppConfig

    return ClientApp(
        APP_NAME,
        client_id=credentials.client_id,
        client_secret=credentials.client_secret,
        config=GlobusAppConfig(token_storage="memory", auto_redrive_gares=True),
    )


def _user_app(site: Site, role: Role, home: Path) -> GlobusApp:
    from globus_sdk import GlobusAppConfig, UserApp
    from globus_sdk.token_storage import JSONTokenStorage

    from flows.login import TerminalLogin

    if site.auth is None:
        raise AuthError(
            f"site {site.name}: auth.client_id: missing",
            remedy="register a native app at app.globus.org/settings/developers and write its UUID there",
        )
    folder = home / "tokens" / site.name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chmod(folder, 0o700)
    config = GlobusAppConfig(
        token_storage=JSONTokenStorage(folder / f"{role}.json"),
        login_flow_manager=TerminalLogin,
        request_refresh_tokens=True,
        auto_redrive_gares=True,
    )
    return UserApp(APP_NAME, client_id=site.auth.client_id, config=config)


def service_of(app: GlobusApp, role: Role, site: Site) -> Service:
    """The clients of `app`. One that the role has no business with gets no token: the service refuses it."""
    from globus_sdk import ComputeClientV2, ComputeClientV3, FlowsClient, SearchClient, TransferClient
    from globus_sdk.scopes import FlowsScopes, SearchScopes

    grant = GRANTS[role]
    transfer = TransferClient(app=app if grant.transfer else None)
    if grant.transfer and (mapped := mapped_collections(site)):
        transfer.add_app_data_access_scope(mapped)
    scopes = [_scope(FlowsScopes, name) for name in grant.flows]
    # a flow must not be created twice, either; whoever only looks may try again as often as the SDK likes
    once = start_retries() if role == "deployer" else None
    computing = app if grant.compute else None
    return Service(
        flows=FlowsClient(app=app, app_scopes=scopes, retry_config=once),
        flow=_flow_clients(app, role, site),
        transfer=transfer,
        search=SearchClient(app=app, app_scopes=[SearchScopes.search]) if grant.search else SearchClient(),
        compute=ComputeClientV3(app=computing),
        compute_v2=ComputeClientV2(app=computing),
        app=app,
    )


def _scope(scopes: Any, name: str) -> Scope:
    scope: Scope = getattr(scopes, name)
    return scope


def _flow_clients(app: GlobusApp, role: Role, site: Site) -> Any:
    """A maker of clients of single flows, one a flow: each new one would ask for the same scopes again."""
    made: dict[str, SpecificFlowClient] = {}

    def new_flow(flow_id: str) -> SpecificFlowClient:
        from globus_sdk import SpecificFlowClient

        if not GRANTS[role].starts:
            raise AuthError(f"role {role}: may not start runs", remedy="use the role trigger or operator")
        if flow_id not in made:
            made[flow_id] = SpecificFlowClient(flow_id, app=app, retry_config=start_retries())
            if mapped := mapped_collections(site):
                made[flow_id].add_app_transfer_data_access_scope(mapped)
        return made[flow_id]

    return new_flow


def mapped_collections(site: Site) -> list[str]:
    """Ids of the collections that want a `data_access` consent of their own."""
    return [c.id for c in (site.instrument, site.scratch, site.publication) if c.data_access]


# -- runs that wait for a consent ---------------------------------------------------------------------------
def authorization_for(details: object) -> GlobusAuthorizationParameters | None:
    """What an INACTIVE run's `details` ask the user to do, or None if they do not say."""
    from globus_sdk.gare import to_gare

    gare = to_gare(details) if isinstance(details, dict) else None
    return gare.authorization_parameters if gare else None


def authorise(app: GlobusApp, run: dict[str, Any]) -> None:
    """Log in as the document of an INACTIVE run asks.

    Raises:
        RunError: the run is not INACTIVE, or does not say what it needs.
        AuthError: it needs a person, and this is the service.
    """
    from globus_sdk import ClientApp

    run_id = run["run_id"]
    if run["status"] != "INACTIVE":
        raise RunError(
            f"run {run_id}: is {run['status']}, not INACTIVE",
            remedy="a failed or cancelled run is repeated by `petavoxel run rerun`",
        )
    needed = authorization_for(run.get("details"))
    page = run_page(run_id)
    if needed is None:
        raise RunError(
            f"run {run_id}: does not say which consent it waits for", remedy=f"resume it at {page}"
        )
    if isinstance(app, ClientApp) and _asks_a_person(needed):
        asked = needed.session_message or "another identity or MFA"
        raise AuthError(
            f"run {run_id}: waits for a person's login ({asked})",
            remedy=f"unset the client's secret and resume it as yourself, or at {page}",
        )
    app.login(auth_params=needed)


def _asks_a_person(needed: GlobusAuthorizationParameters) -> bool:
    """Whether it is about a session (identity, domain, MFA), which client credentials cannot have."""
    return bool(
        needed.session_required_identities
        or needed.session_required_single_domain
        or needed.session_required_policies
        or needed.session_required_mfa
    )
