"""Chains lead from raw pixels to the volume and back, across sheets and cuts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from functions.model.chain import TOLERANCE_PX, Chain, level_warp, source_warp
from functions.model.transform import CutSheet, Sheet, Warp, sheet_shape
from functions.registration.blend import ramp
from functions.registration.render import ChainedTile
from tests.functions.placed_runs import sheet, turned
from tests.functions.test_cut_sheets import SHAPE, two_regions

Points = NDArray[np.float64]


def random_chain(seed: int, *, cut: bool = False) -> Chain:
    """A tile in a section in a volume: turned, bent, and parted in the middle where cut."""
    rng = np.random.default_rng(seed)
    own = Warp(affine=turned(0.3, (3.0, 5.0)), sheet=sheet(rng, SHAPE, 0.5))
    whole: Sheet | CutSheet = sheet(rng, SHAPE, 2.0)
    if cut:
        both = rng.normal(0, 1.0, (2, 2, *sheet_shape(SHAPE, 64.0)))
        both[1, 1] += 14.0
        whole = CutSheet(spacing_px=64.0, coefficients=both, regions=two_regions(0.2))
    most = 15.0 if cut else 180.0  # turned further, the part on the right would move onto that on the left
    affine = turned(float(rng.uniform(-most, most)), (60.0, 9.0))
    return Chain(warps=(own, Warp(affine=affine, sheet=whole)))


def random_points(seed: int) -> Points:
    return np.random.default_rng(seed).uniform(0, 1, (300, 2)) * SHAPE


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), cut=st.booleans())
def test_raw_pixel_to_volume_and_back(seed: int, cut: bool) -> None:
    chain, points = random_chain(seed, cut=cut), random_points(seed)
    back = chain.inverse(chain.apply(points))
    assert np.isfinite(back).all()
    assert np.linalg.norm(back - points, axis=1).max() < 0.01


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_volume_to_raw_pixel_and_back(seed: int) -> None:
    chain = random_chain(seed)
    there = chain.apply(random_points(seed))
    assert np.linalg.norm(chain.apply(chain.inverse(there)) - there, axis=1).max() < 2 * TOLERANCE_PX


def test_no_pixel_lies_in_the_gap_of_an_opened_fold() -> None:
    chain = random_chain(3, cut=True)
    left, right = np.array([[80.0, 90.0]]), np.array([[80.0, 110.0]])
    assert np.isfinite(chain.inverse(chain.apply(np.concatenate([left, right])))).all()
    steps = np.linspace(0, 1, 200)[:, None]
    between = chain.apply(left) * (1 - steps) + chain.apply(right) * steps
    lost = np.isnan(chain.inverse(between)).all(axis=1)
    length = float(np.linalg.norm(chain.apply(right) - chain.apply(left)))
    assert lost.mean() * length == pytest.approx(14.0, abs=4.0)
    assert np.isnan(chain.inverse(np.array([[np.nan, 1.0]]))).all()


def test_a_sheet_that_folds_over_itself_has_no_way_back() -> None:
    fold = np.zeros((2, *sheet_shape(SHAPE, 64.0)))
    fold[1, :, 2:4] = [90.0, -90.0]
    warp = Warp(affine=np.eye(2, 3), sheet=Sheet(spacing_px=64.0, coefficients=fold))
    back = Chain(warps=(warp,)).inverse(np.array([[80.0, x] for x in np.linspace(0, 190, 77)]))
    known = np.isfinite(back).all(axis=1)
    assert 5 < known.sum() < 77
    np.testing.assert_allclose(warp.apply(back[known])[:, 1], np.linspace(0, 190, 77)[known], atol=0.01)


def test_dense_coordinates_do_not_cross_a_cut() -> None:
    chain = random_chain(5, cut=True)
    tile = ChainedTile(
        chain=chain, shape_yx=SHAPE, usable=np.ones((20, 25), dtype=np.bool_), gain=1.0, offset=0.0
    )
    low = np.floor(tile.rim().min(axis=0)).astype(int)
    size = np.ceil(tile.rim().max(axis=0)).astype(int) - low + 1
    sources = tile.sources((int(low[0]), int(low[1])), (int(size[0]), int(size[1])))
    dense = sources.at(slice(None), slice(None))
    y, x = np.indices(dense.shape[1:]) + low[:, None, None]
    exact = chain.inverse(np.stack([y.ravel(), x.ravel()], axis=1).astype(float)).T.reshape(dense.shape)
    both = np.isfinite(dense[0]) & np.isfinite(exact[0])
    assert (np.isfinite(dense[0]) == np.isfinite(exact[0])).mean() > 0.99
    assert np.isnan(dense[0]).any()
    assert np.percentile(np.linalg.norm((dense - exact)[:, both], axis=0), 99.5) < 0.1


@pytest.mark.parametrize("factor", [1, 2, 8])
def test_a_level_has_its_pixel_centres_between_those_it_covers(factor: int) -> None:
    centre = (factor - 1) / 2
    points = np.array([[centre, centre + factor], [10.0 + centre, 20.0 + centre]])
    moved = level_warp(factor, (10.0, 20.0)).apply(points)
    np.testing.assert_allclose(moved[1], [0.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(level_warp(factor).apply(points)[0], [0.0, 1.0], atol=1e-12)
    there_and_back = Chain(warps=(source_warp(factor), level_warp(factor)))
    np.testing.assert_allclose(there_and_back.apply(points), points, atol=1e-9)


def test_weights_are_largest_in_the_middle_and_none_where_nothing_is_used() -> None:
    usable = np.ones((20, 25), dtype=np.bool_)
    usable[:, 20:] = False
    tile = ChainedTile(chain=Chain(), shape_yx=SHAPE, usable=usable, gain=1.0, offset=0.0)
    points = np.array([[80.0, 80.0], [4.0, 80.0], [80.0, 180.0], [-3.0, 80.0], [np.nan, 0.0]])
    weight = tile.weight(points, ramp(usable))
    assert weight[0] > 10 * weight[1] > 0
    np.testing.assert_array_equal(weight[2:], 0)
