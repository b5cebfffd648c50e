"""Rows of the ledger as frozen values. Times are seconds since the epoch, by the watcher's clock."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from functions.microscopes.observing import Facts, Memory, SeenTile

SEEN, COMPLETE, STARTING, STARTED, ENDED = "seen", "complete", "starting", "started", "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionRow:
    """A section as the ledger has it."""

    z: int
    version: int
    state: str
    rule: str
    waits: str
    marker: bool
    expected: int | tuple[str, ...] | None
    seq: int
    changed: float
    completed: float | None
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRow:
    """A start as the ledger has it."""

    id: int
    tag: str
    kind: str
    sections: tuple[tuple[int, int], ...]
    """(z, version)."""
    request: str
    documents: str
    state: str
    run_id: str | None
    attempts: int
    unsure: bool
    """Whether the last attempt may have been carried out without our knowing."""
    due: float
    created: float
    tried: float
    started: float | None
    ended: float | None
    succeeded: bool | None
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AcquisitionRow:
    """What holds for the whole."""

    memory: Memory
    facts: Facts | None
    finished: bool
    """Somebody said that it is over, and no tile came since."""
    problems: tuple[str, ...]
    looked: float
    seq: int


def facts_of(text: str | None) -> Facts | None:
    """Facts from the ledger's JSON."""
    if text is None:
        return None
    fields: dict[str, Any] = json.loads(text)
    z, y, x = fields.pop("voxel_size_zyx_nm")
    planned = fields.pop("planned")
    return Facts(
        **fields, voxel_size_zyx_nm=(z, y, x), planned=None if planned is None else (planned[0], planned[1])
    )


def tile_of(fields: dict[str, Any]) -> SeenTile:
    """A tile from the ledger's JSON."""
    shape, place = fields.pop("shape_yx"), fields.pop("stage_yx_nm")
    return SeenTile(
        **fields, stage_yx_nm=(place[0], place[1]), shape_yx=None if shape is None else (shape[0], shape[1])
    )


def section_of(row: tuple[Any, ...]) -> SectionRow:
    """A section from its columns."""
    fields = dict(zip(SectionRow.__slots__, row, strict=True))
    wanted = None if fields["expected"] is None else json.loads(fields["expected"])
    fields["expected"] = tuple(wanted) if isinstance(wanted, list) else wanted
    fields["marker"] = bool(fields["marker"])
    fields["left_out"] = tuple(json.loads(fields["left_out"]))
    return SectionRow(**fields)


def start_of(row: tuple[Any, ...]) -> StartRow:
    """A start from its columns."""
    fields = dict(zip(StartRow.__slots__, row, strict=True))
    fields["sections"] = tuple((z, version) for z, version in json.loads(fields["sections"]))
    fields["unsure"] = bool(fields["unsure"])
    fields["succeeded"] = None if fields["succeeded"] is None else bool(fields["succeeded"])
    return StartRow(**fields)
