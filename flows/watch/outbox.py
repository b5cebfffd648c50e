"""What a start takes along: its file names, and documents written anew, for the site to read.

Nothing that the microscope wrote but images leaves its computer: logs and sidecars name operators and
folders, so an acquisition.json and a tiles.csv are written in their stead, from what the adapters understood.
Planes of a stack that still grows are copied out, with a header that keeps no labels.

    <outbox>/<tag>/{acquisition.json, tiles.csv, z00003.mrc}   -> scratch/<acquisition>/documents/<tag>/
    <folder>/<file>                                            -> scratch/<acquisition>/raw/<file>

Paths in the documents are relative to scratch/<acquisition>/.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

from flows.errors import InputError
from flows.inputs import MAX_FILES_BYTES
from flows.watch.ledger import Ledger
from flows.watch.rows import SectionRow
from functions.microscopes import plain
from functions.microscopes.common import build
from functions.microscopes.observing import Facts, SeenTile
from functions.microscopes.wholeness import file_facts
from functions.model.acquisition import Acquisition, Section, Tile
from functions.store.files import atomic_path
from functions.store.mrc import MrcHeader, read_header, without_labels

COPY_BYTES = 1 << 22
NAME_BYTES = 4
"""Of quotes, comma and slash around a name."""


class Outbox:
    """Prepares starts of one acquisition."""

    def __init__(self, root: Path, *, folder: Path, acquisition_id: str, ledger: Ledger) -> None:
        self._root = root
        self._folder = folder
        self._acquisition_id = acquisition_id
        self._ledger = ledger

    def fitting(self, sections: Sequence[SectionRow]) -> int:
        """How many of these sections, from the first on, one start can name the files of; at least one."""
        total = 0
        for count, row in enumerate(sections):
            total += _bytes(self._names(row))
            if total > MAX_FILES_BYTES:
                return max(1, count)
        return len(sections)

    def pack(self, tag: str, sections: Sequence[SectionRow], facts: Facts) -> tuple[Path, tuple[str, ...]]:
        """Write the documents of these sections; returns their folder and the names of the files to move.

        Sections whose files were moved by an earlier run are described, not moved again.

        Raises:
            InputError: a section has more files than a flow's input can name.
            AcquisitionError: a tile's size or pixel type is not to be found.
        """
        target = self._root / re.sub(r"[^A-Za-z0-9._-]+", "_", tag)
        with atomic_path(target) as partial:
            partial.mkdir(parents=True)
            packed = [self._section(row, partial, target.name) for row in sections]
            plain.write(partial, self._acquisition([section for section, _ in packed], facts))
        names = [name for _, some in packed for name in some]
        if _bytes(names) > MAX_FILES_BYTES:
            raise InputError(
                f"section {sections[0].z}: the names of its {len(names)} files take more than"
                f" {MAX_FILES_BYTES} bytes",
                remedy="let the microscope write a folder for each section or field of view",
            )
        return target, tuple(names)

    def _section(self, row: SectionRow, partial: Path, name: str) -> tuple[Section, list[str]]:
        """A section as the site sees it, and the files to move for it."""
        moved = self._ledger.moved(row.z) if row.state == "ended" else None
        tiles = self._tiles(row)
        files: list[str] = []
        placed: list[Tile] = []
        if any(seen.plane is not None for seen in tiles):
            stack = f"z{row.z:05d}.mrc"
            if moved is None:
                planes = [(seen.path, seen.plane) for seen in tiles if seen.plane is not None]
                copy_planes(self._folder, planes, partial / stack)
            place = f"documents/{Path(moved).name if moved else name}/{stack}"
            for plane, seen in enumerate(tiles):
                placed.append(seen.tile(shape_yx=self._shape(seen), path=place, plane=plane))
        else:
            placed = [seen.tile(shape_yx=self._shape(seen), path=f"raw/{seen.path}") for seen in tiles]
            files = [] if moved is not None else self._names(row)
        section = Section(z=row.z, tiles=tuple(placed), completeness_rule=row.rule or "marker")
        return section, files

    def _tiles(self, row: SectionRow) -> list[SeenTile]:
        return [seen for seen in self._ledger.tiles(row.z) if seen.path not in row.left_out]

    def _shape(self, seen: SeenTile) -> tuple[int, int]:
        shape = seen.shape_yx or file_facts(self._folder / seen.path, plane=seen.plane).shape_yx
        if shape is None:
            raise InputError(f"{seen.path}: its size in pixels is not to be found", remedy="look at the file")
        return shape

    def _names(self, row: SectionRow) -> list[str]:
        """Names of a section's files; folders where that is too much and they hold nothing else."""
        paths = [seen.path for seen in self._tiles(row) if seen.plane is None]
        names = [f"/{path}" for path in paths]
        if _bytes(names) <= MAX_FILES_BYTES:
            return names
        folders = sorted({path.rpartition("/")[0] for path in paths})
        if "" in folders or row.left_out or not all(self._ledger.alone_in(f, row.z) for f in folders):
            return names
        return [f"/{folder}/" for folder in folders]

    def _acquisition(self, sections: Sequence[Section], facts: Facts) -> Acquisition:
        values: dict[str, object] = {
            "id": self._acquisition_id,
            "instrument": facts.instrument,
            "layout": facts.layout,
            "voxel_size_zyx_nm": facts.voxel_size_zyx_nm,
            "stage_uncertainty_px": facts.stage_uncertainty_px,
            "dtype": facts.dtype or self._dtype(sections[0].z),
            "sections": tuple(sections),
        }
        return build(Acquisition, values, source=str(self._folder))

    def _dtype(self, z: int) -> Literal["uint8", "uint16"]:
        return stated_dtype(self._folder, self._ledger.tiles(z), what=f"section {z}")


def stated_dtype(folder: Path, tiles: Iterable[SeenTile | Tile], *, what: str) -> Literal["uint8", "uint16"]:
    """The pixel type that the first readable one of these tiles states.

    Raises:
        InputError: none does.
    """
    for tile in tiles:
        bits = file_facts(folder / tile.path, plane=tile.plane).bits
        if bits in (8, 16):
            return "uint8" if bits == 8 else "uint16"
    raise InputError(f"{what}: no file states 8 or 16 bits a pixel", remedy="write tiles of one gray plane")


def copy_planes(folder: Path, planes: Sequence[tuple[str, int]], target: Path) -> None:
    """Planes, each a file below `folder` and an index, as a stack of their own in this order, under the first
    one's header without its labels.

    Raises:
        InputError: they are not of one size and type, or a file became shorter.
    """
    first = read_header(folder / planes[0][0])
    with open(target, "wb") as writer:
        for number, (path, plane) in enumerate(planes):
            header = read_header(folder / path)
            if (header.shape_yx, header.mode, header.signed, header.order) != (
                *(first.shape_yx, first.mode, first.signed, first.order),
            ):
                raise InputError(
                    f"{path}: planes of another size or type than {planes[0][0]}", remedy="keep one of them"
                )
            with open(folder / path, "rb") as reader:
                if number == 0:
                    writer.write(without_labels(reader.read(1024), planes=len(planes), order=header.order))
                _copy_plane(reader, writer, header, plane, source=path)


def _copy_plane(reader: BinaryIO, writer: BinaryIO, header: MrcHeader, plane: int, *, source: str) -> None:
    left = header.plane_bytes
    reader.seek(header.plane_end(plane) - left)
    while left:
        chunk = reader.read(min(left, COPY_BYTES))
        if not chunk:
            raise InputError(f"{source}: became shorter", remedy="look at the microscope")
        writer.write(chunk)
        left -= len(chunk)


def clear(documents: str) -> None:
    """Remove the images of a start that has moved them; its documents stay."""
    for path in Path(documents).glob("z*.mrc"):
        path.unlink(missing_ok=True)


def clear_all(root: Path) -> None:
    """Remove what a crash left half packed."""
    for path in root.glob(".*.partial"):
        shutil.rmtree(path, ignore_errors=True)


def _bytes(names: Sequence[str]) -> int:
    return sum(len(name.encode()) + NAME_BYTES for name in names)
