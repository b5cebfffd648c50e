"""Grids of one section that are turned and scaled differently come together in one montage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from functions import stitch
from functions.model.acquisition import Section, Tile
from functions.model.stage import tile_linear, tile_to_stage
from functions.store.images import write_tile
from functions.store.transforms import load_layout
from tests.functions.registration_scenes import VOXEL_ZYX_NM, scene, start

NM = VOXEL_ZYX_NM[1]
SIZE, STEP, MARGIN = 160, 112, 60


def write_tiles(
    folder: Path, places: list[tuple[int, int, int, float, float]]
) -> tuple[list[Tile], list[NDArray[np.float64]]]:
    """Tiles of one scene: grid, y, x (px of the scene), rotation and pixel size; with true maps to the scene.

    Stage positions are off by up to 3 px.
    """
    rng = np.random.default_rng(3)
    plane = scene((520, 520), 8)
    pixels = np.stack(np.mgrid[:SIZE, :SIZE], axis=-1).reshape(-1, 2).astype(np.float64)
    tiles, maps = [], []
    for k, (grid, y, x, degrees, nm) in enumerate(places):
        true = Tile(
            row=0,
            column=k,
            path=f"t{k}.tif",
            stage_yx_nm=(y * NM, x * NM),
            shape_yx=(SIZE, SIZE),
            grid=grid,
            rotation_deg=degrees,
            pixel_size_yx_nm=None if nm == NM else (nm, nm),
        )
        there = tile_to_stage(true, (NM, NM)) / NM
        seen = ndimage.map_coordinates(plane, (pixels @ there[:, :2].T + there[:, 2]).T, order=3)
        gray = np.clip(np.rint(seen + rng.normal(0, 3, len(seen))), 1, 255).astype(np.uint8)
        write_tile(folder / true.path, gray.reshape(SIZE, SIZE))
        off = rng.uniform(-3, 3, 2) * NM
        tiles.append(true.model_copy(update={"stage_yx_nm": (y * NM + off[0], x * NM + off[1])}))
        maps.append(there)
    return tiles, maps


def test_two_grids_turned_and_scaled_come_together(tmp_path: Path) -> None:
    plain = [(0, MARGIN + STEP * r, MARGIN + STEP * c, 0.0, NM) for r in range(2) for c in range(2)]
    # pixels of 5 nm: 200 px of the scene wide
    other = [(1, MARGIN + 30, 270, 9.0, 5.0), (1, MARGIN + 30 + 138, 270 - 22, 9.0, 5.0)]
    tiles, maps = write_tiles(tmp_path / "acq", [*plain, *other])
    run = start(tmp_path / "work", tmp_path / "acq", [Section(z=0, tiles=tuple(tiles))])
    report = stitch.compute(run, "z00000")
    assert report.figures["tiles_by_stage"] == 0, report.problems
    layout = load_layout(run, "z00000")
    axes = np.linspace(4, SIZE - 5, 8)
    points = np.stack(np.meshgrid(axes, axes, indexing="ij"), axis=-1).reshape(-1, 2)
    placed = [layout.place(t.id, points) for t in tiles]
    true = [points @ m[:, :2].T + m[:, 2] for m in maps]
    off = np.array(placed) - np.array(true)
    error = np.linalg.norm(off - off.mean(axis=(0, 1)), axis=2)
    assert error.max() < 1.0, error.max(axis=1)


def test_an_upright_tile_of_the_usual_pixels_is_left_as_it_is() -> None:
    tile = Tile(row=0, column=0, path="t.tif", stage_yx_nm=(12.0, 20.0), shape_yx=(80, 100))
    np.testing.assert_array_equal(tile_linear(tile, (4.0, 4.0)), np.eye(2))
    np.testing.assert_array_equal(tile_to_stage(tile, (4.0, 4.0)), [[4.0, 0.0, 12.0], [0.0, 4.0, 20.0]])


def test_a_turned_tile_keeps_its_centre() -> None:
    tile = Tile(
        row=0,
        column=0,
        path="t.tif",
        stage_yx_nm=(0.0, 0.0),
        shape_yx=(81, 101),
        rotation_deg=90.0,
        pixel_size_yx_nm=(8.0, 8.0),
    )
    there = tile_to_stage(tile, (4.0, 4.0))
    np.testing.assert_allclose(there @ [40.0, 50.0, 1.0], [320.0, 400.0])
    # +x turns towards +y
    np.testing.assert_allclose(there @ [40.0, 60.0, 1.0], [400.0, 400.0], atol=1e-9)
    np.testing.assert_allclose(tile_linear(tile, (4.0, 4.0)) @ [0.0, 1.0], [2.0, 0.0], atol=1e-12)
