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


def windows(a: Warp, b: Warp, textured_a: np.ndarray, textured_b: np.ndarray) -> list[tuple[int, int]]:
    """Corners, in px of tile a, of windows that lie in both tiles and show something in both.

    Windows over a black margin or empty resin would correlate with nothing, whatever the maps.
    """
    step, height, width = WINDOW_PX // 2, *textured_a.shape
    corners = [
        (y, x)
        for y in range(0, height - WINDOW_PX + 1, step)
        for x in range(0, width - WINDOW_PX + 1, step)
        if textured_a[y : y + WINDOW_PX, x : x + WINDOW_PX].all()
    ]
    grid = np.stack(np.meshgrid(*[np.linspace(0, WINDOW_PX - 1, 5)] * 2, indexing="ij"), axis=-1).reshape(
        -1, 2
    )
    points = (np.array(corners, dtype=np.float64).reshape(-1, 1, 2) + grid).reshape(-1, 2)
    there = b.inverse(a.apply(points))
    inside = ((there >= RIM_PX) & (there <= np.array(textured_b.shape) - 1 - RIM_PX)).all(axis=1)
    y, x = np.where(inside[:, None], there, 0.0).astype(np.int64).T
    good = (inside & textured_b[y, x]).reshape(-1, len(grid)).all(axis=1)
    return [corner for corner, ok in zip(corners, good, strict=True) if ok]


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
    textured = [enlarge(tile_masks(i).textured, (i.shape[0], i.shape[1])) for i in images]
    found = []
    for a, b in pairs:
        for corner in windows(theirs[a], theirs[b], textured[a], textured[b]):
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
