"""The logs of SBEMimage while they grow: what each new line says, read once.

The files of a run (`<time>` in their names) are only ever appended to; a run's image list is read where it
has no metadata file. Runs are told in the order in which they were made (`in_order`), and what has been told
already keeps its place.
"""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import JsonValue

from functions.microscopes.common import PathGuard, build
from functions.microscopes.observing import Facts, Memory, Observed, SeenTile, integers, tail
from functions.microscopes.sbemimage_logs import (
    Config,
    Session,
    TileLine,
    TileRecord,
    in_order,
    listed_record,
    literal,
    read_config,
    tile_record,
)
from functions.model.errors import AcquisitionError

MAX_SCALE = 4.0
"""Grids whose pixels are more times larger or smaller than those of most tiles are no part of one picture."""
MOST_TILES = 5000
"""Told in one look, or a little more."""
RUN_FILE = re.compile(r"(metadata|imagelist)_(\d+)\.txt")


def observe_logs(logs: Path, folder: Path, memory: Memory, *, name: str) -> Observed:
    """News of all runs since `memory`: {"offsets": {file: bytes}, "open": {time: slices since the marker},
    "facts": ...}."""
    observed = Observed(memory=memory)
    try:
        names = sorted(path.name for path in logs.iterdir())
    except OSError:
        return observed
    runs: dict[str, set[str]] = {}
    for file in names:
        if match := RUN_FILE.fullmatch(file):
            runs.setdefault(match[2], set()).add(match[1])
    offsets = {file: int(str(offset)) for file, offset in _table(memory, "offsets").items()}
    opened = {time: integers(slices) for time, slices in _table(memory, "open").items()}
    reader = _Reader(logs, folder, observed, facts=_facts(memory, name))
    grown = {
        time: file
        for time in runs
        for file in [f"{'metadata' if 'metadata' in runs[time] else 'imagelist'}_{time}.txt"]
        if file in names and (logs / file).stat().st_size != offsets.get(file, 0)
    }
    for time in in_order(logs, grown):
        file, before = grown[time], -1
        while len(observed.tiles) < MOST_TILES and before != offsets.get(file, 0):
            before = offsets.get(file, 0)
            lines, offsets[file] = tail(logs / file, before)
            reader.read(time, file, lines, opened.setdefault(time, set()))
        if before != offsets[file]:
            break  # the rest of this run comes before the next: at the next look
    observed.facts = reader.facts
    observed.memory = {
        "offsets": {**offsets},
        "open": {time: list(slices) for time, slices in opened.items() if slices},
        "facts": None if reader.facts is None else list(reader.facts.voxel_size_zyx_nm),
    }
    return observed


class _Reader:
    """Turns lines into news; knows the run they come from."""

    def __init__(self, logs: Path, folder: Path, observed: Observed, *, facts: Facts | None) -> None:
        self._logs = logs
        self._observed = observed
        self._guard = PathGuard(folder)
        self.facts = facts

    def read(self, time: str, file: str, lines: list[str], opened: set[int]) -> None:
        """The new lines of one file of a run; `opened` are the slices since its last marker."""
        config, session = self._config(time), self._session(time)
        grids = (config.geometry() if config else {}) | (session.geometry() if session else {})
        thickness = session.slice_thickness_nm if session else config.slice_thickness_nm if config else None
        for line in lines:
            kind, _, body = line.partition(": ")
            try:
                if kind == "TILE":
                    parsed = build(TileLine, literal(body, file), source=file)
                    stamp = f"{time}:{literal(body, file).get('timestamp', '')}"
                    self._tile(tile_record(parsed, file), stamp, config, grids, thickness, opened)
                elif kind == "SLICE COMPLETE":
                    self._observed.markers |= opened
                    opened.clear()
                elif file.startswith("imagelist") and line:
                    self._tile(listed_record(line, file), time, config, grids, thickness, opened)
            except AcquisitionError as error:
                self._observed.problems.append(str(error))

    def _tile(
        self,
        record: TileRecord,
        stamp: str,
        config: Config | None,
        grids: dict[int, tuple[float, float]],
        thickness: float | None,
        opened: set[int],
    ) -> None:
        if record.grid not in grids or thickness is None:
            raise AcquisitionError(
                f"{record.source}: pixel_size: not stated for grid {record.grid}",
                remedy="see that config_<time>.txt of that run is there",
            )
        pixel_nm, angle = grids[record.grid]
        if self.facts is None:
            self.facts = _facts({"facts": [thickness, pixel_nm, pixel_nm]}, "sbemimage")
        assert self.facts is not None
        usual = self.facts.voxel_size_zyx_nm[1]
        opened.add(record.slice)
        # a slice is no longer finished by an earlier marker of this look once a tile of it is taken again
        self._observed.markers.discard(record.slice)
        if not 1 / MAX_SCALE <= pixel_nm / usual <= MAX_SCALE:
            return
        columns = config.columns(record.grid) if config is not None else None
        row, column = divmod(record.tile, columns) if columns else (0, record.tile)
        self._observed.tiles.append(
            SeenTile(
                z=record.slice,
                key=_key(record.grid, record.tile),
                path=self._guard.check(record.path, field=f"{record.source}: filename"),
                stamp=stamp,
                row=row,
                column=column,
                stage_yx_nm=record.place_yx_nm,
                shape_yx=record.shape_yx or (config.tile_shape_yx(record.grid) if config else None),
                grid=record.grid,
                rotation_deg=angle,
                pixel_nm=None if pixel_nm == usual else pixel_nm,
            )
        )
        if config is not None:
            self._observed.expected[record.slice] = tuple(
                sorted(_key(grid, tile) for grid, tile in config.expected(record.slice))
            )

    def _config(self, time: str) -> Config | None:
        path = self._logs / f"config_{time}.txt"
        try:
            return read_config(path) if path.exists() else None
        except AcquisitionError as error:
            self._observed.problems.append(str(error))
            return None

    def _session(self, time: str) -> Session | None:
        path = self._logs / f"metadata_{time}.txt"
        if not path.exists():
            return None
        with open(path, encoding="utf-8", errors="replace") as handle:
            first = handle.readline(1 << 20)
        kind, _, body = first.partition(": ")
        if kind != "SESSION" or not first.endswith("\n"):
            return None
        try:
            return build(Session, literal(body.strip(), path.name), source=f"{path.name}: SESSION")
        except AcquisitionError as error:
            self._observed.problems.append(str(error))
            return None


def _key(grid: int, tile: int) -> str:
    return f"g{grid:04d} t{tile:04d}"


def _facts(memory: Memory, name: str) -> Facts | None:
    size = memory.get("facts")
    if not isinstance(size, list) or len(size) != 3:
        return None
    z, y, x = (float(str(value)) for value in size)
    return Facts(instrument="SBEMimage", layout=name, voxel_size_zyx_nm=(z, y, x))


def _table(memory: Memory, key: str) -> dict[str, JsonValue]:
    found = memory.get(key)
    return found if isinstance(found, dict) else {}
