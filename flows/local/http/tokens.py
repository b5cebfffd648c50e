"""Who may call what: the loopback's one client, and the bearer tokens it was given.

Tokens live in memory: a server that starts anew knows none, and clients get new ones as they do from Globus.
The client's secret lies in a file of its owner alone.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from flows.errors import SiteError
from flows.local.builtin import local_id

FOLDER = "loopback"
LIFETIME_SECONDS = 172_800
FLOWS_CLIENT = "eec9b274-0c81-4334-bdc2-54e90e689b9a"
COMPUTE_CLIENT = "facd7ccc-c5f4-42aa-916b-a0e270e2c2a9"
_URL, _URN = "https://auth.globus.org/scopes/", "urn:globus:auth:scope:"
_SERVERS = {FLOWS_CLIENT: "flows.globus.org", COMPUTE_CLIENT: "funcx_service"}
_AUTH = ("openid", "email", "profile")


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """The confidential client that the loopback knows."""

    id: str
    secret_path: Path

    def secret(self) -> str:
        """Its secret.

        Raises:
            SiteError: others may read the file.
        """
        return read_secret(self.secret_path)


def loopback_client(home: Path) -> Client:
    """The client of a home folder, made at first use."""
    return Client(id=local_id(f"client:{home}"), secret_path=make_secret(home, "client_secret"))


def make_secret(home: Path, name: str) -> Path:
    """The file of a secret under `home`, made with 0600 where there is none."""
    folder = home / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / name
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path
    with os.fdopen(descriptor, "w") as handle:
        handle.write(secrets.token_urlsafe(32))
    return path


def read_secret(path: Path) -> str:
    """What a secret file says.

    Raises:
        SiteError: others may read it.
    """
    if path.stat().st_mode & 0o077:
        raise SiteError(f"{path}: others may read this secret", remedy=f"chmod 600 {path}")
    return path.read_text()


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What a bearer token stands for."""

    resource_server: str
    scopes: tuple[str, ...]
    issued: float
    expires: float


def resource_server(scope: str) -> str | None:
    """The service that a scope belongs to; None for one that is no scope."""
    if scope in _AUTH:
        return "auth.globus.org"
    if scope.startswith(_URL):
        owner = scope.removeprefix(_URL).partition("/")[0]
        return _SERVERS.get(owner, owner)
    if scope.startswith(_URN):
        return scope.removeprefix(_URN).rpartition(":")[0]
    return None


class Tokens:
    """Tokens that were issued and have neither expired nor been revoked."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._tokens: dict[str, Token] = {}

    def issue(self, scopes: Iterable[str], *, server: str) -> str:
        """A new token for scopes of one service."""
        now = self._clock()
        text = secrets.token_urlsafe(32)
        self._tokens[text] = Token(
            resource_server=server, scopes=tuple(scopes), issued=now, expires=now + LIFETIME_SECONDS
        )
        return text

    def check(self, text: str) -> Token | None:
        """The token, while it is good."""
        token = self._tokens.get(text)
        if token is None or token.expires <= self._clock():
            self._tokens.pop(text, None)
            return None
        return token

    def revoke(self, text: str) -> None:
        """End one token."""
        self._tokens.pop(text, None)

    def expire_all(self) -> None:
        """End all tokens, as time would."""
        self._tokens.clear()
