"""Zeiss MultiSEM: a folder a region, in it a folder a multi-beam field of view (mFOV), in it an image a beam.

    [<time>/]004_S12R1/region_metadata.csv            `sep=;`, a heading, a row an mFOV
                       full_image_coordinates.txt     000007\\<image>.bmp  x  y  0 (px), at the region's end
                       000007/image_coordinates.txt   <image>.bmp  x  y  0, at the mFOV's end
                       000007/<acq>_000007_023_<time>.bmp

Section 12 is z = 12, region R1 its grid 1. An mFOV is finished with 61 or 91 images; one whose focus
failed has no folder. A region in a later folder named by time replaces the mFOVs that it has. Only folders
whose time has changed are looked into.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

from functions.microscopes.common import PathGuard, ReadAcquisition
from functions.microscopes.observing import Facts, Memory, Observed, SeenTile, noted, whole
from functions.model.errors import AcquisitionError

NAME = "multisem"
REGION = re.compile(r"\d{1,6}_S(\d{1,6})R(\d{1,4})")
TIME = re.compile(r"\d{4}-?\d\d-?\d\d[_T -].*")
MFOV = re.compile(r"\d{6}")
IMAGE = re.compile(r".*_(\d{6})_(\d{3})_([^_]+)\.(?:bmp|tif|png)", re.IGNORECASE)
BEAMS = (61, 91)
COORDINATES, WHOLE, METADATA = "image_coordinates.txt", "full_image_coordinates.txt", "region_metadata.csv"


def detect(folder: Path) -> bool:
    """Whether there is a region's folder."""
    return any(True for _ in _regions(folder))


def read(folder: Path) -> ReadAcquisition:
    """Read coordinates and folders; images are opened for their size.

    Raises:
        AcquisitionError: nothing is listed, or `petavoxel.json` gives no pixel size or section thickness.
    """
    return whole(folder, observe(folder, {}))


def places(folder: Path) -> tuple[Path, ...]:
    """Where regions appear; what happens inside them is found by looking at their times."""
    return (folder,)


def observe(folder: Path, memory: Memory) -> Observed:
    """New images whose coordinates are known. `memory`: {mFOV's folder: [its time, images, seen twice]}."""
    observed = Observed(memory=dict(memory))
    pixel_nm = noted(folder, "pixel_nm")
    observed.facts = Facts(
        instrument="Zeiss MultiSEM",
        layout=NAME,
        voxel_size_zyx_nm=(noted(folder, "section_thickness_nm"), pixel_nm, pixel_nm),
        dtype="uint8",
    )
    guard = PathGuard(folder)
    for region, z, grid in sorted(_regions(folder), key=lambda found: (found[0].parent.name, found[0].name)):
        news = False
        fields = sorted(entry.name for entry in _entries(region) if MFOV.fullmatch(entry.name))
        for mfov in fields:
            news |= _look(folder, region / mfov, z, grid, pixel_nm, guard, observed)
        if news:
            observed.expected[z] = _expected(folder, z, observed.memory)
    return observed


def _look(
    folder: Path, mfov: Path, z: int, grid: int, pixel_nm: float, guard: PathGuard, observed: Observed
) -> bool:
    """The images of an mFOV, unless its folder is as it was; whether it was looked into."""
    name = mfov.relative_to(folder).as_posix()
    kept = observed.memory.get(name)
    time = mfov.stat().st_mtime_ns
    if isinstance(kept, list) and kept[0] == time and kept[2]:
        return False
    images = sorted(entry.name for entry in _entries(mfov) if IMAGE.fullmatch(entry.name))
    coordinates = _coordinates(mfov)
    placed = [image for image in images if image in coordinates]
    # a folder that changes within one tick of its file system's clock keeps its time: believe the second look
    twice = isinstance(kept, list) and kept[:2] == [time, len(placed)] and len(placed) == len(images)
    observed.memory[name] = [time, len(placed), twice]
    if isinstance(kept, list) and kept[1] == len(placed):
        return False
    for image in placed:
        match = IMAGE.fullmatch(image)
        assert match is not None
        x, y = coordinates[image]
        observed.tiles.append(
            SeenTile(
                z=z,
                key=f"r{grid} {match[1]} {match[2]}",
                path=guard.check(f"{name}/{image}", field=name),
                stamp=f"{name}/{image}",
                row=int(match[1]),
                column=int(match[2]),
                stage_yx_nm=(y * pixel_nm, x * pixel_nm),
                grid=grid,
            )
        )
    return True


def _coordinates(mfov: Path) -> dict[str, tuple[float, float]]:
    """x, y in pixels by image name: of the mFOV's own list, else of the region's."""
    for path in (mfov / COORDINATES, mfov.parent / WHOLE):
        found: dict[str, tuple[float, float]] = {}
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        for number, line in enumerate(text.split("\n")[:-1], start=1):
            cells = line.split()
            if len(cells) >= 3:
                place, _, image = cells[0].replace("\\", "/").rpartition("/")
                if place in ("", mfov.name):
                    found[image] = _place(cells[1:3], f"{path}: line {number}")
        if found:
            return found
    return {}


def _place(cells: list[str], source: str) -> tuple[float, float]:
    """x, y in pixels.

    Raises:
        AcquisitionError: not two finite numbers.
    """
    try:
        x, y = (float(cell) for cell in cells)
    except ValueError:
        x = y = math.nan
    if not (math.isfinite(x) and math.isfinite(y)):
        raise AcquisitionError(f"{source}: x, y: not two numbers", remedy="correct the line")
    return x, y


def _expected(folder: Path, z: int, memory: Memory) -> int:
    """Images of a section: 61 or 91 for each mFOV that its regions' metadata list, or that has a folder."""
    most = BEAMS[0]
    listed: dict[tuple[int, str], int] = {}
    for region, number, grid in _regions(folder):
        if number != z:
            continue
        counts = [
            int(str(kept[1]))
            for name, kept in memory.items()
            if name.startswith(region.relative_to(folder).as_posix() + "/") and isinstance(kept, list)
        ]
        if any(count > BEAMS[0] for count in counts):
            most = BEAMS[1]
        rows = _metadata_rows(region / METADATA)
        listed[grid, region.name] = max(listed.get((grid, region.name), 0), rows, len(counts))
    return sum(listed.values()) * most


def _metadata_rows(path: Path) -> int:
    """mFOVs that a region's metadata list; 0 without them."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    except OSError:
        return 0
    rows = [line for line in lines if line.strip() and not line.startswith("sep=")]
    return max(0, len(rows) - 1)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as found:
        return list(found)


def _regions(folder: Path) -> Iterator[tuple[Path, int, int]]:
    """(folder, section, region) of each region, here or in a folder named by time."""
    for entry in _entries(folder):
        if not entry.is_dir():
            continue
        if match := REGION.fullmatch(entry.name):
            yield Path(entry.path), int(match[1]), int(match[2])
        elif TIME.fullmatch(entry.name):
            yield from _regions(Path(entry.path))
