"""All transforms of a volume as a folder of small files that explain themselves.

transforms/
    index.json           the volume's frame, what the numbers mean, and the sections
    z00003.json          section px -> volume px: affine; the sheet in z00003.npz beside it
    z00003.tiles.json    tile px -> section px of each raw tile: affine, sheet, grey values, file, stage
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from functions.model.base import Document
from functions.model.chain import Chain
from functions.model.errors import VolumeError
from functions.model.transform import ContrastMap, TileTransform
from functions.store.files import write_json
from functions.store.run import IngestedSection, Run
from functions.store.transforms import load_layout, load_transform, read_transform, write_transform

INDEX = "index.json"
REMEDY = "export the transforms again"
CONVENTIONS = {
    "points": "(y, x) in px; a pixel's centre has whole coordinates; y grows downwards",
    "tile": "section_yx = affine @ (y, x, 1) + sheet(y, x) of a pixel (y, x) of the raw tile",
    "section": "volume_yx = affine @ (y, x, 1) + sheet(y, x) of a pixel (y, x) of the section; its row is z",
    "sheet": (
        "displacement (y, x) in px by uniform cubic B-splines: with u = clip(p / spacing_px, 0, n - 3),"
        " i = min(floor(u), n - 4), t = u - i for each axis of n knots, the sum over j, k = 0..3 of"
        " B_j(t_y) B_k(t_x) coefficients[:, i_y + j, i_x + k], where B_0..B_3 are"
        " (1 - t)^3 / 6, (3 t^3 - 6 t^2 + 4) / 6, (-3 t^3 + 3 t^2 + 3 t + 1) / 6, t^3 / 6"
    ),
    "cut": (
        "coefficients (K, 2, gy, gx) hold in region 0..K-1 of `regions` (cells of 8 px); on a fold or crack"
        " (-1) the nearest region holds"
    ),
    "grey": "written = contrast.gain * (gain * raw + offset) + contrast.offset",
    "volume_nm": "(z, y, x) * voxel_size_zyx_nm is the centre of voxel (z, y, x)",
}


class IndexedSection(Document):
    """A section by its id, its z index in the acquisition and its row (z) in the volume."""

    id: str
    z: int
    row: int


class TransformIndex(Document):
    """`index.json`."""

    format: Literal["petavoxel.transforms/1"] = "petavoxel.transforms/1"
    acquisition: str
    voxel_size_zyx_nm: tuple[float, float, float]
    shape_zyx: tuple[int, int, int]
    sections: tuple[IndexedSection, ...]
    conventions: dict[str, str] = CONVENTIONS


class RawTile(Document):
    """A raw tile: its file in the acquisition, where the stage was in nm, and where it lies."""

    path: str
    sha256: str | None
    stage_yx_nm: tuple[float, float]
    transform: TileTransform


class SectionTiles(Document):
    """`<section>.tiles.json`."""

    format: Literal["petavoxel.tiles/1"] = "petavoxel.tiles/1"
    section: str
    shape_yx: tuple[int, int]
    stage_origin_yx_px: tuple[float, float]
    contrast: ContrastMap
    exact_copy: bool
    tiles: tuple[RawTile, ...]


def write_transforms(run: Run, folder: Path) -> int:
    """Write the transforms of all usable sections; returns how many there are.

    Raises:
        UpstreamError: the stack is not solved.
        VolumeError: a layout or a transform is missing.
    """
    frame = run.aligned
    rows = {z: row for row, z in enumerate(frame.sections)}
    for entry in run.sections:
        write_transform(folder, load_transform(run, entry.section.id))
        write_json(folder / f"{entry.section.id}.tiles.json", _tiles(run, entry).to_json())
    index = TransformIndex(
        acquisition=run.manifest.acquisition.id,
        voxel_size_zyx_nm=frame.volume.voxel_size_zyx_nm,
        shape_zyx=frame.volume.shape_zyx,
        sections=tuple(
            IndexedSection(id=s.section.id, z=s.section.z, row=rows[s.section.z]) for s in run.sections
        ),
    )
    write_json(folder / INDEX, index.to_json())
    return len(index.sections)


def _tiles(run: Run, entry: IngestedSection) -> SectionTiles:
    layout = load_layout(run, entry.section.id)
    raw = {tile.id: tile for tile in entry.section.tiles}
    known = dict(zip(raw, entry.sha256, strict=False))
    return SectionTiles(
        section=layout.section,
        shape_yx=layout.shape_yx,
        stage_origin_yx_px=layout.stage_origin_yx_px,
        contrast=layout.contrast,
        exact_copy=layout.exact_copy,
        tiles=tuple(
            RawTile(
                path=raw[t.tile_id].path,
                sha256=known[t.tile_id] if t.tile_id in known else raw[t.tile_id].sha256,
                stage_yx_nm=raw[t.tile_id].stage_yx_nm,
                transform=t,
            )
            for t in layout.tiles
        ),
    )


def read_index(folder: Path) -> TransformIndex:
    """The index of a folder of transforms.

    Raises:
        VolumeError: there is none.
        TaskError: it is of another format, or damaged.
    """
    return TransformIndex.parse(_bytes(folder / INDEX), source=str(folder / INDEX))


def read_chains(folder: Path, section_id: str) -> dict[str, Chain]:
    """From px of each raw tile of a section, by the tile's id, to px of the volume.

    Raises:
        VolumeError, TaskError: see `read_index`.
    """
    path = folder / f"{section_id}.tiles.json"
    tiles = SectionTiles.parse(_bytes(path), source=str(path)).tiles
    warp = read_transform(folder, section_id).warp
    return {tile.transform.tile_id: Chain(warps=(tile.transform.warp, warp)) for tile in tiles}


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise VolumeError(f"{path}: cannot be read ({error.strerror})", remedy=REMEDY) from None
