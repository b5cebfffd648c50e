"""Lists of points as CSV: what is to be located, and what was found."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from functions.model.errors import TaskError
from functions.store.files import write_bytes

FORMS: tuple[tuple[str, ...], ...] = (
    ("section", "tile", "y_px", "x_px"),
    ("section", "stage_y_nm", "stage_x_nm"),
    ("voxel_z", "voxel_y", "voxel_x"),
)
"""Columns that name a point: a pixel of a tile, a place of the stage, a voxel."""
TEXT = {"tile"}
WHOLE = {"section"}
REMEDY = "give a header with " + ", or ".join(",".join(form) for form in FORMS)


@dataclass(frozen=True, slots=True, kw_only=True)
class PointRow:
    """One line: the columns `form` of it, and the whole line as it was."""

    form: tuple[str, ...]
    numbers: tuple[float, ...]
    tile: str
    cells: dict[str, str]


def read_points(path: Path) -> list[PointRow]:
    """The points of a CSV file; the header says what they are, and further columns are kept as they are.

    Raises:
        TaskError: naming file, row (the header is row 1) and column.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{path}: cannot be read ({error})", remedy=REMEDY) from None
    reader = csv.DictReader(io.StringIO(text))
    header = reader.fieldnames or []
    form = next((form for form in FORMS if set(form) <= set(header)), None)
    if form is None:
        raise TaskError(f"{path}: row 1: columns {', '.join(header) or 'none'}", remedy=REMEDY)
    return list(_rows(path, reader, form))


def _rows(path: Path, reader: csv.DictReader[str], form: tuple[str, ...]) -> Iterator[PointRow]:
    for number, cells in enumerate(reader, start=2):
        if None in cells or None in cells.values():
            raise TaskError(f"{path}: row {number}: not as many cells as the header has", remedy=REMEDY)
        yield PointRow(
            form=form,
            numbers=tuple(_number(path, number, c, cells[c]) for c in form if c not in TEXT),
            tile=cells["tile"] if "tile" in form else "",
            cells=cells,
        )


def _number(path: Path, row: int, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or (column in WHOLE and value != int(value)):
        raise TaskError(f"{path}: row {row}: {column}: {text!r} is no number", remedy="correct the cell")
    return value


def write_points(path: Path, rows: Sequence[dict[str, object]]) -> None:
    """Write dictionaries of equal keys as CSV, whole or not at all; None becomes an empty cell."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, out.getvalue().encode())
