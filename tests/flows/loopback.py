"""A loopback Globus over HTTP for tests: in a thread of this process, with unmodified clients led to it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import globus_sdk
import uvicorn

from flows.local.http.app import application, world_of
from flows.local.http.control import control_token
from flows.local.http.serving import SERVICES, HangUp
from flows.site import EngineName, local_site

FAKE_STEPS = "tests.flows.fake_steps"


@contextmanager
def served(
    home: Path,
    *,
    port: int = 0,
    workers: int = 1,
    entry_points: str = FAKE_STEPS,
    engine: EngineName | None = None,
) -> Iterator[SimpleNamespace]:
    """The loopback of `home`: its `world`, `url`, `variables` and an `app` that is logged in."""
    site = local_site(home, workers=workers, entry_points=entry_points).model_copy(update={"engine": engine})
    with world_of(home, site) as world, socket.create_server(("127.0.0.1", port)) as listener:
        config = uvicorn.Config(
            HangUp(application(world)), log_level="error", proxy_headers=False, http="h11", ws="none",
            lifespan="off",
        )  # fmt: skip
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        try:
            yield SimpleNamespace(
                home=home,
                site=site,
                world=world,
                url=url,
                variables={f"GLOBUS_SDK_SERVICE_URL_{s.upper()}": f"{url}{s}/" for s in SERVICES},
                control=control_token(home).read_text(),
            )
        finally:
            server.should_exit = True
            thread.join(timeout=10)


def client_app(loopback: SimpleNamespace) -> globus_sdk.ClientApp:
    """An unmodified ClientApp; the variables of the loopback must be in the environment."""
    config = globus_sdk.GlobusAppConfig(token_storage="memory")
    client = loopback.world.client
    return globus_sdk.ClientApp("test", client_id=client.id, client_secret=client.secret(), config=config)


def wait_until(condition, seconds: float = 120) -> None:
    """Wait for something that is coming."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
