"""A fake Zeiss MultiSEM: 61 beams, a folder a multi-beam field of view (mFOV), regions in folders named by
time.

`rows` and `columns` count mFOVs. A rejected mFOV (its focus failed) has no folder; a retake comes in a later
folder named by time and has that one mFOV.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from functions.testing.microscopes.script import ADDRESS, LATER, FakeMicroscope, Script, digest, pixels, put

FAULTS = ("pause", "retake", "rejected", "truncated", "clock-jump")
BEAMS = 61
PIXEL_NM = 4.0
PAUSE_TILES, SLOW_TILES = 60.0, 20.0
SIDE = 8
"""Beams lie in rows of so many: a real one has a hexagon."""

Tiles = dict[str, list[float | str]]


class FakeMultisem(FakeMicroscope):
    """Acquires one wafer: section n is region `<n>_S<n>R1`."""

    faults = FAULTS

    def __init__(self, folder: Path, script: Script, *, now: Callable[[], float]) -> None:
        super().__init__(folder, script, now=now)
        self._tiles: dict[int, Tiles] = {}
        self._paths: dict[tuple[int, int, int], str] = {}

    def steps(self) -> Iterator[float]:
        """Acquire; yields how many tiles' time each step takes."""
        script = self._script
        faults = {fault: script.happens(fault) for fault in FAULTS}
        notes = {"section_thickness_nm": 40, "pixel_nm": PIXEL_NM}
        (self._folder / "petavoxel.json").write_text(json.dumps(notes))
        top = self._top()
        for index in range(script.sections):
            z = index + 1
            if index in faults["clock-jump"]:
                self._clock += -5400 if index % 2 else 7200
            if index in faults["retake"]:
                yield PAUSE_TILES
                late = self._top()
                yield from self._mfov(late / _region(z - LATER), z - LATER, 1, take=1, slow=False)
                self.truth.add(z - LATER, self._tiles[z - LATER], now=self._now())
            yield from self._section(top / _region(z), z, index, faults)
            self.truth.add(z, self._tiles[z], now=self._now())
            self._clock += 60

    def _section(
        self, region: Path, z: int, index: int, faults: dict[str, frozenset[int]]
    ) -> Iterator[float]:
        count = self._script.rows * self._script.columns
        rows = "".join(f"{mfov};{ADDRESS};ok\n" for mfov in range(1, count + 1))
        put(region / "region_metadata.csv", f"sep=;\nmFOV;operator;state\n{rows}".encode(), clock=self._clock)
        for mfov in range(1, count + 1):
            if index in faults["pause"] and mfov == 2:
                yield PAUSE_TILES
            if index in faults["rejected"] and mfov == count and count > 1:
                continue
            yield from self._mfov(region, z, mfov, take=0, slow=index in faults["truncated"] and mfov == 1)
        listed = "".join(
            (region / f"{mfov:06d}" / "image_coordinates.txt")
            .read_text()
            .replace("cut_", f"{mfov:06d}\\cut_")
            for mfov in range(1, count + 1)
            if (region / f"{mfov:06d}").exists()
        )
        put(region / "full_image_coordinates.txt", listed.encode(), clock=self._clock)

    def _mfov(self, region: Path, z: int, mfov: int, *, take: int, slow: bool) -> Iterator[float]:
        """All beams of one field of view, and then their coordinates."""
        px, lines, late = self._script.tile_px, [], b""
        folder = region / f"{mfov:06d}"
        step = round(px * 0.9)
        across, down = divmod(mfov - 1, self._script.columns)
        for beam in range(1, BEAMS + 1):
            data = _bmp(pixels(self._script, z, mfov, beam, take))
            row, column = divmod(beam - 1, SIDE)
            y, x = (across * SIDE + row) * step, (down * SIDE + column) * step + take
            name = f"cut_{mfov:06d}_{beam:03d}_{int(self._clock)}.bmp"
            path = folder / name
            put(path, data[: len(data) // 2] if slow and beam == BEAMS else data, clock=self._clock)
            late = data
            lines.append(f"{name}\t{x}\t{y}\t0\n")
            self._replace(z, mfov, beam, path.relative_to(self._folder).as_posix(), y, x, data)
            yield 1.0
        put(folder / "image_coordinates.txt", "".join(lines).encode(), clock=self._clock)
        self._clock += 2
        if slow:
            yield SLOW_TILES
            put(folder / name, late, clock=self._clock)

    def _replace(self, z: int, mfov: int, beam: int, path: str, y: int, x: int, data: bytes) -> None:
        tiles = self._tiles.setdefault(z, {})
        tiles.pop(self._paths.get((z, mfov, beam), ""), None)
        self._paths[z, mfov, beam] = path
        tiles[path] = [y * PIXEL_NM, x * PIXEL_NM, digest(data)]

    def _top(self) -> Path:
        """A new folder named by time."""
        self._clock += 10
        time = datetime.fromtimestamp(self._clock, tz=UTC).strftime("%Y%m%d_%H-%M-%S")
        return self._folder / time


def _region(z: int) -> str:
    return f"{z:03d}_S{z:02d}R1"


def _bmp(image: Any) -> bytes:
    """An image as the bytes of a BMP: rows from the bottom up, each filled up to 4 bytes."""
    rows = np.pad(image[::-1], ((0, 0), (0, -image.shape[1] % 4)))
    return _bmp_head(image.shape) + bytes(rows.tobytes())


@lru_cache
def _bmp_head(shape: tuple[int, int]) -> bytes:
    handle = io.BytesIO()
    Image.fromarray(np.zeros(shape, np.uint8)).save(handle, format="BMP")
    data = handle.getvalue()
    return data[: len(data) - shape[0] * (shape[1] + -shape[1] % 4)]
