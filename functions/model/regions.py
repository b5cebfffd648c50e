"""Parts of a section that folds and cracks separate, and which part a point belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float64]
REGION_CELL_PX = 8
LINE = -1


@dataclass(frozen=True, kw_only=True, eq=False)
class Regions:
    """Region 0..K-1 of each cell of 8 x 8 px, `labels` (ceil(H / 8), ceil(W / 8)); LINE on a fold or crack.

    The border between two regions runs along the middle of the line between them, at sub-cell precision:

        0 0 - - 1 1
             ▲
    """

    labels: NDArray[np.int16]

    def __post_init__(self) -> None:
        found = np.unique(self.labels)
        if self.labels.ndim != 2 or not np.array_equal(found[found >= 0], np.arange(self.count)):
            raise ValueError(f"regions: labels {found[:9]} of shape {self.labels.shape} are not 0..K-1")

    @property
    def count(self) -> int:
        """Number of regions K."""
        return int(self.labels.max(initial=LINE)) + 1

    @cached_property
    def distances(self) -> NDArray[np.float32]:
        """Distance in px of each cell to each region (K, cy, cx)."""
        out = [ndimage.distance_transform_edt(self.labels != k) for k in range(self.count)]
        return np.asarray(out, dtype=np.float32) * REGION_CELL_PX

    def distances_at(self, points_yx: Floats) -> Floats:
        """Distance in px of points (N, 2) to each region (N, K), bilinear between cell centres."""
        shape = np.array(self.labels.shape)
        u = np.clip((points_yx - (REGION_CELL_PX - 1) / 2.0) / REGION_CELL_PX, 0.0, shape - 1.0)
        first = np.minimum(np.floor(u).astype(np.int64), np.maximum(shape - 2, 0))
        t = (u - first)[:, :, None]
        y, x = first.T
        y1, x1 = np.minimum(first + 1, shape - 1).T
        d = self.distances
        top = d[:, y, x].T * (1 - t[:, 1]) + d[:, y, x1].T * t[:, 1]
        bottom = d[:, y1, x].T * (1 - t[:, 1]) + d[:, y1, x1].T * t[:, 1]
        out: Floats = top * (1 - t[:, 0]) + bottom * t[:, 0]
        return out

    def margins(self, points_yx: Floats) -> Floats:
        """How deep points (N, 2) lie in each region (N, K): positive inside, 0 on the border, px."""
        distance = self.distances_at(points_yx)
        if self.count == 1:
            return np.ones_like(distance)
        order = np.sort(distance, axis=1)
        nearest_other = np.where(distance == order[:, :1], order[:, 1:2], order[:, :1])
        return np.asarray(nearest_other - distance, dtype=np.float64)

    def of(self, points_yx: Floats) -> NDArray[np.int64]:
        """Region of points (N, 2): the nearest one, the first of equally near ones."""
        return np.asarray(self.distances_at(points_yx).argmin(axis=1), dtype=np.int64)
