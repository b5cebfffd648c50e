"""A service of the two-method starter protocol in a process of its own, over HTTP, that fails on purpose.

    python -m tests.benchmarks.trigger_service DATABASE SHARE SEED

Prints its port. A run is carried out by looking at what it was asked to move: the documents, and each file
as it is at that moment. In `SHARE` of its calls it fails in one of 8 ways, drawn by the seed.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import sqlite3
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from flows.inputs import RunRequest
from flows.watch.starting import FoundRun, NotCarriedOutError, classified
from functions.microscopes import plain

WAYS = ("429", "500", "502", "timeout", "dropped-before", "dropped-after", "slow", "expired-token")
CLIENT_TIMEOUT = 0.4
SLOW_SECONDS = 0.8
"""Longer than the client waits: the run is started behind its back."""
GRACE_SECONDS = 2.0
RUN_SECONDS = 0.2
SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS runs (id TEXT, tag TEXT, time REAL, kind TEXT, tiles TEXT);
CREATE TABLE IF NOT EXISTS calls (method TEXT, way TEXT);
"""


class HttpStarter:
    """The client: one request a call, never repeated by itself; a new token when the old one is refused."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self._token = "first"

    def start(self, request: RunRequest) -> str:
        """Start a run."""
        body = request.model_dump_json().encode()
        return str(self._call(urllib.request.Request(f"{self._url}/start", data=body))["id"])

    def find(self, tag: str) -> FoundRun | None:
        """Look a run up."""
        found = self._call(urllib.request.Request(f"{self._url}/find?tag={urllib.request.quote(tag)}"))
        return None if found["id"] is None else FoundRun(id=found["id"], ended=found["ended"], succeeded=True)

    def _call(self, request: urllib.request.Request) -> dict[str, Any]:
        request.add_header("Authorization", self._token)
        try:
            with urllib.request.urlopen(request, timeout=CLIENT_TIMEOUT) as answer:
                return dict(json.loads(answer.read()))
        except urllib.error.HTTPError as error:
            if error.code == 401:
                self._token = uuid.uuid4().hex
                raise NotCarriedOutError("the token has expired") from None
            error.http_status = error.code
            raise classified(error) from None
        except (OSError, http.client.HTTPException) as error:
            raise ConnectionError(str(error)) from None


class Service:
    """What the handler shares between its threads."""

    def __init__(self, database: Path, share: float, seed: int) -> None:
        self.lock = threading.Lock()
        self.db = sqlite3.connect(database, check_same_thread=False, isolation_level=None)
        self.db.executescript(SCHEMA)
        self.share = share
        self.random = random.Random(seed)
        self.refused: set[str] = set()

    def way(self, method: str) -> str:
        """How this call fails; empty when it does not."""
        with self.lock:
            way = self.random.choice(WAYS) if self.random.random() < self.share else ""
            self.db.execute("INSERT INTO calls VALUES (?, ?)", (method, way))
        return way

    def start(self, body: bytes) -> dict[str, Any]:
        """Carry a run out."""
        request = RunRequest.parse(body, source="start")
        run_id, tiles = str(uuid.uuid4()), look(request) if request.stop_after == "stitch" else {}
        kind = "sections" if request.stop_after == "stitch" else "volume"
        with self.lock:
            values = (run_id, request.tags[0], time.time(), kind, json.dumps(tiles))
            self.db.execute("INSERT INTO runs VALUES (?, ?, ?, ?, ?)", values)
        return {"id": run_id}

    def find(self, tag: str) -> dict[str, Any]:
        """The oldest run with a tag."""
        with self.lock:
            row = self.db.execute("SELECT id, time FROM runs WHERE tag = ? ORDER BY time", (tag,)).fetchone()
        return {"id": row[0] if row else None, "ended": bool(row) and time.time() - row[1] > RUN_SECONDS}


def look(request: RunRequest) -> dict[str, dict[str, list[Any]]]:
    """What a run would move: {z: {file: [y nm, x nm, SHA-256 now]}}, under the names of `canonical`."""
    from functions.store.images import read_tile  # the watcher, which imports our client, does without

    documents = Path(request.documents or "")
    moved = {name.lstrip("/") for name in request.files}
    found: dict[str, dict[str, list[Any]]] = {}
    for row in plain.read_rows(documents, documents=documents):
        tile, name = row.tile, row.tile.path.removeprefix("raw/")
        place = list(tile.stage_yx_nm)
        if tile.plane is not None:
            pixels = read_tile(documents.parent / name.removeprefix("documents/"), tile.plane)
            taken = {f"{name}#{tile.plane}": [*place, hashlib.sha256(pixels.tobytes()).hexdigest()]}
            found.setdefault(str(row.z), {}).update(canonical(taken))
            continue
        folder = name.rpartition("/")[0] + "/"
        listed = name in moved or folder in moved
        path = Path(request.source) / name
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if listed else "not moved"
        found.setdefault(str(row.z), {})[name] = [*place, digest]
    return found


def canonical(tiles: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Tiles by their files; planes of stacks by their places, since they are copied out of the stack."""
    return {
        f"{tile[0]:.3f} {tile[1]:.3f}" if "#" in name else name: list(tile) for name, tile in tiles.items()
    }


class Handler(BaseHTTPRequestHandler):
    """One call."""

    service: Service

    def do_POST(self) -> None:
        """start"""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer("start", lambda: self.service.start(body))

    def do_GET(self) -> None:
        """find"""
        tag = parse_qs(urlsplit(self.path).query)["tag"][0]
        self._answer("find", lambda: self.service.find(tag))

    def _answer(self, method: str, carry_out: Any) -> None:
        way, token = self.service.way(method), self.headers.get("Authorization", "")
        if way == "expired-token":
            self.service.refused.add(token)
        if token in self.service.refused:
            return self._send(401, {})
        if way == "429":
            return self._send(429, {})
        if way == "dropped-before":
            return self._drop()
        if way == "timeout":  # it never gets to it
            time.sleep(2 * CLIENT_TIMEOUT)
            return self._drop()
        if way == "slow":
            time.sleep(SLOW_SECONDS)
        if way in ("500", "502") and self.service.random.random() < 0.5:
            return self._send(int(way), {})
        document = carry_out()
        if way in ("500", "502"):
            return self._send(int(way), {})
        if way == "dropped-after":
            return self._drop()
        return self._send(200, document)

    def _send(self, status: int, document: dict[str, Any]) -> None:
        data = json.dumps(document).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:  # the client did not wait
            pass

    def _drop(self) -> None:
        self.close_connection = True
        self.connection.close()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def main(arguments: list[str]) -> None:
    """Serve until killed."""
    Handler.service = Service(Path(arguments[0]), float(arguments[1]), int(arguments[2]))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
