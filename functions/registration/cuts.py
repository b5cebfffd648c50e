"""The regions of a section that its folds and cracks part."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from functions.model.artefacts import CRACK, FOLD
from functions.model.regions import LINE, Regions
from functions.registration.artefacts import Codes
from functions.registration.planes import RegionMask
from functions.registration.rotation import Level

MIN_REGION_SHARE = 0.02
MIN_REGION_CELLS = 64
GAP_CELLS = 2


def part_regions(codes: Codes) -> Regions | None:
    """The regions that folds and cracks part, by codes of cells of 8 px (`artefacts.classify`); None
    where only one is large enough.

    A line is taken to go on over gaps, and up to a border, of `GAP_CELLS` on either side. Pieces too small
    to be matched go with what is nearest.
    """
    line = (codes == FOLD) | (codes == CRACK)
    if not line.any():
        return None
    wide = ndimage.binary_dilation(line, np.ones((3, 3), bool), iterations=GAP_CELLS)
    pieces, count = ndimage.label(~wide)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    large = np.flatnonzero(sizes >= max(MIN_REGION_CELLS, MIN_REGION_SHARE * line.size))
    if len(large) < 2:
        return None
    label = np.full(count + 1, LINE, dtype=np.int16)
    label[1 + large] = np.arange(len(large))
    cells = label[pieces]
    y, x = ndimage.distance_transform_edt(cells == LINE, return_distances=False, return_indices=True)
    return Regions(labels=np.where(line, LINE, cells[y, x]).astype(np.int16))


def region_level(level: Level, regions: Regions | None, region: int) -> Level:
    """A level of which only one region is usable; what lies on a line is not."""
    if regions is None:
        return level
    mask = RegionMask(mask=level.mask, regions=regions, region=region, factor=level.factor)
    return replace(level, mask=mask)
