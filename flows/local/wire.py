"""Globus clients that reach the embedded site without a socket.

An unmodified client of globus-sdk sends its requests through a `requests` session. Here that session has an
adapter that hands each request to the loopback's web application in this process and makes a response of its
answer. The routes, the tokens, the errors and the faults are those of the loopback over HTTP.
"""

from __future__ import annotations

import asyncio
from io import BytesIO
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
from globus_sdk.transport import RequestsTransport
from requests.adapters import BaseAdapter
from starlette.types import ASGIApp, Message

from flows.errors import SiteError
from flows.local.http.faults import LostError

HOSTS = {
    "auth": "https://auth.globus.org/",
    "flows": "https://flows.automate.globus.org/",
    "transfer": "https://transfer.api.globus.org/",
    "search": "https://search.api.globus.org/",
    "compute": "https://compute.api.globus.org/",
}
"""Where production has each service; the adapter tells the services apart by these."""
_SERVICES = {urlsplit(url).hostname: name for name, url in HOSTS.items()}


class WireAdapter(BaseAdapter):
    """Answers requests from a web application in this process."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__()
        self._app = app

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> requests.Response:
        """Carry a request out.

        Raises:
            requests.ConnectionError, requests.ReadTimeout: a fault lost the answer.
        """
        scope, content = _scope(request), _content(request.body)
        try:
            status, headers, body = asyncio.run(_called(self._app, scope, content))
        except LostError as lost:
            kind = requests.ReadTimeout if lost.kind == "timeout" else requests.ConnectionError
            raise kind(f"{request.method} {request.url}: {lost.kind}", request=request) from None
        response = requests.Response()
        response.status_code = status
        response.headers.update(headers)
        response.encoding = "utf-8"
        response.raw = BytesIO(body)
        response.url = str(request.url)
        response.request = request
        return response

    def close(self) -> None:
        """Nothing is held."""


def wire_transport(app: ASGIApp) -> RequestsTransport:
    """A transport for clients of globus-sdk that ends in `app`."""
    transport = RequestsTransport()
    adapter = WireAdapter(app)
    for prefix in ("https://", "http://"):
        transport.session.mount(prefix, adapter)
    return transport


def _scope(request: requests.PreparedRequest) -> dict[str, Any]:
    """The ASGI scope of a request; the host's name becomes the path's prefix."""
    url = urlsplit(str(request.url))
    service = _SERVICES.get(url.hostname)
    if service is None:
        raise SiteError(
            f"{url.hostname}: not a service of the embedded site", remedy="leave URLs as they are"
        )
    headers = [(name.lower().encode(), str(value).encode()) for name, value in request.headers.items()]
    path = f"/{service}{url.path}"
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": url.query.encode(),
        "root_path": "",
        "headers": [*headers, (b"host", b"127.0.0.1")],
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 0),
    }


def _content(body: Any) -> bytes:
    """Clients of globus-sdk send text or bytes, never streams."""
    return body.encode() if isinstance(body, str) else body or b""


async def _called(app: ASGIApp, scope: dict[str, Any], content: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer."""
    head: dict[str, Any] = {}
    body = bytearray()
    asked = False

    async def receive() -> Message:
        nonlocal asked
        if asked:
            return {"type": "http.disconnect"}
        asked = True
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            head.update(message)
        else:
            body.extend(message.get("body", b""))

    await app(scope, receive, send)
    headers = {name.decode(): value.decode() for name, value in head["headers"]}
    return head["status"], headers, bytes(body)
