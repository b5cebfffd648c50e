"""The volume is drawn from the raw tiles in one interpolation: sharper than through the stitched image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from functions import align_render
from functions.model.artefacts import CHARGING, CRACK, FOLD, OUTSIDE, TISSUE
from functions.model.errors import AcquisitionError, VolumeError
from functions.model.regions import LINE, Regions
from functions.model.transform import CutSheet, SectionTransform, Warp, sheet_shape
from functions.registration.warp import dense_coordinates, pull, source_box
from functions.store.aligned import read_aligned
from functions.store.artefacts import open_artefacts, save_artefacts
from functions.store.files import write_json
from functions.store.images import write_tile
from functions.store.run import AlignedVolume, Run
from functions.store.transforms import (
    ALIGNED_KINDS,
    aligned_volume_ref,
    load_layout,
    load_transform,
    save_transform,
)
from functions.store.volumes import Volume
from tests.functions.placed_runs import (
    FRAME,
    SECTION,
    TILE,
    Pattern,
    placed_run,
    plain_codes,
    planes,
    stitch_given,
)
from tests.functions.registration_scenes import section_pixels


def through_the_stitched_image(run: Run, section_id: str) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The reference: a second interpolation, of the stitched image."""
    stitch_given(run, section_id)
    image, mask = section_pixels(run, section_id)
    coordinates = dense_coordinates(load_transform(run, section_id).inverse, (0, 0), FRAME)
    box = source_box(coordinates, image.shape)
    assert box is not None
    value, inside = pull(image[box], mask[box], coordinates, box)
    return np.rint(np.clip(value, 0, 255)).astype(np.uint8), inside


def both_ways(
    root: Path, pattern: Pattern
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Truth, the volume, the reference (Y, X), and where both show something.

    Near the rim of the stitched image the reference interpolates with the black outside: left out.
    """
    run = placed_run(root, pattern=pattern)
    align_render.compute(run, "z00000")
    image, mask = planes(run)
    old, there = through_the_stitched_image(run, "z00000")
    inner = ndimage.binary_erosion(there, iterations=3)
    return pattern.plane(FRAME), image[0].astype(float), old.astype(float), mask[0] & inner


def test_it_agrees_with_the_stitched_image_where_that_is_good(tmp_path: Path) -> None:
    truth, new, old, both = both_ways(tmp_path, Pattern(wave_px=(40.0, 61.0)))
    assert both.mean() > 0.75
    assert np.abs(new - old)[both].max() <= 2
    assert np.abs(new - truth)[both].max() < 2


def test_it_is_sharper_than_through_the_stitched_image(tmp_path: Path) -> None:
    truth, new, old, both = both_ways(tmp_path, Pattern(wave_px=(4.0, 5.0)))
    errors = [float(np.sqrt(np.mean((image - truth)[both] ** 2))) for image in (new, old)]
    assert errors[0] < 0.7 * errors[1], errors
    assert errors[0] < 2.0
    off = [abs(float(image[both].var() / truth[both].var()) - 1) for image in (new, old)]
    assert off[0] < 0.6 * off[1], off


def test_every_pixel_that_a_tile_shows_is_drawn(tmp_path: Path) -> None:
    """The mask of the volume is where the chain leads back into a tile."""
    run = placed_run(tmp_path)
    align_render.compute(run, "z00000")
    _, mask = planes(run)
    _, there = through_the_stitched_image(run, "z00000")
    assert (mask[0] != there).mean() < 0.01  # the reference loses a pixel along the rim
    assert not (there & ~mask[0]).any()


def in_strips(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The same run whose volume lies elsewhere, in chunks of 48 px, and is drawn in strips as high."""
    path = run.cell("align_solve").file("solution.json")
    aligned = AlignedVolume.parse(path.read_bytes(), source="solution")
    frame = aligned.volume.model_copy(update={"path": "again/image.zarr", "chunk_zyx": (1, 48, 48)})
    write_json(path, aligned.model_copy(update={"volume": frame}).to_json())
    monkeypatch.setattr(align_render, "CHUNK_PX", 48)
    return Run(run.spec)


def test_a_section_is_drawn_the_same_twice_and_in_strips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = placed_run(tmp_path)
    align_render.compute(run, "z00000")
    first = planes(run)
    run = in_strips(run, monkeypatch)
    align_render.compute(run, "z00000")
    again = planes(run)
    both = first[1] & again[1]
    assert np.abs(first[0].astype(int) - again[0])[both].max() <= 1
    assert (first[1] != again[1]).mean() < 1e-3  # coordinates are exact at every 8th row of a strip


def test_a_tile_that_changed_since_ingest_is_refused(tmp_path: Path) -> None:
    run = placed_run(tmp_path)
    align_render.compute(run, "z00000")
    path = run.acquisition_folder / run.sections[0].section.tiles[2].path
    write_tile(path, np.full(TILE, 90, np.uint8))
    with pytest.raises(AcquisitionError, match=r"z0_10.tif: not the file that ingest accepted") as caught:
        align_render.compute(run, "z00000")
    assert "ingest" in caught.value.remedy


def test_a_section_whose_files_are_damaged_loses_its_mark_and_is_drawn_again(tmp_path: Path) -> None:
    run = placed_run(tmp_path)
    cell = run.cell("align_render")

    def draw() -> bool:
        return cell.run_unit("z00000", lambda: align_render.compute(run, "z00000"))[1]

    assert draw()
    box = run.aligned.volume.box
    drawn = {kind: read_aligned(run, kind, box) for kind in ALIGNED_KINDS}
    for kind in ALIGNED_KINDS:
        chunk = next((run.work / aligned_volume_ref(run.aligned, kind).path / "c").rglob("0"))
        while chunk.is_dir():
            chunk = next(chunk.iterdir())
        whole = chunk.read_bytes()
        chunk.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(VolumeError, match=r"damaged chunk .*: section z00000; `petavoxel run rerun RUN"):
            read_aligned(run, kind, box)
        assert not cell.is_done("z00000")
        assert draw()
        assert chunk.read_bytes() == whole
        assert np.array_equal(read_aligned(run, kind, box), drawn[kind])
    with pytest.raises(VolumeError, match="leaves the volume"):
        read_aligned(run, "image", box.grow((1, 0, 0)))
    assert cell.is_done("z00000")


def test_a_section_that_is_not_stitched_is_named(tmp_path: Path) -> None:
    run = placed_run(tmp_path)
    run.cell("stitch", "z00000").file("usable.npz").unlink()
    with pytest.raises(VolumeError, match=r"usable\.npz"):
        align_render.compute(run, "z00000")


def test_the_gap_of_an_opened_fold_stays_empty_and_its_sides_sharp(tmp_path: Path) -> None:
    """Each side is drawn by its own sheet, up to the cut; nothing is stretched over the gap."""
    run = placed_run(tmp_path)
    line, gap = 17 * 8 + 3.5, 24.0
    cells = np.zeros((-(-SECTION[0] // 8), -(-SECTION[1] // 8)), np.int16)
    cells[:, 18:], cells[:, 17] = 1, LINE
    both = np.zeros((2, 2, *sheet_shape(SECTION, 64.0)))
    both[1, 1] = gap
    cut = CutSheet(spacing_px=64.0, coefficients=both, regions=Regions(labels=cells))
    flat = SectionTransform(section="z00000", shape_yx=SECTION, warp=Warp(affine=np.eye(2, 3)))
    drawn = []
    for warp in (flat.warp, Warp(affine=np.eye(2, 3), sheet=cut)):
        save_transform(run, replace(flat, warp=warp))
        align_render.compute(run, "z00000")
        image, mask = planes(run)
        drawn.append((image[0].astype(int), mask[0]))
    (plain, shown), (parted, parted_shown) = drawn
    rows = slice(40, 250)
    left, right = int(line), int(line + gap) + 1
    assert not parted_shown[rows, left + 2 : right - 1].any()
    np.testing.assert_array_equal(parted_shown[rows, : left - 1], shown[rows, : left - 1])
    assert np.abs(parted - plain)[rows, : left - 1].max() <= 1
    moved = plain[rows, right + 1 - int(gap) : 270 - int(gap)]
    assert np.abs(parted[rows, right + 1 : 270] - moved).max() <= 1


def torn_codes() -> NDArray[np.uint8]:
    """A fold across the section, a crack beside it, a charged square, and no picture in a corner."""
    cells = plain_codes()
    cells[:, 12:14], cells[20:22], cells[28:34, 24:32] = FOLD, CRACK, CHARGING
    cells[:6, :6] = OUTSIDE
    return cells


def code_plane(run: Run) -> NDArray[np.uint8]:
    volume = open_artefacts(run)
    return volume.read(volume.ref.box)[0].astype(np.uint8)


def test_artefact_codes_lie_where_the_image_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pixel of the volume has the code of the cell that its own way back leads to."""
    run = placed_run(tmp_path)
    cells = torn_codes()
    save_artefacts(run, "z00000", cells)
    report = align_render.compute(run, "z00000")
    codes, (_, mask) = code_plane(run), planes(run)
    grid = np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in FRAME), indexing="ij"), -1)
    at = load_transform(run, "z00000").inverse(grid.reshape(-1, 2))
    cell = np.clip((np.rint(at) // 8).astype(int), 0, np.array(cells.shape) - 1)
    expected = np.maximum(cells[cell[:, 0], cell[:, 1]].reshape(FRAME), TISSUE)
    np.testing.assert_array_equal(codes > OUTSIDE, mask[0])
    assert (codes == expected)[mask[0]].mean() > 0.999  # coordinates are interpolated, to 0.01 px
    assert set(np.unique(codes[mask[0]])) == {TISSUE, FOLD, CRACK, CHARGING}
    shares = {name: float((codes[mask[0]] == k).mean()) for name, k in (("fold", FOLD), ("crack", CRACK))}
    assert report.figures["fold_fraction"] == pytest.approx(shares["fold"], abs=1e-4)
    assert report.figures["crack_fraction"] == pytest.approx(shares["crack"], abs=1e-4)
    assert report.figures["resin_fraction"] == 0
    assert report.figures["covered_fraction"] == pytest.approx(mask.mean(), abs=1e-4)
    run = in_strips(run, monkeypatch)
    monkeypatch.setattr("functions.registration.codes.BLOCK_PX", 64)
    align_render.compute(run, "z00000")
    assert (code_plane(run) != codes).mean() < 2e-3


def test_no_tile_is_read_for_the_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = placed_run(tmp_path)
    read: list[int] = []
    reader = align_render.layout_reader(run, run.sections[0], load_layout(run, "z00000"))
    monkeypatch.setattr(reader, "_decode", lambda path, of=reader._decode: read.append(1) or of(path))
    monkeypatch.setattr(align_render, "layout_reader", lambda *_, **__: reader)
    save_artefacts(run, "z00000", torn_codes())
    align_render.compute(run, "z00000")
    assert len(read) == 4


def test_the_code_of_a_cut_fold_stays_on_its_side_and_out_of_the_gap(tmp_path: Path) -> None:
    run = placed_run(tmp_path)
    gap, cells = 24.0, np.zeros((-(-SECTION[0] // 8), -(-SECTION[1] // 8)), np.int16)
    cells[:, 18:], cells[:, 17] = 1, LINE
    both = np.zeros((2, 2, *sheet_shape(SECTION, 64.0)))
    both[1, 1] = gap
    cut = CutSheet(spacing_px=64.0, coefficients=both, regions=Regions(labels=cells))
    moved = SectionTransform(section="z00000", shape_yx=SECTION, warp=Warp(affine=np.eye(2, 3), sheet=cut))
    save_transform(run, moved)
    codes = plain_codes()
    codes[:, 14] = CHARGING
    codes[:, 17] = FOLD
    codes[:, 22] = CRACK
    save_artefacts(run, "z00000", codes)
    align_render.compute(run, "z00000")
    row = code_plane(run)[100]
    assert (row[14 * 8 : 15 * 8] == CHARGING).all()
    assert (row == CHARGING).sum() == 8
    assert (row[22 * 8 + int(gap) : 23 * 8 + int(gap)] == CRACK).all()
    assert (row == CRACK).sum() == 8
    line = 17 * 8 + 3.5
    assert (row[int(line) + 2 : int(line + gap) - 1] == OUTSIDE).all()
    assert 0 < (row == FOLD).sum() <= 9
    assert set(np.flatnonzero(row == FOLD)) <= {*range(136, 141), *range(136 + 28, 136 + 33)}


def test_codes_of_another_version_are_asked_for(tmp_path: Path) -> None:
    run = placed_run(tmp_path)
    with pytest.raises(VolumeError, match=r"artefacts\.zarr: missing; an older version") as caught:
        open_artefacts(run)
    assert "start the run at align_render" in caught.value.remedy
    align_render.compute(run, "z00000")
    assert isinstance(open_artefacts(run), Volume)
