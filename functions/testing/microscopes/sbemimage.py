"""A fake SBEMimage: logs of several runs, Windows separators, an operator's address, a microtome that
counts on.

The layout is that of `functions.microscopes.sbemimage`. A retake moves the old image to `tiles/rejected` and
writes the new one, a little further along, under the old name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

from functions.testing.microscopes.script import (
    ADDRESS,
    FAULTS,
    LATER,
    FakeMicroscope,
    Script,
    digest,
    pixels,
    put,
    tiff_bytes,
)

PIXEL_NM = 10.0
THICKNESS_NM = 25
PAUSE_TILES = 10.0
SLOW_TILES = 2.0
"""How long a truncated file stays so."""
FIRST = 100
OVERLAP = 0.1


class FakeSbemimage(FakeMicroscope):
    """Acquires one stack."""

    def __init__(self, folder: Path, script: Script, *, now: Callable[[], float]) -> None:
        super().__init__(folder, script, now=now)
        self._run = ""
        self._counter = FIRST
        self._open = ExitStack()
        self._logs: dict[str, FileIO] = {}
        self._takes: dict[tuple[int, int], int] = {}
        self._tiles: dict[int, dict[str, list[float | str]]] = {}

    def steps(self) -> Iterator[float]:
        """Acquire; yields how many tiles' time each step takes."""
        script = self._script
        faults = {fault: script.happens(fault) for fault in FAULTS}
        self._begin_run()
        for index in range(script.sections):
            z = self._counter = FIRST + index
            if index in faults["clock-jump"]:
                self._clock += 7200 if index % 2 else -5400
            single = index in faults["single-slice"]
            if index in faults["retake"] or single:
                self._end_run()
                yield PAUSE_TILES
                self._begin_run(slices=0 if single else 1)
            if index in faults["retake"]:
                yield from self._tile(z - LATER, (index * 7) % self._count)
                self.truth.add(z - LATER, self._tiles[z - LATER], now=self._now())
            yield from self._slice(z, index, faults)
            if single:
                self._end_run()
                self.truth.add(z, self._tiles[z], now=self._now())
                self._begin_run()
            else:
                yield 1.0  # the cut
                if index not in faults["lost-last-marker"]:
                    done = {"timestamp": int(self._clock), "completed_slice": z + 1}
                    self._log("metadata", f"SLICE COMPLETE: {done}")
                self.truth.add(z, self._tiles[z], now=self._now())
            self._clock += 60
        self._end_run()

    @property
    def _count(self) -> int:
        return self._script.rows * self._script.columns

    def _slice(self, z: int, index: int, faults: dict[str, frozenset[int]]) -> Iterator[float]:
        half = self._count // 2
        for tile in range(self._count):
            if index in faults["pause"] and tile == half:
                self._end_run()
                yield PAUSE_TILES
                self._begin_run()
            if index in faults["rejected"] and tile == half:
                self._reject(z, tile)
                yield 1.0
            slow = index in faults["truncated"] and tile == self._count - 1
            yield from self._tile(z, tile, slow=slow)

    def _tile(self, z: int, tile: int, *, slow: bool = False) -> Iterator[float]:
        """Take a tile: its image, then its lines. A slow one is listed before its file is whole."""
        take = self._takes[z, tile] = self._takes.get((z, tile), -1) + 1
        name = _name(self._folder.name, z, tile)
        path = self._folder / name
        if take and path.exists():
            self._reject(z, tile, data=path.read_bytes())
        data = tiff_bytes(pixels(self._script, z, tile, take))
        step = round(self._script.tile_px * PIXEL_NM * (1 - OVERLAP))
        row, column = divmod(tile, self._script.columns)
        x, y = column * step - 398553 + 30 * take, row * step - 147855
        put(path, data[: len(data) // 2] if slow else data, clock=self._clock)
        self._tiles.setdefault(z, {})[name] = [float(y), float(x), digest(data)]
        self._list(z, tile, name, x, y)
        self._clock += 2
        yield 1.0
        if slow:
            yield SLOW_TILES
            put(path, data, clock=self._clock)

    def _list(self, z: int, tile: int, name: str, x: int, y: int) -> None:
        windows = name.replace("/", "\\")
        self._log("imagelist", f"{windows};{x};{y};{z * THICKNESS_NM};{z}")
        record = {
            "tileid": f"0000.{tile:04d}.{z:05d}",
            "timestamp": int(self._clock),
            "filename": name,
            "tile_width": self._script.tile_px,
            "tile_height": self._script.tile_px,
            "wd_stig_xy": [0.006, 0.0, 0.0],
            "glob_x": x,
            "glob_y": y,
            "glob_z": z * THICKNESS_NM,
            "slice_counter": z,
        }
        self._log("metadata", f"TILE: {record}")

    def _reject(self, z: int, tile: int, *, data: bytes | None = None) -> None:
        """An image that does not count: it lies in `tiles/rejected`, and no list names it."""
        name = Path(_name(self._folder.name, z, tile)).name
        image = data if data is not None else tiff_bytes(pixels(self._script, z, tile, 99))
        put(self._folder / "tiles" / "rejected" / name, image, clock=self._clock)
        stamp = datetime.fromtimestamp(self._clock, tz=UTC).strftime("%Y-%m-%d %H:%M:%S")
        self._log("incident_log", f"{stamp} | Slice {z}: WARNING (Tile rejected)")

    # -- runs -----------------------------------------------------------------------------------------------
    def _begin_run(self, *, slices: int = 1) -> None:
        self._clock += 1
        time = datetime.fromtimestamp(self._clock, tz=UTC).strftime("%Y%m%d%H%M%S")
        while (self._folder / "meta" / "logs" / f"config_{time}.txt").exists():
            self._clock += 1
            time = datetime.fromtimestamp(self._clock, tz=UTC).strftime("%Y%m%d%H%M%S")
        self._run = time
        count, script = self._count, self._script
        self._log(
            "config",
            f"[acq]\nbase_dir = C:\\Users\\{ADDRESS}\\stack\nslice_thickness = {THICKNESS_NM}\n"
            f"slice_counter = {self._counter}\nnumber_slices = {slices}\n\n[grids]\ngrid_active = [1]\n"
            f"active_tiles = [{list(range(count))}]\nacq_interval = [1]\nacq_interval_offset = [0]\n"
            f"size = [[{script.rows}, {script.columns}]]\npixel_size = [{PIXEL_NM}]\nrotation = [0]\n"
            f"tile_size = [[{script.tile_px}, {script.tile_px}]]\n\n[monitoring]\nuser_email = {ADDRESS}",
        )
        session = {
            "timestamp": int(self._clock),
            "eht": 1.5,
            "beam_current": 300,
            "slice_thickness": THICKNESS_NM,
            "grids": ["0000"],
            "grid_origins": [[0.0, 0.0]],
            "rotation_angles": [0],
            "pixel_sizes": [PIXEL_NM],
            "dwell_times": [0.8],
            "email_addresses: ": [ADDRESS],
        }
        self._log("metadata", f"SESSION: {session}")
        self._log("log", "started")

    def _end_run(self) -> None:
        self._log("log", "*** END OF LOG ***")
        self._open.close()
        self._logs.clear()

    def _log(self, kind: str, text: str) -> None:
        """Append to a file of this run, as a line-buffered log is."""
        name = f"{kind}_{self._run}.txt"
        if name not in self._logs:
            path = self._folder / "meta" / "logs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            self._logs[name] = self._open.enter_context(FileIO(path, "a"))
        self._logs[name].write(f"{text}\n".encode())
        os.utime(self._logs[name].fileno(), (self._clock, self._clock))


def _name(stack: str, z: int, tile: int) -> str:
    return f"tiles/g0000/t{tile:04d}/{stack}_g0000_t{tile:04d}_s{z:05d}.tif"
