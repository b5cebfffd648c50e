"""The login, the deployed flow against the lock and the profile, and the Search index."""

from __future__ import annotations

from collections.abc import Callable

from globus_sdk import GlobusAPIError

from flows.doctor.visit import Answer, Visit, failed, ok, skipped
from flows.lock import digest
from flows.remote import flow_page
from flows.wanted import managed, wanted_flow

WRITERS = {"owner", "admin", "writer"}


def token(visit: Visit) -> Answer:
    """Globus takes the login."""
    visit.service.flows.list_flows()
    return ok("Globus takes the login")


def scopes(visit: Visit) -> Answer:
    """Every other service takes the login, too, for what a check does there."""
    service = visit.service
    asked: dict[str, Callable[[], object]] = {
        "Transfer": lambda: service.transfer.task_list(limit=1),
        "Compute": lambda: service.compute_v2.get_endpoints(),
    }
    refused = [name for name, ask in asked.items() if not _takes(ask)]
    if refused:
        return failed(
            f"refused: {', '.join(refused)}",
            "remove the folder `tokens` in Petavoxel's home, log in again, and allow all that it lists",
        )
    return ok(f"{' and '.join(asked)} take it, too")


def _takes(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except GlobusAPIError as error:
        if error.http_status in (401, 403):
            return False
        raise
    return True


def lock(visit: Visit) -> Answer:
    """Something was deployed from here."""
    if visit.lock is None or visit.lock.flow is None:
        return failed("the flow is not deployed: there is no lock file", "petavoxel flow deploy")
    return ok(f"deployed by petavoxel {visit.lock.package}, {visit.lock.flow.updated_at}")


def flow(visit: Visit) -> Answer:
    """The service has what the lock says, and the lock says what the profile wants."""
    assert visit.lock
    assert visit.lock.flow
    served = dict(visit.service.flows.get_flow(visit.lock.flow.id).data)
    if digest(managed(served)) != visit.lock.flow.served:
        return failed(
            f"flow {visit.lock.flow.id} was changed elsewhere, {served.get('updated_at', 'when is unknown')}",
            "take the newer lock file; or replace their change: petavoxel flow deploy --take-over",
        )
    if digest(managed(wanted_flow(visit.site))) != visit.lock.flow.sent:
        return failed("profile or package have changed since the deployment", "petavoxel flow deploy")
    return ok(flow_page(visit.lock.flow.id))


def search(visit: Visit) -> Answer:
    """The index takes records from this login.

    PROVISIONAL: that an index tells the asker's own roles in `permissions`.
    """
    index = visit.site.search_index
    if index is None:
        return skipped("the profile names no search_index")
    found = set(visit.service.search.get_index(index).get("permissions") or [])
    if not found & WRITERS:
        return failed(f"index {index}: you may not write to it", "ask its owner for the role writer")
    return ok(f"index {index} can be written to")
