"""Bytes that go through the door: read and written by a unit of work, as stored and unpacked.

*Stored* bytes are those of files, compressed and with all that is read of a chunk, wanted or not: what a file
system or network carries. *Raw* bytes are voxels as arrays: raw over stored tells how well it compresses.
Small documents (marks, layouts, manifests) are not counted.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

FIGURES = ("read_bytes", "read_raw_bytes", "written_bytes", "written_raw_bytes")
"""Names in marks of what is counted."""


@dataclass(slots=True)
class Traffic:
    """Counts of one unit; several threads may add to them."""

    read_bytes: int = 0
    read_raw_bytes: int = 0
    written_bytes: int = 0
    written_raw_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, counts: Iterable[int]) -> None:
        """Add to the four counts, in the order of `FIGURES`."""
        with self._lock:
            for name, count in zip(FIGURES, counts, strict=True):
                setattr(self, name, getattr(self, name) + count)

    @property
    def figures(self) -> dict[str, float]:
        """The counts by name, for a unit's mark."""
        return {name: float(getattr(self, name)) for name in FIGURES}


_counting: ContextVar[tuple[Traffic, ...]] = ContextVar("petavoxel_traffic", default=())


@contextmanager
def counted(traffic: Traffic | None = None) -> Iterator[Traffic]:
    """Count what goes through the door inside the block, in whatever counts outside of it, too.

    Threads count where they run in a copy of the context.
    """
    traffic = Traffic() if traffic is None else traffic
    token = _counting.set((*_counting.get(), traffic))
    try:
        yield traffic
    finally:
        _counting.reset(token)


def note_traffic(traffic: Traffic) -> None:
    """Count what was counted elsewhere, in another thread for instance."""
    for counting in _counting.get():
        counting.add(getattr(traffic, name) for name in FIGURES)


def note_read(*, stored: int = 0, raw: int = 0) -> None:
    """Count bytes that were read."""
    for traffic in _counting.get():
        traffic.add((stored, raw, 0, 0))


def note_written(*, stored: int = 0, raw: int = 0) -> None:
    """Count bytes that were written."""
    for traffic in _counting.get():
        traffic.add((0, 0, stored, raw))
