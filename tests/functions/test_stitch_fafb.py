"""Real tiles: twelve of one section of the adult fly brain, against the solution its authors published."""

from __future__ import annotations

import csv
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from functions import stitch
from functions.model.acquisition import Section
from functions.store.transforms import load_layout
from tests.functions.registration_scenes import start, tile

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "fafb_tiles"
SHAPE = (2160, 2560)


@pytest.mark.slow
@pytest.mark.skipif(not DATA.exists(), reason="the real tiles are not on this machine")
def test_real_tiles_agree_with_the_published_solution(tmp_path: Path) -> None:
    with open(DATA / "tiles.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    tiles = [
        tile(
            int(r["grid_b"]),
            int(r["grid_a"]),
            f"tiles/{r['file']}",
            (float(r["stage_y_px"]), float(r["stage_x_px"])),
            SHAPE,
        )
        for r in rows
    ]
    section = Section(z=0, tiles=tuple(tiles))
    run = start(tmp_path / "work", DATA, [section], uncertainty_px=120)
    report = stitch.compute(run, "z00000")
    assert report.figures["tiles_by_stage"] == 0
    assert report.figures["pairs_rejected"] == 0
    layout = load_layout(run, "z00000")
    axes = np.linspace(0, SHAPE[0] - 1, 7), np.linspace(230, SHAPE[1] - 230, 7)
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    ours = np.stack([layout.place(t.id, points) for t in tiles])
    theirs = np.stack([_published(r, points) for r in rows])
    design = np.concatenate([ours.reshape(-1, 2), np.ones((ours[..., 0].size, 1))], axis=1)
    fitted = (design @ np.linalg.lstsq(design, theirs.reshape(-1, 2), rcond=None)[0]).reshape(ours.shape)
    off = (fitted - theirs).mean(axis=1)
    distances = [
        float(np.linalg.norm(off[a] - off[b]))
        for a, b in combinations(range(len(tiles)), 2)
        if abs(tiles[a].row - tiles[b].row) + abs(tiles[a].column - tiles[b].column) == 1
    ]
    assert len(distances) == 17
    assert np.median(distances) <= 5.0
    assert max(distances) <= 15.0


def _published(row: dict[str, str], points_yx: np.ndarray) -> np.ndarray:
    """The authors' affine map, in y, x."""
    a11, a12, tx, a21, a22, ty = (
        float(row[f"reference_{k}"]) for k in ("a11", "a12", "tx_px", "a21", "a22", "ty_px")
    )
    y, x = points_yx[:, 0], points_yx[:, 1]
    return np.stack([a21 * x + a22 * y + ty, a11 * x + a12 * y + tx], axis=1)
