"""The local viewer: ranges, CORS, no way out of the bundle, and the client inside the package."""

from __future__ import annotations

import asyncio
import re
import threading
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from flows.local import viewer
from functions.model.errors import VolumeError
from functions.publication import neuroglancer

SHARD = bytes(range(256)) * 8


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A folder that looks like a bundle, with a secret beside it."""
    folder = tmp_path / "bundle"
    (folder / "volume.zarr" / "0" / "c").mkdir(parents=True)
    (folder / "volume.zarr" / "0" / "c" / "0").write_bytes(SHARD)
    (folder / "volume.zarr" / "zarr.json").write_text("{}")
    (folder / "report.html").write_text("<h1>report</h1>")
    state = neuroglancer.template(shape_zyx=(4, 8, 8), voxel_size_zyx_nm=(30, 8, 8))
    (folder / "neuroglancer.json").write_text(neuroglancer.compact(state))
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    return folder


class Web:
    """Asks an application without a socket."""

    def __init__(self, app: Starlette) -> None:
        self._app = app

    def ask(self, method: str, path: str, *, headers: dict[str, str] | None = None) -> httpx.Response:
        """One request; redirects are not followed."""

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app=self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:9") as client:
                return await client.request(method, path, headers=headers)

        return asyncio.run(send())

    def get(self, path: str, *, headers: dict[str, str] | None = None) -> httpx.Response:
        """GET."""
        return self.ask("GET", path, headers=headers)


@pytest.fixture
def web(bundle: Path) -> Web:
    """A client of the application."""
    return Web(viewer.application(bundle))


@pytest.mark.parametrize(
    ("asked", "status", "body"),
    [
        ("bytes=0-15", 206, SHARD[:16]),
        ("bytes=100-", 206, SHARD[100:]),
        ("bytes=-20", 206, SHARD[-20:]),
        ("bytes=2040-9999", 206, SHARD[2040:]),
        ("bytes=5000-6000", 416, b""),
    ],
)
def test_byte_ranges(web: Web, asked: str, status: int, body: bytes) -> None:
    answer = web.get("/data/volume.zarr/0/c/0", headers={"range": asked, "origin": "https://viewer.example"})
    assert answer.status_code == status
    assert answer.content == body
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "content-range" in answer.headers["access-control-expose-headers"]
    if status == 206:
        start = SHARD.index(body) if asked == "bytes=0-15" else len(SHARD) - len(body)
        assert answer.headers["content-range"] == f"bytes {start}-{start + len(body) - 1}/{len(SHARD)}"


def test_whole_files_and_head(web: Web) -> None:
    whole = web.get("/data/volume.zarr/0/c/0")
    assert whole.content == SHARD
    assert whole.headers["content-type"] == "application/octet-stream"
    head = web.ask("HEAD", "/data/volume.zarr/0/c/0")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(SHARD))
    assert head.headers["accept-ranges"] == "bytes"


def test_preflight_allows_ranges(web: Web) -> None:
    answer = web.ask(
        "OPTIONS",
        "/data/volume.zarr/0/c/0",
        headers={
            "origin": "https://viewer.example",
            "access-control-request-method": "GET",
            "access-control-request-headers": "range",
        },
    )
    assert answer.status_code == 200
    assert "range" in answer.headers["access-control-allow-headers"]


@pytest.mark.parametrize(
    "path",
    [
        "/data/%2e%2e/secret.txt",
        "/data/volume.zarr/%2e%2e/%2e%2e/secret.txt",
        "/data/..%5csecret.txt",
        "/data//etc/passwd",
        "/data/%2fetc/passwd",
        "/data/link.txt",
        "/data/",
        "/data/volume.zarr",
        "/data/volume.zarr/0/c/1",
        "/v/bundle/%2e%2e/__init__.py",
        "/v/other/index.html",
    ],
)
def test_nothing_outside_shows(web: Web, path: str) -> None:
    answer = web.get(path)
    assert answer.status_code == 404
    assert "secret" not in answer.text


def test_writing_is_refused(web: Web) -> None:
    assert web.ask("PUT", "/data/new").status_code == 405
    assert web.ask("POST", "/state.json").status_code == 405


def test_the_state_names_this_server(web: Web) -> None:
    layers = web.get("/state.json").json()["layers"]
    assert layers[0]["source"] == "zarr3://http://127.0.0.1:9/data/volume.zarr"
    home = web.get("/")
    assert home.status_code == 307
    assert home.headers["location"] == "http://127.0.0.1:9/v/bundle/#!http://127.0.0.1:9/state.json"


def test_the_report_and_the_packaged_client(web: Web) -> None:
    assert web.get("/report").text == "<h1>report</h1>"
    page = web.get("/v/bundle/")
    assert page.headers["content-type"].startswith("text/html")
    scripts = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert scripts
    for name in scripts:
        assert web.get(f"/v/bundle/{name}").status_code == 200
    kinds = {p.suffix: p.name for p in viewer.client_folder().iterdir()}
    assert web.get(f"/v/bundle/{kinds['.wasm']}").headers["content-type"] == "application/wasm"


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match=r"neuroglancer\.json: not there"):
        viewer.application(tmp_path)
    (tmp_path / "neuroglancer.json").write_text("{")
    with pytest.raises(VolumeError, match="not JSON"):
        viewer.application(tmp_path)


def test_serve_takes_a_free_port_and_answers(bundle: Path) -> None:
    ready = threading.Event()
    urls: list[str] = []

    def note(url: str) -> None:
        urls.append(url)
        ready.set()

    arguments = {"port": 0, "open_browser": False, "on_ready": note}
    threading.Thread(target=viewer.serve, args=(bundle,), kwargs=arguments, daemon=True).start()
    assert ready.wait(20)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", urls[0])
    assert httpx.get(f"{urls[0]}report", timeout=20).text == "<h1>report</h1>"
    with httpx.stream("GET", f"{urls[0]}events/bundle", timeout=20) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert next(stream.iter_bytes()).startswith(b":")
