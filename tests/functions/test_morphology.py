"""Square structures give exactly what scipy gives."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from functions.registration.morphology import grown, opened, shrunk, touching_border, without_holes


@pytest.mark.parametrize("shape", [(40, 57), (3, 9), (1, 1), (16, 16)])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.93, 1.0])
def test_as_scipy_does(shape: tuple[int, int], share: float) -> None:
    mask = np.random.default_rng(7).random(shape) < share
    for by in (1, 2, 3):
        square = np.ones((2 * by + 1, 2 * by + 1), bool)
        np.testing.assert_array_equal(grown(mask, by), ndimage.binary_dilation(mask, square))
        np.testing.assert_array_equal(shrunk(mask, by), ndimage.binary_erosion(mask, square, border_value=1))
    for side in (2, 3, 5, 16):
        square = np.ones((side, side), bool)
        np.testing.assert_array_equal(opened(mask, side), ndimage.binary_opening(mask, square))
    np.testing.assert_array_equal(without_holes(mask), ndimage.binary_fill_holes(mask))


def test_parts_that_reach_the_border() -> None:
    mask = np.zeros((9, 9), bool)
    mask[4:6, 3:5] = mask[0, 1:4] = mask[7:9, 8] = True
    expected = mask.copy()
    expected[4:6, 3:5] = False
    np.testing.assert_array_equal(touching_border(mask), expected)
    assert not touching_border(np.zeros((4, 4), bool)).any()
