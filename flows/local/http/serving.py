"""The loopback Globus over HTTP, on 127.0.0.1 and nowhere else."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from flows.local.http.app import application, world_of
from flows.local.http.control import control_token
from flows.local.http.faults import LostError
from flows.site import Site

HOST = "127.0.0.1"
NAMES = ["127.0.0.1", "localhost"]
"""What a request may call this host: a page elsewhere that points its own name here is refused."""
SERVICES = ("auth", "flows", "transfer", "search", "compute")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a served loopback is, and where its secrets lie. The secrets themselves are never told."""

    url: str
    client_id: str
    client_secret_path: Path
    control_token_path: Path

    def variables(self) -> dict[str, str]:
        """Environment variables that lead clients of globus-sdk and globus-cli here."""
        return {f"GLOBUS_SDK_SERVICE_URL_{service.upper()}": f"{self.url}{service}/" for service in SERVICES}


def serve(
    home: Path, site: Site, *, port: int = 0, on_ready: Callable[[Address], None] | None = None
) -> None:
    """Serve the embedded site of `home` until interrupted.

    Args:
        port: 0 takes a free one.
        on_ready: called with the address once it accepts connections.

    Raises:
        OSError: the port is taken.
    """
    with world_of(home, site) as world, socket.create_server((HOST, port)) as listener:
        app = HangUp(TrustedHostMiddleware(application(world), allowed_hosts=NAMES))
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            http="h11",
            ws="none",
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        address = Address(
            url=f"http://{HOST}:{listener.getsockname()[1]}/",
            client_id=world.client.id,
            client_secret_path=world.client.secret_path,
            control_token_path=control_token(home),
        )
        if on_ready is not None:
            on_ready(address)
        with suppress(KeyboardInterrupt):  # the usual end
            uvicorn.Server(config).run(sockets=[listener])


class HangUp:
    """Turns an answer that a fault has lost into a connection that breaks, at once or after a silence."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on; break its connection if it is lost."""
        try:
            await self._app(scope, receive, send)
        except LostError as lost:
            if lost.kind == "timeout":
                await asyncio.sleep(lost.seconds)
            connection: Any = send  # uvicorn's own `send` is a method of the request's cycle
            connection.__self__.transport.abort()
            await asyncio.sleep(0.05)  # until the loss has been noticed, or uvicorn would answer 500
