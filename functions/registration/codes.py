"""Artefact codes where the volume shows them: the cells of a section through its map, by the nearest pixel.

    px of the volume ──► section px ──► cell of 8 x 8 px ──► code

The map is the one that the image is drawn through, cuts included, so a fold's code lies on the fold's pixels.
"""

from __future__ import annotations

import numpy as np

from functions.model.artefacts import OUTSIDE, TISSUE
from functions.model.chain import Chain
from functions.model.transform import Warp
from functions.registration.artefacts import Codes
from functions.registration.masks import CELL_PX, Mask
from functions.registration.render import ChainedTile

BLOCK_PX = 512
"""Coordinates take 16 bytes a pixel: they are worked out for so many columns at a time."""


def pull_codes(
    cells: Codes, warp: Warp, section_shape_yx: tuple[int, int], *, top: int, covered: Mask
) -> Codes:
    """Codes (H, W) of a strip of the volume that begins in row `top`.

    What is not drawn is `OUTSIDE`, whatever the section's cells say: an empty crack is no picture. What is
    drawn is never `OUTSIDE`: the pixels of a cell at the rim that holds some outside are tissue.

    Args:
        cells: codes of the section, (ceil(Y / 8), ceil(X / 8)).
        warp: from section px to px of the volume.
        covered: which pixels (H, W) of the strip are drawn.
    """
    out = np.where(covered, np.uint8(TISSUE), np.uint8(OUTSIDE))
    if not (cells > TISSUE).any():
        return out
    section = ChainedTile(
        chain=Chain(warps=(warp,)), shape_yx=section_shape_yx, usable=cells > OUTSIDE, gain=1.0, offset=0.0
    )
    for left in range(0, covered.shape[1], BLOCK_PX):
        columns = slice(left, min(left + BLOCK_PX, covered.shape[1]))
        drawn = covered[:, columns]
        if not drawn.any():
            continue
        where = section.sources((top, left), (drawn.shape[0], drawn.shape[1]))
        known = drawn & np.isfinite(where.local_yx[0])
        y, x = (
            np.clip(np.floor((axis[known] + (corner + 0.5)) / CELL_PX), 0, count - 1).astype(np.int64)
            for corner, axis, count in zip(where.corner_yx, where.local_yx, cells.shape, strict=True)
        )
        out[:, columns][known] = np.maximum(cells[y, x], TISSUE)
    return out
