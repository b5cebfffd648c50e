"""The log files of an SBEMimage run, line by line. Operators' e-mail addresses are never kept or shown."""

from __future__ import annotations

import ast
import configparser
import json
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from functions.microscopes.common import build, read_text
from functions.model.acquisition import Finding, Positive
from functions.model.errors import AcquisitionError

MAX_LINE = 100_000
MAX_LOG_BYTES = 1 << 30
MAX_SLICE = 10_000_000
END_OF_LOG = "*** END OF LOG ***"
NUMPY_SCALAR = re.compile(r"\bnp\.(?:float|int|uint)\d+\(([-+0-9.e]+)\)")
TILE_ID = re.compile(r"(\d{1,6})\.(\d{1,6})\.(\d{1,7})")
SLICE_COUNTER = re.compile(r"^slice_counter *= *(\d{1,9})\s*$", re.MULTILINE)
IMAGE_NAME = re.compile(r"_g(\d{1,6})_t(\d{1,6})_s(\d{1,7})\.[A-Za-z.]+$")

Count = Annotated[int, Field(ge=0, le=MAX_SLICE)]
Extent = Annotated[int, Field(gt=0, le=1_000_000)]


class _Line(BaseModel):
    """A record of the log: known keys checked, all others (addresses among them) dropped unread."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class TileLine(_Line):
    tileid: Annotated[str, Field(pattern=rf"^{TILE_ID.pattern}$")]
    filename: Annotated[str, Field(min_length=1, max_length=4096)]
    tile_width: Extent
    tile_height: Extent
    glob_x: float
    glob_y: float
    slice_counter: Count


class Session(_Line):
    """What a run's first line says."""

    slice_thickness_nm: Annotated[float, Field(gt=0, alias="slice_thickness")]
    grids: tuple[Annotated[str, Field(pattern=r"^\d{1,6}$")], ...]
    rotation_angles: tuple[float, ...]
    pixel_sizes: tuple[Positive, ...]

    def geometry(self) -> dict[int, tuple[float, float]]:
        """Pixel size (nm) and rotation (degrees) by grid."""
        return {
            int(grid): (size, angle)
            for grid, size, angle in zip(self.grids, self.pixel_sizes, self.rotation_angles, strict=False)
        }


class _Grids(_Line):
    """`[grids]` of a configuration: lists by grid index."""

    grid_active: tuple[int, ...]
    active_tiles: tuple[tuple[Count, ...], ...]
    acq_interval: tuple[Annotated[int, Field(gt=0)], ...]
    acq_interval_offset: tuple[int, ...]
    size: tuple[tuple[Extent, Extent], ...]
    pixel_size: tuple[Positive, ...]
    rotation: tuple[float, ...]
    tile_size: tuple[tuple[Extent, Extent] | None, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The configuration that a run started with."""

    grids: _Grids
    slice_thickness_nm: float | None

    def expected(self, z: int) -> set[tuple[int, int]]:
        """(grid, tile) that slice `z` should have (SBEMimage `Grid.slice_active`)."""
        g = self.grids
        rows = zip(g.grid_active, g.active_tiles, g.acq_interval, g.acq_interval_offset, strict=False)
        return {
            (grid, tile)
            for grid, (active, tiles, interval, offset) in enumerate(rows)
            if active and z >= offset and (z - offset) % interval == 0
            for tile in tiles
        }

    def columns(self, grid: int) -> int | None:
        """Tiles in a row of a grid; they are numbered row by row."""
        return self.grids.size[grid][1] if grid < len(self.grids.size) else None

    def tile_shape_yx(self, grid: int) -> tuple[int, int] | None:
        """Tile shape in px, where stated (the file has width before height)."""
        size = self.grids.tile_size[grid] if grid < len(self.grids.tile_size) else None
        return (size[1], size[0]) if size is not None else None

    def geometry(self) -> dict[int, tuple[float, float]]:
        """Pixel size (nm) and rotation (degrees) by grid."""
        return dict(enumerate(zip(self.grids.pixel_size, self.grids.rotation, strict=False)))


@dataclass(frozen=True, slots=True, kw_only=True)
class TileRecord:
    """One accepted tile. `source` is the file and line that lists it."""

    grid: int
    tile: int
    slice: int
    path: str
    place_yx_nm: tuple[float, float]
    shape_yx: tuple[int, int] | None
    source: str


@dataclass(slots=True, kw_only=True)
class RunLog:
    """Everything that the files of one run (`<time>` in their names) say."""

    time: str
    tiles: list[TileRecord] = field(default_factory=list)
    confirmed: set[int] = field(default_factory=set)
    session: Session | None = None
    config: Config | None = None
    ended: bool = False
    findings: list[Finding] = field(default_factory=list)


def read_runs(logs: Path) -> list[RunLog]:
    """The runs of a folder `meta/logs`, in the order in which they were made.

    Raises:
        AcquisitionError: a line does not parse; names file, line and field.
    """
    name = re.compile(r"(?:metadata|imagelist|config)_(\d+)\.txt")
    times = {match[1] for path in logs.iterdir() if (match := name.fullmatch(path.name))}
    return [_read_run(logs, time) for time in in_order(logs, times)]


def in_order(logs: Path, times: Iterable[str]) -> list[str]:
    """Runs in the order in which they were made: by the slice counter that each started with, since a
    clock may have been set back between two of them, then by name; by name alone where a configuration
    does not say."""
    counters: dict[str, int] = {}
    names = sorted(times)
    for time in names:
        try:
            match = SLICE_COUNTER.search((logs / f"config_{time}.txt").read_text("utf-8", errors="replace"))
        except OSError:
            match = None
        if match is None:
            return names
        counters[time] = int(match[1])
    return sorted(names, key=lambda time: counters[time])


def _read_run(logs: Path, time: str) -> RunLog:
    run = RunLog(time=time)
    config, metadata = logs / f"config_{time}.txt", logs / f"metadata_{time}.txt"
    imagelist, log = logs / f"imagelist_{time}.txt", logs / f"log_{time}.txt"
    if config.exists():
        run.config = read_config(config)
    if metadata.exists():
        _read_metadata(metadata, run)
    if imagelist.exists():
        _read_imagelist(imagelist, run)
    run.ended = log.exists() and END_OF_LOG in read_text(log, limit=MAX_LOG_BYTES)[-2000:]
    return run


def _lines(path: Path, run: RunLog) -> Iterator[tuple[str, str]]:
    """(`file: line n`, text) of each finished line; a last line without its end is still being written."""
    text = read_text(path, limit=MAX_LOG_BYTES)
    if text and not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
        what = f"{path.name}: the last line is not finished and is not used"
        run.findings.append(Finding(severity="note", code="open_line", subject=path.name, message=what))
    for number, line in enumerate(text.split("\n"), start=1):
        source = f"{path.name}: line {number}"
        if len(line) > MAX_LINE:
            raise AcquisitionError(f"{source}: longer than {MAX_LINE} characters", remedy="transfer it again")
        if line.strip():
            yield source, line.strip()


def _read_metadata(path: Path, run: RunLog) -> None:
    """TILE lines, and SLICE COMPLETE for the slices of all tiles since the last such line."""
    open_slices: set[int] = set()
    for source, line in _lines(path, run):
        kind, _, body = line.partition(": ")
        if kind == "SESSION":
            run.session = build(Session, literal(body, source), source=f"{source}: SESSION")
        elif kind == "TILE":
            tile = build(TileLine, literal(body, source), source=f"{source}: TILE")
            run.tiles.append(tile_record(tile, source))
            open_slices.add(tile.slice_counter)
        elif kind == "SLICE COMPLETE":
            run.confirmed |= open_slices
            open_slices = set()


def tile_record(line: TileLine, source: str) -> TileRecord:
    grid, tile, z = (int(part) for part in line.tileid.split("."))
    if z != line.slice_counter:
        raise AcquisitionError(
            f"{source}: slice_counter: {line.slice_counter}, but tileid says {z}",
            remedy="transfer the file again",
        )
    return TileRecord(
        grid=grid,
        tile=tile,
        slice=z,
        path=line.filename,
        place_yx_nm=(line.glob_y, line.glob_x),
        shape_yx=(line.tile_height, line.tile_width),
        source=source,
    )


def _read_imagelist(path: Path, run: RunLog) -> None:
    """Tiles that the metadata file does not list: it is missing, or ends earlier."""
    known = {(record.grid, record.tile, record.slice) for record in run.tiles}
    for source, line in _lines(path, run):
        record = listed_record(line, source)
        if (record.grid, record.tile, record.slice) not in known:
            run.tiles.append(record)


def listed_record(line: str, source: str) -> TileRecord:
    """A line of an image list: path;x;y;z;slice, in nm.

    Raises:
        AcquisitionError: it is not such a line.
    """
    cells = line.split(";")
    name = IMAGE_NAME.search(cells[0])
    if len(cells) != 5 or name is None:
        raise AcquisitionError(
            f"{source}: path: not a tile with x, y, z and slice", remedy="transfer the file again"
        )
    grid, tile, z = (int(part) for part in name.groups())
    try:
        x, y, counter = int(cells[1]), int(cells[2]), int(cells[4])
    except ValueError:
        raise AcquisitionError(
            f"{source}: x, y, slice: not whole numbers", remedy="transfer the file again"
        ) from None
    if counter != z or max(abs(x), abs(y)) > 10**12:
        raise AcquisitionError(
            f"{source}: slice: {counter} does not fit the path", remedy="transfer the file again"
        )
    return TileRecord(
        grid=grid,
        tile=tile,
        slice=z,
        path=cells[0],
        place_yx_nm=(float(y), float(x)),
        shape_yx=None,
        source=source,
    )


def literal(body: str, source: str) -> dict[str, object]:
    """A dictionary from its Python repr. The text stays out of messages: it may name people."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            value = ast.literal_eval(NUMPY_SCALAR.sub(r"\1", body))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = None
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise AcquisitionError(f"{source}: record: not a dictionary", remedy="transfer the file again")
    return value


def read_config(path: Path) -> Config:
    """`[grids]` and the slice thickness; everything else (folders, addresses) is not looked at."""
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read_string(read_text(path))
    except configparser.Error as error:
        raise AcquisitionError(
            f"{path.name}: not a configuration ({type(error).__name__})", remedy="transfer the file again"
        ) from None
    values: dict[str, object] = {}
    for key in _Grids.model_fields:
        if parser.has_option("grids", key):
            try:
                values[key] = json.loads(parser.get("grids", key))
            except (ValueError, RecursionError):
                raise AcquisitionError(
                    f"{path.name}: [grids] {key}: not a JSON list", remedy="transfer the file again"
                ) from None
    if values.get("tile_size") is None:
        values.pop("tile_size", None)
    grids = build(_Grids, values, source=f"{path.name}: [grids]")
    thickness = parser.get("acq", "slice_thickness", fallback="")
    try:
        nm = float(thickness) if thickness else None
    except ValueError:
        raise AcquisitionError(
            f"{path.name}: [acq] slice_thickness: not a number", remedy="transfer the file again"
        ) from None
    return Config(grids=grids, slice_thickness_nm=nm)
