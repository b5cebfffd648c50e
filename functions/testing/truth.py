"""The exact truth of a phantom acquisition: where every pixel of every tile comes from.

    tile pixel --(+ true offset)--> section pixel --(affine + warp)--> phantom pixel of the same section

Points are (N, 2) arrays of (y, x) pixels.
"""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
NAME = "truth.npz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """S sections of R x C tiles.

    `nominal_yx`, `offset_yx` (S, R, C, 2): where the stage said and where the tile really was, section
    pixels. `affine` (S, 2, 3) and `warp` (S, 2, K, L), coefficients of cubic B-splines with a knot every
    `warp_scale_px`: section -> phantom. `labels` (S, Y, X) of the phantom.
    """

    tile_shape_yx: tuple[int, int]
    nominal_yx: NDArray[np.float64]
    offset_yx: NDArray[np.float64]
    affine: NDArray[np.float64]
    warp: NDArray[np.float64]
    warp_scale_px: float
    labels: NDArray[np.uint32]

    @property
    def sections(self) -> int:
        """How many sections there are."""
        return len(self.affine)

    @property
    def tiles(self) -> list[tuple[int, int]]:
        """Row and column of every tile of a section."""
        return [(r, c) for r, c in np.ndindex(*self.offset_yx.shape[1:3])]

    def tile_to_section(self, section: int, row: int, column: int, points_yx: Points) -> Points:
        """Tile pixels -> section pixels."""
        return np.asarray(points_yx + self.offset_yx[section, row, column])

    def section_to_tile(self, section: int, row: int, column: int, points_yx: Points) -> Points:
        """Section pixels -> tile pixels (which may lie outside the tile)."""
        return np.asarray(points_yx - self.offset_yx[section, row, column])

    def section_to_phantom(self, section: int, points_yx: Points) -> Points:
        """Section pixels -> phantom pixels (y, x) of the same section."""
        affine = self.affine[section]
        straight = points_yx @ affine[:, :2].T + affine[:, 2]
        return np.asarray(straight + _spline(self.warp[section], points_yx / self.warp_scale_px))

    def phantom_to_section(self, section: int, points_yx: Points) -> Points:
        """The inverse, by iteration; the warp is gentle, so twenty steps reach rounding error."""
        affine = self.affine[section]
        back = np.linalg.inv(affine[:, :2])
        found = (points_yx - affine[:, 2]) @ back.T
        for _ in range(20):
            found = found + (points_yx - self.section_to_phantom(section, found)) @ back.T
        return np.asarray(found)

    def tile_to_phantom(self, section: int, row: int, column: int, points_yx: Points) -> Points:
        """Tile pixels -> phantom pixels (y, x) of the same section."""
        return self.section_to_phantom(section, self.tile_to_section(section, row, column, points_yx))

    def inside_tile(self, points_yx: Points) -> NDArray[np.bool_]:
        """Which tile pixels (N, 2) lie on the tile."""
        limit = np.asarray(self.tile_shape_yx) - 1
        return np.asarray(((points_yx >= 0) & (points_yx <= limit)).all(1))


def save_truth(folder: Path, truth: Truth) -> None:
    """Writes the truth as one file of plain arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {field.name: np.asarray(getattr(truth, field.name)) for field in fields(truth)}
    np.savez_compressed(folder / NAME, allow_pickle=False, **arrays)


def load_truth(folder: Path) -> Truth:
    """Reads what `save_truth` wrote."""
    with np.load(folder / NAME, allow_pickle=False) as file:
        height, width = (int(n) for n in file["tile_shape_yx"])
        return Truth(
            tile_shape_yx=(height, width),
            nominal_yx=file["nominal_yx"],
            offset_yx=file["offset_yx"],
            affine=file["affine"],
            warp=file["warp"],
            warp_scale_px=float(file["warp_scale_px"]),
            labels=file["labels"],
        )


def _spline(coefficients: NDArray[np.float64], knots_yx: Points) -> Points:
    """Cubic B-spline surfaces (2, K, L) at points (N, 2) in knots; beyond the edge its cell goes on."""
    limit = np.asarray(coefficients.shape[1:]) - 4
    cell = np.clip(np.floor(knots_yx), 0, limit).astype(int)
    u = np.clip(knots_yx - cell, -0.5, 1.5)[..., None]
    weights = np.concatenate(
        [(1 - u) ** 3, 3 * u**3 - 6 * u**2 + 4, -3 * u**3 + 3 * u**2 + 3 * u + 1, u**3], -1
    )
    result = np.zeros((len(knots_yx), 2))
    for i, j in np.ndindex(4, 4):
        weight = weights[:, 0, i] * weights[:, 1, j] / 36
        result += weight[:, None] * coefficients[:, cell[:, 0] + i, cell[:, 1] + j].T
    return result
