"""The distortion that all tiles of a camera share: its gauge, and the mean over sections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from functions.model.shading import Shading
from functions.model.transform import Sheet

Floats = NDArray[np.float64]

MAX_WEIGHT = 1000.0
"""However many overlaps a lens rests on: a camera that was adjusted is followed."""
OUTLIER = 4.0
"""A section counts when it is not so many times farther from the others than they usually are."""
FLOOR_PX = 0.02
"""Sections that differ less are equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LensPrior:
    """What earlier sections say of the lens, tile px to tile px, and so many overlaps that say it; and of the
    camera's shading, not yet drawn towards none."""

    sheet: Sheet
    weight: float
    shading: Shading | None = None


def without_affine(sheet: Sheet) -> Sheet:
    """The sheet less the affine map that fits it best (least squares over its knots).

    A cubic B-spline whose coefficients lie on a plane is that plane, so the coefficients are fitted.
    """
    gy, gx = sheet.coefficients.shape[1:]
    y, x = np.mgrid[:gy, :gx].reshape(2, -1).astype(np.float64)
    plane = np.stack([np.ones_like(y), y, x], axis=1)
    flat = sheet.coefficients.reshape(2, -1).T
    rest = flat - plane @ np.linalg.lstsq(plane, flat, rcond=None)[0]
    return Sheet(spacing_px=sheet.spacing_px, coefficients=rest.T.reshape(2, gy, gx))


def mean_lens(sheets: Sequence[Sheet], weights: Sequence[float]) -> tuple[Sheet, NDArray[np.bool_]]:
    """The robust mean of the lenses of S sections, and which of them it rests on (S,).

    Args:
        sheets: on the same knots.
        weights: overlaps that each rests on.
    """
    values = np.stack([sheet.coefficients for sheet in sheets])
    off = np.sqrt(((values - np.median(values, axis=0)) ** 2).mean(axis=(1, 2, 3)))
    kept = off <= OUTLIER * max(FLOOR_PX, float(np.median(off)))
    mean = np.average(values[kept], axis=0, weights=np.asarray(weights, dtype=np.float64)[kept])
    return without_affine(Sheet(spacing_px=sheets[0].spacing_px, coefficients=mean)), np.asarray(kept)
