"""The plain folder: `acquisition.json` says what was imaged, `tiles.csv` lists one tile a row."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, JsonValue, ValidationError

from functions.microscopes.common import PathGuard, ReadAcquisition, build, missing_between, read_text
from functions.microscopes.observing import Facts, Observed, SeenTile, tail
from functions.model.acquisition import Acquisition, Identifier, Positive, Section, Tile
from functions.model.base import Document, describe
from functions.model.errors import AcquisitionError
from functions.store.files import atomic_path, write_json

NAME = "plain"
SCHEMA = "petavoxel.acquisition/1"
HEADER = "acquisition.json"
TILES = "tiles.csv"
REQUIRED = ("section", "row", "column", "path", "stage_y_nm", "stage_x_nm", "height_px", "width_px")
OPTIONAL = ("sha256", "grid")
TURNED = ("rotation_deg", "pixel_nm")
PLANE = ("plane",)
"""These and `TURNED` are columns that are written only where a tile needs them."""
SHA256 = re.compile(r"[0-9a-f]{64}")
MAX_INDEX = 10_000_000


class Header(Document):
    """`acquisition.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)

    schema_: Literal["petavoxel.acquisition/1"] = Field(alias="schema")
    id: Identifier
    instrument: Annotated[str, Field(min_length=1, max_length=200)]
    voxel_size_zyx_nm: tuple[Positive, Positive, Positive]
    dtype: Literal["uint8", "uint16"]
    stage_uncertainty_px: Annotated[float, Field(ge=0)] = 20.0
    sections: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(gt=0)]] | None = None
    aligned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of `tiles.csv`, with its line number (the header line is row 1)."""

    number: int
    z: int
    tile: Tile


def detect(folder: Path) -> bool:
    """Whether the folder holds an `acquisition.json`."""
    return (folder / HEADER).is_file()


def read(folder: Path, *, documents: Path | None = None) -> ReadAcquisition:
    """Read `acquisition.json` and `tiles.csv`, of `documents` where that is given; no image is opened.

    Raises:
        AcquisitionError: a file is missing or does not fit; names file, row and field.
        UnsafePathError: a tile's path leaves the folder.
    """
    header = read_header((documents or folder) / HEADER)
    sections: dict[int, dict[tuple[int, int, int], Row]] = {}
    for row in read_rows(folder, documents=documents):
        tiles = sections.setdefault(row.z, {})
        key = (row.tile.grid, row.tile.row, row.tile.column)
        if key in tiles:
            raise _row_error(
                row.number, "row", f"section {row.z} has {row.tile.id} in row {tiles[key].number} too"
            )
        tiles[key] = row
    if not sections:
        raise AcquisitionError(f"{TILES}: no tiles", remedy="list one tile a row below the header line")
    _check_sections(header, sections)
    first, end = header.sections or (min(sections), max(sections) + 1)
    acquisition = Acquisition(
        id=header.id,
        instrument=header.instrument,
        layout=NAME,
        voxel_size_zyx_nm=header.voxel_size_zyx_nm,
        stage_uncertainty_px=header.stage_uncertainty_px,
        aligned=header.aligned,
        dtype=header.dtype,
        sections=tuple(
            Section(z=z, tiles=tuple(rows[key].tile for key in sorted(rows)))
            for z, rows in sorted(sections.items())
        ),
        missing_sections=missing_between(sections, first, end, source=TILES),
    )
    return ReadAcquisition(acquisition=acquisition)


def observe(folder: Path, memory: dict[str, JsonValue]) -> Observed:
    """Rows of `tiles.csv` behind those seen before; all of them when the file is another one.

    A tile is known by its checksum: without one, a retake under the same name is not noticed.

    Raises:
        AcquisitionError: the header, or a row, does not fit.
    """
    header = read_header(folder / HEADER)
    path = folder / TILES
    try:
        identity = path.stat().st_ino
        lines, offset = tail(path, int(str(memory.get("offset", 0))) if memory.get("file") == identity else 0)
        with open(path, encoding="utf-8-sig", errors="replace") as handle:
            first = handle.readline()
    except OSError:  # not written yet
        return Observed(memory=memory)
    if not first.endswith("\n"):
        return Observed(memory=memory)
    columns, guard = _columns(next(csv.reader([first]))), PathGuard(folder)
    rows = lines[1:] if offset and lines and lines[0].strip() == first.strip() else lines
    seen = []
    for number, cells in enumerate(csv.reader(rows), start=2):
        if cells:
            row = _row(number, columns, cells, guard)
            seen.append(_seen(row))
    facts = Facts(
        instrument=header.instrument,
        layout=NAME,
        voxel_size_zyx_nm=header.voxel_size_zyx_nm,
        stage_uncertainty_px=header.stage_uncertainty_px,
        dtype=header.dtype,
        planned=header.sections,
    )
    return Observed(memory={"file": identity, "offset": offset}, tiles=seen, facts=facts)


def places(folder: Path) -> tuple[Path, ...]:
    """Where the tile list grows."""
    return (folder,)


def _seen(row: Row) -> SeenTile:
    tile = row.tile
    return SeenTile(
        z=row.z,
        key=tile.id,
        path=tile.path,
        stamp=tile.sha256 or "listed",
        row=tile.row,
        column=tile.column,
        stage_yx_nm=tile.stage_yx_nm,
        shape_yx=tile.shape_yx,
        grid=tile.grid,
        rotation_deg=tile.rotation_deg,
        pixel_nm=None if tile.pixel_size_yx_nm is None else tile.pixel_size_yx_nm[0],
        plane=tile.plane,
    )


def read_header(path: Path) -> Header:
    """`acquisition.json` as a value.

    Raises:
        AcquisitionError: not JSON, or a field is missing, unknown or out of range.
    """
    try:
        header = Header.model_validate_json(read_text(path))
    except ValidationError as error:
        raise AcquisitionError(
            f"{path.name}: {describe(error)}", remedy="see docs/formats.md, section Plain folder"
        ) from None
    if header.sections and header.sections[0] >= header.sections[1]:
        raise AcquisitionError(
            f"{path.name}: sections: {list(header.sections)} is empty", remedy="write [first, last + 1]"
        )
    return header


def read_rows(folder: Path, *, documents: Path | None = None) -> Iterator[Row]:
    """The rows of `tiles.csv` one by one, in file order; their paths lie below `folder`.

    Raises:
        AcquisitionError: naming the row and the field.
    """
    path = (documents or folder) / TILES
    guard = PathGuard(folder)
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            lines = csv.reader(handle, strict=True)
            columns = _columns(next(lines, []))
            for cells in lines:
                if cells:
                    yield _row(lines.line_num, columns, cells, guard)
    except OSError as error:
        raise AcquisitionError(
            f"{path}: cannot be read ({error.strerror})", remedy=f"put {TILES} beside {HEADER}"
        ) from None
    except UnicodeDecodeError as error:
        raise AcquisitionError(
            f"{TILES}: not UTF-8 text ({error.reason})", remedy="save it as UTF-8"
        ) from None
    except csv.Error as error:
        raise AcquisitionError(f"{TILES}: row {lines.line_num}: {error}", remedy="write plain CSV") from None


def write(folder: Path, acquisition: Acquisition, *, sections: tuple[int, int] | None = None) -> None:
    """Write `tiles.csv` and then `acquisition.json`; the images are the caller's.

    Raises:
        AcquisitionError: the acquisition does not state its dtype, or its sections are empty.
    """
    header = build(
        Header,
        {
            "schema": SCHEMA,
            "id": acquisition.id,
            "instrument": acquisition.instrument,
            "voxel_size_zyx_nm": acquisition.voxel_size_zyx_nm,
            "dtype": acquisition.dtype,
            "stage_uncertainty_px": acquisition.stage_uncertainty_px,
            "sections": sections,
            "aligned": acquisition.aligned,
        },
        source=HEADER,
    )
    turned = any(t.rotation_deg or t.pixel_size_yx_nm for s in acquisition.sections for t in s.tiles)
    planes = any(t.plane is not None for s in acquisition.sections for t in s.tiles)
    with atomic_path(folder / TILES) as partial, open(partial, "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(REQUIRED + OPTIONAL + (TURNED if turned else ()) + (PLANE if planes else ()))
        for section in acquisition.sections:
            for tile in section.tiles:
                place = (section.z, tile.row, tile.column, tile.path, *tile.stage_yx_nm, *tile.shape_yx)
                more: tuple[object, ...] = (tile.rotation_deg, _pixel_nm(tile)) if turned else ()
                plane = ("" if tile.plane is None else tile.plane,) if planes else ()
                writer.writerow((*place, tile.sha256 or "", tile.grid, *more, *plane))
    write_json(folder / HEADER, header.model_dump(mode="json", by_alias=True, exclude_none=True))


def _pixel_nm(tile: Tile) -> float | str:
    """The tile's own pixel size as `tiles.csv` has it; empty for the acquisition's.

    Raises:
        AcquisitionError: pixels are not square.
    """
    y, x = tile.pixel_size_yx_nm or (None, None)
    if y != x:
        raise AcquisitionError(
            f"{TILES}: pixel_nm: {tile.path}: pixels of {y} x {x} nm", remedy="resample them to square ones"
        )
    return "" if y is None else y


def _columns(header: list[str]) -> dict[str, int]:
    """Where each column is; refuses what is missing, unknown or named twice."""
    names = [name.strip() for name in header]
    for name in REQUIRED:
        if name not in names:
            raise AcquisitionError(f"{TILES}: row 1: {name}: column is missing", remedy="add the column")
    for name in names:
        if name not in REQUIRED + OPTIONAL + TURNED + PLANE:
            raise AcquisitionError(f"{TILES}: row 1: {name[:80]}: unknown column", remedy="remove the column")
        if names.count(name) > 1:
            raise AcquisitionError(
                f"{TILES}: row 1: {name}: column is there twice", remedy="keep one of them"
            )
    return {name: names.index(name) for name in names}


def _row(number: int, columns: dict[str, int], cells: list[str], guard: PathGuard) -> Row:
    if len(cells) != len(columns):
        raise _row_error(number, "row", f"{len(cells)} fields where the header has {len(columns)}")

    def whole(name: str, least: int) -> int:
        text = cells[columns[name]].strip()
        try:
            value = int(text)
        except ValueError:
            raise _row_error(number, name, "not a whole number") from None
        if not least <= value <= MAX_INDEX:
            raise _row_error(number, name, f"{text} is not in {least}..{MAX_INDEX}")
        return value

    def real(name: str) -> float:
        try:
            value = float(cells[columns[name]])
        except ValueError:
            raise _row_error(number, name, "not a number") from None
        if not math.isfinite(value):
            raise _row_error(number, name, "not a finite number")
        return value

    def given(name: str) -> bool:
        return name in columns and bool(cells[columns[name]].strip())

    pixel_nm = real("pixel_nm") if given("pixel_nm") else None
    if pixel_nm is not None and pixel_nm <= 0:
        raise _row_error(number, "pixel_nm", "not above 0")
    sha256 = cells[columns["sha256"]].strip().lower() if "sha256" in columns else ""
    if sha256 and not SHA256.fullmatch(sha256):
        raise _row_error(number, "sha256", "not 64 hexadecimal digits")
    tile = Tile(
        row=whole("row", 0),
        column=whole("column", 0),
        path=guard.check(cells[columns["path"]].strip(), field=f"{TILES}: row {number}: path"),
        stage_yx_nm=(real("stage_y_nm"), real("stage_x_nm")),
        shape_yx=(whole("height_px", 1), whole("width_px", 1)),
        sha256=sha256 or None,
        grid=whole("grid", 0) if "grid" in columns else 0,
        rotation_deg=real("rotation_deg") if given("rotation_deg") else 0.0,
        pixel_size_yx_nm=None if pixel_nm is None else (pixel_nm, pixel_nm),
        plane=whole("plane", 0) if given("plane") else None,
    )
    return Row(number=number, z=whole("section", 0), tile=tile)


def _check_sections(header: Header, sections: dict[int, dict[tuple[int, int, int], Row]]) -> None:
    """Sections inside the announced range; an aligned stack has one tile a section, all of one shape."""
    first_row = next(iter(next(iter(sections.values())).values()))
    for z, rows in sections.items():
        row = next(iter(rows.values()))
        if header.sections and not header.sections[0] <= z < header.sections[1]:
            raise _row_error(
                row.number, "section", f"{z} is outside {HEADER}: sections {list(header.sections)}"
            )
        if header.aligned and len(rows) > 1:
            raise _row_error(row.number, "section", f"{z} has {len(rows)} tiles, an aligned stack has one")
        if header.aligned and row.tile.shape_yx != first_row.tile.shape_yx:
            raise _row_error(
                row.number,
                "height_px",
                f"shape {row.tile.shape_yx} is not {first_row.tile.shape_yx} of the others",
            )


def _row_error(number: int, field: str, what: str) -> AcquisitionError:
    return AcquisitionError(f"{TILES}: row {number}: {field}: {what}", remedy="correct the row")
