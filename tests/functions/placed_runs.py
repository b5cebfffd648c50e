"""Runs whose geometry is given rather than solved, of a pattern that is known at every point."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from functions.model.acquisition import Section
from functions.model.artefacts import TISSUE
from functions.model.chain import Chain
from functions.model.transform import (
    SectionLayout,
    SectionTransform,
    Sheet,
    SheetDocument,
    TileTransform,
    Warp,
    sheet_shape,
)
from functions.model.volume import VolumeRef
from functions.registration.blend import PlacedTile, blend
from functions.store.artefacts import save_artefacts
from functions.store.drawing import save_usable
from functions.store.files import write_json
from functions.store.images import read_tile, write_tile
from functions.store.run import AlignedVolume, Run
from functions.store.transforms import (
    KINDS,
    aligned_volume_ref,
    load_layout,
    load_transform,
    save_transform,
    section_volume,
)
from functions.store.volumes import Volume
from tests.functions.registration_scenes import VOXEL_ZYX_NM, start, tile

Points = NDArray[np.float64]
TILE = (176, 160)
STEP = (136, 120)
GRID = (2, 2)
SECTION = (TILE[0] + STEP[0] + 8, TILE[1] + STEP[1] + 8)
FRAME = (SECTION[0] + 24, SECTION[1] + 24)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """Grey values of the volume at any point: crossed waves of these lengths, 128 in the mean."""

    wave_px: tuple[float, float] = (14.0, 23.0)

    def at(self, points_yx: Points) -> Points:
        """Values (N,) at points (N, 2)."""
        a, b = (2 * np.pi / n for n in self.wave_px)
        y, x = points_yx.T
        return np.asarray(128 + 45 * np.sin(a * (0.8 * y + 0.6 * x)) + 45 * np.sin(b * (x - 0.3 * y)))

    def plane(self, shape_yx: tuple[int, int], factor: int = 1) -> Points:
        """Values (Y, X) of a plane; of a level, the mean over each of its pixels."""
        axes = [np.arange(n * factor, dtype=np.float64) for n in shape_yx]
        full = self.at(np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2))
        blocks = full.reshape(shape_yx[0], factor, shape_yx[1], factor)
        return np.asarray(blocks.mean(axis=(1, 3)))


def sheet(rng: np.random.Generator, shape: tuple[int, int], amplitude_px: float) -> Sheet:
    """A random smooth field of displacements."""
    coefficients = np.round(rng.normal(0, amplitude_px, (2, *sheet_shape(shape, 64.0))), 4)
    return Sheet(spacing_px=64.0, coefficients=coefficients)


def turned(degrees: float, shift_yx: tuple[float, float]) -> NDArray[np.float64]:
    """A rotation and a shift."""
    a = np.deg2rad(degrees)
    return np.array([[np.cos(a), -np.sin(a), shift_yx[0]], [np.sin(a), np.cos(a), shift_yx[1]]])


def placed_run(
    root: Path, *, zs: tuple[int, ...] = (0,), pattern: Pattern | None = None, bend_px: float = 1.5
) -> Run:
    """Sections of 2 x 2 overlapping tiles that show the pattern; tiles and sections are turned and bent."""
    pattern = pattern or Pattern()
    folder, sections, solved = root / "acq", [], []
    for z in zs:
        rng = np.random.default_rng(10 + z)
        whole = turned(float(rng.uniform(-2, 2)), (12.0, 12.0))
        middle = (np.array(SECTION) - 1) / 2
        whole[:, 2] += middle - whole[:, :2] @ middle
        transform = SectionTransform(
            section=f"z{z:05d}", shape_yx=SECTION, warp=Warp(affine=whole, sheet=sheet(rng, SECTION, bend_px))
        )
        tiles, placed = [], []
        for row, column in np.ndindex(*GRID):
            nominal = (float(row * STEP[0]), float(column * STEP[1]))
            shift = (nominal[0] + 4 + rng.uniform(-3, 3), nominal[1] + 4 + rng.uniform(-3, 3))
            own = Warp(affine=turned(float(rng.uniform(-0.4, 0.4)), shift), sheet=sheet(rng, TILE, 0.4))
            path = f"tiles/z{z}_{row}{column}.tif"
            write_tile(folder / path, _seen(pattern, Chain(warps=(own, transform.warp))))
            tiles.append(tile(row, column, path, nominal, TILE))
            rows = own.affine.tolist()
            placed.append(
                TileTransform(
                    tile_id=tiles[-1].id,
                    shape_yx=TILE,
                    affine=(tuple(rows[0]), tuple(rows[1])),
                    sheet=None if own.sheet is None else SheetDocument.of(own.sheet),
                )
            )
        sections.append(Section(z=z, tiles=tuple(tiles)))
        layout = SectionLayout(section=f"z{z:05d}", shape_yx=SECTION, tiles=tuple(placed))
        solved.append((layout, transform))
    run = start(root / "work", folder, sections)
    for layout, transform in solved:
        write_json(run.cell("stitch", layout.section).file("layout.json"), layout.to_json())
        save_usable(run, layout, [usable() for _ in layout.tiles])
        save_artefacts(run, layout.section, plain_codes())
        save_transform(run, transform)
    _frame(run, zs)
    return run


def plain_codes() -> NDArray[np.uint8]:
    """Codes of a section that shows nothing but tissue."""
    return np.full((-(-SECTION[0] // 8), -(-SECTION[1] // 8)), TISSUE, np.uint8)


def usable() -> NDArray[np.bool_]:
    """All cells of a tile."""
    return np.ones((-(-TILE[0] // 8), -(-TILE[1] // 8)), dtype=np.bool_)


def _seen(pattern: Pattern, chain: Chain) -> NDArray[np.uint8]:
    grid = np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in TILE), indexing="ij"), -1)
    return np.rint(pattern.at(chain.apply(grid.reshape(-1, 2)))).reshape(TILE).astype(np.uint8)


def _frame(run: Run, zs: tuple[int, ...]) -> None:
    rows = tuple(range(zs[0], zs[-1] + 1))
    ref = VolumeRef(
        path=run.cell("align_render").file("image.zarr").relative_to(run.work).as_posix(),
        kind="image",
        shape_zyx=(len(rows), *FRAME),
        chunk_zyx=(1, *FRAME),
        dtype="uint8",
        voxel_size_zyx_nm=VOXEL_ZYX_NM,
    )
    aligned = AlignedVolume(volume=ref, sections=rows)
    write_json(run.cell("align_solve").file("solution.json"), aligned.to_json())


def stitch_given(run: Run, section_id: str) -> None:
    """Write the stitched image and mask of a section, as stitching draws its layout."""
    layout = load_layout(run, section_id)
    paths = {t.id: t.path for s in run.sections for t in s.section.tiles if s.section.id == section_id}
    images = [read_tile(run.acquisition_folder / paths[t.tile_id]).astype(np.uint8) for t in layout.tiles]
    tiles = [
        PlacedTile(warp=t.warp, shape_yx=t.shape_yx, usable=usable(), gain=1.0, offset=0.0)
        for t in layout.tiles
    ]
    ((_, gray, inside),) = blend(tiles, images.__getitem__, shape_yx=layout.shape_yx, strip_px=10_000)
    for kind, plane in zip(KINDS, (gray, inside), strict=True):
        volume = Volume.create(run.work, section_volume(run, section_id, kind, layout.shape_yx))
        volume.write(volume.ref.box, plane[None])


def planes(run: Run) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Image and mask (Z, Y, X) of the aligned volume."""
    image, mask = (Volume.open(run.work, aligned_volume_ref(run.aligned, kind)) for kind in KINDS)
    return image.read(image.ref.box).astype(np.uint8), mask.read(mask.ref.box) > 0


def chains(run: Run, section_id: str) -> dict[str, Chain]:
    """From px of each tile to px of the volume."""
    warp = load_transform(run, section_id).warp
    return {t.tile_id: Chain(warps=(t.warp, warp)) for t in load_layout(run, section_id).tiles}
