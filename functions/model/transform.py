"""Solved geometry: where pixels of tiles and sections lie.

Points are (N, 2) arrays of y, x; a pixel's centre has integer coordinates. A warp maps forward, from what was
imaged to where it belongs:

    tile pixel ──TileTransform──► section pixel ──SectionTransform──► aligned pixel

Each is an affine map plus a sheet, a displacement field of uniform cubic B-splines (Rueckert et al., 1999),
which may be cut along folds and cracks: then each region between them has a sheet of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from functions.model.base import Document
from functions.model.regions import Regions
from functions.model.shading import ShadingDocument
from functions.model.splines import spline_basis

Points = NDArray[np.float64]
Row = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """A smooth displacement field: `coefficients` (2, gy, gx) px on knots `spacing_px` apart, first knot at
    -1.

    It covers [0, (gy - 3) * spacing_px]; beyond, the value of the nearest edge goes on.
    """

    spacing_px: float
    coefficients: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.spacing_px <= 0 or self.coefficients.ndim != 3 or min(self.coefficients.shape[1:]) < 4:
            raise ValueError(f"sheet: spacing {self.spacing_px}, coefficients {self.coefficients.shape}")

    def __call__(self, points_yx: Points) -> Points:
        """Displacement (N, 2) in px at points (N, 2)."""
        gy, gx = self.coefficients.shape[1:]
        iy, wy = spline_basis(points_yx[:, 0], self.spacing_px, gy)
        ix, wx = spline_basis(points_yx[:, 1], self.spacing_px, gx)
        first, columns = iy * gx + ix, np.ascontiguousarray(wx.T)
        moved = []
        for axis in self.coefficients:  # flat gathers of one axis: three times as fast as rows of (2,)
            flat, total = axis.ravel(), np.zeros(len(points_yx))
            for j in range(4):
                row = columns[0] * flat.take(first + j * gx)
                for k in range(1, 4):
                    row += columns[k] * flat.take(first + (j * gx + k))
                total += wy[:, j] * row
            moved.append(total)
        return np.stack(moved, axis=1)


def sheet_shape(shape_yx: tuple[int, int], spacing_px: float) -> tuple[int, int]:
    """Knots needed so that a sheet covers an image."""
    y, x = (int(np.ceil((n - 1) / spacing_px)) + 3 for n in shape_yx)
    return max(4, y), max(4, x)


@dataclass(frozen=True, slots=True, kw_only=True)
class CutSheet:
    """A displacement field with discontinuities: in region k the sheet with `coefficients[k]` (K, 2, gy, gx)
    holds.

    Each of them covers the whole section, so that it goes on smoothly across the region's border.
    """

    spacing_px: float
    coefficients: NDArray[np.float64]
    regions: Regions

    def __post_init__(self) -> None:
        if self.coefficients.ndim != 4 or len(self.coefficients) != self.regions.count:
            raise ValueError(f"{self.regions.count} regions, coefficients {self.coefficients.shape}")

    @property
    def sheets(self) -> tuple[Sheet, ...]:
        """The sheet of each region."""
        return tuple(Sheet(spacing_px=self.spacing_px, coefficients=c) for c in self.coefficients)

    def __call__(self, points_yx: Points) -> Points:
        """Displacement (N, 2) in px at points (N, 2), each by its own region."""
        region = self.regions.of(points_yx)
        out = np.zeros_like(points_yx)
        for k, sheet in enumerate(self.sheets):
            here = region == k
            if here.any():
                out[here] = sheet(points_yx[here])
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Warp:
    """q = A p + t + sheet(p). `affine` is (2, 3): rows y and x, columns y, x and 1."""

    affine: NDArray[np.float64]
    sheet: Sheet | CutSheet | None = None

    def apply(self, points_yx: Points) -> Points:
        """Map points (N, 2) forward."""
        out = points_yx @ self.affine[:, :2].T + self.affine[:, 2]
        return out if self.sheet is None else out + self.sheet(points_yx)

    @property
    def branches(self) -> tuple[Warp, ...]:
        """The smooth map of each region; the warp itself where nothing is cut."""
        if not isinstance(self.sheet, CutSheet):
            return (self,)
        return tuple(Warp(affine=self.affine, sheet=sheet) for sheet in self.sheet.sheets)

    def inverse(self, points_yx: Points) -> Points:
        """Map points (N, 2) back; a point that no tissue lies on is mapped back by the nearest region."""
        return self.locate(points_yx)[0]

    def locate(self, points_yx: Points) -> tuple[Points, NDArray[np.bool_]]:
        """Map points (N, 2) back; and whether tissue lies on them (N,).

        Every region's map is tried. One that ends in its own region holds; of several (a crack closed too
        far), the one that ends deepest inside. False where none does: in the gap of an opened fold.
        """
        if not isinstance(self.sheet, CutSheet):
            return self._inverse_smooth(points_yx), np.ones(len(points_yx), dtype=np.bool_)
        sources = np.stack([branch._inverse_smooth(points_yx) for branch in self.branches])
        margin = np.stack([self.sheet.regions.margins(s)[:, k] for k, s in enumerate(sources)])
        best = margin.argmax(axis=0)
        rows = np.arange(len(points_yx))
        return sources[best, rows], margin[best, rows] >= 0.0

    def _inverse_smooth(
        self, points_yx: Points, *, iterations: int = 40, tolerance_px: float = 1e-3
    ) -> Points:
        """By fixed point: converges where the sheet is no fold (its slope is below 1).

        Each step is by that factor shorter than the last: the next need not be taken to know how short it is.
        """
        back = np.linalg.inv(self.affine[:, :2]).T
        flat = points_yx - self.affine[:, 2]
        out = flat @ back
        if self.sheet is None:
            return out
        last = 0.0
        for _ in range(iterations):
            new = (flat - self.sheet(out)) @ back
            step = float(np.abs(new - out).max(initial=0.0))
            out = new
            if step < tolerance_px or step * step < 0.3 * tolerance_px * last:
                break
            last = step
        return out

    def then(self, affine: NDArray[np.float64]) -> Warp:
        """This warp followed by an affine map (2, 3)."""
        linear = affine[:, :2]
        joined = linear @ self.affine
        joined[:, 2] += affine[:, 2]
        if self.sheet is None:
            return Warp(affine=joined)
        bent = np.einsum("ij,...jyx->...iyx", linear, self.sheet.coefficients)
        return Warp(affine=joined, sheet=replace(self.sheet, coefficients=bent))


class SheetDocument(Document):
    """A sheet as JSON."""

    spacing_px: float
    coefficients: tuple[tuple[tuple[float, ...], ...], ...]

    @classmethod
    def of(cls, sheet: Sheet) -> SheetDocument:
        """The document of a sheet; coefficients rounded to 0.1 mpx."""
        rows = np.round(sheet.coefficients, 4).tolist()
        return cls(spacing_px=sheet.spacing_px, coefficients=tuple(tuple(tuple(r) for r in a) for a in rows))

    @property
    def sheet(self) -> Sheet:
        """The sheet as arrays."""
        return Sheet(spacing_px=self.spacing_px, coefficients=np.asarray(self.coefficients, dtype=np.float64))


class TileTransform(Document):
    """Where a tile lies in its section. Grey values are `gain * v + offset` before blending."""

    tile_id: str
    shape_yx: tuple[int, int]
    affine: tuple[Row, Row]
    sheet: SheetDocument | None = None
    gain: float = 1.0
    offset: float = 0.0
    lead_px: float = 0.0
    """How much farther than it is its rim counts when tiles are blended: sharper tiles come first."""
    placed: Literal["matched", "stage"] = "matched"
    """`stage`: no overlap of this tile could be registered; it lies where the stage says."""
    uncertainty_px: float | None = None
    """How far off a tile placed by the stage may be; None where overlaps hold it."""

    @cached_property
    def warp(self) -> Warp:
        """The map from tile px to section px."""
        sheet = None if self.sheet is None else self.sheet.sheet
        return Warp(affine=np.asarray(self.affine, dtype=np.float64), sheet=sheet)


class Seam(Document):
    """What is known about one overlap. Residuals are distances between where both tiles put a match."""

    a: str
    b: str
    verdict: Literal["ok", "look", "rejected", "unmatched"]
    """`rejected`: measured, but against the other overlaps; `unmatched`: nothing to measure by."""
    residual_px: float | None = None
    residual_px_p95: float | None = None
    matches: int = 0
    confidence: float = 0.0
    """Median correlation of the kept matches."""
    measured_share: float = 1.0
    """Share of the overlap's length with kept matches; elsewhere (resin, folds) the sheets go on smoothly."""
    centre_yx: tuple[float, float]
    """Where the seam is, in section px (for maps)."""


class ContrastMap(Document):
    """Grey values were written as gain * v + offset; measured mean and standard deviation before that."""

    mean: float
    std: float
    gain: float = 1.0
    offset: float = 0.0


class SectionLayout(Document):
    """A stitched section: `layout.json` of its cell."""

    section: str
    shape_yx: tuple[int, int]
    tiles: tuple[TileTransform, ...]
    seams: tuple[Seam, ...] = ()
    residual_px_p95: float | None = None
    """Over all kept matches of the section; None with nothing to measure."""
    stage_origin_yx_px: tuple[float, float] = (0.0, 0.0)
    """Stage position of section pixel (0, 0)."""
    contrast: ContrastMap = ContrastMap(mean=0.0, std=0.0)
    lens: SheetDocument | None = None
    """The sheet that all tiles share (their own sheets contain it), raw px, without an affine part."""
    shading: ShadingDocument | None = None
    """The shading of the camera as this section's own tiles show it, for the camera's lens."""
    flat: ShadingDocument | None = None
    """What raw tiles are divided by before anything else; None: nothing."""
    exact_copy: bool = False
    """Pixels are the tile's own, untouched."""

    def tile(self, tile_id: str) -> TileTransform:
        """The tile named so.

        Raises:
            KeyError: it is not in this section.
        """
        for tile in self.tiles:
            if tile.tile_id == tile_id:
                return tile
        raise KeyError(f"{self.section}: no tile {tile_id}")

    def place(self, tile_id: str, points_yx: Points) -> Points:
        """Map points (N, 2) of a tile to section px."""
        return self.tile(tile_id).warp.apply(np.asarray(points_yx, dtype=np.float64))


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionTransform:
    """Where a section lies in the aligned volume."""

    section: str
    shape_yx: tuple[int, int]
    warp: Warp
    placed: Literal["matched", "interpolated", "identity"] = "matched"

    def apply(self, points_yx: Points) -> Points:
        """Map points (N, 2) of section px to aligned px."""
        return self.warp.apply(np.asarray(points_yx, dtype=np.float64))

    def inverse(self, points_yx: Points) -> Points:
        """Map points (N, 2) of aligned px back to section px."""
        return self.warp.inverse(np.asarray(points_yx, dtype=np.float64))

    def locate(self, points_yx: Points) -> tuple[Points, NDArray[np.bool_]]:
        """Map points (N, 2) of aligned px back to section px; False (N,) where no tissue lies on them."""
        return self.warp.locate(np.asarray(points_yx, dtype=np.float64))

    def displacement_grid(self, spacing_px: float = 64.0) -> tuple[Points, Points]:
        """For plots: grid points (gy, gx, 2) of section px and what the sheet alone moves them by, px."""
        axes = [np.arange(0, n, spacing_px, dtype=np.float64) for n in self.shape_yx]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        flat = grid.reshape(-1, 2)
        moved = np.zeros_like(flat) if self.warp.sheet is None else self.warp.sheet(flat)
        return grid, moved.reshape(grid.shape)
