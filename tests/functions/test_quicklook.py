"""Any level can be drawn from the raw tiles, and is what pooling the full resolution gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from functions import align_pairs, align_render, align_solve, stitch
from functions.model.acquisition import Section
from functions.model.errors import AcquisitionError, UpstreamError, VolumeError
from functions.model.geometry import Box
from functions.quicklook import draw_level
from functions.store.images import write_tile
from functions.store.pyramid import pool_mean
from functions.store.run import Run
from tests.functions.placed_runs import TILE, Pattern, placed_run, planes
from tests.functions.registration_scenes import scene, start, tile


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = placed_run(tmp_path_factory.mktemp("placed"), zs=(0, 2), pattern=Pattern(wave_px=(24.0, 37.0)))
    for unit in align_render.units(run):
        align_render.compute(run, unit)
    return run


def drawn(folder: Path) -> NDArray[np.uint8]:
    return np.asarray(zarr.open_group(str(folder), mode="r")["0"][...]).astype(np.uint8)


def inner(run: Run, factor: int) -> NDArray[np.bool_]:
    """Pixels of a level that only covered pixels of the volume make up."""
    _, mask = planes(run)
    return np.asarray(pool_mean(mask.astype(np.uint8) * 255, (1, factor, factor)) == 255)


@pytest.mark.parametrize(("level", "factor"), [(1, 2), (2, 4)])
def test_a_level_is_the_mean_of_the_full_resolution(
    run: Run, tmp_path: Path, level: int, factor: int
) -> None:
    found = draw_level(run, tmp_path / "look.zarr", level=level)
    assert found.factor_zyx == (1, factor, factor)
    image, _ = planes(run)
    expected = pool_mean(image, (1, factor, factor)).astype(int)
    got = drawn(tmp_path / "look.zarr").astype(int)
    assert got.shape == expected.shape
    inside = inner(run, factor)
    assert inside.mean() > 0.4
    error = np.abs(got - expected)[inside]
    assert error.max() <= 8
    assert error.mean() < 1.5
    assert not got[1].any(), "a missing section stays empty"
    shifted = np.abs(np.roll(got, 1, axis=2) - expected)[inside]
    assert shifted.mean() > 4 * error.mean(), "half a pixel off would show"


def test_level_0_is_the_volume(run: Run, tmp_path: Path) -> None:
    draw_level(run, tmp_path / "look.zarr", level=0, sections=(2, 3))
    image, _ = planes(run)
    np.testing.assert_array_equal(drawn(tmp_path / "look.zarr"), image[2:])


def test_a_box_is_cut_out_of_its_level(run: Run, tmp_path: Path) -> None:
    draw_level(run, tmp_path / "whole.zarr", level=1)
    box = Box(offset_zyx=(0, 41, 90), shape_zyx=(1, 100, 77))
    found = draw_level(run, tmp_path / "box.zarr", level=1, box=box)
    assert found.offset_zyx == (0, 40, 90)
    assert found.shape_zyx == (1, 51, 39)
    part = drawn(tmp_path / "whole.zarr")[0:1, 20:71, 45:84].astype(int)
    assert np.abs(drawn(tmp_path / "box.zarr") - part).max() <= 2
    ome = zarr.open_group(str(tmp_path / "box.zarr"), mode="r").attrs["ome"]
    scale, shift = ome["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    assert scale["scale"] == [40.0, 8.0, 8.0]
    assert shift["translation"] == [0.0, 40 * 4 + 2.0, 90 * 4 + 2.0]


def test_what_cannot_be_drawn_is_said(run: Run, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(VolumeError, match="there: exists"):
        draw_level(run, tmp_path / "there", level=1)
    with pytest.raises(VolumeError, match="levels 0 to 3"):
        draw_level(run, tmp_path / "a", level=9)
    with pytest.raises(VolumeError, match="nothing of the volume"):
        draw_level(run, tmp_path / "a", level=1, sections=(7, 9))
    with pytest.raises(VolumeError, match="nothing of the volume"):
        draw_level(run, tmp_path / "a", level=1, box=Box(offset_zyx=(0, 900, 0), shape_zyx=(1, 9, 9)))
    assert not (tmp_path / "a").exists()


def test_a_stack_that_is_not_aligned_yet(tmp_path: Path) -> None:
    run = placed_run(tmp_path)
    run.cell("align_solve").file("solution.json").unlink()
    with pytest.raises(UpstreamError, match="not solved"):
        draw_level(Run(run.spec), tmp_path / "look.zarr", level=1)


def test_a_changed_tile_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    run = placed_run(tmp_path)
    write_tile(run.acquisition_folder / run.sections[0].section.tiles[0].path, np.full(TILE, 9, np.uint8))
    with pytest.raises(AcquisitionError, match="not the file that ingest accepted"):
        draw_level(run, tmp_path / "look.zarr", level=1)
    assert not (tmp_path / "look.zarr").exists()


def aligned_run(tmp_path: Path, stack: NDArray[np.uint8]) -> Run:
    """An aligned stack, done up to align_solve."""
    sections = []
    for z, pixels in enumerate(stack):
        write_tile(tmp_path / "acq" / f"{z}.tif", pixels)
        sections.append(Section(z=z, tiles=(tile(0, 0, f"{z}.tif", (0, 0), pixels.shape),)))
    run = start(tmp_path / "work", tmp_path / "acq", sections, aligned=True)
    for unit in stitch.units(run):
        run.cell("stitch", unit).run_unit(unit, lambda u=unit: stitch.compute(run, u))
    assert align_pairs.units(run) == []
    align_solve.perform(run)
    return run


def scenes(shape_zyx: tuple[int, int, int]) -> NDArray[np.uint8]:
    return np.rint(np.stack([scene(shape_zyx[1:], z) for z in range(shape_zyx[0])])).astype(np.uint8)


def test_an_aligned_stack_is_pooled(tmp_path: Path) -> None:
    stack = scenes((4, 70, 91))
    draw_level(aligned_run(tmp_path, stack), tmp_path / "look.zarr", level=1)
    np.testing.assert_array_equal(drawn(tmp_path / "look.zarr"), pool_mean(stack, (1, 2, 2)))


def test_sections_that_share_a_voxel_are_averaged(tmp_path: Path) -> None:
    """From 4 nm at 40 nm between sections, z is halved with the fourth level."""
    stack = scenes((3, 48, 600))
    found = draw_level(aligned_run(tmp_path, stack), tmp_path / "look.zarr", level=4)
    assert (found.factor_zyx, found.shape_zyx, found.sections) == ((2, 16, 16), (2, 3, 38), 3)
    got = drawn(tmp_path / "look.zarr").astype(int)
    expected = pool_mean(stack, (2, 16, 16)).astype(int)
    assert np.abs(got - expected).max() <= 1
