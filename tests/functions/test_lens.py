"""The lens of a camera: what sections say together lets the next one be stitched more truly."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from functions import stitch
from functions.lens import camera_lens
from functions.model.acquisition import Section
from functions.model.errors import TaskError, UpstreamError
from functions.model.lens import Lens
from functions.model.parameters import Parameters, StitchParameters
from functions.model.transform import Sheet
from functions.registration.lens import mean_lens, without_affine
from functions.store.files import write_json
from functions.store.images import write_tile
from functions.store.run import Run
from functions.store.transforms import load_layout
from tests.functions.registration_scenes import scene, start, tile

Floats = NDArray[np.float64]
SIZE, OVERLAP = 192, 64
BULGE_PX = 4.0


def bulge(points_yx: Floats) -> Floats:
    """The true lens: pixels of a tile (N, 2) belong so far outwards (px), by a cubic, not affine, law."""
    unit = (points_yx - (SIZE - 1) / 2.0) / (SIZE / 2.0)
    return BULGE_PX * unit * (unit**2).sum(axis=1, keepdims=True) * np.array([1.0, 0.6])


def write_bulged(folder: Path, z: int, grid: tuple[int, int]) -> tuple[Section, Floats]:
    """A section of tiles as a camera with that lens sees one scene; and their true corners (N, 2)."""
    rng = np.random.default_rng(100 + z)
    step, margin = SIZE - OVERLAP, 32
    plane = scene(tuple(n * step + OVERLAP + 2 * margin for n in grid), 50 + z)
    pixels = np.stack(np.mgrid[:SIZE, :SIZE], axis=-1).reshape(-1, 2).astype(np.float64)
    tiles, corners = [], []
    for row, column in np.ndindex(*grid):
        nominal = np.array([row, column], dtype=np.float64) * step
        corner = nominal + rng.uniform(-4, 4, 2) + margin
        seen = ndimage.map_coordinates(plane, (corner + pixels + bulge(pixels)).T, order=3, mode="nearest")
        gray = np.clip(np.rint(seen + rng.normal(0, 4, len(seen))), 1, 255).astype(np.uint8)
        path = f"tiles/s{z:04d}_r{row}_c{column}.tif"
        write_tile(folder / path, gray.reshape(SIZE, SIZE))
        tiles.append(tile(row, column, path, nominal, (SIZE, SIZE)))
        corners.append(corner)
    return Section(z=z, tiles=tuple(tiles)), np.array(corners)


def map_error(run: Run, section: Section, corners: Floats) -> float:
    """RMS distance (px) of all tile maps from the truth, after the one affine map that fits best."""
    axes = np.linspace(4, SIZE - 5, 12)
    points = np.stack(np.meshgrid(axes, axes, indexing="ij"), axis=-1).reshape(-1, 2)
    layout = load_layout(run, section.id)
    placed = np.concatenate([layout.place(t.id, points) for t in section.tiles])
    true = np.concatenate([corner + points + bulge(points) for corner in corners])
    design = np.column_stack([placed, np.ones(len(placed))])
    rest = true - design @ np.linalg.lstsq(design, true, rcond=None)[0]
    return float(np.sqrt((rest**2).sum(axis=1).mean()))


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Lens]:
    """A lens from three sections of 3 x 3 tiles, as a file."""
    folder = tmp_path_factory.mktemp("camera")
    sections = [write_bulged(folder / "acq", z, (3, 3))[0] for z in range(3)]
    run = start(folder / "work", folder / "acq", sections, parameters=with_lens(None))
    for section in sections:
        stitch.compute(run, section.id)
    found = camera_lens(run)
    write_json(folder / "lens.json", found.to_json())
    return folder / "lens.json", found


def with_lens(path: Path | None) -> Parameters:
    # patches smaller than the overlap, as with tiles of a real size: they see the lens change across it
    return Parameters(stitch=StitchParameters(patch_px=24, lens=None if path is None else str(path)))


def test_a_lens_rests_on_all_sections(camera: tuple[Path, Lens]) -> None:
    path, lens = camera
    assert (lens.camera, lens.tile_shape_yx, lens.pixel_size_nm) == ("test", (SIZE, SIZE), 4.0)
    assert (lens.sections, lens.tiles, lens.weight) == (3, 27, 60)
    assert Lens.parse(path.read_bytes(), source="test") == lens
    points = np.random.default_rng(0).uniform(0, SIZE - 1, (500, 2))
    design = np.column_stack([points, np.ones(len(points))])
    true = bulge(points) - design @ np.linalg.lstsq(design, bulge(points), rcond=None)[0]
    found = lens.sheet.sheet(points)
    found = found - design @ np.linalg.lstsq(design, found, rcond=None)[0]
    assert np.sqrt(((found - true) ** 2).mean()) < 0.4 * np.sqrt((true**2).mean())


@pytest.mark.parametrize(("grid", "share"), [((1, 2), 0.5), ((2, 2), 0.8)])
def test_a_section_is_stitched_more_truly_with_the_lens_of_others(
    tmp_path: Path, camera: tuple[Path, Lens], grid: tuple[int, int], share: float
) -> None:
    section, corners = write_bulged(tmp_path / "acq", 9, grid)
    errors = []
    for name, path in (("without", None), ("with", camera[0])):
        run = start(tmp_path / name, tmp_path / "acq", [section], parameters=with_lens(path))
        assert stitch.compute(run, section.id).status == "ok"
        errors.append(map_error(run, section, corners))
    assert errors[1] < min(0.27, share * errors[0]), errors


def test_a_lens_improves_on_an_earlier_one_by_weight(tmp_path: Path, camera: tuple[Path, Lens]) -> None:
    section, _ = write_bulged(tmp_path / "acq", 7, (2, 2))
    run = start(tmp_path / "work", tmp_path / "acq", [section], parameters=with_lens(None))
    with pytest.raises(UpstreamError, match="no stitched section shows a lens"):
        camera_lens(run)
    stitch.compute(run, section.id)
    one, earlier = camera_lens(run), camera[1]
    both = camera_lens(run, earlier=earlier, camera="left")
    assert (both.camera, both.sections, both.tiles, both.weight) == ("left", 4, 31, 66)
    mean = (60 * earlier.sheet.sheet.coefficients + 6 * one.sheet.sheet.coefficients) / 66
    np.testing.assert_allclose(both.sheet.sheet.coefficients, mean, atol=1e-4)
    other = earlier.model_copy(update={"pixel_size_nm": 8.0})
    with pytest.raises(TaskError, match=r"the earlier lens: pixel_size_nm: pixels of 4 nm, the lens is of 8"):
        camera_lens(run, earlier=other)


@pytest.mark.parametrize(
    ("size", "pixel_nm", "message"),
    [
        (
            SIZE - 32,
            4.0,
            r"section z00000: tile_shape_yx: tiles of \(160, 160\) px, the lens is of \(192, 192\)",
        ),
        (SIZE, 5.0, r"section z00000: pixel_size_nm: pixels of 4 nm, the lens is of 5 nm"),
    ],
)
def test_a_lens_of_another_camera_is_refused(
    tmp_path: Path, camera: tuple[Path, Lens], size: int, pixel_nm: float, message: str
) -> None:
    path = tmp_path / "lens.json"
    write_json(path, camera[1].model_copy(update={"pixel_size_nm": pixel_nm}).to_json())
    pixels = np.rint(scene((size, size), 3)).astype(np.uint8)
    write_tile(tmp_path / "acq" / "a.tif", pixels)
    section = Section(z=0, tiles=(tile(0, 0, "a.tif", (0, 0), pixels.shape),))
    run = start(tmp_path / "work", tmp_path / "acq", [section], parameters=with_lens(path))
    with pytest.raises(TaskError, match=message):
        stitch.compute(run, "z00000")


def test_a_file_that_is_no_lens_is_refused(tmp_path: Path, camera: tuple[Path, Lens]) -> None:
    write_tile(tmp_path / "acq" / "a.tif", np.rint(scene((64, 64), 3)).astype(np.uint8))
    section = Section(z=0, tiles=(tile(0, 0, "a.tif", (0, 0), (64, 64)),))
    path = tmp_path / "lens.json"
    run = start(tmp_path / "work", tmp_path / "acq", [section], parameters=with_lens(path))
    with pytest.raises(TaskError, match=r"stitch.lens: .*lens.json: no such file"):
        run.cell("stitch", "z00000")
    document = camera[1].to_json()
    document["sheet"]["spacing_px"] *= 0.5
    path.write_text(json.dumps(document))
    with pytest.raises(
        TaskError, match=r"coefficients \(2, 8, 8\), but tiles of \(192, 192\) px need \(2, 13, 13\)"
    ):
        stitch.compute(run, "z00000")


def test_the_key_follows_the_content_of_the_lens(tmp_path: Path, camera: tuple[Path, Lens]) -> None:
    write_tile(tmp_path / "acq" / "a.tif", np.rint(scene((64, 64), 3)).astype(np.uint8))
    section = Section(z=0, tiles=(tile(0, 0, "a.tif", (0, 0), (64, 64)),))
    files = [tmp_path / name for name in ("one.json", "same.json", "other.json")]
    for file in files:
        write_json(file, camera[1].to_json())
    write_json(files[2], camera[1].model_copy(update={"weight": 3.0}).to_json())
    keys = [
        start(tmp_path / "work", tmp_path / "acq", [section], parameters=with_lens(file))
        .cell("stitch", "z00000")
        .path
        for file in (None, *files)
    ]
    assert keys[1] == keys[2]
    assert len(set(keys)) == 3


def test_one_odd_section_does_not_count() -> None:
    rng = np.random.default_rng(0)
    true = without_affine(Sheet(spacing_px=40.0, coefficients=rng.normal(0, 2, (2, 6, 7))))
    sheets = [
        Sheet(spacing_px=40.0, coefficients=true.coefficients + rng.normal(0, 0.05, (2, 6, 7)))
        for _ in range(8)
    ]
    sheets[3] = Sheet(spacing_px=40.0, coefficients=true.coefficients + rng.normal(0, 3, (2, 6, 7)))
    mean, kept = mean_lens(sheets, [5.0] * 8)
    assert kept.tolist() == [k != 3 for k in range(8)]
    np.testing.assert_allclose(mean.coefficients, true.coefficients, atol=0.1)


def test_a_lens_has_no_affine_part() -> None:
    y, x = np.mgrid[:6, :7].astype(float)
    plane = Sheet(spacing_px=40.0, coefficients=np.stack([2 * y - x + 1, 0.5 * x]))
    np.testing.assert_allclose(without_affine(plane).coefficients, 0.0, atol=1e-12)
