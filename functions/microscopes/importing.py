"""Turn other material into a plain acquisition folder: aligned stacks and generic tile lists."""

from __future__ import annotations

import csv
import math
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from functions.microscopes import plain
from functions.microscopes.common import PathGuard, build, identifier, read_text
from functions.model.acquisition import Acquisition, Section, Tile
from functions.model.errors import AcquisitionError, safe_join
from functions.model.geometry import Box
from functions.store.files import atomic_path, sha256_file
from functions.store.images import TilePixels, read_tile, tile_shape, write_tile

IMAGE_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg")
RAW_NAMES = ("raw", "image", "data")


def import_stack(
    source: Path, out: Path, *, voxel_size_zyx_nm: tuple[float, float, float], box: Box | None = None
) -> Path:
    """Write an already aligned stack as a plain acquisition, one tile a section; z counts from the box.

    `source` is a .npy or .npz (array `raw`, `image`, `data`, or its only one; nothing pickled), a TIFF
    stack, or a folder of images in the order of their names, z9 before z10. `out` must not exist.

    Raises:
        AcquisitionError: the source is not such a stack, the box leaves it, or `out` exists.
    """
    if out.exists():
        raise AcquisitionError(f"{out}: exists already", remedy="choose a new folder")
    planes = _planes(source)
    shape = (len(planes), *planes[0].shape)
    whole = Box(offset_zyx=(0, 0, 0), shape_zyx=(shape[0], shape[1], shape[2]))
    taken = box or whole
    if not whole.contains(taken) or taken.voxels == 0:
        raise AcquisitionError(
            f"{source}: box {taken} leaves the stack {shape}", remedy="choose a box inside it"
        )
    z_slice, y_slice, x_slice = taken.slices
    sections = []
    with atomic_path(out) as partial:
        for z, index in enumerate(range(z_slice.start, z_slice.stop)):
            plane = planes[index]
            if plane.shape != planes[0].shape or plane.dtype != planes[0].dtype:
                raise AcquisitionError(
                    f"{source}: plane {index}: {plane.shape} {plane.dtype}, the first has "
                    f"{planes[0].shape} {planes[0].dtype}",
                    remedy="give planes of one shape and type",
                )
            name = f"tiles/z{z:05d}.tif"
            write_tile(partial / name, np.ascontiguousarray(plane[y_slice, x_slice]))
            tile = Tile(
                row=0,
                column=0,
                path=name,
                stage_yx_nm=(0.0, 0.0),
                shape_yx=taken.shape_zyx[1:],
                sha256=sha256_file(partial / name),
            )
            sections.append(Section(z=z, tiles=(tile,)))
        values: dict[str, object] = {
            "id": identifier(out.name),
            "instrument": f"imported from {source.name}"[:200],
            "layout": plain.NAME,
            "voxel_size_zyx_nm": voxel_size_zyx_nm,
            "stage_uncertainty_px": 0.0,
            "aligned": True,
            "dtype": str(planes[0].dtype),
            "sections": tuple(sections),
        }
        plain.write(partial, build(Acquisition, values, source="voxel_size_zyx_nm"))
    return out


class _Folder:
    """Images of a folder as planes, read when asked for."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> TilePixels:
        return read_tile(self._paths[index])


def _planes(source: Path) -> NDArray[np.generic] | _Folder:
    """The stack as something with planes: `len()`, and (y, x) arrays by index."""
    if source.is_dir():
        images = [p for p in source.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES]
        if not images:
            raise AcquisitionError(f"{source}: no TIFF, PNG or JPEG in it", remedy="give a folder of images")
        return _Folder(sorted(images, key=_natural))
    if not source.exists():
        raise AcquisitionError(f"{source}: no such file or folder", remedy="give the stack of images")
    try:
        array = _load(source)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, tifffile.TiffFileError) as error:
        text = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise AcquisitionError(
            f"{source}: cannot be read ({text})",
            remedy="give a .npy, a .npz, a TIFF stack or a folder of images",
        ) from None
    if array.ndim != 3 or array.dtype not in (np.uint8, np.uint16) or 0 in array.shape:
        raise AcquisitionError(
            f"{source}: {array.ndim}-d array {array.shape} of {array.dtype}",
            remedy="give a z, y, x stack of uint8 or uint16",
        )
    return array


def _load(source: Path) -> NDArray[np.generic]:
    if source.suffix == ".npy":
        return np.asarray(np.lib.format.open_memmap(source, mode="r"))  # never reads pickles
    if source.suffix == ".npz":
        with np.load(source, allow_pickle=False) as arrays:
            names = [n for n in RAW_NAMES if n in arrays.files] or list(arrays.files)
            if len(names) > 1 and names[0] not in RAW_NAMES:
                raise ValueError(f"arrays {names}, none of them called {' or '.join(RAW_NAMES)}")
            return np.asarray(arrays[names[0]])
    with tifffile.TiffFile(source) as tiff:
        return np.asarray(tiff.asarray(maxworkers=1))


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key in which z9 comes before z10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def import_tiles_csv(
    source: Path, images: Path, *, voxel_size_zyx_nm: tuple[float, float, float], section: int = 0
) -> Path:
    """Write `acquisition.json` and `tiles.csv` into `images` from a generic tile list; nothing is copied.

    `source` is a Fiji `TileConfiguration.txt` (`name; ; (x, y)`) or a FEABAS coordinate list (name, x, y
    by tabs, `{...}` lines skipped); positions in pixels, paths relative to `images`.

    Raises:
        AcquisitionError: no tile in it, or a line does not fit (named).
    """
    guard = PathGuard(images)
    tiles: list[Tile] = []
    dtype = ""
    for number, name, x, y in _positions(source):
        field = f"{source.name}: line {number}: path"
        path = safe_join(images, guard.check(name, field=field), field=field)
        dtype = dtype or str(read_tile(path).dtype)
        tiles.append(
            Tile(
                row=0,
                column=len(tiles),
                path=path.relative_to(images.resolve()).as_posix(),
                stage_yx_nm=(y * voxel_size_zyx_nm[1], x * voxel_size_zyx_nm[2]),
                shape_yx=tile_shape(path),
            )
        )
    if not tiles:
        raise AcquisitionError(
            f"{source}: no tiles in it", remedy="give a TileConfiguration.txt or name, x, y by tabs"
        )
    values: dict[str, object] = {
        "id": identifier(images.name),
        "instrument": f"imported from {source.name}"[:200],
        "layout": plain.NAME,
        "voxel_size_zyx_nm": voxel_size_zyx_nm,
        "dtype": dtype,
        "sections": (Section(z=section, tiles=tuple(tiles)),),
    }
    plain.write(images, build(Acquisition, values, source=source.name))
    return images


def _positions(source: Path) -> Iterator[tuple[int, str, float, float]]:
    """(line number, name, x, y) of each tile line."""
    fiji = re.compile(r"^([^;]+);[^;]*;\s*\(([^,]+),([^,)]+)(?:,[^)]*)?\)\s*$")
    text = read_text(source, limit=1 << 28)
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith(("#", "{", "dim", "multiseries")):
            continue
        match = fiji.match(line)
        cells = list(match.groups()) if match else next(csv.reader([line], delimiter="\t"))[:3]
        try:
            name, x, y = cells[0].strip(), float(cells[1]), float(cells[2])
        except (ValueError, IndexError):
            raise AcquisitionError(
                f"{source.name}: line {number}: not a name and two positions", remedy="correct the line"
            ) from None
        if not (math.isfinite(x) and math.isfinite(y)):
            raise AcquisitionError(
                f"{source.name}: line {number}: position is not finite", remedy="correct the line"
            )
        yield number, name, x, y
