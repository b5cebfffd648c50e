"""Which of two overlapping tiles is sharper, so that it is the one to be drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from functions.registration.contrast import MIN_SAMPLES, SharedCells, balance
from functions.registration.masks import CELL_PX, Gray, noise_std, reduce_mean

Floats = NDArray[np.float64]
LEAD_PX = 96.0
"""A tile with e times the fine detail of its neighbour is drawn as if its rim were so much farther."""
MAX_LEAD_PX = 128.0
SIGMA = 1.0
NOISE_SHARE = 0.25 * (1.0 - 1.0 / 9.0)
"""Of the variance of pixel noise so much is left in a mean of 2 x 2 px minus the mean of 3 x 3 of these."""


def fine_cells(image: Gray) -> NDArray[np.float32]:
    """Variance of the detail between 2 and 6 px on cells of 8 x 8 px, without that of the noise."""
    half = reduce_mean(image, 2)
    detail = half - _mean_of_nine(half)
    noise = noise_std(image[::2, ::2], np.ones((-(-image.shape[0] // 2), -(-image.shape[1] // 2)), np.bool_))
    cells = reduce_mean(detail**2, CELL_PX // 2) - np.float32(NOISE_SHARE * noise**2)
    return cells[: -(-image.shape[0] // CELL_PX), : -(-image.shape[1] // CELL_PX)]


def _mean_of_nine(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of 3 x 3 (Y, X), the border repeated."""
    wide = np.pad(values, 1, mode="edge")
    rows = wide[:-2] + wide[1:-1]
    rows += wide[2:]
    out = rows[:, :-2] + rows[:, 1:-1]
    out += rows[:, 2:]
    out *= np.float32(1.0 / 9.0)
    return out


def leads_px(shared: Sequence[SharedCells], fine: Sequence[NDArray[np.float32]], gains: Floats) -> Floats:
    """The lead (N,) of each tile in px, for blending: from the detail that pairs show of the same tissue.

    Args:
        gains: gain and offset (N, 2) of each tile, so that contrast is not taken for sharpness.
    """
    rows = []
    for common in shared:
        (a, b), (here, there) = common.pair, common.values(fine)
        if len(here) >= MIN_SAMPLES and here.mean() > 0 and there.mean() > 0:
            ratio = float(here.mean() * gains[a, 0] ** 2 / (there.mean() * gains[b, 0] ** 2))
            rows.append((a, b, 0.5 * float(np.log(ratio))))
    lead = LEAD_PX * balance(len(fine), rows, SIGMA)
    return np.clip(lead, -MAX_LEAD_PX, MAX_LEAD_PX)
