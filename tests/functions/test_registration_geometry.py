"""Warps, robust solves, masks and grey values: the small parts registration is made of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from functions.model.transform import Sheet, SheetDocument, Warp, sheet_shape
from functions.registration.contrast import (
    equalise_tiles,
    percentile_range,
    section_contrast,
    shared_cells,
    to_eight_bit,
)
from functions.registration.masks import black_margin, tile_masks
from functions.registration.robust import solve_robust
from functions.registration.sheets import basis_rows, bending, membrane
from functions.registration.warp import dense_coordinates, dense_sources, draw, pull, source_box, step_for


def some_warp(seed: int, amplitude: float = 2.0) -> Warp:
    rng = np.random.default_rng(seed)
    affine = np.array([[1.0, 0.02, 5.0], [-0.02, 1.0, -3.0]])
    return Warp(affine=affine, sheet=Sheet(spacing_px=40.0, coefficients=rng.normal(0, amplitude, (2, 6, 7))))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_inverse_undoes_apply(seed: int) -> None:
    points = np.random.default_rng(seed).uniform(0, 120, (50, 2))
    warp = some_warp(seed)
    np.testing.assert_allclose(warp.inverse(warp.apply(points)), points, atol=5e-3)


def test_a_sheet_survives_its_document() -> None:
    sheet = some_warp(1).sheet
    assert sheet is not None
    document = SheetDocument.parse(SheetDocument.of(sheet).model_dump_json(), source="test")
    np.testing.assert_allclose(document.coefficients, sheet.coefficients, atol=1e-4)


def test_basis_rows_are_the_sheet() -> None:
    sheet = some_warp(2).sheet
    assert sheet is not None
    points = np.random.default_rng(0).uniform(-10, 170, (30, 2))
    columns, weights = basis_rows(points, spacing_px=40.0, shape=(6, 7))
    flat = sheet.coefficients.reshape(2, -1)
    np.testing.assert_allclose((weights[None] * flat[:, columns]).sum(axis=2).T, sheet(points), atol=1e-12)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)


def test_smoothness_forms_know_their_null_spaces() -> None:
    y, x = np.mgrid[:5, :6].astype(float)
    plane, constant = (2 * y - x + 1).ravel(), np.ones(30)
    assert plane @ bending((5, 6)) @ plane == pytest.approx(0.0)
    assert plane @ membrane((5, 6)) @ plane > 1.0
    assert constant @ membrane((5, 6)) @ constant == pytest.approx(0.0)
    assert sheet_shape((81, 121), 40.0) == (5, 6)


def test_robust_solve_ignores_wild_measurements() -> None:
    rng = np.random.default_rng(3)
    design = sparse.csr_matrix(np.stack([np.ones(60), np.linspace(0, 1, 60)], axis=1))
    target = np.stack([1 + 2 * np.linspace(0, 1, 60), -3 + 0 * np.linspace(0, 1, 60)], axis=1)
    target += rng.normal(0, 0.05, target.shape)
    target[::4] += 40.0
    solution = solve_robust(design, target, weight=np.ones(60), prior=sparse.identity(2, format="csr") * 1e-9)
    np.testing.assert_allclose(solution.unknowns, [[1, -3], [2, 0]], atol=0.06)
    assert (solution.weight[::4] == 0).all()


def test_identity_and_shift_keep_pixels() -> None:
    image = np.random.default_rng(0).integers(0, 255, (50, 70)).astype(np.uint8)
    warp = Warp(affine=np.array([[1.0, 0, 4], [0, 1.0, -6]]))
    coordinates = dense_coordinates(warp.inverse, (0, 0), (50, 70))
    box = source_box(coordinates, image.shape)
    assert box is not None
    value, inside = pull(image[box], np.ones(image[box].shape, bool), coordinates, box)
    np.testing.assert_array_equal(np.rint(value[4:, :64]), image[:-4, 6:])
    assert inside[4:, :64].all()
    assert not inside[:4].any()
    assert not inside[:, 64:].any()


def test_strips_do_not_show_in_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).integers(0, 255, (150, 70)).astype(np.uint8)
    mask = np.ones(image.shape, bool)
    mask[40:60, 10:30] = False
    source_of = some_warp(4).apply
    whole = draw(image, mask, source_of, (140, 80))
    monkeypatch.setattr("functions.registration.filters.CPU_STRIP_PX", 1)
    strips = draw(image, mask, source_of, (140, 80))
    assert 0.3 < whole[1].mean() < 0.95
    np.testing.assert_array_equal(strips[1], whole[1])
    # coordinates of a strip begin at its own first row, so what is interpolated between differs a little
    np.testing.assert_allclose(strips[0], whole[0], atol=0.5)


@pytest.mark.parametrize(("spacing_px", "step_px"), [(None, 32), (80.0, 8), (340.0, 17), (5000.0, 32)])
def test_sheets_are_evaluated_as_densely_as_they_bend(spacing_px: float | None, step_px: int) -> None:
    assert step_for(spacing_px) == step_px
    if spacing_px == 340.0:
        rng = np.random.default_rng(1)
        sheet = Sheet(spacing_px=spacing_px, coefficients=rng.normal(0, 3, (2, 5, 5)))
        warp = Warp(affine=np.eye(2, 3), sheet=sheet)
        found = dense_coordinates(warp.apply, (0, 0), (400, 300), step_px=step_px)
        points = np.stack(np.mgrid[:400, :300], axis=-1).reshape(-1, 2).astype(float)
        exact = warp.apply(points).T.reshape(2, 400, 300)
        assert np.abs(found - exact).max() < 0.02


@pytest.mark.parametrize("far_px", [0.0, -700.0, 21_000.0])
def test_sources_are_dense_coordinates(far_px: float) -> None:
    warp = some_warp(4)
    moved = Warp(affine=warp.affine + np.array([[0, 0, far_px], [0, 0, -far_px]]), sheet=warp.sheet)
    exact = dense_coordinates(moved.apply, (3, 5), (60, 90))
    found = dense_sources(moved.apply, (3, 5), (60, 90))
    assert found.local_yx.min() >= 0
    corner = np.array(found.corner_yx, dtype=np.float64)[:, None, None]
    np.testing.assert_allclose(found.local_yx.astype(np.float64) + corner, exact, atol=2e-5)
    np.testing.assert_allclose(found.at(slice(7, 20), slice(0, 9)), exact[:, 7:20, :9], atol=2e-3)


def test_masks_find_margins_saturation_and_resin() -> None:
    rng = np.random.default_rng(1)
    image = np.clip(rng.normal(120, 30, (256, 320)), 5, 250).astype(np.uint8)
    image[:, :40] = 0
    image[100:140, 200:240] = 255
    image[160:, 240:] = np.clip(rng.normal(180, 2, (96, 80)), 0, 255).astype(np.uint8)
    masks = tile_masks(image)
    assert not masks.usable[:, :5].any()
    assert not masks.usable[13:17, 26:29].any()
    assert masks.usable[24:, 34:].all(), "resin is a real picture"
    assert not masks.textured[24:, 34:].any(), "resin has nothing to compare"
    assert masks.textured[2:10, 10:24].all()


@pytest.mark.parametrize("gray", [0, 90, 255])
def test_constant_tiles_have_no_usable_pixel(gray: int) -> None:
    assert not tile_masks(np.full((64, 64), gray, np.uint8)).textured.any()


def test_black_margin_leaves_dark_tissue() -> None:
    image = np.full((60, 60), 100, np.uint8)
    image[:, :10] = 0
    image[30:40, 30:40] = 0
    margin = black_margin(image)
    assert margin[:, :10].all()
    assert not margin[:, 10:].any()


def test_sixteen_bits_become_eight_by_percentiles() -> None:
    image = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    low, high = percentile_range(np.bincount(image.ravel(), minlength=65536), low=1, high=99)
    out = to_eight_bit(image, low, high)
    assert out[0, 0] == 0
    assert out[0, 1] == 1
    assert out[-1, -1] == 255
    assert (np.diff(out.ravel().astype(int)) >= 0).all()


def test_gains_make_overlaps_equal() -> None:
    cells = np.random.default_rng(0).uniform(60, 180, (16, 16)).astype(np.float32)
    other = (cells[:, 8:] * 1.2 - 15).astype(np.float32)
    usable = [np.ones((16, 16), bool), np.ones((16, 8), bool)]
    warps = [Warp(affine=np.eye(2, 3)), Warp(affine=np.array([[1.0, 0, 0], [0, 1.0, 64]]))]
    shared = [shared_cells((0, 1), usable, warps, cell_px=8)]
    gains = equalise_tiles(shared, [cells, other], usable)
    a, b = gains[0, 0] * cells[:, 8:] + gains[0, 1], gains[1, 0] * other + gains[1, 1]
    assert abs(float((a - b).mean())) < 0.5
    assert float(a.std() / b.std()) == pytest.approx(1.0, abs=0.01)


def test_contrast_reaches_its_target() -> None:
    values = np.clip(np.random.default_rng(0).normal(90, 12, 20000), 0, 255).astype(np.uint8)
    found = section_contrast(
        [np.bincount(values, minlength=256)], np.array([[1.0, 0.0]]), target_mean=128, target_std=33
    )
    mapped = values * found.gain + found.offset
    assert mapped.mean() == pytest.approx(128, abs=0.5)
    assert np.clip(mapped, *np.percentile(mapped, [1, 99])).std() == pytest.approx(33, abs=1)
