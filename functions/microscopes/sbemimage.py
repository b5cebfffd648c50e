"""SBEMimage stacks: `meta/logs/` holds the lists, one set of files for each Start-to-Pause run.

A slice's tiles may lie in the files of several runs, and a retake repeats a tile: the last one listed counts.
A `SLICE COMPLETE` line belongs to the tiles above it, whatever number it names: the counter has moved on
already when a microtome cuts. A slice without that line (single-slice run, pause, error) is measured against
the tiles that the run's configuration asks for. Source: SBEMimage `src/Acquisition.py`, `src/Grid.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from functions.microscopes.common import PathGuard, ReadAcquisition, build, identifier, missing_between
from functions.microscopes.observing import Memory, Observed
from functions.microscopes.sbemimage_logs import Config, RunLog, TileRecord, read_runs
from functions.microscopes.sbemimage_tail import MAX_SCALE, observe_logs
from functions.model.acquisition import Acquisition, Finding, Section, Tile
from functions.model.errors import AcquisitionError

NAME = "sbemimage"
LOGS = Path("meta") / "logs"

TileKey = tuple[int, int]
Frame = tuple[float, tuple[float, float] | None]
"""Rotation (degrees) of a grid, and its pixel size (nm) where it is not that of the acquisition."""


@dataclass(slots=True)
class Slice:
    """What all runs together say about one slice."""

    tiles: dict[TileKey, tuple[TileRecord, Config | None]] = field(default_factory=dict)
    expected: set[TileKey] = field(default_factory=set)
    configured: bool = False
    confirmed: bool = False


def observe(folder: Path, memory: Memory) -> Observed:
    """What the logs say that they did not before; see `sbemimage_tail`."""
    return observe_logs(folder / LOGS, folder, memory, name=NAME)


def places(folder: Path) -> tuple[Path, ...]:
    """The logs: every tile that counts gets a line there."""
    return (folder / LOGS,)


def detect(folder: Path) -> bool:
    """Whether there are tile lists of SBEMimage."""
    logs = folder / LOGS
    return any(any(logs.glob(pattern)) for pattern in ("metadata_*.txt", "imagelist_[0-9]*.txt"))


def read(folder: Path) -> ReadAcquisition:
    """Read the logs of all runs; no image is opened. Section z is the slice counter.

    Raises:
        AcquisitionError: a log does not fit; names file, line and field.
        UnsafePathError: a tile's path leaves the folder.
    """
    runs = read_runs(folder / LOGS)
    findings = [finding for run in runs for finding in run.findings]
    slices = _collect(runs)
    if not slices:
        raise AcquisitionError(f"{LOGS}: no tile is listed", remedy="wait for the microscope's first tile")
    counts = Counter(grid for found in slices.values() for grid, _ in found.tiles)
    pixel_nm, foreign = _pixel_size(runs, counts)
    findings += _grid_findings(runs, pixel_nm, foreign, set(counts) - foreign)
    grids = _grids(runs)
    frames = {
        grid: (grids[grid][1], None if grids[grid][0] == pixel_nm else (grids[grid][0],) * 2)
        for grid in set(counts) - foreign
    }
    guard = PathGuard(folder)
    last = max(slices)
    sections = [
        section
        for z, found in sorted(slices.items())
        if (section := _section(z, found, guard, frames, last, findings)) is not None
    ]
    if not sections:
        raise AcquisitionError(f"{LOGS}: no usable grid", remedy="see the pixel sizes of the grids")
    findings.append(_run_state(runs))
    first, end = sections[0].z, sections[-1].z + 1
    values: dict[str, object] = {
        "id": identifier(folder.resolve().name),
        "instrument": "SBEMimage",
        "layout": NAME,
        "voxel_size_zyx_nm": (_thickness(runs), pixel_nm, pixel_nm),
        "sections": tuple(sections),
        "missing_sections": missing_between((s.z for s in sections), first, end, source=str(LOGS)),
    }
    acquisition = build(Acquisition, values, source=str(LOGS))
    return ReadAcquisition(acquisition=acquisition, findings=tuple(findings))


def _collect(runs: Iterable[RunLog]) -> dict[int, Slice]:
    """Slices over all runs in time order: later tiles replace earlier ones."""
    slices: dict[int, Slice] = {}
    for run in runs:
        for record in run.tiles:
            found = slices.setdefault(record.slice, Slice())
            found.tiles[record.grid, record.tile] = (record, run.config)
        for z in {record.slice for record in run.tiles}:
            if run.config is not None:
                # the newest configuration that imaged the slice says what belongs to it
                slices[z].expected, slices[z].configured = run.config.expected(z), True
        for z in run.confirmed:
            slices[z].confirmed = True
    return slices


def _section(
    z: int, found: Slice, guard: PathGuard, frames: dict[int, Frame], last: int, findings: list[Finding]
) -> Section | None:
    """One slice as a section, with the rule that says whether it is complete."""
    missing, expected = sorted(found.expected - set(found.tiles)), len(found.expected)
    rule = "next_section" if not found.configured else "expected_set"
    complete = not missing if found.configured else z < last
    if found.confirmed:
        rule, complete = "marker", True
    if missing:
        names = ", ".join(f"g{grid:04d} t{tile:04d}" for grid, tile in missing[:5])
        findings.append(
            Finding(
                severity="warning",
                code="missing_tiles",
                subject=f"slice {z}: {names}",
                message=f"slice {z}: {len(missing)} of {expected} configured tiles not listed ({names})",
                remedy="none if they were rejected; otherwise wait for the microscope",
            )
        )
    tiles = [
        _tile(record, config, guard, frames[grid])
        for (grid, _), (record, config) in sorted(found.tiles.items())
        if grid in frames
    ]
    return Section(z=z, tiles=tuple(tiles), complete=complete, completeness_rule=rule) if tiles else None


def _tile(record: TileRecord, config: Config | None, guard: PathGuard, frame: Frame) -> Tile:
    """A tile. SBEMimage turns the centres of a grid's tiles about its first one, and subtracts half an
    unturned tile from them (`tile_position_for_registration`); so does `Tile.stage_yx_nm`."""
    columns = config.columns(record.grid) if config is not None else None
    shape = record.shape_yx or (config.tile_shape_yx(record.grid) if config is not None else None)
    if shape is None:
        raise AcquisitionError(
            f"{record.source}: tile_width: neither the metadata nor the configuration give the tile's size",
            remedy="transfer metadata_<time>.txt and config_<time>.txt of that run",
        )
    row, column = divmod(record.tile, columns) if columns else (0, record.tile)
    path = guard.check(record.path, field=f"{record.source}: filename")
    return Tile(
        row=row,
        column=column,
        path=path,
        stage_yx_nm=record.place_yx_nm,
        shape_yx=shape,
        grid=record.grid,
        rotation_deg=frame[0],
        pixel_size_yx_nm=frame[1],
    )


def _grids(runs: Iterable[RunLog]) -> dict[int, tuple[float, float]]:
    """Pixel size (nm) and rotation (degrees) of each grid, as last stated."""
    grids: dict[int, tuple[float, float]] = {}
    for run in runs:
        if run.config is not None:
            grids.update(run.config.geometry())
        grids.update(run.session.geometry() if run.session is not None else {})
    return grids


def _pixel_size(runs: list[RunLog], counts: Counter[int]) -> tuple[float, set[int]]:
    """The pixel size of the grid with most tiles, and the grids of a quite different one."""
    grids = _grids(runs)
    unknown = sorted(set(counts) - set(grids))
    if unknown:
        raise AcquisitionError(
            f"{LOGS}: pixel_size: not stated for grid {unknown[0]}",
            remedy="transfer config_<time>.txt of its run",
        )
    main = max(sorted(counts), key=lambda grid: counts[grid])
    usual = grids[main][0]
    return usual, {g for g in counts if not 1 / MAX_SCALE <= grids[g][0] / usual <= MAX_SCALE}


def _grid_findings(runs: list[RunLog], pixel_nm: float, foreign: set[int], kept: set[int]) -> list[Finding]:
    """Grids that differ: in pixel size (left out if much), in rotation."""
    grids = _grids(runs)
    findings = [
        Finding(
            severity="error",
            code="pixel_size",
            subject=f"grid {grid}: pixel_sizes",
            message=f"grid {grid}: pixel size {grids[grid][0]:g} nm, not {pixel_nm:g} nm as most; left out",
            remedy="reconstruct it as an acquisition of its own",
        )
        for grid in sorted(foreign)
    ]
    findings += [
        Finding(
            severity="note",
            code="pixel_size",
            subject=f"grid {grid}: pixel_sizes",
            message=f"grid {grid}: pixel size {grids[grid][0]:g} nm, drawn at {pixel_nm:g} nm as most",
        )
        for grid in sorted(kept)
        if grids[grid][0] != pixel_nm
    ]
    used = {grid: grids[grid][1] for grid in kept}
    if len(set(used.values())) > 1:
        angles = ", ".join(f"grid {grid}: {angle:g}" for grid, angle in sorted(used.items()))
        findings.append(
            Finding(
                severity="note",
                code="rotation",
                subject="rotation_angles",
                message=f"grids are rotated differently ({angles} degrees); their tiles are turned so",
                remedy="look at the seams between grids in the report",
            )
        )
    return findings


def _thickness(runs: list[RunLog]) -> float:
    """Section thickness in nm.

    Raises:
        AcquisitionError: no run states it, or runs differ.
    """
    values = {run.session.slice_thickness_nm for run in runs if run.session is not None} or {
        run.config.slice_thickness_nm
        for run in runs
        if run.config is not None and run.config.slice_thickness_nm is not None
    }
    if len(values) != 1:
        what = "is not stated" if not values else f"differs between runs ({sorted(values)})"
        raise AcquisitionError(
            f"{LOGS}: slice_thickness: {what}", remedy="keep runs of one thickness in the folder"
        )
    return values.pop()


def _run_state(runs: list[RunLog]) -> Finding:
    ended = runs[-1].ended
    return Finding(
        severity="note",
        code="run_ended" if ended else "run_open",
        subject=f"log_{runs[-1].time}.txt",
        message="the last run has ended"
        if ended
        else "the last run has no end mark: it may still be going on",
    )
