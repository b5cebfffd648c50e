"""What seams show: windows of one tile against the other's pixels, pulled there through both maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from functions.model.transform import Warp
from functions.registration.masks import enlarge, tile_masks
from functions.registration.warp import dense_coordinates, sample, source_box

WINDOW_PX = 128
FINE_PX, COARSE_PX = 1.0, 12.0
RIM_PX = 8
"""Windows keep so far from the border of the other tile."""


def windows(a: Warp, b: Warp, shape_yx: tuple[int, int], textured: np.ndarray) -> list[tuple[int, int]]:
    """Corners, in px of tile a, of windows that lie in both tiles and show something."""
    step = WINDOW_PX // 2
    corners = [
        (y, x)
        for y in range(0, shape_yx[0] - WINDOW_PX + 1, step)
        for x in range(0, shape_yx[1] - WINDOW_PX + 1, step)
    ]
    rim = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.float64) * (WINDOW_PX - 1)
    points = (np.array(corners, dtype=np.float64)[:, None] + rim).reshape(-1, 2)
    there = b.inverse(a.apply(points)).reshape(-1, 4, 2)
    inside = ((there >= RIM_PX) & (there <= np.array(shape_yx) - 1 - RIM_PX)).all(axis=(1, 2))
    return [
        (y, x)
        for (y, x), ok in zip(corners, inside, strict=True)
        if ok and textured[y : y + WINDOW_PX, x : x + WINDOW_PX].all()
    ]


def seam_ncc(a: Warp, b: Warp, fixed: np.ndarray, moving: np.ndarray, corner: tuple[int, int]) -> float:
    """Correlation of a window of tile a (at `corner`) with tile b, pulled there through both maps."""
    there = dense_coordinates(lambda p: b.inverse(a.apply(p)), corner, (WINDOW_PX, WINDOW_PX))
    box = source_box(there, moving.shape)
    if box is None:
        return 0.0
    local = there - np.array([part.start for part in box], dtype=np.float64)[:, None, None]
    pulled = sample(moving[box], local)
    return ncc(fixed[corner[0] : corner[0] + WINDOW_PX, corner[1] : corner[1] + WINDOW_PX], pulled)


def ncc(a: np.ndarray, b: np.ndarray) -> float:
    """Normalised correlation of two images; 0 where one of them is flat."""
    a, b = a - a.mean(), b - b.mean()
    power = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / power if power > 0 else 0.0


def band(image: np.ndarray) -> np.ndarray:
    """Without noise and shading."""
    gray = image.astype(np.float32)
    return ndimage.gaussian_filter(gray, FINE_PX) - ndimage.gaussian_filter(gray, COARSE_PX)


def judge_seams(
    images: Sequence[np.ndarray],
    pairs: Sequence[tuple[int, int]],
    ours: Sequence[Warp],
    theirs: Sequence[Warp],
) -> dict[str, Any]:
    """Correlations in the windows of every seam by our maps and by theirs, band-passed and plain.

    The windows are chosen by their maps, and are the same for both.
    """
    passed = [band(image) for image in images]
    found = []
    for a, b in pairs:
        shape = (images[a].shape[0], images[a].shape[1])
        textured = enlarge(tile_masks(images[a]).textured, shape)
        for corner in windows(theirs[a], theirs[b], shape, textured):
            found.append(
                [
                    seam_ncc(warps[a], warps[b], kind[a], kind[b], corner)
                    for kind in (passed, images)
                    for warps in (ours, theirs)
                ]
            )
    values = np.array(found).reshape(-1, 4)
    median = np.round(np.median(values, axis=0), 4).tolist()
    tenth = np.round(np.percentile(values, 10, axis=0), 4).tolist()
    return {
        "windows": len(values),
        "ours": {"median": median[0], "p10": tenth[0], "plain_median": median[2]},
        "published": {"median": median[1], "p10": tenth[1], "plain_median": median[3]},
        "share_better": round(float((values[:, 0] >= values[:, 1]).mean()), 4),
    }
