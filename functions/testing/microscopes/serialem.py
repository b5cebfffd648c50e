"""A fake SerialEM: montages into one growing MRC with its sidecar, pieces in serpentine order, y upwards.

A pause leaves a block of the sidecar half written; a truncated plane is described before its bytes are there.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from functions.store.mrc import new_header
from functions.testing.microscopes.script import ADDRESS, FakeMicroscope, Script, digest, pixels

FAULTS = ("pause", "truncated", "clock-jump", "lost-last-marker")
PIXEL_A = 76.8
PAUSE_TILES, SLOW_TILES = 10.0, 2.0
OVERLAP = 0.1
NAME = "montage.mrc"


class FakeSerialem(FakeMicroscope):
    """Acquires one stack of montages."""

    faults = FAULTS

    def __init__(self, folder: Path, script: Script, *, now: Callable[[], float]) -> None:
        super().__init__(folder, script, now=now)
        self._planes = 0
        self._stack = folder / NAME
        self._sidecar = folder / f"{NAME}.mdoc"

    def steps(self) -> Iterator[float]:
        """Acquire; yields how many tiles' time each step takes."""
        script = self._script
        px = script.tile_px
        faults = {fault: script.happens(fault) for fault in FAULTS}
        (self._folder / "petavoxel.json").write_text(json.dumps({"section_thickness_nm": 50}))
        self._stack.write_bytes(new_header(shape_yx=(px, px), planes=0, mode=6))
        self._write(f"PixelSpacing = {PIXEL_A}\nVoltage = 300\nImageFile = C:\\Users\\{ADDRESS}\\{NAME}\n")
        self._write(f"ImageSize = {px} {px}\nMontage = 1\nDataMode = 6\n\n")
        self._write(f"[T = SerialEM: {ADDRESS}    29-Mar-21  21:30:01    ]\n\n")
        for z in range(script.sections):
            if z in faults["clock-jump"]:
                self._clock += -5400 if z % 2 else 7200
            tiles: dict[str, list[float | str]] = {}
            for place in self._places():
                paused = z in faults["pause"] and len(tiles) == script.rows * script.columns // 2
                slow = z in faults["truncated"] and len(tiles) == script.rows * script.columns - 1
                yield from self._piece(z, place, tiles, paused=paused, slow=slow)
            if z not in faults["lost-last-marker"]:
                self._write(f"[MontSection = {z}]\n\n")
            self.truth.add(z, tiles, now=self._now())
            self._clock += 60

    def _places(self) -> list[tuple[int, int]]:
        """Piece coordinates (x, y) in px: up one column, down the next."""
        step = round(self._script.tile_px * (1 - OVERLAP))
        rows = list(range(self._script.rows))
        return [
            (column * step, row * step)
            for column in range(self._script.columns)
            for row in (rows[::-1] if column % 2 else rows)
        ]

    def _piece(
        self,
        z: int,
        place: tuple[int, int],
        tiles: dict[str, list[float | str]],
        *,
        paused: bool,
        slow: bool,
    ) -> Iterator[float]:
        x, y = place
        image = pixels(self._script, z, x, y, dtype="uint16")
        data = image[::-1].astype("<u2").tobytes()
        plane, self._planes = self._planes, self._planes + 1
        self._grow(data[: len(data) // 2] if slow else data)
        when = datetime.fromtimestamp(self._clock, tz=UTC).strftime("%d-%b-%y  %H:%M:%S")
        block = (
            f"[ZValue = {plane}]\nPieceCoordinates = {x} {y} {z}\nMinMaxMean = 1 249 125\n"
            f"StagePosition = 421.161 -578.135\nRotationAngle = 175.5\nDateTime = {when}\n"
            f"AlignedPieceCoords = {x + 1} {y + 2} {z}\n\n"
        )
        if paused:
            self._write(block[:40])
            yield PAUSE_TILES
            block = block[40:]
        self._write(block)
        pixel_nm = PIXEL_A / 10
        stage = [-(y + 2 + self._script.tile_px) * pixel_nm, (x + 1) * pixel_nm]
        tiles[f"{NAME}#{plane}"] = [*stage, digest(image.tobytes())]
        self._clock += 2
        yield 1.0
        if slow:
            yield SLOW_TILES
            self._grow(data[len(data) // 2 :], planes=False)

    def _grow(self, data: bytes, *, planes: bool = True) -> None:
        with open(self._stack, "r+b") as handle:
            if planes:
                handle.seek(8)
                handle.write(struct.pack("<i", self._planes))
            handle.seek(0, 2)
            handle.write(data)

    def _write(self, text: str) -> None:
        with open(self._sidecar, "a", encoding="utf-8") as handle:
            handle.write(text)
