"""Planes of a run for its report: slices of the published volume, stitched sections, reslices, seams.

Everything is read at the resolution that is shown, so that a report of a large volume needs little memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray
from scipy import ndimage

from functions.model.acquisition import Section, Tile
from functions.model.errors import AcquisitionError
from functions.model.stage import tile_to_stage
from functions.model.transform import Seam, SectionLayout, Warp
from functions.publication.facts import Facts
from functions.publication.omezarr import ARTEFACTS, LABELS
from functions.publication.pictures import Gray, fit, resize, stretch
from functions.store.pyramid import Level, plan_levels
from functions.store.run import Run
from functions.store.tiles import TileReader

SLICE_PX = 900
WINDOW_PX = 640
RESLICE_SECTIONS = 240
SEAM_PX = 144
FLIP_PX = 440
BAND_PIXELS = 1 << 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A plane of image and labels, scaled to square pixels of tissue."""

    axes: str
    at: int
    image: Gray
    labels: NDArray[np.unsignedinteger]


class PublishedLevels:
    """The levels of a bundle's volume, for reading."""

    def __init__(self, volume: Path, facts: Facts) -> None:
        self.voxel_nm = facts.image.voxel_size_zyx_nm
        self.levels = plan_levels(facts.image.shape_zyx, self.voxel_nm)
        self._image = [zarr.open_array(str(volume / lv.path), mode="r") for lv in self.levels]
        self._labels = [
            zarr.open_array(str(volume / "labels" / LABELS / lv.path), mode="r") for lv in self.levels
        ]
        self._codes = [
            zarr.open_array(str(volume / "labels" / ARTEFACTS / lv.path), mode="r") for lv in self.levels
        ]

    def middle_row(self) -> int:
        """The row nearest to the middle that has an image."""
        rows = self.levels[0].shape_zyx[0]
        for row in sorted(range(rows), key=lambda z: abs(z - rows // 2)):
            if self.row(row, longest_px=64).any():
                return row
        return rows // 2

    def row(self, z: int, *, longest_px: int) -> Gray:
        """Row z of the image, its longer side about `longest_px`, from a level that keeps all rows."""
        plane = np.asarray(self._image[self._flat(longest_px)][z])
        return np.asarray(resize(plane, fit(plane.shape, min(longest_px, max(plane.shape))), smooth=True))

    def codes(self, z: int, *, longest_px: int) -> Gray:
        """Artefact codes of row z, as large as `row` gives it."""
        plane = np.asarray(self._codes[self._flat(longest_px)][z])
        return np.asarray(resize(plane, fit(plane.shape, min(longest_px, max(plane.shape))), smooth=False))

    def _flat(self, longest_px: int) -> int:
        """The level that rows are shown from."""
        flat = [lv for lv in self.levels if lv.factor_zyx[0] == 1]
        return int(_finest(flat, longest_px * 2).path)

    def slices(self) -> Iterator[Slice]:
        """xy, xz and yz through the middle."""
        z = self.middle_row()
        centre = (z, self.levels[0].shape_zyx[1] // 2, self.levels[0].shape_zyx[2] // 2)
        for axis, axes in ((0, "xy"), (1, "xz"), (2, "yz")):
            yield self._slice(axis, centre[axis], axes)

    def _slice(self, axis: int, at: int, axes: str) -> Slice:
        level = _finest(self.levels, SLICE_PX)
        place: list[slice | int] = [slice(None)] * 3
        place[axis] = min(at // level.factor_zyx[axis], level.shape_zyx[axis] - 1)
        image = np.asarray(self._image[int(level.path)][tuple(place)])
        labels = np.asarray(self._labels[int(level.path)][tuple(place)])
        nm = [n * f * v for n, f, v in zip(level.shape_zyx, level.factor_zyx, self.voxel_nm, strict=True)]
        y, x = (nm[i] for i in range(3) if i != axis)
        if axis == 2:  # z runs to the right, beside the xy slice
            image, labels, y, x = image.T, labels.T, x, y
        pixel = max(nm[1], nm[2], nm[0] / 2) / min(SLICE_PX, max(level.shape_zyx[1:]))  # deep: bounded too
        shape = max(1, round(y / pixel)), max(1, round(x / pixel))
        return Slice(
            axes=axes,
            at=at,
            image=stretch(np.asarray(resize(image, shape, smooth=True))),
            labels=np.asarray(resize(labels, shape, smooth=False)),
        )


def stitched_preview(run: Run, layout: SectionLayout, *, longest_px: int) -> Gray:
    """A stitched section, shrunk by a whole factor, read in bands."""
    array = _stitched(run, layout)
    _, height, width = array.shape
    factor = max(1, -(-max(height, width) // longest_px))
    band = max(factor, BAND_PIXELS // width // factor * factor)
    rows = []
    for y in range(0, height - height % factor or height, band):
        part = np.asarray(array[0, y : min(y + band, height)])
        part = part[: len(part) // factor * factor or 1, : width // factor * factor or 1]
        rows.append(
            np.add.reduceat(np.add.reduceat(part.astype(np.uint32), np.arange(0, len(part), factor), axis=0),
                            np.arange(0, part.shape[1], factor), axis=1) // factor**2
        )  # fmt: skip
    return np.concatenate(rows).astype(np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reslices:
    """The same tissue cut along z before and after alignment, rows are sections."""

    axes: str
    before: Gray
    after: Gray


def reslices(facts: Facts) -> Iterator[Reslices]:
    """xz and yz through the middle: sections as the stage placed them, and as they were aligned."""
    run, frame = facts.run, facts.run.aligned
    rows, height, width = frame.volume.shape_zyx
    by_z = {s.section.z: layout for s, layout in zip(run.sections, facts.layouts, strict=True)}
    shown = range(max(0, (rows - RESLICE_SECTIONS) // 2), min(rows, (rows + RESLICE_SECTIONS) // 2))
    middle = min((i for i in shown if frame.sections[i] in by_z), key=lambda i: abs(i - rows // 2))
    reference = by_z[frame.sections[middle]]
    centre = np.array([[height // 2, width // 2]], dtype=np.float64)
    stage = facts.transforms[reference.section].inverse(centre)[0] + reference.stage_origin_yx_px
    aligned = zarr.open_array(str(run.work / frame.volume.path), mode="r")
    for axes, axis in (("xz", 1), ("yz", 0)):
        half = min(WINDOW_PX, (height, width)[axis]) // 2
        before = [
            _stage_line(run, by_z[z], stage, axis, half) if z in by_z else np.zeros(2 * half, np.uint8)
            for z in (frame.sections[i] for i in shown)
        ]
        start = (height, width)[axis] // 2 - half
        window = slice(start, start + 2 * half)
        index = (height // 2, window) if axis == 1 else (window, width // 2)
        after = np.asarray(aligned[(slice(shown.start, shown.stop), *index)])
        yield Reslices(axes=axes, before=stretch(np.stack(before)), after=stretch(after))


def _stage_line(run: Run, layout: SectionLayout, stage: NDArray[np.float64], axis: int, half: int) -> Gray:
    """2 * half pixels of a stitched section along `axis`, around a stage position; 0 outside."""
    array = _stitched(run, layout)
    y, x = (round(float(p - o)) for p, o in zip(stage, layout.stage_origin_yx_px, strict=True))
    line = np.zeros(2 * half, dtype=np.uint8)
    across, along = (y, x) if axis == 1 else (x, y)
    if not 0 <= across < array.shape[2 if axis == 0 else 1]:
        return line
    start, stop = max(0, along - half), min(array.shape[1 + axis], along + half)
    if stop > start:
        part = array[0, across, start:stop] if axis == 1 else array[0, start:stop, across]
        line[start - along + half : stop - along + half] = np.asarray(part)
    return line


def seam_pictures(
    reader: TileReader,
    section: Section,
    layout: SectionLayout,
    seam: Seam,
    *,
    centre_yx: tuple[float, float],
) -> list[Gray]:
    """Both tiles' own pixels around a place on their seam, each in section px; empty where a file is gone."""
    shape = (SEAM_PX, SEAM_PX)
    points = _points(np.rint(centre_yx) - SEAM_PX / 2, shape)
    names = [tile.id for tile in section.tiles]
    pictures = []
    for tile_id in (seam.a, seam.b):
        try:
            pixels = reader.image(names.index(tile_id))
        except AcquisitionError:
            return []
        pictures.append(stretch(_drawn(pixels, layout.tile(tile_id).warp, points, shape)))
    return pictures


def staged_and_solved(
    reader: TileReader,
    section: Section,
    layout: SectionLayout,
    pixel_yx_nm: tuple[float, float],
    *,
    centre_yx: tuple[float, float],
) -> list[Gray]:
    """A part of a section with its tiles where the stage put them, and where they were placed.

    Tiles are averaged where they overlap: what does not fit is seen twice. Empty where a file is gone.
    """
    shape = (min(FLIP_PX, layout.shape_yx[0]), min(FLIP_PX, layout.shape_yx[1]))
    corner = np.rint(np.array(centre_yx) - np.array(shape) / 2)
    points = _points(np.clip(corner, 0, np.array(layout.shape_yx) - shape), shape)
    staged = [_staged(tile, pixel_yx_nm, layout) for tile in section.tiles]
    pictures = []
    for by_stage in (True, False):
        total, count = np.zeros(shape), np.zeros(shape)
        for k, tile in enumerate(section.tiles):
            warp = layout.tile(tile.id).warp
            if by_stage:
                warp = staged[k]
            if not _touches(warp, tile.shape_yx, points):
                continue
            try:
                values = _drawn(reader.image(k), warp, points, shape)
            except AcquisitionError:
                return []
            total, count = total + values, count + (values > 0)
        pictures.append(stretch((total / np.maximum(count, 1)).astype(np.uint8)))
    return pictures


def _staged(tile: Tile, pixel_yx_nm: tuple[float, float], layout: SectionLayout) -> Warp:
    """Where the stage puts a tile in its section."""
    affine = tile_to_stage(tile, pixel_yx_nm) / np.array(pixel_yx_nm)[:, None]
    affine[:, 2] -= layout.stage_origin_yx_px
    return Warp(affine=affine)


def _points(corner_yx: NDArray[np.float64], shape_yx: tuple[int, int]) -> NDArray[np.float64]:
    """Points (N, 2) of a box of section px."""
    axes = [np.arange(n, dtype=np.float64) for n in shape_yx]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2) + corner_yx


def _drawn(pixels: Gray, warp: Warp, points_yx: NDArray[np.float64], shape_yx: tuple[int, int]) -> Gray:
    """A tile's pixels at section points; 0 outside of it."""
    at = warp.inverse(points_yx).T
    values = ndimage.map_coordinates(pixels, at, order=1, mode="constant", cval=0)
    return np.asarray(values.reshape(shape_yx), dtype=np.uint8)


def _touches(warp: Warp, shape_yx: tuple[int, int], points_yx: NDArray[np.float64]) -> bool:
    """Whether a placed tile may cover one of the points; some slack for its bending."""
    h, w = shape_yx
    corners = warp.apply(np.array([[0, 0], [0, w], [h, 0], [h, w]], dtype=np.float64))
    low, high = corners.min(axis=0) - SEAM_PX, corners.max(axis=0) + SEAM_PX
    return bool((points_yx.max(axis=0) >= low).all() and (points_yx.min(axis=0) <= high).all())


def _stitched(run: Run, layout: SectionLayout) -> zarr.Array:
    return zarr.open_array(str(run.cell("stitch", layout.section).file("image.zarr")), mode="r")


def _finest(levels: list[Level], longest_px: int) -> Level:
    """The finest level whose rows are at most `longest_px` long, else the coarsest."""
    fitting = [lv for lv in levels if max(lv.shape_zyx[1:]) <= longest_px]
    return fitting[0] if fitting else levels[-1]
