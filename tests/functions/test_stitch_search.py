"""Where the stage lies the images decide, and what they cannot decide is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from functions import stitch
from functions.model.acquisition import Section
from functions.model.parameters import StitchParameters
from functions.registration.mosaic import Mosaic
from functions.registration.views import Upright, rotation, view_tile
from functions.store.transforms import load_layout
from tests.functions.registration_scenes import scene, start, stitch_tiles, write_montage

SIZE, STEP = 240, 180
Gray = NDArray[np.uint8]


def montage(seed: int = 0) -> tuple[list[Gray], NDArray[np.float64]]:
    """Six tiles of one scene (2 x 3) and their stage positions, a few px off."""
    rng = np.random.default_rng(seed)
    plane = scene((STEP + SIZE + 60, 2 * STEP + SIZE + 60), seed)
    images, stage = [], []
    for row, column in np.ndindex(2, 3):
        y, x = row * STEP + 30, column * STEP + 30
        cut = plane[y : y + SIZE, x : x + SIZE] + rng.normal(0, 4, (SIZE, SIZE))
        images.append(np.clip(np.rint(cut), 1, 255).astype(np.uint8))
        stage.append(np.array([y, x]) + rng.uniform(-4, 4, 2))
    return images, np.array(stage)


def solve(images: list[Gray], stage: NDArray[np.float64]) -> Mosaic:
    return stitch_tiles(stage, lambda k: images[k], StitchParameters(), uncertainty_px=10.0)


def centres(mosaic: Mosaic) -> NDArray[np.float64]:
    middle = np.array([[(SIZE - 1) / 2.0, (SIZE - 1) / 2.0]])
    return np.array([tile.warp.apply(middle)[0] for tile in mosaic.tiles])


def off_px(mosaic: Mosaic) -> NDArray[np.float64]:
    """How far the tiles that are held lie from their places, apart from a common shift."""
    truth = np.array([(row * STEP, column * STEP) for row, column in np.ndindex(2, 3)], dtype=np.float64)
    held = np.array(mosaic.held)
    off = (centres(mosaic) - truth)[held]
    return np.linalg.norm(off - off.mean(axis=0), axis=1)


def test_swapped_tiles_are_found() -> None:
    images, stage = montage(1)
    stage[[0, 5]] = stage[[5, 0]]
    mosaic = solve(images, stage)
    assert all(mosaic.held)
    assert off_px(mosaic).max() < 0.6
    assert {s.pair for s in mosaic.seams if s.verdict == "ok"} >= {(0, 1), (0, 3), (2, 5), (4, 5)}


def test_a_tile_far_off_is_found() -> None:
    images, stage = montage(2)
    stage[4] += (4000.0, -9000.0)
    mosaic = solve(images, stage)
    assert all(mosaic.held)
    assert off_px(mosaic).max() < 0.6


def test_tiles_in_no_order_are_found() -> None:
    images, stage = montage(3)
    mosaic = solve(images, stage[[3, 5, 0, 4, 2, 1]])
    assert all(mosaic.held)
    assert off_px(mosaic).max() < 0.6


@pytest.mark.parametrize("degrees", [2.0, -3.3])
def test_a_turned_tile_is_turned_back(degrees: float) -> None:
    images, stage = montage(4)
    plane = scene((STEP + SIZE + 60, 2 * STEP + SIZE + 60), 4)
    inner = np.stack(np.mgrid[:SIZE, :SIZE]).reshape(2, -1) - (SIZE - 1) / 2.0
    there = rotation(degrees) @ inner + np.array([[30 + (SIZE - 1) / 2.0], [30 + STEP + (SIZE - 1) / 2.0]])
    images[1] = np.rint(ndimage.map_coordinates(plane, there, order=3)).reshape(SIZE, SIZE).astype(np.uint8)
    mosaic = solve(images, stage)
    assert all(mosaic.held)
    assert off_px(mosaic).max() < 0.6
    np.testing.assert_allclose(mosaic.tiles[1].warp.affine[:, :2], rotation(degrees), atol=0.006)


@pytest.mark.parametrize("kind", ["foreign", "resin", "constant", "saturated", "its neighbour, inverted"])
def test_what_fits_nowhere_stays_by_stage(kind: str) -> None:
    images, stage = montage(5)
    rng = np.random.default_rng(0)
    other = {
        "foreign": scene((SIZE, SIZE), 99),
        "resin": rng.normal(185, 6, (SIZE, SIZE)),
        "constant": np.full((SIZE, SIZE), 128.0),
        "saturated": np.full((SIZE, SIZE), 255.0),
        "its neighbour, inverted": 255.0 - images[1].astype(np.float64),
    }[kind]
    images[4] = np.clip(np.rint(other), 0, 255).astype(np.uint8)
    mosaic = solve(images, stage)
    assert mosaic.held == (True, True, True, True, False, True)
    assert off_px(mosaic).max() < 0.6
    assert all(s.verdict in ("unmatched", "rejected") for s in mosaic.seams if 4 in s.pair)
    assert mosaic.stage_uncertainty_px >= 10.0
    gap = centres(mosaic)[4] - centres(mosaic)[3]
    assert np.linalg.norm(gap - (0, STEP)) < 15.0


def test_islands_keep_their_own_order(tmp_path: Path) -> None:
    section, _ = write_montage(tmp_path / "acq", grid=(1, 4))
    away = [
        t.model_copy(update={"stage_yx_nm": (t.stage_yx_nm[0], t.stage_yx_nm[1] + 4.0 * 600 * (k > 2))})
        for k, t in enumerate(section.tiles)
        if k != 2
    ]
    run = start(tmp_path / "work", tmp_path / "acq", [Section(z=0, tiles=tuple(away))])
    report = stitch.compute(run, "z00000")
    layout = load_layout(run, "z00000")
    assert [t.placed for t in layout.tiles] == ["matched", "matched", "stage"]
    assert [t.uncertainty_px is None for t in layout.tiles] == [True, True, False]
    assert layout.tiles[2].uncertainty_px == pytest.approx(15.0, abs=5.0)
    assert [p["code"] for p in report.problems] == ["tile_unmatched"]
    assert "good to 1" in report.problems[0]["subject"]


def test_two_acquisitions_mixed_are_not_joined() -> None:
    images, stage = montage(6)
    others, _ = montage(7)
    mixed = [images[0], images[1], others[2], images[3], images[4], others[5]]
    mosaic = solve(mixed, stage)
    assert [k for k, held in enumerate(mosaic.held) if held] == [0, 1, 3, 4]
    joined = [s.pair for s in mosaic.seams if s.verdict in ("ok", "look")]
    assert {(0, 1), (0, 3), (1, 4), (3, 4), (2, 5)} >= set(joined)


def test_a_fold_across_a_seam_is_not_compared_and_the_gap_is_stated() -> None:
    rng = np.random.default_rng(3)
    plane = scene((700, 460), 9)
    images = [np.rint(plane[:, x : x + 260]).astype(np.uint8) for x in (0, 200)]
    whole = solve(images, np.array([[0.0, 0.0], [2.0, 197.0]]))
    for image in images:
        image[200:400] = rng.normal(185, 5, (200, 260))
        image[500:516] = rng.integers(2, 30, (16, 260))
    gap = solve(images, np.array([[0.0, 0.0], [2.0, 197.0]]))
    assert all(whole.held)
    assert all(gap.held)
    assert whole.seams[0].measured_share == 1.0
    assert 0.5 < gap.seams[0].measured_share < 0.9
    view = view_tile(images[0])
    assert not view.textured[63:64].any()
    assert view.usable[63:64].all()


def test_upright_tiles_map_back() -> None:
    images, _ = montage(8)
    tiles = Upright(
        lambda k: images[k], [view_tile(i) for i in images[:2]], [np.eye(2), 1.5 * rotation(10.0)]
    )
    assert tiles.image(0) is images[0]
    points = np.array([[20.0, 30.0], [200.0, 100.0]])
    there = points @ tiles.frames[1][:, :2].T + tiles.frames[1][:, 2]
    np.testing.assert_allclose(tiles.back(1, there), points, atol=1e-9)
    upright, mask = tiles.image(1), tiles.textured(1)
    assert upright.shape == mask.shape == tiles.shapes[1]
    for (y, x), (v, u) in zip(points, np.rint(there).astype(int), strict=True):
        assert mask[v, u]
        window = images[1][int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3]
        assert window.min() - 20 <= upright[v, u] <= window.max() + 20
    moved = tiles.corners(np.zeros((2, 2)))
    middle = (np.array(tiles.shapes[1]) - 1) / 2.0
    np.testing.assert_allclose(moved[1] + middle, 1.5 * (SIZE - 1) / 2.0, atol=1.0)
