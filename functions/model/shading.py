"""A camera's shading: how much brighter than on average it shows what lies at each place of a tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from functions.model.base import Document
from functions.model.splines import spline_basis

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shading:
    """A raw tile shows exp(s) times what it should, and s is a cubic B-spline of mean 0 on knots (gy, gx)
    like those of a `Sheet`; `variance` is that of s, the mean over a tile, and `tiles` have been seen."""

    spacing_px: float
    coefficients: Floats
    variance: float
    tiles: int

    def on_grid(self, y_px: Floats, x_px: Floats) -> Floats:
        """Values of s (len(y), len(x)) at rows and columns of a tile."""
        rows, columns = (
            _basis(at, self.spacing_px, n)
            for at, n in zip((y_px, x_px), self.coefficients.shape, strict=True)
        )
        return np.asarray(rows @ self.coefficients @ columns.T, dtype=np.float64)

    def extremes(self, shape_yx: tuple[int, int]) -> tuple[float, float]:
        """Lowest and highest brightness of a tile against its mean, on 33 x 33 places."""
        values = np.exp(self.on_grid(*(np.linspace(0.0, n - 1.0, 33) for n in shape_yx)))
        return float(values.min()), float(values.max())


def _basis(at: Floats, spacing_px: float, knots: int) -> Floats:
    first, weights = spline_basis(np.asarray(at, dtype=np.float64), spacing_px, knots)
    out = np.zeros((len(at), knots))
    np.put_along_axis(out, first[:, None] + np.arange(4), weights, axis=1)
    return out


class ShadingDocument(Document):
    """A shading as JSON."""

    spacing_px: Annotated[float, Field(gt=0)]
    coefficients: Annotated[
        tuple[Annotated[tuple[float, ...], Field(min_length=4)], ...], Field(min_length=4)
    ]
    variance: Annotated[float, Field(ge=0)]
    tiles: Annotated[int, Field(gt=0)]

    @classmethod
    def of(cls, shading: Shading) -> ShadingDocument:
        """The document of a shading; coefficients rounded to 1e-5."""
        rows = np.round(shading.coefficients, 5).tolist()
        return cls(
            spacing_px=shading.spacing_px,
            coefficients=tuple(tuple(row) for row in rows),
            variance=float(f"{shading.variance:.4g}"),
            tiles=shading.tiles,
        )

    @property
    def shading(self) -> Shading:
        """The shading as arrays."""
        return Shading(
            spacing_px=self.spacing_px,
            coefficients=np.asarray(self.coefficients, dtype=np.float64),
            variance=self.variance,
            tiles=self.tiles,
        )
