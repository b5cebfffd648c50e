"""SerialEM montages: `X.mrc` with its sidecar `X.mrc.mdoc`, or a series of TIFFs with one `.idoc`.

A block `[ZValue = n]` describes plane n of the stack, `[Image = name]` a file; the third piece coordinate
is the section. `[MontSection = k]` follows the last piece of a section; older versions do not write it, and a
montage that was aborted has none: then the pieces are counted against the grid that they span. y points
up, and so do the rows of an MRC (which the reader turns); serpentine order does not matter, since every
piece has its place. Where several stacks lie in a folder, the number at the end of a name is the z of its
first section. Source: SerialEM help, "About File Formats"; the mdoc files of teamtomo/mdocfile.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from functions.microscopes.common import PathGuard, ReadAcquisition
from functions.microscopes.observing import Facts, Memory, Observed, SeenTile, integers, noted, whole
from functions.model.errors import AcquisitionError

NAME = "serialem"
SUFFIXES = (".mdoc", ".idoc")
HEADER = re.compile(r"\[(ZValue|Image|MontSection) = (.+)\]")
TITLE = re.compile(r"\[(?:T|G) =.*\]?")
HEAD = ("PixelSpacing", "ImageSize", "DataMode")
PLACES = ("AlignedPieceCoordsVS", "AlignedPieceCoords", "PieceCoordinates")
ANGSTROM_PER_NM = 10.0
THICKNESS = "section_thickness_nm"

Block = dict[str, str]


def detect(folder: Path) -> bool:
    """Whether there is a metadata file of SerialEM."""
    return any(path.suffix in SUFFIXES for path in folder.iterdir())


def read(folder: Path) -> ReadAcquisition:
    """Read all metadata files; image files are opened only for sizes that these do not state.

    Raises:
        AcquisitionError: they do not fit, or `petavoxel.json` does not give the section thickness.
    """
    return whole(folder, observe(folder, {}))


def places(folder: Path) -> tuple[Path, ...]:
    """Where stacks and sidecars grow."""
    return (folder,)


def observe(folder: Path, memory: Memory) -> Observed:
    """News of all metadata files since `memory`: {file: {"offset", "head", "section", "xs", "ys"}}."""
    observed = Observed(memory={})
    for path in sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES):
        kept = memory.get(path.name)
        sidecar = _Sidecar(path, kept if isinstance(kept, dict) else {})
        sidecar.observe(observed, PathGuard(folder), thickness_nm=noted(folder, THICKNESS))
        observed.memory[path.name] = sidecar.memory()
    return observed


class _Sidecar:
    """One metadata file: its head (the values before the first block), and how far it was read."""

    def __init__(self, path: Path, kept: dict[str, JsonValue]) -> None:
        self._path = path
        self._offset = int(str(kept.get("offset", 0)))
        head = kept.get("head")
        self._head: Block = {k: str(v) for k, v in head.items()} if isinstance(head, dict) else {}
        self._section = int(str(kept.get("section", -1)))
        self._xs, self._ys = (integers(kept.get(name)) for name in ("xs", "ys"))
        number = re.search(r"(\d+)$", path.name.split(".")[0])
        self._first_z = int(number[1]) if number else 0

    def memory(self) -> dict[str, JsonValue]:
        """For the next look."""
        return {
            "offset": self._offset,
            "head": dict(self._head),
            "section": self._section,
            "xs": list(self._xs),
            "ys": list(self._ys),
        }

    def observe(self, observed: Observed, guard: PathGuard, *, thickness_nm: float) -> None:
        """Take in the blocks that are finished: a blank line or another block follows them."""
        size = self._path.stat().st_size
        if size < self._offset:  # written anew
            self._offset, self._head, self._section = 0, {}, -1
        if size == self._offset:
            return
        with open(self._path, "rb") as handle:
            handle.seek(self._offset)
            data = handle.read()
        blocks, used = _blocks(data)
        self._offset += used
        for kind, value, block in blocks:
            try:
                if kind == "":  # the rest may name people: it is not kept
                    self._head |= {name: block[name] for name in HEAD if name in block}
                elif kind == "MontSection" and self._section >= 0:
                    observed.markers.add(self._section)
                elif kind in ("ZValue", "Image"):
                    self._piece(observed, guard, kind, value, block)
            except (ValueError, LookupError, StopIteration, AcquisitionError) as error:
                observed.problems.append(f"{self._path.name}: [{kind} = {value}]: {error}")
        if blocks and self._head:
            observed.facts = self._facts(thickness_nm)

    def _piece(self, observed: Observed, guard: PathGuard, kind: str, value: str, block: Block) -> None:
        x, y, index = (int(text) for text in block["PieceCoordinates"].split()[:3])
        place = next(block[name] for name in PLACES if name in block).split()
        width, height = (int(text) for text in (block.get("ImageSize") or self._head["ImageSize"]).split())
        pixel_nm, z = self._pixel_nm(block), self._first_z + index
        if z != self._section:
            self._section, self._xs, self._ys = z, set(), set()
        self._xs.add(x)
        self._ys.add(y)
        file = value if kind == "Image" else self._stack()
        seen = SeenTile(
            z=z,
            key=f"y{y:07d} x{x:07d}",
            path=guard.check(_name(file), field=f"{self._path.name}: [{kind} = {value}]"),
            stamp=f"{value}:{block.get('DateTime', '')}",
            row=y,
            column=x,
            stage_yx_nm=(-(float(place[1]) + height) * pixel_nm, float(place[0]) * pixel_nm),
            shape_yx=(height, width),
            plane=int(value) if kind == "ZValue" else None,
        )
        observed.tiles.append(seen)
        observed.markers.discard(z)
        observed.expected[z] = len(self._xs) * len(self._ys)

    def _stack(self) -> str:
        """The MRC that the sidecar belongs to: `X.mrc` of `X.mrc.mdoc`. `ImageFile` is a path at the
        microscope, and may name its user."""
        return self._path.name.removesuffix(self._path.suffix)

    def _pixel_nm(self, block: Block) -> float:
        return float(block.get("PixelSpacing") or self._head["PixelSpacing"]) / ANGSTROM_PER_NM

    def _facts(self, thickness_nm: float) -> Facts | None:
        if "PixelSpacing" not in self._head:
            return None
        pixel_nm = self._pixel_nm({})
        dtypes: dict[str, Literal["uint8", "uint16"]] = {"0": "uint8", "1": "uint16", "6": "uint16"}
        return Facts(
            instrument="SerialEM",
            layout=NAME,
            voxel_size_zyx_nm=(thickness_nm, pixel_nm, pixel_nm),
            dtype=dtypes.get(self._head.get("DataMode", "")),
        )


def _blocks(data: bytes) -> tuple[list[tuple[str, str, Block]], int]:
    """(kind, value, entries) of the finished blocks of a piece of a file, and the bytes they take. The
    head has the kind ''."""
    found: list[tuple[str, str, Block]] = []
    kind, value = "", ""
    block: Block = {}
    used = at = 0
    for raw in data.splitlines(keepends=True):
        line = raw.decode("utf-8", errors="replace").strip()
        header = HEADER.fullmatch(line)
        if not raw.endswith(b"\n"):
            break
        if (header or not line) and (kind or block):
            found.append((kind, value, block))
            kind, value, block = "", "", {}
            used = at
        at += len(raw)
        if header:
            kind, value = header[1], header[2].strip()
        elif line and not TITLE.fullmatch(line):
            name, _, text = line.partition(" = ")
            block[name.strip()] = text.strip()
        else:
            used = at if not (kind or block) else used
    return found, used


def _name(path: str) -> str:
    """The last part of a path, whichever way its slashes lean."""
    return path.replace("\\", "/").rsplit("/", 1)[-1]
