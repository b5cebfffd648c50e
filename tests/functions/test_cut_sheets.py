"""Sheets that folds and cracks part: every region moves by its own, and the way back is exact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from functions.model.regions import LINE, Regions
from functions.model.transform import CutSheet, SectionTransform, Sheet, Warp, sheet_shape
from functions.store.run import Run
from functions.store.transforms import load_transform, save_transform
from tests.functions.registration_scenes import start, write_montage

SHAPE = (160, 200)


def two_regions(slope: float = 0.0) -> Regions:
    """Left and right of a line of two cells."""
    y, x = np.indices((20, 25))
    offset = x - 12 - slope * (y - 10)
    return Regions(labels=np.where(np.abs(offset) < 1, LINE, offset > 0).astype(np.int16))


def cut_warp(seed: int, *, jump_px: float) -> Warp:
    """The right region moves `jump_px` away from the left one, on top of random smooth sheets."""
    rng = np.random.default_rng(seed)
    coefficients = rng.normal(0, 1.0, (2, 2, *sheet_shape(SHAPE, 40.0)))
    coefficients[1, 1] += jump_px
    affine = np.array([[1.0, 0.03, 5.0], [-0.03, 1.0, -3.0]])
    sheet = CutSheet(spacing_px=40.0, coefficients=coefficients, regions=two_regions(0.2))
    return Warp(affine=affine, sheet=sheet)


def random_points(seed: int, count: int = 400) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(0, 1, (count, 2)) * SHAPE


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), jump=st.floats(6, 30))
def test_an_opened_fold_is_undone_exactly(seed: int, jump: float) -> None:
    points, warp = random_points(seed), cut_warp(seed, jump_px=jump)
    source, there = warp.locate(warp.apply(points))
    assert there.all()
    np.testing.assert_allclose(source, points, atol=5e-3)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_a_closed_crack_is_undone_away_from_what_it_covers(seed: int) -> None:
    points, warp = random_points(seed), cut_warp(seed, jump_px=-12.0)
    assert isinstance(warp.sheet, CutSheet)
    margin = warp.sheet.regions.margins(points)
    clear = np.abs(margin[:, 0]) > 2 * (12.0 + 5.0)
    np.testing.assert_allclose(warp.inverse(warp.apply(points[clear])), points[clear], atol=5e-3)


def test_no_tissue_lies_in_the_gap_of_an_opened_fold() -> None:
    sheet = CutSheet(
        spacing_px=40.0, coefficients=np.zeros((2, 2, *sheet_shape(SHAPE, 40.0))), regions=two_regions()
    )
    sheet.coefficients[1, 1] = 24.0
    warp = Warp(affine=np.eye(2, 3), sheet=sheet)
    # the border is the middle of cells 12 and 13's line: cell 12 alone, x = 96..103
    x = np.array([90.0, 99.0, 100.5, 110.0, 122.0, 124.5, 130.0])
    source, there = warp.locate(np.stack([np.full_like(x, 80.0), x], axis=1))
    np.testing.assert_array_equal(there, [True, True, False, False, False, True, True])
    np.testing.assert_allclose(source[there, 1], [90.0, 99.0, 100.5, 106.0])


def test_the_border_runs_along_the_middle_of_the_line() -> None:
    regions = Regions(labels=np.array([[0, 0, LINE, LINE, 1, 1]] * 3, dtype=np.int16))
    points = np.array([[10.0, 22.9], [10.0, 24.1], [10.0, 23.5], [-50.0, 500.0]])
    np.testing.assert_array_equal(regions.of(points), [0, 1, 0, 1])
    assert regions.margins(points)[2] == pytest.approx([0.0, 0.0])


def test_labels_must_be_whole() -> None:
    with pytest.raises(ValueError, match=r"not 0\.\.K-1"):
        Regions(labels=np.array([[0, 2]], dtype=np.int16))
    with pytest.raises(ValueError, match="2 regions"):
        CutSheet(spacing_px=8.0, coefficients=np.zeros((1, 2, 5, 5)), regions=two_regions())


def test_then_follows_with_an_affine_map() -> None:
    points, affine = random_points(0), np.array([[0.9, 0.2, 4.0], [-0.1, 1.1, 7.0]])
    for warp in (cut_warp(1, jump_px=9.0), Warp(affine=np.eye(2, 3))):
        expected = warp.apply(points) @ affine[:, :2].T + affine[:, 2]
        np.testing.assert_allclose(warp.then(affine).apply(points), expected, atol=1e-9)


def run_of_one_section(tmp_path: Path) -> Run:
    section, _ = write_montage(tmp_path / "acq", grid=(1, 1))
    return start(tmp_path / "work", tmp_path / "acq", [section])


@pytest.mark.parametrize("kind", ["cut", "smooth", "none"])
def test_a_transform_is_stored_to_the_bit(tmp_path: Path, kind: str) -> None:
    warp = cut_warp(3, jump_px=17.0)
    if kind != "cut":
        assert warp.sheet is not None
        smooth = Sheet(spacing_px=40.0, coefficients=warp.sheet.coefficients[0])
        warp = Warp(affine=warp.affine, sheet=smooth if kind == "smooth" else None)
    run = run_of_one_section(tmp_path)
    saved = SectionTransform(section="z00000", shape_yx=SHAPE, warp=warp)
    save_transform(run, saved)
    loaded = load_transform(run, "z00000")
    points = random_points(1)
    np.testing.assert_array_equal(loaded.apply(points), saved.apply(points))
    np.testing.assert_array_equal(loaded.inverse(points), saved.inverse(points))
    for mine, other in zip(loaded.locate(points), saved.locate(points), strict=True):
        np.testing.assert_array_equal(mine, other)
