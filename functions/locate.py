"""Where is this: from a pixel of a raw tile, or a place of the stage, to the voxel of the volume, and back.

Voxels, pixels of sections and of tiles have their centres at whole numbers; voxel (z, y, x) lies at
(z, y, x) * voxel size in nm. The stage is asked through the tile: a place of the stage is the pixel of the
tile that the microscope took there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np

from functions.model.acquisition import Tile
from functions.model.base import Document
from functions.model.chain import Chain
from functions.model.errors import TaskError
from functions.model.stage import tile_to_stage
from functions.model.transform import Points, SectionLayout, SectionTransform, TileTransform, Warp
from functions.registration.blend import Floats, ramp
from functions.registration.render import ChainedTile
from functions.store.drawing import chained_tiles, load_usable
from functions.store.point_files import PointRow
from functions.store.run import Run
from functions.store.transforms import load_layout, load_transform

YX = tuple[float, float]
ZYX = tuple[float, float, float]
State = Literal["shown", "masked", "no_tile", "cut", "missing_section", "outside_volume", "outside_tile"]
NOTES: dict[State, str] = {
    "shown": "",
    "masked": "a tile covers it, but not with a picture: a margin, or dead or saturated pixels",
    "no_tile": "no tile covers it",
    "cut": "in a fold or crack: no tissue of the section lies there, or another part of it does",
    "missing_section": "the acquisition has no usable section there",
    "outside_volume": "outside the volume",
    "outside_tile": "outside the tile",
}
SAME_PX = 0.1
"""A point that comes back further off has been covered by another part of its section."""


class TileHit(Document):
    """A tile that covers a point; `drawn`: of all, it has the largest share in the voxel."""

    tile: str
    yx_px: YX
    stage_yx_nm: YX
    weight: float
    drawn: bool = False


class Located(Document):
    """One point, as far as it could be followed."""

    state: State
    note: str = ""
    section: str | None = None
    section_yx_px: YX | None = None
    voxel_zyx: ZYX | None = None
    volume_zyx_nm: ZYX | None = None
    tiles: tuple[TileHit, ...] = ()

    @property
    def drawn(self) -> TileHit | None:
        """The tile whose pixels are seen."""
        return next((hit for hit in self.tiles if hit.drawn), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedSection:
    """A section and its tiles; `raw` and `tiles` in the order of the layout; `ramps` are made on need."""

    row: int
    layout: SectionLayout
    transform: SectionTransform
    tiles: list[ChainedTile]
    raw: list[Tile]
    ramps: dict[int, Floats] = field(default_factory=dict)

    def weight(self, index: int, yx_px: Points) -> float:
        """Share of tile `index` in what is drawn at its pixel (1, 2); shares need not sum to 1."""
        tile = self.tiles[index]
        if index not in self.ramps:
            self.ramps[index] = ramp(tile.usable)
        return float(tile.weight(np.clip(yx_px, 0, np.array(tile.shape_yx) - 1), self.ramps[index])[0])


class Locator:
    """Follows points through the solved geometry of a run; reads layouts and transforms, no pixels."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._frame = run.aligned
        self._voxel_nm = run.manifest.acquisition.voxel_size_zyx_nm
        self._ids = {entry.section.z: entry.section.id for entry in run.sections}
        self._section = lru_cache(maxsize=4)(self._load)

    def from_tile(self, z: int, tile_id: str, yx_px: YX) -> Located:
        """Where a pixel of a tile of the section with index `z` lies.

        Raises:
            TaskError: there is no such section or tile.
            VolumeError: the section or the stack is not solved.
        """
        section = self._section(self._known(z))
        names = [tile.tile_id for tile in section.layout.tiles]
        if tile_id not in names:
            raise TaskError(f"section {z}: no usable tile {tile_id}", remedy=f"use one of {_listed(names)}")
        point = np.array([yx_px], dtype=np.float64)
        placed = section.layout.tiles[names.index(tile_id)]
        if not _inside(point, placed.shape_yx)[0]:
            return self._answer("outside_tile", section)
        on_section = placed.warp.apply(point)
        aligned = section.transform.apply(on_section)
        back = Chain(warps=(section.transform.warp,)).inverse(aligned)
        if not np.linalg.norm(back - on_section) < SAME_PX:
            return self._answer("cut", section, on_section, aligned)
        return self._judged(section, on_section, aligned)

    def from_stage(self, z: int, yx_nm: YX) -> Located:
        """Where the microscope's stage position (y, x), as it noted it with section `z`, lies.

        Raises:
            TaskError, VolumeError: see `from_tile`.
        """
        section = self._section(self._known(z))
        shown = []
        for tile in section.raw:
            pixel = self._on_stage(tile).inverse(np.array([yx_nm], dtype=np.float64))[0]
            if _inside(pixel[None], tile.shape_yx)[0]:
                middle = (np.array(tile.shape_yx) - 1) / 2
                shown.append((float(np.linalg.norm(pixel - middle)), tile.id, pixel))
        if not shown:
            return self._answer("no_tile", section)
        _, tile_id, pixel = min(shown, key=lambda row: row[:2])
        return self.from_tile(z, tile_id, (float(pixel[0]), float(pixel[1])))

    def from_voxel(self, zyx: ZYX) -> Located:
        """What is seen at a voxel; y and x need not be whole numbers.

        Raises:
            VolumeError: the section or the stack is not solved.
        """
        shape = self._frame.volume.shape_zyx
        row = int(np.rint(zyx[0]))
        if not 0 <= row < shape[0] or not _inside(np.array([zyx[1:]]), shape[1:])[0]:
            return Located(state="outside_volume", note=NOTES["outside_volume"], voxel_zyx=zyx)
        z = self._frame.sections[row]
        if z not in self._ids:
            return Located(state="missing_section", note=NOTES["missing_section"], voxel_zyx=zyx)
        section = self._section(self._ids[z])
        aligned = np.array([zyx[1:]], dtype=np.float64)
        on_section = Chain(warps=(section.transform.warp,)).inverse(aligned)
        if not np.isfinite(on_section).all():
            return self._answer("cut", section, None, aligned)
        return self._judged(section, on_section, aligned)

    def _on_stage(self, tile: Tile) -> Warp:
        """The map from px of a raw tile to nm of the stage."""
        return Warp(affine=tile_to_stage(tile, self._voxel_nm[1:]))

    def from_row(self, row: PointRow) -> Located:
        """The point of a line of a CSV file.

        Raises:
            TaskError, VolumeError: see `from_tile`.
        """
        if row.form[0] != "section":
            z, y, x = row.numbers
            return self.from_voxel((z, y, x))
        z, y, x = row.numbers
        return self.from_tile(int(z), row.tile, (y, x)) if row.tile else self.from_stage(int(z), (y, x))

    def from_rows(self, rows: Sequence[PointRow]) -> list[Located]:
        """The points of a CSV file, in its order; each section is read once.

        Raises:
            TaskError, VolumeError: see `from_tile`.
        """
        found: dict[int, Located] = {}
        for k in sorted(range(len(rows)), key=lambda k: rows[k].numbers[0]):
            found[k] = self.from_row(rows[k])
        return [found[k] for k in range(len(rows))]

    def _judged(self, section: PlacedSection, on_section: Points, aligned: Points) -> Located:
        """The answer for a point that has one place in its section, with every tile that covers it."""
        hits, weights = [], []
        for k, (raw, placed) in enumerate(zip(section.raw, section.layout.tiles, strict=True)):
            if not _near(placed, on_section):
                continue
            pixel = Chain(warps=(placed.warp,)).inverse(on_section)
            if np.isfinite(pixel).all() and _inside(pixel, placed.shape_yx)[0]:
                stage = self._on_stage(raw).apply(pixel)[0]
                weights.append(section.weight(k, pixel))
                hits.append(
                    TileHit(tile=raw.id, yx_px=_yx(pixel), stage_yx_nm=_yx(stage[None]), weight=weights[-1])
                )
        state: State = "shown"
        if not hits:
            state = "no_tile"
        elif max(weights) == 0.0:
            state = "masked"
        else:
            best = int(np.argmax(weights))
            hits[best] = hits[best].model_copy(update={"drawn": True})
        if not _inside(aligned, self._frame.volume.shape_zyx[1:])[0]:
            state = "outside_volume"
        return self._answer(state, section, on_section, aligned, tuple(hits))

    def _answer(
        self,
        state: State,
        section: PlacedSection,
        on_section: Points | None = None,
        aligned: Points | None = None,
        tiles: tuple[TileHit, ...] = (),
    ) -> Located:
        voxel = None if aligned is None else (float(section.row), *_yx(aligned))
        return Located(
            state=state,
            note=NOTES[state],
            section=section.layout.section,
            section_yx_px=None if on_section is None else _yx(on_section),
            voxel_zyx=voxel,
            volume_zyx_nm=None
            if voxel is None
            else (voxel[0] * self._voxel_nm[0], voxel[1] * self._voxel_nm[1], voxel[2] * self._voxel_nm[2]),
            tiles=tiles,
        )

    def _known(self, z: int) -> str:
        if z not in self._ids:
            raise TaskError(
                f"section {z}: not among the usable sections", remedy=f"use one of {_listed(self._ids)}"
            )
        return self._ids[z]

    def _load(self, section_id: str) -> PlacedSection:
        entry = next(s for s in self._run.sections if s.section.id == section_id)
        layout, transform = load_layout(self._run, section_id), load_transform(self._run, section_id)
        raw = {tile.id: tile for tile in entry.section.tiles}
        return PlacedSection(
            row=self._frame.sections.index(entry.section.z),
            layout=layout,
            transform=transform,
            tiles=chained_tiles(layout, transform, load_usable(self._run, layout)),
            raw=[raw[tile.tile_id] for tile in layout.tiles],
        )


def flat(found: Located) -> dict[str, object]:
    """What was found as the columns of a CSV file."""
    hit = found.drawn
    pairs = {
        ("section_y_px", "section_x_px"): found.section_yx_px,
        ("found_voxel_z", "found_voxel_y", "found_voxel_x"): found.voxel_zyx,
        ("volume_z_nm", "volume_y_nm", "volume_x_nm"): found.volume_zyx_nm,
        ("drawn_y_px", "drawn_x_px"): None if hit is None else hit.yx_px,
        ("drawn_stage_y_nm", "drawn_stage_x_nm"): None if hit is None else hit.stage_yx_nm,
    }
    columns: dict[str, object] = {
        "state": found.state,
        "section_id": found.section,
        "drawn_tile": None if hit is None else hit.tile,
    }
    for names, values in pairs.items():
        columns |= zip(names, values if values is not None else [None] * len(names), strict=True)
    return columns


def _inside(points_yx: Points, shape_yx: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Which points (N, 2) lie on a pixel of an image, the outer halves of its border pixels included."""
    return np.asarray(((points_yx >= -0.5) & (points_yx <= np.array(shape_yx) - 0.5)).all(axis=1))


def _near(tile: TileTransform, on_section: Points) -> bool:
    """Whether a point (1, 2) may lie on a tile: no sheet moves by more than its largest coefficient."""
    sheet = tile.warp.sheet
    reach = 1.0 if sheet is None else 2.0 * float(np.abs(sheet.coefficients).max()) + 1.0
    straight = Warp(affine=tile.warp.affine).inverse(on_section)[0]
    return bool((straight >= -reach).all() and (straight <= np.array(tile.shape_yx) + reach).all())


def _yx(points: Points) -> YX:
    """The first point, to a tenth of a thousandth."""
    y, x = (round(float(v), 4) for v in points[0])
    return y, x


def _listed(names: Iterable[object], most: int = 6) -> str:
    words = [str(name) for name in names]
    return ", ".join(words[:most]) + (f" .. {words[-1]}" if len(words) > most else "")
