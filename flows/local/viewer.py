"""A small web server for one bundle: its files, its report, and Neuroglancer opened on it.

    /              to the viewer             /report        the quality report
    /v/bundle/     the Neuroglancer client   /state.json    the viewer's state for this server
    /data/...      files of the bundle, with byte ranges and CORS, so that other viewers can read them too
    /events/...    an empty event stream

The client is the one inside the `neuroglancer` package; nothing is fetched from elsewhere. It expects a token
behind `/v/` and a server that may send it events; with a state in its address it needs none of them.
"""

from __future__ import annotations

import asyncio
import json
import mimetypes
import socket
import threading
import webbrowser
from collections.abc import AsyncIterator, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from functions.model.errors import UnsafePathError, VolumeError, safe_join
from functions.publication import neuroglancer

HEARTBEAT_S = 15.0
METHODS = ["GET", "HEAD"]
EXPOSED = ["content-length", "content-range", "accept-ranges", "etag", "last-modified"]
MEDIA_TYPES = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".html": "text/html",
    ".wasm": "application/wasm",
    ".json": "application/json",
    ".map": "application/json",
    ".txt": "text/plain",
}


def application(bundle: Path) -> Starlette:
    """The web application for the bundle in folder `bundle`.

    Raises:
        VolumeError: the folder is no bundle, or the `neuroglancer` package has no client.
    """
    template = read_state(bundle)
    client = client_folder()

    async def home(request: Request) -> Response:
        return RedirectResponse(f"{request.base_url}v/bundle/#!{request.base_url}state.json")

    async def report(request: Request) -> Response:
        return _file(bundle, "report.html")

    async def state(request: Request) -> Response:
        return JSONResponse(neuroglancer.at(template, f"{request.base_url}data"))

    async def data(request: Request) -> Response:
        return _file(bundle, request.path_params["path"])

    async def viewer(request: Request) -> Response:
        return _file(client, request.path_params["path"] or "index.html")

    async def events(request: Request) -> Response:
        return StreamingResponse(_silence(), media_type="text/event-stream")

    return Starlette(
        routes=[
            Route("/", home, methods=METHODS),
            Route("/report", report, methods=METHODS),
            Route("/state.json", state, methods=METHODS),
            Route("/data/{path:path}", data, methods=METHODS),
            Route("/v/bundle/{path:path}", viewer, methods=METHODS),
            Route("/events/bundle", events),
        ],
        middleware=[
            Middleware(
                CORSMiddleware,
                allow_origins=["*"],
                allow_methods=METHODS,
                allow_headers=["range", "if-range"],
                expose_headers=EXPOSED,
            )
        ],
    )


def serve(
    bundle: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    open_browser: bool = True,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve a bundle until interrupted.

    Args:
        port: 0 takes a free one.
        on_ready: called with the server's address once it accepts connections.

    Raises:
        VolumeError: the folder is no bundle.
        OSError: the port is taken.
    """
    app = application(bundle)
    with socket.create_server((host, port)) as listener:
        url = f"http://{host}:{listener.getsockname()[1]}/"
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
        )
        if on_ready is not None:
            on_ready(url)
        if open_browser:  # the socket already listens, so the browser waits for the server's start
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        server.run(sockets=[listener])


def read_state(bundle: Path) -> dict[str, Any]:
    """The bundle's viewer state, with its placeholder.

    Raises:
        VolumeError: there is none.
    """
    path = bundle / neuroglancer.FILE
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise VolumeError(f"{path}: not there", remedy="give the folder of a finished run's bundle") from None
    except ValueError as error:
        raise VolumeError(f"{path}: not JSON ({error})", remedy="run finish again") from None
    return document


def client_folder() -> Path:
    """Where the `neuroglancer` package keeps its web client; found without importing the package.

    Raises:
        VolumeError: the package is not installed, or was built without its client.
    """
    spec = find_spec("neuroglancer")
    places = spec.submodule_search_locations if spec else None
    folder = Path(next(iter(places))) / "static" / "client" if places else Path()
    if not (folder / "index.html").is_file():
        raise VolumeError("neuroglancer: no web client", remedy="pip install --force-reinstall neuroglancer")
    return folder


async def _silence() -> AsyncIterator[bytes]:
    """Comments that keep an event stream open."""
    while True:
        yield b": nothing to say\n\n"
        await asyncio.sleep(HEARTBEAT_S)


def _file(root: Path, path: str) -> Response:
    """A file under `root`, whole or in ranges; 404 for anything else, so that nothing outside shows."""
    try:
        target = safe_join(root, path, field="path")
    except UnsafePathError:
        raise HTTPException(404) from None
    if not target.is_file():
        raise HTTPException(404)
    media = (
        MEDIA_TYPES[target.suffix] if target.suffix in MEDIA_TYPES else mimetypes.guess_type(target.name)[0]
    )
    return FileResponse(target, media_type=media or "application/octet-stream")
