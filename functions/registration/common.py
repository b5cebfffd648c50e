"""The map that all sections of a stack share: no pair can see it.

Without locked sections it is fixed by what is simplest: sections keep their place, size and shape on average.
Locked sections have it from the stack that they were solved in, where the average was another. If each new
section were pulled towards no distortion, the stack would slowly turn from the one map to the other. So the
distortion that a section is pulled towards is unknown then, the same for all: the frame's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from functions.model.transform import Sheet, Warp, sheet_shape
from functions.registration.sheets import basis_rows
from functions.registration.stack import StackSection

Floats = NDArray[np.float64]
Sparse = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSheet:
    """Knots (gy, gx) of a sheet over all sections, placed by their rigid maps; its corner at `corner_yx`."""

    corner_yx: Floats
    spacing_px: float
    knots: tuple[int, int]

    def rows(self, knots: tuple[int, int], rigid: Floats) -> Sparse:
        """The frame's displacement at a section's knots (gy, gx) as a matrix (gy * gx, unknowns)."""
        points = knot_points(knots, self.spacing_px) @ rigid[:, :2].T + rigid[:, 2] - self.corner_yx
        columns, weights = basis_rows(points, spacing_px=self.spacing_px, shape=self.knots)
        at = np.repeat(np.arange(len(points)), 16), columns.ravel()
        return sparse.csr_matrix((weights.ravel(), at), shape=(len(points), self.knots[0] * self.knots[1]))


def lay_frame(sections: Sequence[StackSection], rigid: Sequence[Floats], spacing_px: float) -> FrameSheet:
    """A sheet that covers the knots of all sections."""
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    for section, motion in zip(sections, rigid, strict=True):
        corners = knot_points(sheet_shape(section.shape_yx, spacing_px), spacing_px)
        placed = corners @ motion[:, :2].T + motion[:, 2]
        low, high = np.minimum(low, placed.min(axis=0)), np.maximum(high, placed.max(axis=0))
    extent = np.ceil(high - low).astype(int) + 1
    knots = sheet_shape((int(extent[0]), int(extent[1])), spacing_px)
    return FrameSheet(corner_yx=low, spacing_px=spacing_px, knots=knots)


def knot_points(knots: tuple[int, int], spacing_px: float) -> Floats:
    """Where the knots (gy, gx) of a section's sheet lie (gy * gx, 2), px of the section."""
    axes = [(np.arange(n) - 1.0) * spacing_px for n in knots]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)


def distortion(warp: Warp, rigid: Floats, knots: tuple[int, int], spacing_px: float) -> Floats:
    """Coefficients (K, gy * gx, 2) of what a warp does beyond a rigid map, in each of its K branches.

    Splines reproduce affine maps: a knot's coefficient is the map's displacement there.
    """
    points = knot_points(knots, spacing_px)
    affine = warp.affine - rigid
    out = []
    for branch in warp.branches:
        moved = points @ affine[:, :2].T + affine[:, 2]
        if isinstance(branch.sheet, Sheet):
            same = branch.sheet.spacing_px == spacing_px and branch.sheet.coefficients.shape[1:] == knots
            moved += branch.sheet.coefficients.reshape(2, -1).T if same else branch.sheet(points)
        out.append(moved)
    return np.stack(out)
