"""Which adapter reads a folder, and what a person wants to know about it before starting a run.

A microscope's computer imports this without an array library: those are loaded where images are opened.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, cast

from pydantic import JsonValue

from functions.microscopes import multisem, plain, sbemimage, serialem
from functions.microscopes.common import ReadAcquisition
from functions.microscopes.findings import read_findings
from functions.microscopes.observing import Observed
from functions.model.acquisition import Acquisition, Finding, Section, Tile
from functions.model.base import Document
from functions.model.errors import AcquisitionError, UnsafePathError, safe_join


class Adapter(Protocol):
    """What a module of this package offers."""

    NAME: str

    def detect(self, folder: Path) -> bool:
        """Whether the folder has this layout; looks at names only."""

    def read(self, folder: Path) -> ReadAcquisition:
        """Read the metadata; raises AcquisitionError naming file and field."""

    def observe(self, folder: Path, memory: dict[str, JsonValue]) -> Observed:
        """What is new since `memory`, which an earlier look returned ({} at first)."""

    def places(self, folder: Path) -> tuple[Path, ...]:
        """The few folders in which something happens whenever the microscope goes on."""


ADAPTERS: tuple[Adapter, ...] = tuple(
    cast(Adapter, module) for module in (plain, sbemimage, serialem, multisem)
)


class AcquisitionCheck(Document):
    """What is there, what is missing, and why it is not complete."""

    id: str
    layout: str
    instrument: str
    voxel_size_zyx_nm: tuple[float, float, float]
    sections: int
    first_section: int
    last_section: int
    tiles: int
    bytes: int
    complete: bool
    findings: tuple[Finding, ...]


def read_acquisition(folder: Path, *, documents: Path | None = None) -> ReadAcquisition:
    """Read a folder with the adapter that recognises it, or as `documents` describe it. No image is opened.

    Raises:
        AcquisitionError: no adapter recognises the folder, or its metadata do not fit.
    """
    if documents is not None:
        read = plain.read(folder, documents=documents)
        return read.model_copy(update={"findings": read_findings(documents)})
    return adapter_of(folder).read(folder)


def adapter_of(folder: Path) -> Adapter:
    """The adapter that recognises a folder.

    Raises:
        AcquisitionError: none does.
    """
    if not folder.is_dir():
        raise AcquisitionError(f"{folder}: no such folder", remedy="give the acquisition's folder")
    for adapter in ADAPTERS:
        if adapter.detect(folder):
            return adapter
    names = ", ".join(adapter.NAME for adapter in ADAPTERS)
    raise AcquisitionError(
        f"{folder}: not an acquisition of a known layout ({names})",
        remedy=f"write {plain.HEADER} and {plain.TILES} (docs/formats.md)",
    )


def section_findings(acquisition: Acquisition, source: str = "") -> tuple[Finding, ...]:
    """One finding for each run of missing sections and each incomplete section."""
    findings = []
    for first, last in _spans(acquisition.missing_sections):
        name = f"section {first}" if first == last else f"sections {first} to {last}"
        findings.append(
            Finding(
                severity="warning",
                code="missing_section",
                subject=name,
                message=f"{name}: no tiles are listed",
                remedy="transfer them, or go on: alignment bridges the gap",
            )
        )
    findings += [
        Finding(
            severity="warning",
            code="incomplete_section",
            subject=f"section {section.z}",
            message=f"section {section.z}: not complete by the rule {section.completeness_rule!r}",
            remedy="wait for the microscope or transfer the rest",
        )
        for section in acquisition.sections
        if not section.complete
    ]
    return tuple(findings)


def check_acquisition(folder: Path) -> AcquisitionCheck:
    """Look at metadata and at each tile's header, and list what keeps the acquisition from being complete.

    Raises:
        AcquisitionError: as `read_acquisition`.
    """
    read = read_acquisition(folder)
    acquisition = read.acquisition
    findings = [*read.findings, *section_findings(acquisition)]
    size = 0
    for section in acquisition.sections:
        for tile in section.tiles:
            found = _check_tile(folder, section, tile)
            if found is None:
                size += (folder / tile.path).stat().st_size
            else:
                findings.append(found)
    return AcquisitionCheck(
        id=acquisition.id,
        layout=acquisition.layout,
        instrument=acquisition.instrument,
        voxel_size_zyx_nm=acquisition.voxel_size_zyx_nm,
        sections=len(acquisition.sections),
        first_section=acquisition.sections[0].z,
        last_section=acquisition.sections[-1].z,
        tiles=sum(len(section.tiles) for section in acquisition.sections),
        bytes=size,
        complete=all(finding.severity == "note" for finding in findings),
        findings=tuple(findings),
    )


def tile_finding(section: Section, tile: Tile, code: str, field: str, what: str, remedy: str) -> Finding:
    """A finding about one tile: the subject names the file and the field."""
    return Finding(
        severity="error",
        code=code,
        subject=f"{tile.path}: {field}",
        message=f"section {section.z} tile {tile.id} ({tile.path}): {field}: {what}",
        remedy=remedy,
    )


def read_error_finding(section: Section, tile: Tile, error: AcquisitionError) -> Finding:
    """The finding for a tile image that cannot be read."""
    from functions.store.images import TileReadError

    if isinstance(error, TileReadError):
        return tile_finding(section, tile, error.reason, "image", error.what, error.remedy)
    return tile_finding(section, tile, error.code, "path", str(error), error.remedy)


def _check_tile(folder: Path, section: Section, tile: Tile) -> Finding | None:
    from functions.store.images import tile_header

    try:
        header = tile_header(
            safe_join(folder, tile.path, field=f"section {section.z} tile {tile.id}"), tile.plane
        )
    except UnsafePathError:
        raise
    except AcquisitionError as error:
        return read_error_finding(section, tile, error)
    if header.shape_yx != tile.shape_yx:
        what = f"the image is {header.shape_yx} px, the metadata say {tile.shape_yx}"
        return tile_finding(section, tile, "wrong_size", "height_px, width_px", what, "correct the metadata")
    return None


def _spans(indices: tuple[int, ...]) -> list[tuple[int, int]]:
    """Runs of consecutive indices as (first, last)."""
    spans: list[tuple[int, int]] = []
    for z in indices:
        if spans and spans[-1][1] == z - 1:
            spans[-1] = (spans[-1][0], z)
        else:
            spans.append((z, z))
    return spans
