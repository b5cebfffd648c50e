"""The edge list of agglomeration as CSV (RFC 4180): what a proofreading system takes up, one pair a row.

Columns are documented in docs/formats.md; they are written and read here alone.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from functions.model.base import Document
from functions.model.errors import VolumeError
from functions.store.files import atomic_path


class Edge(Document):
    """Two objects that might be one, the scores of that, and what was decided; place in voxels."""

    first_id: int
    second_id: int
    z: int
    y: int
    x: int
    verdict: str
    score: float
    agreement: float
    speculative: float
    recovered: float
    deleted: float
    foreign: float
    voxels_first: int
    voxels_second: int
    contact_faces: int
    contact_share: float
    contact_grey: float | None
    refused_overlap: float


EDGE_ROW = np.dtype(
    [
        ("first_id", "<u8"), ("second_id", "<u8"), ("z", "<i4"), ("y", "<i4"), ("x", "<i4"),
        ("verdict", "u1"), ("score", "<f8"), ("agreement", "<f8"), ("speculative", "<f8"),
        ("recovered", "<f8"), ("deleted", "<f8"), ("foreign", "<f8"),
        ("voxels_first", "<u4"), ("voxels_second", "<u4"), ("contact_faces", "<u4"),
        ("contact_share", "<f8"), ("contact_grey", "<f8"), ("refused_overlap", "<f8"),
    ]
)  # fmt: skip
"""An edge as a record, of which millions fit into memory: verdicts by number, NaN where there is no grey."""


def edge_of(row: np.void, verdict: str) -> Edge:
    """The edge of a record, with the verdict of that number, or of who knows better."""
    values: dict[str, Any] = dict(zip(EDGE_ROW.names or (), row.item(), strict=True))
    grey = values["contact_grey"]
    return Edge(**{**values, "verdict": verdict, "contact_grey": None if isnan(grey) else grey})


def write_edges(path: Path, edges: Iterable[Edge]) -> None:
    """Write the edge list, atomically; numbers to four places."""
    with atomic_path(path) as partial, open(partial, "w", newline="", encoding="utf-8") as handle:
        table = csv.writer(handle)
        table.writerow(Edge.model_fields)
        for edge in edges:
            table.writerow(
                "" if value is None else round(value, 4) if isinstance(value, float) else value
                for value in edge.to_json().values()
            )


def read_edges(path: Path) -> list[Edge]:
    """Read an edge list.

    Raises:
        VolumeError: no such file, or a row does not parse.
    """
    try:
        with open(path, newline="", encoding="utf-8") as handle:
            rows = list(csv.DictReader(handle))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise VolumeError(f"{path}: no edge list ({error})", remedy="give edges.csv of a bundle") from None
    edges = []
    for number, row in enumerate(rows, start=2):
        try:
            edges.append(Edge.model_validate({k: v if v != "" else None for k, v in row.items()}))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "row"
            raise VolumeError(
                f"{path}: line {number}: {where}: {first['msg']}", remedy="give edges.csv of a bundle"
            ) from None
    return edges
