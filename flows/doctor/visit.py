"""What a check knows and what it answers."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from flows.lock import Lock
from flows.service import Service
from flows.site import Collection, Site
from functions.tasks import ProbeResult

MARKER = ".petavoxel-check-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Of one check."""

    status: Literal["ok", "failed", "skipped"]
    message: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the doctor's report."""

    check: str
    status: Literal["ok", "failed", "skipped"]
    message: str
    remedy: str = ""


@dataclass(slots=True, kw_only=True)
class Visit:
    """One examination. `service` has the role checker; a check may leave what later ones need."""

    site: Site
    lock: Lock | None
    service: Service
    limit_s: float = 300.0
    """How long to wait for a worker."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    marker: str = field(default_factory=lambda: f"{MARKER}{uuid.uuid4().hex[:12]}")
    """Name of the folder that is made on collections and looked for by the worker."""
    made: list[tuple[Collection, str]] = field(default_factory=list)
    """Folders that must be removed at the end."""
    probe: ProbeResult | None = None


def ok(message: str) -> Answer:
    """All is well."""
    return Answer(status="ok", message=message)


def failed(message: str, remedy: str) -> Answer:
    """Something must be put right."""
    return Answer(status="failed", message=message, remedy=remedy)


def skipped(why: str) -> Answer:
    """Nothing to check."""
    return Answer(status="skipped", message=why)
