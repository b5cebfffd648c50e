"""Twelve real camera tiles: seams beside the published solution, and what becomes of a disturbed section.

    python -m tests.benchmarks.registration_fafb --data ../shared/data

Seams are judged by what they show: windows of 128 px along every overlap of neighbours, one tile's pixels
against the other's, pulled there through both maps; the normalised correlation of our solution and of the
affine solution that the data set's authors published, in the same windows.

Then the section is disturbed (`CASES`). Each tile is right (within 3 px of where it lies in the undisturbed
solution, after an affine fit), refused (the result says that it lies where the stage says), flagged (it is
off, but one of its seams has the verdict `look` or `rejected`) or wrong without a word, which must not be.
One JSON document goes to stdout, progress to stderr, pictures only into `--pictures`.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from functions.model.parameters import StitchParameters
from functions.model.transform import Warp
from functions.registration.blend import blend
from functions.registration.masks import reduce_mean
from functions.registration.mosaic import Mosaic
from functions.registration.warp import sample
from functions.store.images import read_tile
from tests.benchmarks.registration_seams import judge_seams
from tests.functions.registration_scenes import stitch_tiles

UNCERTAINTY_PX = 100.0
RIGHT_PX = 3.0
TURN_DEG = 2.0
SHUFFLE_PX = 150.0
INNER_PX = 230
"""Points nearer to the left and right border may lie in the black margins of the tiles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Tiles with their stage positions (N, 2), and how points (y, x) of the real tile became points of it."""

    names: tuple[str, ...]
    images: tuple[np.ndarray, ...]
    stage_yx_px: np.ndarray
    grid: tuple[tuple[int, int], ...]
    uncertainty_px: float = UNCERTAINTY_PX
    turned: int | None = None

    def without(self, gone: set[int]) -> Scene:
        """The scene without some tiles."""
        keep = [k for k in range(len(self.names)) if k not in gone]
        return replace(
            self,
            names=tuple(self.names[k] for k in keep),
            images=tuple(self.images[k] for k in keep),
            stage_yx_px=self.stage_yx_px[keep],
            grid=tuple(self.grid[k] for k in keep),
        )

    def with_image(self, index: int, image: np.ndarray) -> Scene:
        """The scene with another picture in a tile's place."""
        images = list(self.images)
        images[index] = image
        return replace(self, images=tuple(images))

    def neighbours(self) -> list[tuple[int, int]]:
        """Pairs of tiles side by side."""
        n = range(len(self.grid))
        return [(a, b) for a in n for b in n if a < b and _steps(self.grid[a], self.grid[b]) == 1]


def _steps(a: tuple[int, int], b: tuple[int, int]) -> int:
    return abs(a[0] - b[0]) + abs(a[1] - b[1])


def read_scene(data: Path) -> tuple[Scene, list[Warp]]:
    """The tiles of `data/fafb_tiles` and the published map of each, tile px to montage px."""
    with open(data / "fafb_tiles" / "tiles.csv", newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    stage = np.array([[float(r["stage_y_px"]), float(r["stage_x_px"])] for r in rows])
    scene = Scene(
        names=tuple(r["file"] for r in rows),
        images=tuple(read_tile(data / "fafb_tiles" / "tiles" / r["file"]).astype(np.uint8) for r in rows),
        stage_yx_px=stage - stage.min(axis=0),
        grid=tuple((int(r["grid_b"]), int(r["grid_a"])) for r in rows),
    )
    return scene, [published(r) for r in rows]


def published(row: dict[str, str]) -> Warp:
    """The authors' affine map, in y, x."""
    a11, a12, tx, a21, a22, ty = (
        float(row[f"reference_{k}"]) for k in ("a11", "a12", "tx_px", "a21", "a22", "ty_px")
    )
    return Warp(affine=np.array([[a22, a21, ty], [a12, a11, tx]]))


# -- disturbed sections -----------------------------------------------------------------------------------


def shuffled(scene: Scene, data: Path) -> Scene:
    """Every stage position off by up to 150 px on either axis; the manifest says so."""
    off = np.random.default_rng(0).uniform(-SHUFFLE_PX, SHUFFLE_PX, scene.stage_yx_px.shape)
    return replace(scene, stage_yx_px=scene.stage_yx_px + off, uncertainty_px=SHUFFLE_PX)


def missing(scene: Scene, data: Path) -> Scene:
    """Two tiles were not taken: one in the middle, one at the border."""
    return scene.without({scene.grid.index((9, 9)), scene.grid.index((8, 8))})


def turned(scene: Scene, data: Path) -> Scene:
    """A tile turned by 2 degrees about its middle."""
    index = scene.grid.index((10, 9))
    image = scene.images[index]
    back = Warp(affine=turn(image.shape, -TURN_DEG))
    y, x = np.indices(image.shape, dtype=np.float64)
    source = back.apply(np.stack([y, x], axis=-1).reshape(-1, 2)).T.reshape(2, *image.shape)
    inside = ((source >= 0) & (source <= np.array(image.shape)[:, None, None] - 1)).all(axis=0)
    values = np.where(inside, np.clip(sample(image, source), 0, 255), 0)
    return replace(scene.with_image(index, values.astype(np.uint8)), turned=index)


def resin(scene: Scene, data: Path) -> Scene:
    """A tile that shows nothing but noise on empty resin."""
    index = scene.grid.index((10, 9))
    noise = np.random.default_rng(0).normal(200.0, 5.0, scene.images[index].shape)
    return scene.with_image(index, np.clip(noise, 0, 255).astype(np.uint8))


def foreign(scene: Scene, data: Path) -> Scene:
    """A tile from elsewhere: sections of another animal, side by side."""
    index = scene.grid.index((10, 9))
    with np.load(data / "vnc_sstem" / "stack1.npz", allow_pickle=False) as archive:
        raw = archive["raw"][:9]
    rows = [np.concatenate(raw[k : k + 3], axis=1) for k in (0, 3, 6)]
    height, width = scene.images[index].shape
    return scene.with_image(index, np.concatenate(rows, axis=0)[:height, :width].astype(np.uint8))


CASES: dict[str, Callable[[Scene, Path], Scene]] = {
    "stage_shuffled": shuffled,
    "two_missing": missing,
    "one_turned": turned,
    "one_resin": resin,
    "one_foreign": foreign,
}


def turn(shape: Sequence[int], degrees: float) -> np.ndarray:
    """The affine map (2, 3) that turns an image about its middle."""
    t = np.deg2rad(degrees)
    linear = np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
    middle = (np.array(shape, dtype=np.float64) - 1) / 2
    return np.concatenate([linear, (middle - linear @ middle)[:, None]], axis=1)


def solve(scene: Scene) -> Mosaic:
    """Stitched with the parameters that a user gets."""
    return stitch_tiles(
        scene.stage_yx_px, lambda k: scene.images[k], StitchParameters(), uncertainty_px=scene.uncertainty_px
    )


def judge_case(scene: Scene, found: Mosaic, true: dict[str, np.ndarray]) -> dict[str, Any]:
    """What became of each tile; `true` are the points of the undisturbed solution by tile."""
    shape = scene.images[0].shape
    points = tile_points(shape)
    there = []
    for k, tile in enumerate(found.tiles):
        own = Warp(affine=turn(shape, TURN_DEG)).apply(points) if k == scene.turned else points
        there.append(tile.warp.apply(own))
    off = distances(np.stack(there), np.stack([true[n] for n in scene.names]), np.array(found.held))
    verdicts: dict[str, dict[str, float]] = {"right": {}, "refused": {}, "flagged": {}, "wrong": {}}
    suspect = {k for s in found.seams if s.verdict in ("look", "rejected") for k in s.pair}
    for k, name in enumerate(scene.names):
        state = (
            "refused" if not found.held[k]
            else "right" if off[k] <= RIGHT_PX
            else "flagged" if k in suspect
            else "wrong"
        )  # fmt: skip
        verdicts[state][name] = round(float(off[k]), 2)
    return {
        "right": len(verdicts["right"]),
        "worst_right_px": max(verdicts["right"].values(), default=None),
        **{state: verdicts[state] for state in ("refused", "flagged", "wrong")},
    }


def tile_points(shape_yx: Sequence[int]) -> np.ndarray:
    """Points (N, 2) spread over a tile without its black margins."""
    axes = np.linspace(0, shape_yx[0] - 1, 7), np.linspace(INNER_PX, shape_yx[1] - INNER_PX, 7)
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)


def distances(found: np.ndarray, true: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Mean distance (T,) of each tile's points (T, P, 2) after the best affine map of the held tiles.

    A tile that is far off does not bend the map: the fit is made again without those that stand out.
    """
    use = held.copy() if held.any() else np.ones(len(found), dtype=bool)
    off = np.zeros(len(found))
    for _ in range(4):
        design = np.concatenate([found, np.ones((*found.shape[:2], 1))], axis=2)
        fit = np.linalg.lstsq(design[use].reshape(-1, 3), true[use].reshape(-1, 2), rcond=None)[0]
        off = np.linalg.norm(design @ fit - true, axis=2).mean(axis=1)
        use = (held if held.any() else use) & (off <= max(RIGHT_PX, 3 * float(np.median(off[use]))))
    return off


# -- the whole --------------------------------------------------------------------------------------------


def picture(folder: Path, name: str, scene: Scene, found: Mosaic) -> None:
    """The stitched section at an eighth of its size."""
    strips = blend(found.tiles, lambda k: scene.images[k], shape_yx=found.shape_yx, strip_px=512)
    small = np.concatenate([reduce_mean(gray, 8) for _, gray, _ in strips])
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(small, 0, 255).astype(np.uint8)).save(folder / f"{name}.png")


def measure(data: Path, cases: Sequence[str], pictures: Path | None) -> dict[str, Any]:
    """Seams and cases; the document that the command prints."""
    scene, theirs = read_scene(data)
    base = _timed("undisturbed", scene)
    points = tile_points(scene.images[0].shape)
    true = {n: t.warp.apply(points) for n, t in zip(scene.names, base.tiles, strict=True)}
    document: dict[str, Any] = {
        "undisturbed": {"refused": [n for n, h in zip(scene.names, base.held, strict=True) if not h]},
        "ncc": judge_seams(scene.images, scene.neighbours(), [t.warp for t in base.tiles], theirs),
        "cases": {},
    }
    if pictures is not None:
        picture(pictures, "undisturbed", scene, base)
    for case in cases:
        disturbed = CASES[case](scene, data)
        found = _timed(case, disturbed)
        document["cases"][case] = judge_case(disturbed, found, true)
        if pictures is not None:
            picture(pictures, case, disturbed, found)
    silent = sum(len(case["wrong"]) for case in document["cases"].values())
    gain = round(document["ncc"]["ours"]["median"] - document["ncc"]["published"]["median"], 4)
    document["bars"] = [
        {"name": "published.ncc_median - ours.ncc_median", "value": -gain, "limit": 0.0, "met": gain >= 0},
        {"name": "tiles_wrong_without_a_word", "value": silent, "limit": 0, "met": silent == 0},
    ]
    return document


def _timed(name: str, scene: Scene) -> Mosaic:
    started = time.process_time()
    found = solve(scene)
    print(f"{name}: {time.process_time() - started:.1f} CPU s", file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description="Real tiles: seams, and disturbed sections")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cases", type=lambda text: [w for w in text.split(",") if w], default=list(CASES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pictures", type=Path, help="draw the sections into this folder")
    arguments = parser.parse_args()
    if unknown := set(arguments.cases) - set(CASES):
        parser.error(f"--cases: {', '.join(sorted(unknown))}: give some of {', '.join(CASES)}")
    torch.set_num_threads(arguments.threads)
    print(json.dumps(measure(arguments.data, arguments.cases, arguments.pictures), indent=1))


if __name__ == "__main__":
    main()
