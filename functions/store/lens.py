"""A camera's lens as a file, and whether it is of the camera that imaged a section."""

from __future__ import annotations

import math
from pathlib import Path

from functions.model.errors import TaskError
from functions.model.lens import Lens
from functions.registration.lens import LensPrior
from functions.store.run import IngestedSection, Run

SAME_PIXEL = 1e-3
"""Pixel sizes that differ by a smaller share are equal."""


def read_lens(path: Path, *, field: str) -> Lens:
    """The lens in a file that `field` names.

    Raises:
        TaskError: it is missing, or no lens.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TaskError(
            f"{field}: {path}: cannot be read ({error.strerror})",
            remedy="write it with `petavoxel acquisition lens`",
        ) from None
    return Lens.parse(data, source=f"{field}: {path}")


def lens_prior(run: Run, entry: IngestedSection) -> LensPrior | None:
    """What `stitch.lens` says of the tiles of a section; None without one, and in aligned stacks.

    Raises:
        TaskError: the file is missing or damaged, or of tiles of another shape or pixel size.
    """
    path = run.lens_path
    if path is None or run.manifest.acquisition.aligned:
        return None
    lens = read_lens(path, field="stitch.lens")
    shapes = [tile.shape_yx for tile in entry.section.tiles]
    usual = run.manifest.acquisition.voxel_size_zyx_nm[1]
    sizes = {usual if t.pixel_size_yx_nm is None else t.pixel_size_yx_nm[0] for t in entry.section.tiles}
    for size in sorted(sizes):
        check_lens(
            lens,
            shape_yx=(max(y for y, _ in shapes), max(x for _, x in shapes)),
            pixel_size_nm=size,
            subject=f"stitch.lens: {path}: section {entry.section.id}",
        )
    shading = None if lens.shading is None else lens.shading.shading
    return LensPrior(sheet=lens.sheet.sheet, weight=lens.weight, shading=shading)


def check_lens(lens: Lens, *, shape_yx: tuple[int, int], pixel_size_nm: float, subject: str) -> None:
    """Refuse a lens of other tiles.

    Raises:
        TaskError: tile shape or pixel size differ.
    """
    fault = None
    if lens.tile_shape_yx != shape_yx:
        fault = f"tile_shape_yx: tiles of {shape_yx} px, the lens is of {lens.tile_shape_yx} px"
    elif not math.isclose(lens.pixel_size_nm, pixel_size_nm, rel_tol=SAME_PIXEL):
        fault = f"pixel_size_nm: pixels of {pixel_size_nm:g} nm, the lens is of {lens.pixel_size_nm:g} nm"
    if fault is not None:
        raise TaskError(f"{subject}: {fault}", remedy="give the lens of this camera at this setting, or none")
