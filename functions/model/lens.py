"""What is known of a camera: distortion and shading that all its tiles share (`petavoxel.lens/2`)."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from functions.model.acquisition import Identifier, Positive
from functions.model.base import Document
from functions.model.shading import ShadingDocument
from functions.model.transform import SheetDocument, sheet_shape

Count = Annotated[int, Field(gt=0)]


class Lens(Document):
    """The lens field of a camera, tile px to tile px: a pixel p of a raw tile belongs at p + sheet(p).

    It has no affine part: overlaps cannot see one, and pixel size and rotation are stated elsewhere.
    """

    format: Literal["petavoxel.lens/1", "petavoxel.lens/2"] = "petavoxel.lens/2"
    """Files of format 1 have no shading."""
    camera: Identifier
    tile_shape_yx: tuple[Count, Count]
    pixel_size_nm: Positive
    sheet: SheetDocument
    sections: Count
    """So many stitched sections it rests on,"""
    tiles: Count
    """with so many tiles."""
    weight: Annotated[float, Field(gt=0)]
    """So many registered overlaps: a section's own tiles must say as much to move it by half."""

    shading: ShadingDocument | None = None
    """How bright the camera shows each place, as measured; None: not known."""

    @model_validator(mode="after")
    def _covers_a_tile(self) -> Self:
        sheet = self.sheet.sheet
        knots = sheet_shape(self.tile_shape_yx, sheet.spacing_px)
        if sheet.coefficients.shape != (2, *knots):
            raise ValueError(
                f"sheet: coefficients {sheet.coefficients.shape}, but tiles of {self.tile_shape_yx} px need"
                f" {(2, *knots)}"
            )
        if self.shading is not None:
            shading = self.shading.shading
            knots = sheet_shape(self.tile_shape_yx, shading.spacing_px)
            if shading.coefficients.shape != knots:
                raise ValueError(
                    f"shading: coefficients {shading.coefficients.shape}, but tiles of"
                    f" {self.tile_shape_yx} px need {knots}"
                )
        return self

    @property
    def largest_px(self) -> float:
        """How far it moves a pixel at most, sampled on 33 x 33 places."""
        axes = [np.linspace(0.0, n - 1.0, 33) for n in self.tile_shape_yx]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
        return float(np.linalg.norm(self.sheet.sheet(points), axis=1).max())
