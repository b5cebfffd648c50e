"""What a Globus service's refusal means to the person who asked, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.errors import ServiceError

if TYPE_CHECKING:
    from globus_sdk import GlobusAPIError

_REMEDIES = {
    400: "the service does not take the request: check the ids in the site profile",
    401: "log in again: remove the folder `tokens` in Petavoxel's home and repeat the command in a terminal",
    403: "role or consent is missing: ask who deployed the flow, or owns the collection, endpoint or index",
    404: "check the id in the site profile, and whether you may see it",
    422: "the service refuses the content: correct what it names",
    429: "too many requests: wait a minute and repeat",
}
_SERVER = "the service has trouble: see https://status.globus.org and repeat later"


def explain(error: Exception) -> ServiceError:
    """A readable error for an exception of the Globus SDK.

    Built from the answer's status, code and message alone: the request, whose headers hold a token, is not.
    """
    from globus_sdk import GlobusAPIError, NetworkError

    if isinstance(error, GlobusAPIError):
        said = "; ".join(str(message) for message in error.messages) or error.message or "no reason given"
        code = f" {error.code}" if error.code and error.code != "Error" else ""
        return ServiceError(
            f"Globus {_service(error)} answered {error.http_status}{code}: {said}",
            remedy=_SERVER if error.http_status >= 500 else _REMEDIES.get(error.http_status, _REMEDIES[400]),
            http_status=error.http_status,
        )
    if isinstance(error, NetworkError):
        return ServiceError(
            f"no answer from Globus: {error}", remedy="check the network of this machine and repeat"
        )
    return ServiceError(
        f"Globus SDK: {type(error).__name__}: {error}", remedy="check the site profile's [auth], log in again"
    )


def from_sdk(error: BaseException) -> bool:
    """Whether an exception is the Globus SDK's, told by name so that asking does not import it."""
    return any(
        kind.__module__.startswith("globus_sdk") and issubclass(kind, Exception)
        for kind in type(error).__mro__
    )


def _service(error: GlobusAPIError) -> str:
    """Which service it was: `Flows`, `Transfer`, `Compute`, `Search`, `Auth`."""
    return type(error).__name__.removesuffix("APIError").removesuffix("Error") or "service"


def flow_page(flow_id: str) -> str:
    """Where the Globus web app shows a flow."""
    return _page(f"flows/{flow_id}")


def run_page(run_id: str) -> str:
    """Where the Globus web app shows a run."""
    return _page(f"runs/{run_id}")


def _page(path: str) -> str:
    from globus_sdk.config import get_webapp_url

    return get_webapp_url() + path
