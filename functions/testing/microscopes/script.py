"""What a fake microscope is told to do, and the truth that it leaves for whoever judges a watcher."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tifffile

from functions.model.errors import TaskError
from functions.store.files import write_json

FAULTS = ("pause", "retake", "rejected", "truncated", "clock-jump", "single-slice", "lost-last-marker")
ADDRESS = "operator@example.org"
"""Of the operator, who never leaves the microscope."""
START = 1_780_000_000
"""The fake clock's beginning."""
LATER = 3
"""Sections between a section and its retake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What is acquired, and what goes wrong."""

    sections: int = 10
    rows: int = 2
    columns: int = 2
    tile_px: int = 32
    faults: tuple[str, ...] = ()
    share: float = 0.15
    """Of the sections in which each fault happens; each happens at least once."""
    seed: int = 1

    def check(self, offered: tuple[str, ...]) -> None:
        """Refuse faults that a kind of microscope does not know.

        Raises:
            TaskError: naming the fault.
        """
        for fault in self.faults:
            if fault not in offered:
                raise TaskError(f"faults: {fault}: not one of {', '.join(offered)}", remedy="leave it out")

    def happens(self, fault: str) -> frozenset[int]:
        """The sections (counted from 0) in which a fault happens."""
        if fault not in self.faults:
            return frozenset()
        if fault == "lost-last-marker":
            return frozenset([self.sections - 1])
        rng = np.random.default_rng([self.seed, FAULTS.index(fault)])
        first = LATER if fault == "retake" else 0
        candidates = np.arange(first, self.sections)
        if candidates.size == 0:
            return frozenset()
        drawn = candidates[rng.random(candidates.size) < self.share]
        return frozenset(int(z) for z in drawn) or frozenset([int(rng.choice(candidates))])


@dataclass(slots=True)
class Truth:
    """What was acquired. Each section has the states in which it was complete, oldest first: by file (or
    `file#plane`) where the tile lies, and the checksum of its bytes."""

    states: dict[int, list[dict[str, list[float | str]]]] = field(default_factory=dict)
    times: dict[int, list[float]] = field(default_factory=dict)
    """Seconds since the epoch, by the machine's clock, of each state."""

    def add(self, z: int, tiles: dict[str, list[float | str]], *, now: float) -> None:
        """A section is complete as it is now."""
        self.states.setdefault(z, []).append({path: list(tile) for path, tile in tiles.items()})
        self.times.setdefault(z, []).append(now)

    def write(self, path: Path, *, ended: bool) -> None:
        """Keep it as JSON."""
        write_json(path, {"states": self.states, "times": self.times, "ended": ended})

    @staticmethod
    def read(path: Path) -> dict[str, Any]:
        """As it was written."""
        return dict(json.loads(path.read_bytes()))


class FakeMicroscope:
    """Acquires into a folder what the script says, by a clock of its own. `now` tells when, for the truth."""

    faults: ClassVar[tuple[str, ...]] = FAULTS

    def __init__(self, folder: Path, script: Script, *, now: Callable[[], float]) -> None:
        script.check(self.faults)
        self.truth = Truth()
        self._folder = folder
        self._script = script
        self._now = now
        self._clock = float(START)


def pixels(script: Script, *place: int, dtype: str = "uint8") -> Any:
    """A tile's pixels: noise that is different for every place and take."""
    rng = np.random.default_rng([script.seed, *place])
    return rng.integers(1, 250, (script.tile_px, script.tile_px)).astype(dtype)


def tiff_bytes(image: Any) -> bytes:
    """An image as the bytes of a TIFF."""
    before, after = _around(image.shape, str(image.dtype))
    pixels: bytes = image.tobytes()
    return before + pixels + after


@lru_cache
def _around(shape: tuple[int, int], dtype: str) -> tuple[bytes, bytes]:
    """What lies before and behind the pixels in a TIFF of this shape: a fake microscope must keep its
    pace."""
    handle = io.BytesIO()
    tifffile.imwrite(handle, np.ones(shape, dtype), photometric="minisblack", metadata=None, software=False)
    handle.seek(0)
    with tifffile.TiffFile(handle) as tiff:
        (start,), (count,) = tiff.pages[0].dataoffsets, tiff.pages[0].databytecounts
    data = handle.getvalue()
    return data[:start], data[start + count :]


def put(path: Path, data: bytes, *, clock: float) -> None:
    """Write a file in place, as microscopes do, with the time of the microscope's clock."""
    try:
        path.write_bytes(data)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    os.utime(path, (clock, clock))


def digest(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()
