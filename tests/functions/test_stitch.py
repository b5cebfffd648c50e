"""Stitching puts tiles where they were cut, and says so when it cannot."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from functions import stitch
from functions.model.acquisition import Section
from functions.model.artefacts import CRACK, FOLD, OUTSIDE, TISSUE
from functions.model.errors import AcquisitionError
from functions.store.artefacts import load_artefacts
from functions.store.images import read_tile, write_tile
from functions.store.run import Run
from functions.store.transforms import load_layout
from tests.functions.registration_scenes import scene, section_pixels, start, tile, write_montage


def seam_errors(run: Run, section: Section, corners: np.ndarray) -> np.ndarray:
    """Distances between where two tiles put the same scene points, over all pairs of tiles that overlap."""
    layout = load_layout(run, section.id)
    errors = [np.zeros(0)]
    for a, b in combinations(range(len(section.tiles)), 2):
        shape = np.array(section.tiles[a].shape_yx)
        low, high = np.maximum(corners[a], corners[b]), np.minimum(corners[a], corners[b]) + shape - 1
        if (high - low > 8).all():
            axes = [np.linspace(lo, hi, 6) for lo, hi in zip(low, high, strict=True)]
            points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
            here = layout.place(section.tiles[a].id, points - corners[a])
            errors.append(
                np.linalg.norm(here - layout.place(section.tiles[b].id, points - corners[b]), axis=1)
            )
    return np.concatenate(errors)


def test_tiles_come_together(tmp_path: Path) -> None:
    section, corners = write_montage(tmp_path / "acq")
    run = start(tmp_path / "work", tmp_path / "acq", [section])
    report = stitch.compute(run, "z00000")
    assert report.status == "ok", report.problems
    assert report.figures["pairs_kept"] == 7
    assert np.percentile(seam_errors(run, section, corners), 95) < 0.5
    layout = load_layout(run, "z00000")
    image, mask = section_pixels(run, "z00000")
    assert mask.mean() > 0.9
    assert image[mask].mean() == pytest.approx(128, abs=4)
    assert image[mask].std() == pytest.approx(33, abs=4)
    assert {t.placed for t in layout.tiles} == {"matched"}


def test_a_fold_is_kept_with_the_section(tmp_path: Path) -> None:
    section, _ = write_montage(tmp_path / "acq", grid=(1, 1), size=400)
    path = tmp_path / "acq" / section.tiles[0].path
    pixels = np.array(read_tile(path))
    pixels[:, 196:210] = np.random.default_rng(0).integers(2, 28, (400, 14))
    write_tile(path, pixels)
    run = start(tmp_path / "work", tmp_path / "acq", [section])
    figures = stitch.compute(run, "z00000").figures
    codes = load_artefacts(run, "z00000")
    assert codes.shape == (50, 50)
    assert (codes[2:-2, 25] == FOLD).all()
    assert set(np.unique(codes)) == {TISSUE, FOLD}
    assert figures["fold_fraction"] == pytest.approx((codes == FOLD).mean(), abs=1e-4)
    assert not np.isin(codes, [OUTSIDE, CRACK]).any()


def test_stitching_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    section, _ = write_montage(tmp_path / "acq", grid=(1, 2))
    files = []
    for name in ("one", "two"):
        run = start(tmp_path / name, tmp_path / "acq", [section])
        stitch.compute(run, "z00000")
        cell = run.cell("stitch", "z00000").path
        files.append({p.relative_to(cell): p.read_bytes() for p in sorted(cell.rglob("*")) if p.is_file()})
    assert files[0] == files[1]
    assert len(files[0]) > 4


def test_black_margins_are_not_registered(tmp_path: Path) -> None:
    """Margins lie at the same place in every tile, so unmasked they would pull all tiles onto each other."""
    section, corners = write_montage(tmp_path / "acq", size=224, overlap=96, grid=(1, 3))
    for t in section.tiles:
        pixels = np.array(read_tile(tmp_path / "acq" / t.path))
        pixels[:, :24] = 0
        pixels[:, -24:] = 0
        write_tile(tmp_path / "acq" / t.path, pixels)
    run = start(tmp_path / "work", tmp_path / "acq", [section])
    assert stitch.compute(run, "z00000").status == "ok"
    assert np.percentile(seam_errors(run, section, corners), 95) < 0.5
    _, mask = section_pixels(run, "z00000")
    assert not mask[:, :16].any()


def test_one_tile_and_missing_tiles(tmp_path: Path) -> None:
    section, corners = write_montage(tmp_path / "acq", grid=(2, 2))
    single = Section(z=0, tiles=section.tiles[:1])
    three = Section(z=1, tiles=section.tiles[:3])
    run = start(tmp_path / "work", tmp_path / "acq", [single, three])
    assert stitch.units(run) == ["z00000", "z00001"]
    assert stitch.compute(run, "z00000").status == "ok"
    layout = load_layout(run, "z00000")
    assert layout.shape_yx == (160, 160)
    assert layout.tiles[0].warp.sheet is None
    np.testing.assert_array_equal(layout.tiles[0].warp.affine, np.eye(2, 3))
    assert stitch.compute(run, "z00001").status == "ok"
    assert np.percentile(seam_errors(run, three, corners), 95) < 0.5


def test_a_foreign_tile_stays_at_its_stage_position_and_is_reported(tmp_path: Path) -> None:
    section, _ = write_montage(tmp_path / "acq", grid=(2, 3))
    strange = np.clip(scene((160, 160), seed=77), 0, 255).astype(np.uint8)
    write_tile(tmp_path / "acq" / section.tiles[5].path, strange)
    run = start(tmp_path / "work", tmp_path / "acq", [section])
    report = stitch.compute(run, "z00000")
    assert report.status == "look"
    assert any(section.tiles[5].id in p["subject"] for p in report.problems)
    layout = load_layout(run, "z00000")
    assert layout.tiles[5].placed == "stage"
    assert [t.placed for t in layout.tiles[:5]] == ["matched"] * 5
    step = layout.tiles[5].warp.affine[:, 2] - layout.tiles[4].warp.affine[:, 2]
    assert step == pytest.approx((0, 124), abs=16)


@pytest.mark.parametrize("gray", [0, 128])
def test_constant_tiles_are_reported(tmp_path: Path, gray: int) -> None:
    tiles = []
    for column in range(2):
        path = f"t{column}.tif"
        write_tile(tmp_path / "acq" / path, np.full((96, 96), gray, np.uint8))
        tiles.append(tile(0, column, path, (0, 64 * column), (96, 96)))
    run = start(tmp_path / "work", tmp_path / "acq", [Section(z=0, tiles=tuple(tiles))])
    report = stitch.compute(run, "z00000")
    assert report.status == "look"
    assert {"tile_unmatched", "no_texture"} <= {p["code"] for p in report.problems}
    layout = load_layout(run, "z00000")
    assert layout.tiles[1].warp.affine[:, 2] - layout.tiles[0].warp.affine[:, 2] == pytest.approx(
        (0, 64), abs=1
    )


def test_tiles_without_overlap_and_of_another_size(tmp_path: Path) -> None:
    tiles = []
    for column, (x, shape) in enumerate(((0, (100, 100)), (150, (80, 120)))):
        path = f"t{column}.tif"
        write_tile(tmp_path / "acq" / path, np.rint(scene(shape, column)).astype(np.uint8))
        tiles.append(tile(0, column, path, (0, x), shape))
    run = start(tmp_path / "work", tmp_path / "acq", [Section(z=0, tiles=tuple(tiles))])
    report = stitch.compute(run, "z00000")
    assert report.status == "look"
    assert report.figures["tiles_by_stage"] == 1
    assert load_layout(run, "z00000").shape_yx == (100, 270)


def test_sixteen_bit_tiles(tmp_path: Path) -> None:
    section, corners = write_montage(tmp_path / "acq", grid=(1, 2))
    for t in section.tiles:
        pixels = np.array(read_tile(tmp_path / "acq" / t.path)).astype(np.uint16) * 50 + 20000
        write_tile(tmp_path / "acq" / t.path, pixels)
    run = start(tmp_path / "work", tmp_path / "acq", [section])
    assert stitch.compute(run, "z00000").status == "ok"
    assert np.percentile(seam_errors(run, section, corners), 95) < 0.5


def test_aligned_stacks_pass_through_untouched(tmp_path: Path) -> None:
    pixels = np.rint(scene((90, 110), 3)).astype(np.uint8)
    write_tile(tmp_path / "acq" / "a.tif", pixels)
    one = Section(z=0, tiles=(tile(0, 0, "a.tif", (0, 0), pixels.shape),))
    run = start(tmp_path / "work", tmp_path / "acq", [one], aligned=True)
    stitch.compute(run, "z00000")
    layout = load_layout(run, "z00000")
    image, mask = section_pixels(run, "z00000")
    np.testing.assert_array_equal(image, pixels)
    assert mask.all()
    assert layout.exact_copy


def test_an_aligned_stack_of_several_tiles_is_refused(tmp_path: Path) -> None:
    section, _ = write_montage(tmp_path / "acq", grid=(1, 2))
    run = start(tmp_path / "work", tmp_path / "acq", [section], aligned=True)
    with pytest.raises(AcquisitionError, match=r"sections\[z00000\].tiles: 2 tiles"):
        stitch.compute(run, "z00000")
