"""What an adapter sees of a growing acquisition: news since its last look, never a verdict.

`observe(folder, memory)` returns the tiles, markers and facts that are new since `memory`, and the memory for
the next look (byte offsets of logs, times of folders): plain JSON, kept by the watcher in the same
transaction as the news, so that a look after a crash goes on where the last one was kept. Telling a thing
twice is harmless; an adapter that has lost its place begins with an empty memory and tells everything again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from functions.microscopes.common import ReadAcquisition, build, identifier, missing_between
from functions.microscopes.wholeness import file_facts
from functions.model.acquisition import Acquisition, Section, Tile
from functions.model.errors import AcquisitionError

Memory = dict[str, JsonValue]
NOTES = "petavoxel.json"
"""A file that a person may put into the folder: what the microscope does not write down."""

TAIL_BYTES = 1 << 20
"""Read of a log in one go: who was away for long catches up without having it all in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenTile:
    """A tile that the microscope lists. `key` is its place in the section: a retake has the same key and path
    maybe, and another `stamp`."""

    z: int
    key: str
    path: str
    """Relative to the folder, with forward slashes."""
    stamp: str
    row: int
    column: int
    stage_yx_nm: tuple[float, float]
    shape_yx: tuple[int, int] | None = None
    """None: the file says."""
    grid: int = 0
    rotation_deg: float = 0.0
    pixel_nm: float | None = None
    plane: int | None = None

    def tile(self, *, shape_yx: tuple[int, int], path: str = "", plane: int | None = None) -> Tile:
        """As later steps know it; `path` and `plane` where it was moved under another name."""
        return Tile(
            row=self.row,
            column=self.column,
            path=path or self.path,
            stage_yx_nm=self.stage_yx_nm,
            shape_yx=shape_yx,
            grid=self.grid,
            rotation_deg=self.rotation_deg,
            pixel_size_yx_nm=None if self.pixel_nm is None else (self.pixel_nm, self.pixel_nm),
            plane=plane if path else self.plane,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What holds for the whole acquisition."""

    instrument: str
    layout: str
    voxel_size_zyx_nm: tuple[float, float, float]
    stage_uncertainty_px: float = 20.0
    dtype: Literal["uint8", "uint16"] | None = None
    planned: tuple[int, int] | None = None
    """First and last-plus-one z of the whole acquisition, where that is known beforehand."""


@dataclass(slots=True, kw_only=True)
class Observed:
    """News, in the order in which the microscope wrote it."""

    memory: Memory
    tiles: list[SeenTile] = field(default_factory=list)
    markers: set[int] = field(default_factory=set)
    """Sections that the microscope declares finished."""
    expected: dict[int, int | tuple[str, ...]] = field(default_factory=dict)
    """How many tiles a section should have, or their keys."""
    facts: Facts | None = None
    problems: list[str] = field(default_factory=list)
    """Lines that could not be used, for people."""


def tail(path: Path, offset: int) -> tuple[list[str], int]:
    """Finished lines of a text file behind byte `offset`, `TAIL_BYTES` of them at most, and the offset behind
    them; from the beginning again when the file has become shorter. What is not UTF-8 is replaced: a log is
    not refused for one byte."""
    with open(path, "rb") as handle:
        if handle.seek(0, os.SEEK_END) < offset:
            offset = 0
        handle.seek(offset)
        data = handle.read(TAIL_BYTES)
        if len(data) == TAIL_BYTES and b"\n" not in data:
            data += handle.read()
    data = data[: data.rfind(b"\n") + 1]
    text = data.decode("utf-8-sig", errors="replace")
    return [line.rstrip("\r") for line in text.split("\n")[:-1]], offset + len(data)


def integers(value: JsonValue) -> set[int]:
    """Whole numbers that were kept in a memory."""
    return {int(str(item)) for item in value} if isinstance(value, list) else set()


def notes(folder: Path) -> dict[str, float]:
    """The numbers of `petavoxel.json`; empty without one.

    Raises:
        AcquisitionError: it is not a JSON object of numbers above 0.
    """
    path = folder / NOTES
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(v, (int, float)) and v > 0 for v in found.values()):
        raise AcquisitionError(
            f"{path}: not a JSON object of numbers above 0",
            remedy='write {"section_thickness_nm": 40, "pixel_nm": 4}',
        )
    return {str(key): float(value) for key, value in found.items()}


def noted(folder: Path, name: str) -> float:
    """A number that the microscope does not write down.

    Raises:
        AcquisitionError: nobody did.
    """
    try:
        return notes(folder)[name]
    except KeyError:
        raise AcquisitionError(
            f"{folder}: {name}: the microscope does not say",
            remedy=f'put a file {NOTES} there with {{"{name}": ...}}',
        ) from None


def whole(folder: Path, observed: Observed) -> ReadAcquisition:
    """What an adapter saw of a folder from an empty memory on, as an acquisition named like the folder.

    Raises:
        AcquisitionError: something in the folder could not be read.
    """
    if observed.problems:
        raise AcquisitionError(observed.problems[0], remedy="transfer the file again")
    return ReadAcquisition(
        acquisition=assemble(folder, observed, identifier=identifier(folder.resolve().name))
    )


def assemble(folder: Path, observed: Observed, *, identifier: str) -> Acquisition:
    """The acquisition that a look with an empty memory amounts to; tiles that are not whole stay in it.

    Raises:
        AcquisitionError: nothing is listed, or a tile's size is not to be found.
    """
    if observed.facts is None or not observed.tiles:
        raise AcquisitionError(f"{folder}: no tile is listed", remedy="wait for the microscope's first tile")
    latest: dict[int, dict[str, SeenTile]] = {}
    for seen in observed.tiles:
        latest.setdefault(seen.z, {})[seen.key] = seen
    sections = [
        _section(folder, observed, z, tiles, last=z == max(latest)) for z, tiles in sorted(latest.items())
    ]
    values = [section.z for section in sections]
    fields: dict[str, object] = {
        "id": identifier,
        "instrument": observed.facts.instrument,
        "layout": observed.facts.layout,
        "voxel_size_zyx_nm": observed.facts.voxel_size_zyx_nm,
        "stage_uncertainty_px": observed.facts.stage_uncertainty_px,
        "dtype": observed.facts.dtype,
        "sections": tuple(sections),
        "missing_sections": missing_between(values, values[0], values[-1] + 1, source=str(folder)),
    }
    return build(Acquisition, fields, source=str(folder))


def _section(folder: Path, observed: Observed, z: int, tiles: dict[str, SeenTile], *, last: bool) -> Section:
    expected = observed.expected.get(z)
    wanted = expected if isinstance(expected, int) else len(expected or ())
    if z in observed.markers:
        rule, complete = "marker", True
    elif expected is not None:
        rule, complete = "expected_set", len(tiles) >= wanted
    else:
        rule, complete = "next_section", not last
    return Section(
        z=z,
        tiles=tuple(placed(folder, tiles.values())),
        complete=complete,
        completeness_rule=rule,
    )


def placed(folder: Path, tiles: Iterable[SeenTile]) -> list[Tile]:
    """Tiles in the order of their keys, with the size that their files state where the log does not.

    Raises:
        AcquisitionError: neither states it.
    """
    result = []
    for seen in sorted(tiles, key=lambda seen: seen.key):
        shape = seen.shape_yx or file_facts(folder / seen.path, plane=seen.plane).shape_yx
        if shape is None:
            raise AcquisitionError(
                f"{seen.path}: its size in pixels is not to be found", remedy="transfer the file again"
            )
        result.append(seen.tile(shape_yx=shape))
    return result
