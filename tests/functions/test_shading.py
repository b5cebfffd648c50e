"""The shading that all tiles of a camera share is found, taken out, and not made up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from functions import stitch
from functions.lens import brightness_range, camera_lens
from functions.model.acquisition import Section
from functions.model.errors import TaskError
from functions.model.lens import Lens
from functions.model.parameters import Parameters, StitchParameters
from functions.model.shading import Shading
from functions.registration.contrast import SharedCells, equalise_tiles, shared_cells
from functions.registration.masks import CELL_PX, Gray, reduce_mean
from functions.registration.mosaic import Mosaic
from functions.registration.shading import believed, factors, flattened, joined
from functions.store.drawing import layout_reader
from functions.store.files import write_json
from functions.store.images import write_tile
from functions.store.run import Run
from functions.store.transforms import load_layout
from tests.functions.registration_scenes import scene, section_pixels, start, stitch_tiles, tile

Floats = NDArray[np.float64]
SIZE, OVERLAP, MARGIN = 192, 40, 24
STITCH = StitchParameters(patch_px=32)
NONE = np.ones((SIZE, SIZE))


def vignetting(depth: float, slope: float) -> Floats:
    """A camera's brightness, of mean 1: falling off by `depth` towards the corners, and a gradient."""
    line = np.linspace(-1.0, 1.0, SIZE)
    y, x = line[:, None], line[None, :]
    field = 1.0 - depth * (y**2 + x**2) / 2.0 + slope * (0.7 * y + 0.3 * x) / 2.0
    return np.asarray(field / field.mean(), dtype=np.float64)


FIELD = vignetting(0.25, 0.1)


def take(grid: tuple[int, int], field: Floats, seed: int) -> tuple[list[Gray], Floats]:
    """Tiles as a camera with that field sees one scene, each with a gain, offset and noise of its own; and
    where the stage was (N, 2)."""
    rng = np.random.default_rng(seed)
    step = SIZE - OVERLAP
    plane = scene((grid[0] * step + OVERLAP + 2 * MARGIN, grid[1] * step + OVERLAP + 2 * MARGIN), seed)
    tiles, stage = [], []
    for place in np.ndindex(*grid):
        nominal = np.array(place) * step
        y, x = (np.rint(nominal + rng.uniform(-5, 5, 2)).astype(int) + MARGIN).tolist()
        seen = plane[y : y + SIZE, x : x + SIZE] * field * rng.normal(1, 0.05) + rng.normal(0, 5)
        noisy = np.rint(seen + rng.normal(0, 4, seen.shape))
        tiles.append(np.clip(noisy, 1, 254).astype(np.uint8))
        stage.append(nominal)
    return tiles, np.array(stage, dtype=np.float64)


def solved(tiles: Sequence[Gray], stage: Floats) -> Mosaic:
    return stitch_tiles(stage, lambda k: tiles[k], STITCH, uncertainty_px=15.0)


def logarithm(shading: Shading | None) -> Floats:
    line = np.arange(SIZE, dtype=np.float64)
    return np.zeros((SIZE, SIZE)) if shading is None else shading.on_grid(line, line)


def error(shading: Shading | None, field: Floats) -> Floats:
    """Logarithm of the brightness that is left, of mean 0."""
    left = np.log(field) - logarithm(shading)
    return np.asarray(left - left.mean(), dtype=np.float64)


def step_grey(tiles: Sequence[Gray], mosaic: Mosaic) -> float:
    """By how much two tiles differ over an overlap once they have been evened out by gain and offset, RMS."""
    warps = [t.warp for t in mosaic.tiles]
    usable = [t.usable for t in mosaic.tiles]
    cells = [reduce_mean(t, CELL_PX) for t in tiles]
    shared = [shared_cells(s.pair, usable, warps, cell_px=CELL_PX) for s in mosaic.seams]
    gains = equalise_tiles(shared, cells, usable)
    steps = [_step(s, cells, gains) for s in shared]
    return float(np.sqrt(np.mean(np.concatenate(steps) ** 2)))


def _step(shared: SharedCells, cells: Sequence[NDArray[np.float32]], gains: Floats) -> Floats:
    (a, b), (here, there) = shared.pair, shared.values(cells)
    rest = gains[a, 0] * here + gains[a, 1] - gains[b, 0] * there - gains[b, 1]
    # across the seam, so that the noise of single cells does not count
    axis = int(np.ptp(shared.a[:, 0]) > np.ptp(shared.a[:, 1]))
    lines = shared.a[:, axis]
    return np.array([rest[lines == line].mean() for line in np.unique(lines)])


@pytest.fixture(scope="module")
def shaded() -> tuple[list[Gray], Mosaic]:
    tiles, stage = take((4, 4), FIELD, 1)
    return tiles, solved(tiles, stage)


def test_the_field_of_a_camera_is_found(shaded: tuple[list[Gray], Mosaic]) -> None:
    mosaic = shaded[1]
    assert mosaic.refined
    before, after = error(None, FIELD), error(mosaic.flat, FIELD)
    assert before.std() > 0.06
    assert after.std() < 0.006
    assert np.abs(after).max() < 0.25 * np.abs(before).max()
    assert mosaic.shading is not None
    assert after.std() < 2.0 * np.sqrt(mosaic.shading.variance), "it is about as exact as it says"


def test_seams_show_no_step_once_it_is_taken_out(shaded: tuple[list[Gray], Mosaic]) -> None:
    tiles, mosaic = shaded
    assert mosaic.flat is not None
    by = factors(mosaic.flat, (SIZE, SIZE))
    before, after = step_grey(tiles, mosaic), step_grey([flattened(t, by) for t in tiles], mosaic)
    unshaded, stage = take((4, 4), NONE, 1)
    never = step_grey(unshaded, solved(unshaded, stage))
    assert before > 1.5
    assert after < 0.5 * before
    assert after < 1.25 * never


@pytest.mark.parametrize(("grid", "seed"), [((4, 4), 1), ((3, 3), 2), ((2, 2), 3), ((2, 3), 4), ((3, 4), 5)])
def test_no_field_is_made_up(grid: tuple[int, int], seed: int) -> None:
    tiles, stage = take(grid, NONE, seed)
    mosaic = solved(tiles, stage)
    assert mosaic.flat is None
    assert not mosaic.refined
    assert mosaic.shading is not None
    assert logarithm(mosaic.shading).std() < 3.0 * np.sqrt(mosaic.shading.variance)


def test_shading_that_each_tile_has_of_its_own_is_not_the_cameras() -> None:
    tiles, stage = take((4, 4), NONE, 6)
    rng = np.random.default_rng(6)
    line = np.linspace(-0.5, 0.5, SIZE)
    own = [1.0 + np.add.outer(a * line, b * line) for a, b in rng.normal(0, 0.08, (16, 2))]
    shaded = [np.clip(np.rint(t * f), 1, 254).astype(np.uint8) for t, f in zip(tiles, own, strict=True)]
    assert solved(shaded, stage).flat is None


def test_few_or_unlike_tiles_say_nothing() -> None:
    tiles, stage = take((1, 3), FIELD, 1)
    assert solved(tiles, stage).shading is None
    tiles, stage = take((2, 3), FIELD, 1)
    cut = [t if k < 3 else t[:150] for k, t in enumerate(tiles)]
    assert solved(cut, stage).shading is None


def test_sections_that_are_not_sure_alone_are_sure_together() -> None:
    field = vignetting(0.035, 0.0)
    found = []
    for seed in range(8):
        tiles, stage = take((2, 2), field, 20 + seed)
        found.append(solved(tiles, stage).shading)
    alone = [believed(s, (SIZE, SIZE)) for s in found]
    whole = joined(found)
    together = believed(whole, (SIZE, SIZE))
    assert whole is not None
    assert whole.tiles == 32
    assert sum(s is None for s in alone) >= 4
    assert together is not None
    assert error(together, field).std() < 0.5 * error(None, field).std()


def test_what_is_believed_is_drawn_towards_none_by_its_error() -> None:
    shading = Shading(spacing_px=50.0, coefficients=np.full((7, 7), 0.1), variance=0.0, tiles=4)
    for variance, share in ((0.0, 1.0), (0.001, 0.9), (0.0017, 0.0)):
        got = believed(
            Shading(spacing_px=50.0, coefficients=shading.coefficients, variance=variance, tiles=4),
            (192, 192),
        )
        assert (0.0 if got is None else got.coefficients[3, 3]) == pytest.approx(0.1 * share, abs=1e-5)
    assert believed(None, (192, 192)) is None
    assert joined([None, None]) is None


def test_empty_and_saturated_pixels_stay() -> None:
    image = np.array([[0, 1, 100], [254, 255, 200]], np.uint8)
    by = np.array([[1.5, 0.2, 1.1], [0.5, 0.5, 2.0]], np.float32)
    assert flattened(image, by).tolist() == [[0, 1, 110], [127, 255, 254]]


# -- through files ------------------------------------------------------------------------------------------


def write(folder: Path, z: int, grid: tuple[int, int], field: Floats) -> Section:
    tiles, stage = take(grid, field, 40 + z)
    rows = []
    for k, (pixels, at) in enumerate(zip(tiles, stage, strict=True)):
        path = f"tiles/s{z:04d}_{k}.tif"
        write_tile(folder / path, pixels)
        rows.append(tile(k // grid[1], k % grid[1], path, at, pixels.shape))
    return Section(z=z, tiles=tuple(rows))


def stitched(folder: Path, name: str, section: Section, lens: Path | None) -> Run:
    parameters = Parameters(stitch=STITCH.model_copy(update={"lens": None if lens is None else str(lens)}))
    run = start(folder / name, folder / "acq", [section], parameters=parameters)
    stitch.compute(run, section.id)
    return run


def test_a_lens_carries_the_shading_to_sections_that_cannot_see_it(tmp_path: Path) -> None:
    first = write(tmp_path / "acq", 0, (3, 4), FIELD)
    run = stitched(tmp_path, "first", first, None)
    lens = camera_lens(run)
    assert lens.format == "petavoxel.lens/2"
    assert lens.shading is not None
    assert lens.shading.tiles == 12
    low, high = brightness_range(lens) or (1.0, 1.0)
    assert (low, high) == pytest.approx((FIELD.min(), FIELD.max()), abs=0.05)
    file = tmp_path / "lens.json"
    write_json(file, lens.to_json())
    pair = write(tmp_path / "acq", 1, (1, 2), FIELD)
    layouts = [load_layout(stitched(tmp_path, n, pair, f), pair.id) for n, f in (("a", None), ("b", file))]
    assert layouts[0].flat is None
    assert layouts[1].flat is not None
    assert error(layouts[1].flat.shading, FIELD).std() < 0.01
    # what is learnt with a lens is of the raw tiles again
    more = write(tmp_path / "acq", 2, (3, 3), FIELD)
    both = camera_lens(stitched(tmp_path, "more", more, file), earlier=lens)
    assert both.shading is not None
    assert both.shading.tiles == 21
    assert error(both.shading.shading, FIELD).std() < 0.008
    assert both.shading.variance < lens.shading.variance


def test_lenses_of_format_1_are_read_and_damaged_ones_refused(tmp_path: Path) -> None:
    section = write(tmp_path / "acq", 0, (2, 2), FIELD)
    document = camera_lens(stitched(tmp_path, "work", section, None)).to_json()
    old = {k: v for k, v in document.items() if k != "shading"} | {"format": "petavoxel.lens/1"}
    lens = Lens.parse(old, source="old")
    assert lens.shading is None
    assert brightness_range(lens) is None
    file = tmp_path / "old.json"
    write_json(file, old)
    assert load_layout(stitched(tmp_path, "again", section, file), section.id).shading is not None
    document["shading"]["spacing_px"] *= 2.0
    with pytest.raises(
        TaskError, match=r"bad: .*shading: coefficients \(7, 7\), but tiles of \(192, 192\) px"
    ):
        Lens.parse(document, source="bad")


def test_the_section_is_drawn_without_its_shading(tmp_path: Path) -> None:
    section = write(tmp_path / "acq", 0, (3, 3), FIELD)
    run = stitched(tmp_path, "work", section, None)
    layout = load_layout(run, section.id)
    assert layout.flat is not None
    drawn = layout_reader(run, run.sections[0], layout)
    tiles, _ = take((3, 3), FIELD, 40)
    true = [np.clip(t / FIELD, 0, 255) for t in tiles]
    left = np.mean([drawn.image(k) / t for k, t in enumerate(true)], axis=0)
    assert (left[8:-8, 8:-8] / left.mean()).std() < 0.02
    image, mask = section_pixels(run, section.id)
    middles = []
    for t in layout.tiles:
        y, x = np.rint(t.warp.apply(np.array([[SIZE / 2, SIZE / 2]]))[0]).astype(int)
        middles.append(image[y - 24 : y + 24, x - 24 : x + 24].mean())
    rims = [image[:, -24:][mask[:, -24:]].mean(), image[-24:][mask[-24:]].mean()]
    assert np.mean(middles) - np.mean(rims) < 6.0
