"""Faults on demand: what a network and a service do to their clients, by rules that a test lays down.

A rule names the calls that it meets (service, method, a pattern of the path), what befalls them, and how
many: the next N, or a fraction drawn from a seeded generator. The first rule that strikes a call decides.

    429 500 502   answered instead of carrying the call out
    drop timeout  the connection is lost, or nobody answers; before or after the call was carried out
    slow          carried out, then answered late
    expire        every token ends before the call is looked at
    inactive      a run that the call starts goes INACTIVE
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flows.local.actions import Json
from flows.local.http.errors import SHAPES, ApiError
from functions.model.base import Document

Kind = Literal["429", "500", "502", "drop", "timeout", "slow", "expire", "inactive"]
MESSAGES = {"429": "Too many requests", "500": "Internal error", "502": "Bad gateway"}


class Rule(Document):
    """Which calls meet which fate."""

    kind: Kind
    next: Annotated[int, Field(ge=1)] | None = None
    """The next so many calls that match; None with a fraction."""
    fraction: Annotated[float, Field(ge=0, le=1)] | None = None
    """This part of all calls that match."""
    seed: int = 0
    service: Literal["auth", "flows", "transfer", "search", "compute"] | None = None
    """None meets every service but Auth."""
    method: str | None = None
    path: str = ""
    """A regular expression that is searched in the path."""
    carried_out: bool = False
    """`drop` and `timeout`: whether the call was carried out before the connection was lost."""
    seconds: Annotated[float, Field(ge=0, le=600)] = 1.0
    """`429`: Retry-After; `slow`: the delay; `timeout`: silence over HTTP (in-process it is told at once)."""


@dataclass(slots=True)
class _Active:
    rule: Rule
    generator: random.Random
    met: int = 0
    struck: int = 0


class LostError(Exception):
    """The caller gets no answer; `kind` is `drop` or `timeout`."""

    def __init__(self, kind: str, seconds: float) -> None:
        super().__init__(kind)
        self.kind = kind
        self.seconds = seconds


@dataclass(slots=True)
class Faults:
    """The rules in force, in the order in which they were laid down."""

    _rules: list[_Active] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, rule: Rule) -> None:
        """Lay down a rule."""
        with self._lock:
            self._rules.append(_Active(rule, random.Random(rule.seed)))

    def clear(self) -> None:
        """Lift all rules."""
        with self._lock:
            self._rules.clear()

    def told(self) -> list[Json]:
        """Every rule, with the calls that it met and those that it struck."""
        with self._lock:
            return [{**r.rule.to_json(), "met": r.met, "struck": r.struck} for r in self._rules]

    def strike(self, service: str, method: str, path: str) -> Rule | None:
        """The rule that a call falls under now, if any."""
        with self._lock:
            for active in self._rules:
                rule = active.rule
                if not _meets(rule, service, method, path):
                    continue
                active.met += 1
                if rule.next is not None and active.struck >= rule.next:
                    continue
                if rule.fraction is not None and active.generator.random() >= rule.fraction:
                    continue
                active.struck += 1
                return rule
        return None


def _meets(rule: Rule, service: str, method: str, path: str) -> bool:
    right_service = service == rule.service if rule.service else service != "auth"
    right_method = rule.method in (None, method)
    return right_service and right_method and re.search(rule.path, path) is not None


class FaultsMiddleware:
    """Around the routes of one service."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        service: str,
        faults: Faults,
        expire: Callable[[], None],
        hold: Callable[[str], None],
    ) -> None:
        self._app = app
        self._service = service
        self._faults = faults
        self._expire = expire
        self._hold = hold

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the call through, or let its fate befall it."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        rule = self._faults.strike(self._service, scope["method"], scope["path"])
        if rule is None:
            return await self._app(scope, receive, send)
        if rule.kind in MESSAGES:
            return await _refuse(rule, self._service, scope, send)
        if rule.kind in ("drop", "timeout"):
            if rule.carried_out:
                await self._app(scope, receive, _nowhere)
            raise LostError(rule.kind, rule.seconds)
        if rule.kind == "expire":
            self._expire()
        if rule.kind == "slow":
            await asyncio.sleep(rule.seconds)
        if rule.kind == "inactive":
            return await self._started_inactive(scope, receive, send)
        return await self._app(scope, receive, send)

    async def _started_inactive(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the call through and hold the run that it started."""
        content = bytearray()

        async def listen(message: Message) -> None:
            if message["type"] == "http.response.body":
                content.extend(message.get("body", b""))
                if not message.get("more_body") and (run_id := _run_id(bytes(content))):
                    self._hold(run_id)
            await send(message)

        await self._app(scope, receive, listen)


def _run_id(content: bytes) -> str | None:
    """The run that an answer tells of."""
    try:
        document = json.loads(content)
    except ValueError:
        return None
    if not isinstance(document, dict) or document.get("status") != "ACTIVE":
        return None
    return document.get("run_id")


async def _nowhere(message: Message) -> None:
    """Where answers go that nobody gets."""


async def _refuse(rule: Rule, service: str, scope: Scope, send: Send) -> None:
    """Answer with an error instead of carrying the call out."""
    error = ApiError(int(rule.kind), MESSAGES[rule.kind].upper().replace(" ", "_"), MESSAGES[rule.kind])
    content = json.dumps(SHAPES[service](error, scope["path"])).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    if rule.kind == "429":
        headers.append((b"retry-after", str(round(rule.seconds)).encode()))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
