"""The loopback Globus: one web application with the routes of five services, told apart by path prefix.

    /auth  /flows  /transfer  /search  /compute     what GLOBUS_SDK_SERVICE_URL_* point to
    /v2 /v3                                         Compute again, for `Client(local_compute_services=True)`
    /control                                        faults
    /                                               the web page

An unmodified client comes over HTTP, or through the in-process adapter of `flows.local.wire`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from starlette.routing import BaseRoute, Mount, Router
from starlette.types import ASGIApp

from flows.local.documents import flow_scope
from flows.local.embedded import EmbeddedSite
from flows.local.http import auth, compute, control, flows, pages, runs, search, transfer
from flows.local.http.calls import World
from flows.local.http.compute_tasks import ComputeTasks
from flows.local.http.faults import Faults, FaultsMiddleware
from flows.local.http.tokens import Tokens, loopback_client
from flows.local.http.transfer_tasks import TransferTasks
from flows.local.transfer import Collections
from flows.site import Site


@contextmanager
def world_of(home: Path, site: Site) -> Iterator[World]:
    """The world of a home folder, closed at the end."""
    world = new_world(home, site)
    try:
        yield world
    finally:
        close(world)


def new_world(home: Path, site: Site) -> World:
    """The world of a home folder; `close` ends it."""
    places = {"instrument": site.instrument, "scratch": site.scratch, "publication": site.publication}
    for place in (site.scratch, site.publication):
        Path(place.base_path).mkdir(parents=True, exist_ok=True)
    collections = Collections({place.id: Path(place.base_path) for place in places.values()})
    embedded = EmbeddedSite(home, site)
    names = {place.id: name for name, place in places.items()}
    return World(
        site=embedded,
        client=loopback_client(home),
        tokens=Tokens(),
        faults=Faults(),
        transfers=TransferTasks(embedded.catalog, collections, names),
        compute=ComputeTasks(site, embedded.catalog),
    )


def close(world: World) -> None:
    """End worker processes and close the store."""
    world.compute.close()
    world.site.close()


def application(world: World) -> Router:
    """The web application. A bare router, since a lost answer is an exception that nobody may answer."""
    table: dict[str, Callable[[World], list[BaseRoute]]] = {
        "auth": auth.routes,
        "flows": lambda world: [*flows.routes(world), *runs.routes(world)],
        "transfer": transfer.routes,
        "search": search.routes,
        "compute": lambda world: [*compute.routes(world), compute.compute_rest()],
    }
    mounts: list[BaseRoute] = [
        Mount(f"/{name}", app=_faulty(world, name, Router(routes(world)))) for name, routes in table.items()
    ]
    own: list[BaseRoute] = [Mount("/control", routes=control.routes(world)), *pages.routes(world)]
    # last, since a mount at the root takes whatever is left
    compute_at_root = Mount("/", app=_faulty(world, "compute", Router(table["compute"](world))))
    return Router(routes=[*mounts, *own, compute_at_root])


def _faulty(world: World, service: str, app: ASGIApp) -> ASGIApp:
    def hold(run_id: str) -> None:
        scope = flow_scope(world.site.store.load(run_id).head.flow_id)
        world.site.hold(run_id, scopes=(scope,), message="a consent is missing")

    return FaultsMiddleware(
        app, service=service, faults=world.faults, expire=world.tokens.expire_all, hold=hold
    )
