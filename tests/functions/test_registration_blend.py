"""Seams are narrow and run through the sharper tile; nothing is seen twice."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from functions.model.parameters import StitchParameters
from functions.model.transform import Warp
from functions.registration.blend import SEAM_PX, PlacedTile, blend
from tests.functions.registration_scenes import scene, stitch_tiles

SIZE, STEP = 256, 160
FULL = np.ones((SIZE // 8, SIZE // 8), bool)


def placed(x: float, lead_px: float = 0.0, usable: NDArray[np.bool_] = FULL) -> PlacedTile:
    warp = Warp(affine=np.array([[1.0, 0.0, 0.0], [0.0, 1.0, x]]))
    return PlacedTile(warp=warp, shape_yx=(SIZE, SIZE), usable=usable, gain=1.0, offset=0.0, lead_px=lead_px)


def draw(tiles: list[PlacedTile], images: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    shape = (SIZE, SIZE + STEP)
    strips = blend(tiles, lambda k: images[k], shape_yx=shape, strip_px=100)
    return np.concatenate([gray for _, gray, _ in strips])


@pytest.mark.parametrize(("lead", "seam"), [(0.0, 208), (40.0, 221), (-60.0, 178)])
def test_tiles_mix_along_the_seam_only(lead: float, seam: int) -> None:
    images = [np.full((SIZE, SIZE), v, np.uint8) for v in (60, 200)]
    out = draw([placed(0.0, lead), placed(float(STEP))], images)
    middle = out[SIZE // 2]
    mixed = np.flatnonzero((middle != 60) & (middle != 200))
    assert 4 <= len(mixed) <= SEAM_PX + 2
    assert abs(mixed.mean() - seam) <= 6
    assert (middle[: mixed[0]] == 60).all()
    assert (middle[mixed[-1] + 1 :] == 200).all()


def test_no_edge_shows_where_a_lead_reaches_the_rim() -> None:
    images = [np.full((SIZE, SIZE), v, np.uint8) for v in (60, 200)]
    middle = draw([placed(0.0, 120.0), placed(float(STEP))], images)[SIZE // 2].astype(int)
    assert np.abs(np.diff(middle)).max() <= 30
    assert middle[208] == 60


def test_what_is_not_usable_is_drawn_by_the_other_tile() -> None:
    images = [np.full((SIZE, SIZE), v, np.uint8) for v in (60, 200)]
    usable = FULL.copy()
    usable[10:20, 21:30] = False
    out = draw([placed(0.0, usable=usable), placed(float(STEP))], images)
    assert (out[84:156, 172:200] == 200).all()


def test_the_sharper_tile_leads() -> None:
    plane = scene((SIZE, SIZE + STEP), 3)
    noise = np.random.default_rng(0).normal(0, 3, (2, SIZE, SIZE))
    sharp = [plane[:, :SIZE], plane[:, STEP:]]
    soft = [sharp[0], ndimage.gaussian_filter(sharp[1], 2.5)]

    def leads(images: list[NDArray[np.float32]]) -> list[float]:
        gray = [np.clip(np.rint(i + n), 0, 255).astype(np.uint8) for i, n in zip(images, noise, strict=True)]
        stage = np.array([[0.0, 0.0], [0.0, STEP]])
        found = stitch_tiles(stage, lambda k: gray[k], StitchParameters(), uncertainty_px=8.0)
        assert all(found.held)
        return [tile.lead_px for tile in found.tiles]

    alike, unlike = leads(sharp), leads(soft)
    assert abs(alike[0] - alike[1]) < 10.0
    assert unlike[0] - unlike[1] > 40.0


def test_strips_and_parts_do_not_show() -> None:
    rng = np.random.default_rng(5)
    images = [
        ndimage.gaussian_filter(rng.uniform(0, 255, (SIZE, SIZE)), 3).astype(np.uint8) for _ in range(3)
    ]
    usable = rng.random(FULL.shape) < 0.9
    tiles = [placed(0.0), placed(70.5, 30.0, usable), placed(float(STEP))]
    drawn = [
        [
            np.concatenate(parts)
            for parts in zip(
                *((gray, seen) for _, gray, seen in blend(
                    tiles, images.__getitem__, shape_yx=(SIZE, SIZE + STEP), strip_px=strip_px
                )),
                strict=True,
            )
        ]
        for strip_px in (37, SIZE)
    ]  # fmt: skip
    assert np.array_equal(drawn[0][1], drawn[1][1])
    assert np.abs(drawn[0][0].astype(int) - drawn[1][0]).max() <= 1
    alone = (slice(None), slice(0, 60))
    assert np.array_equal(drawn[1][0][alone], images[0][alone])
