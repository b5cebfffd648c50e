"""Ingest: check the manifest and every tile, and write down what the later steps may use.

Bad tiles are findings, never a reason to stop: they are left out of the sections that later steps see. What
was found about a tile is kept beside the manifest and used again as long as its file has not been touched, so
that a grown acquisition costs only its new tiles.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from functions.microscopes import read_acquisition
from functions.microscopes.registry import read_error_finding, section_findings, tile_finding
from functions.model.acquisition import Acquisition, Finding, Section, Tile
from functions.model.base import Document
from functions.model.errors import AcquisitionError, TaskError, UnsafePathError, safe_join
from functions.model.parameters import IngestParameters
from functions.store.files import fingerprint, write_json
from functions.store.images import TilePixels, read_tile, tile_sha256
from functions.store.run import IngestedSection, IngestManifest, Run
from functions.tasks import MAX_PROBLEMS, Problem, StepResult

BLOCK_PIXELS = 1 << 22
MAX_SUBJECT = 120


class TileCheck(Document):
    """What was found about one tile from its file alone; good as long as `stamp` is the same."""

    stamp: str = ""
    """Fingerprint of the tile's metadata and of its file's size and time."""
    sha256: str = ""
    dtype: str = ""
    bytes: int = 0
    finding: Finding | None = None


class SectionCheck(Document):
    """The kept results of a section's tiles."""

    tiles: tuple[TileCheck, ...]


@dataclass(slots=True, kw_only=True)
class Tally:
    """What is carried from section to section."""

    dtype: str | None
    seen: dict[str, str]
    findings: list[Finding]
    bytes: int = 0
    tiles: int = 0
    bad_tiles: int = 0
    computed: int = 0


def perform(run: Run) -> StepResult:
    """Read the acquisition, check its tiles and write the ingest manifest.

    Raises:
        AcquisitionError: the metadata cannot be read, a path leaves the folder, or nothing is usable.
    """
    read = read_acquisition(run.acquisition_folder, documents=run.documents)
    acquisition = select(read.acquisition, run.parameters.ingest)
    tally = Tally(dtype=acquisition.dtype, seen={}, findings=[*read.findings, *section_findings(acquisition)])
    tally.findings += _lone_tiles(acquisition)
    sections = []
    for section in acquisition.sections:
        ingested = _ingest_section(run, acquisition, section, tally)
        if ingested is not None:
            sections.append(ingested)
    if not sections:
        raise AcquisitionError(
            f"{run.acquisition_folder}: none of {tally.tiles} tiles is usable ({tally.findings[-1].message})",
            remedy="run `petavoxel acquisition check` on the folder",
        )
    manifest = IngestManifest(
        acquisition=acquisition, sections=tuple(sections), findings=tuple(tally.findings)
    )
    _write_if_changed(run.manifest_path, manifest)
    return _result(run, manifest, tally)


def select(acquisition: Acquisition, parameters: IngestParameters) -> Acquisition:
    """The acquisition reduced to the chosen range of sections.

    Raises:
        AcquisitionError: no section lies in the range.
    """
    if parameters.sections is None:
        return acquisition
    first, end = parameters.sections
    kept = tuple(section for section in acquisition.sections if first <= section.z < end)
    if not kept:
        there = f"{acquisition.sections[0].z} to {acquisition.sections[-1].z}"
        raise AcquisitionError(
            f"ingest.sections: {first}:{end} holds none of the sections {there}",
            remedy="choose another range",
        )
    missing = tuple(z for z in acquisition.missing_sections if first <= z < end)
    return acquisition.model_copy(update={"sections": kept, "missing_sections": missing})


def check_tile(folder: Path, section: Section, tile: Tile, parameters: IngestParameters) -> TileCheck:
    """Read one tile and judge it alone: readable, checksum, size, neither blank nor saturated.

    Raises:
        UnsafePathError: the tile's path leaves the folder.
    """
    path = safe_join(folder, tile.path, field=f"section {section.z} tile {tile.id}: path")
    try:
        pixels = read_tile(path, tile.plane)
        digest = tile_sha256(path, tile.plane)
        size = path.stat().st_size if tile.plane is None else pixels.nbytes
    except UnsafePathError:
        raise
    except AcquisitionError as error:
        return TileCheck(finding=read_error_finding(section, tile, error))
    except OSError as error:
        what = f"cannot be read ({error.strerror})"
        return TileCheck(
            finding=tile_finding(section, tile, "missing", "image", what, "transfer the file again")
        )
    finding = _judge(section, tile, pixels, digest, parameters)
    return TileCheck(sha256=digest, dtype=str(pixels.dtype), bytes=size, finding=finding)


def _judge(
    section: Section, tile: Tile, pixels: TilePixels, digest: str, parameters: IngestParameters
) -> Finding | None:
    """The first thing that is wrong with a tile that could be read."""
    if parameters.verify_checksums and tile.sha256 not in (None, digest):
        return tile_finding(
            section, tile, "checksum", "sha256", "differs from the metadata", "transfer the file again"
        )
    if pixels.shape != tile.shape_yx:
        what = f"the image is {pixels.shape} px, the metadata say {tile.shape_yx}"
        return tile_finding(section, tile, "wrong_size", "height_px, width_px", what, "correct the metadata")
    std, saturated = statistics(pixels)
    if std < parameters.blank_std:
        what = f"blank (standard deviation {std:.2f})"
        return tile_finding(section, tile, "blank", "image", what, "none if the tile lies outside the tissue")
    if saturated > parameters.saturated_fraction:
        what = f"saturated ({saturated:.0%} of its pixels are black or white)"
        return tile_finding(section, tile, "saturated", "image", what, "correct brightness and contrast")
    return None


def statistics(pixels: TilePixels, *, block_pixels: int = BLOCK_PIXELS) -> tuple[float, float]:
    """Standard deviation, and the fraction of pixels at either end of the type's range."""
    top = np.iinfo(pixels.dtype).max
    rows = max(1, block_pixels // pixels.shape[1])
    total = squares = extreme = 0.0
    for start in range(0, pixels.shape[0], rows):
        block = pixels[start : start + rows]
        total += float(block.sum(dtype=np.float64))
        squares += float(np.square(block, dtype=np.float64).sum())
        extreme += int(np.count_nonzero(block == top)) + int(np.count_nonzero(block == 0))
    mean = total / pixels.size
    return float(np.sqrt(max(0.0, squares / pixels.size - mean * mean))), extreme / pixels.size


def _ingest_section(
    run: Run, acquisition: Acquisition, section: Section, tally: Tally
) -> IngestedSection | None:
    """The section with its usable tiles; None when there are none. Adds to the tally."""
    check, fresh = _section_check(run, section)
    tally.computed += fresh
    usable: list[Tile] = []
    checksums: list[str] = []
    content: list[object] = []
    left_out: list[object] = []
    for tile, found in zip(section.tiles, check.tiles, strict=True):
        finding = found.finding or _compare(acquisition, section, tile, found, tally)
        tally.tiles += 1
        tally.bytes += found.bytes
        if finding is not None:
            tally.findings.append(finding)
        if finding is not None and finding.severity == "error":
            tally.bad_tiles += 1
            left_out.append((tile.id, finding.code))
            continue
        usable.append(tile)
        checksums.append(found.sha256)
        stated = (tile.grid, tile.row, tile.column, tile.stage_yx_nm, tile.shape_yx, found.sha256)
        apart = tile.rotation_deg != 0.0 or tile.pixel_size_yx_nm is not None
        content.append((*stated, tile.rotation_deg, tile.pixel_size_yx_nm) if apart else stated)
    if not usable:
        what = f"section {section.z}: none of its {len(section.tiles)} tiles is usable"
        tally.findings.append(
            Finding(severity="warning", code="empty_section", subject=f"section {section.z}", message=what)
        )
        return None
    return IngestedSection(
        section=section.model_copy(update={"tiles": tuple(usable)}),
        fingerprint=fingerprint("section", section.z, content, left_out),
        sha256=tuple(checksums),
    )


def _compare(
    acquisition: Acquisition, section: Section, tile: Tile, found: TileCheck, tally: Tally
) -> Finding | None:
    """What is wrong with a good tile beside the others: another pixel type, or the same bytes once more."""
    tally.dtype = tally.dtype or found.dtype
    if found.dtype != tally.dtype:
        what = f"pixels are {found.dtype}, the others {tally.dtype}"
        return tile_finding(
            section, tile, "wrong_dtype", "dtype", what, "write all tiles with one pixel type"
        )
    other = tally.seen.get(found.sha256)
    if other is None:
        tally.seen[found.sha256] = tile.path
        return None
    finding = tile_finding(
        section, tile, "duplicate", "image", f"the same bytes as {other}", "transfer the right file"
    )
    # a plane copied over a missing one is common practice in aligned stacks: worth a note, not a hole
    return finding.model_copy(update={"severity": "note"}) if acquisition.aligned else finding


def _section_check(run: Run, section: Section) -> tuple[SectionCheck, bool]:
    """Kept checks of the tiles whose files are untouched, new ones of the others; and whether any is new."""
    path = run.ingest_cell.file("checks") / f"{section.id}.json"
    try:
        kept = {c.stamp: c for c in SectionCheck.parse(path.read_bytes(), source=str(path)).tiles}
    except (FileNotFoundError, TaskError):
        kept = {}
    tiles, fresh = [], False
    for tile in section.tiles:
        stamp = _stamp(run.acquisition_folder, section, tile)
        check = kept.get(stamp)
        if check is None:
            found = check_tile(run.acquisition_folder, section, tile, run.parameters.ingest)
            check, fresh = found.model_copy(update={"stamp": stamp}), True
        tiles.append(check)
    result = SectionCheck(tiles=tuple(tiles))
    if fresh:
        write_json(path, result.to_json())
    return result, fresh


def _stamp(folder: Path, section: Section, tile: Tile) -> str:
    """What a kept check is good for: this description of the tile, this file, readable or not."""
    path = safe_join(folder, tile.path, field=f"section {section.z} tile {tile.id}: path")
    try:
        stat = path.stat()
        file: object = (str(path), stat.st_size, stat.st_mtime_ns, os.access(path, os.R_OK))
    except OSError:
        file = (str(path), None)
    return fingerprint(section.z, tile.to_json(), file)


def _lone_tiles(acquisition: Acquisition) -> list[Finding]:
    """A section with one tile, where others have several: it can be used, but somebody should look."""
    if acquisition.aligned or max(len(section.tiles) for section in acquisition.sections) == 1:
        return []
    return [
        Finding(
            severity="warning",
            code="one_tile",
            subject=f"{section.tiles[0].path}: section",
            message=f"section {section.z}: has one tile ({section.tiles[0].path}), others have several",
            remedy="transfer the others, or go on: it is used as it is",
        )
        for section in acquisition.sections
        if len(section.tiles) == 1
    ]


def _write_if_changed(path: Path, manifest: IngestManifest) -> None:
    try:
        if IngestManifest.parse(path.read_bytes(), source=str(path)) == manifest:
            return
    except (FileNotFoundError, TaskError):
        pass
    write_json(path, manifest.to_json())


def _result(run: Run, manifest: IngestManifest, tally: Tally) -> StepResult:
    order = ("error", "warning")
    found = sorted(
        (f for f in manifest.findings if f.severity in order), key=lambda f: order.index(f.severity)
    )
    sections = len(manifest.acquisition.sections)
    return StepResult(
        step="ingest",
        status="look" if found else "ok",
        units=sections,
        computed=tally.computed,
        reused=sections - tally.computed,
        figures={
            "sections": len(manifest.sections),
            "tiles": tally.tiles,
            "bad_tiles": tally.bad_tiles,
            "missing_sections": len(manifest.acquisition.missing_sections),
            "bytes": tally.bytes,
        },
        paths={"manifest": str(run.manifest_path)},
        problems=tuple(
            Problem(code=f.code, subject=f.subject[-MAX_SUBJECT:], remedy=f.remedy[:MAX_SUBJECT])
            for f in found[:MAX_PROBLEMS]
        ),
        problem_count=len(found),
    )
