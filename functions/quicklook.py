"""Draw any level of the volume, or a box of it, straight from the raw tiles: a look at it before it is there.

A level is that of the published pyramid (`plan_levels`). Tiles are reduced by the mean of blocks and then
interpolated once; sections that share a voxel are averaged where they show something.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from functions.model.base import Document
from functions.model.errors import VolumeError
from functions.model.geometry import ZYX, Box
from functions.publication.omezarr import create_level
from functions.registration.blend import blend
from functions.registration.masks import Gray, black_margin, reduce_mean
from functions.store.drawing import chained_tiles, layout_reader, load_usable
from functions.store.files import atomic_path
from functions.store.pyramid import Level, plan_levels
from functions.store.run import IngestedSection, Run
from functions.store.tiles import CACHE_BYTES, ReducedTiles
from functions.store.transforms import CHUNK_PX, load_layout, load_transform

Strip = tuple[int, NDArray[np.generic], NDArray[np.bool_]]


class DrawnLevel(Document):
    """What was written; the box in voxels of the volume."""

    folder: str
    level: int
    factor_zyx: ZYX
    offset_zyx: ZYX
    shape_zyx: ZYX
    voxel_size_zyx_nm: tuple[float, float, float]
    sections: int


def draw_level(
    run: Run,
    folder: Path,
    *,
    level: int,
    sections: tuple[int, int] | None = None,
    box: Box | None = None,
) -> DrawnLevel:
    """Write a level as an OME-Zarr image with one array, `0`; voxels without data are 0.

    Args:
        folder: must not exist.
        sections: first and last-plus-one z index of the acquisition.
        box: in voxels of the volume; grown to whole pixels of the level.

    Raises:
        UpstreamError: the stack is not solved.
        VolumeError: the folder exists, there is no such level, or nothing lies in the box.
        AcquisitionError: a tile has changed since ingest, or cannot be read any more.
    """
    if folder.exists():
        raise VolumeError(f"{folder}: exists", remedy="give another folder, or remove it first")
    whole, voxel_nm = run.aligned.volume, run.aligned.volume.voxel_size_zyx_nm
    chosen = _level(plan_levels(whole.shape_zyx, voxel_nm), level)
    target = _target(run, chosen, sections, box)
    drawn = 0
    with atomic_path(folder) as partial:
        array = create_level(
            partial,
            name=run.manifest.acquisition.id,
            factor_zyx=chosen.factor_zyx,
            box=target,
            voxel_size_zyx_nm=voxel_nm,
        )
        for k in range(target.shape_zyx[0]):
            entries = _entries(run, target.offset_zyx[0] + k, chosen.factor_zyx[0], sections)
            drawn += len(entries)
            for top, gray in _plane(run, entries, chosen.factor_zyx[1], target):
                array[k, top : top + gray.shape[0]] = gray
    f = chosen.factor_zyx
    return DrawnLevel(
        folder=str(folder),
        level=level,
        factor_zyx=f,
        offset_zyx=_times(target.offset_zyx, f),
        shape_zyx=target.shape_zyx,
        voxel_size_zyx_nm=(f[0] * voxel_nm[0], f[1] * voxel_nm[1], f[2] * voxel_nm[2]),
        sections=drawn,
    )


def _level(levels: list[Level], number: int) -> Level:
    if not 0 <= number < len(levels):
        raise VolumeError(
            f"level {number}: the volume has levels 0 to {len(levels) - 1}", remedy="choose one of them"
        )
    if levels[number].factor_zyx[1] != levels[number].factor_zyx[2]:
        raise VolumeError(
            f"level {number}: y and x are reduced by {levels[number].factor_zyx[1:]}",
            remedy="choose a level that reduces both alike",
        )
    return levels[number]


def _target(run: Run, level: Level, sections: tuple[int, int] | None, box: Box | None) -> Box:
    """The box to draw, in pixels of the level."""
    whole = run.aligned.volume.box
    if sections is not None:
        first, end = (z - run.aligned.sections[0] for z in sections)
        rows = Box(
            offset_zyx=(max(first, 0), 0, 0), shape_zyx=(max(end, 0) - max(first, 0), *whole.shape_zyx[1:])
        )
        whole = whole.intersect(rows)
    wanted = whole if box is None else whole.intersect(box)
    if not wanted.voxels:
        raise VolumeError(
            f"nothing of the volume {run.aligned.volume.shape_zyx} lies in that box or these sections",
            remedy="give a box in voxels of the volume, sections as z indices of the acquisition",
        )
    start = [o // f for o, f in zip(wanted.offset_zyx, level.factor_zyx, strict=True)]
    stop = [-(-e // f) for e, f in zip(wanted.end_zyx, level.factor_zyx, strict=True)]
    z, y, x = (b - a for a, b in zip(start, stop, strict=True))
    return Box(offset_zyx=(start[0], start[1], start[2]), shape_zyx=(z, y, x))


def _entries(run: Run, index: int, factor: int, sections: tuple[int, int] | None) -> list[IngestedSection]:
    """The usable sections that a plane of the level shows."""
    rows = run.aligned.sections[index * factor : (index + 1) * factor]
    first, end = sections or (rows[0], rows[-1] + 1)
    return [s for s in run.sections if s.section.z in rows and first <= s.section.z < end]


def _plane(run: Run, entries: list[IngestedSection], factor: int, target: Box) -> Iterator[tuple[int, Gray]]:
    """First row and grey values of each strip: the mean of the sections where they show something."""
    for parts in zip(*(_strips(run, e, factor, target, len(entries)) for e in entries), strict=True):
        covered = np.sum([inside > 0 for _, _, inside in parts], axis=0)
        total = np.sum([np.where(inside > 0, gray, 0.0) for _, gray, inside in parts], axis=0)
        yield parts[0][0], np.floor(total / np.maximum(covered, 1) + 0.5).astype(np.uint8)


def _strips(run: Run, entry: IngestedSection, factor: int, target: Box, readers: int) -> Iterator[Strip]:
    """First row, grey values and mask of each strip of a section."""
    layout = load_layout(run, entry.section.id)
    room = CACHE_BYTES // readers
    reader = layout_reader(run, entry, layout, cache_bytes=room if factor == 1 else 0)
    corner = (target.offset_zyx[1] * factor, target.offset_zyx[2] * factor)
    shape = target.shape_zyx[1:]
    if layout.exact_copy:
        yield from _copied(reader.image(0), factor, target)
        return
    transform = load_transform(run, entry.section.id)
    tiles = [t.at_level(factor, corner) for t in chained_tiles(layout, transform, load_usable(run, layout))]
    images = reader if factor == 1 else ReducedTiles(reader, factor, cache_bytes=room)
    for top, gray, inside in blend(tiles, images.image, shape_yx=shape, strip_px=CHUNK_PX):
        yield top, gray, inside > 0


def _copied(pixels: Gray, factor: int, target: Box) -> Iterator[Strip]:
    """A section of an aligned stack: its own pixels, reduced."""
    planes = np.zeros((2, *target.shape_zyx[1:]), np.float32)
    where = target.slices[1:]
    for plane, source in zip(planes, (pixels, ~black_margin(pixels)), strict=True):
        part = reduce_mean(source, factor)[where]
        plane[: part.shape[0], : part.shape[1]] = part
    for top in range(0, planes.shape[1], CHUNK_PX):
        yield top, planes[0, top : top + CHUNK_PX], planes[1, top : top + CHUNK_PX] > 0


def _times(a: ZYX, b: ZYX) -> ZYX:
    return a[0] * b[0], a[1] * b[1], a[2] * b[2]
