"""A name for volume data, never the data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from functions.model.base import Document
from functions.model.geometry import ZYX, Box

MOST_VOXELS = 2**28
"""Of a box that is held in memory whole: comparing two of them takes about 50 bytes a voxel."""


class VolumeRef(Document):
    """Where an array lies and what it is. `path` is relative to the work root."""

    path: str
    kind: Literal["image", "labels", "mask", "artefacts"]
    shape_zyx: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]
    chunk_zyx: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]
    dtype: Literal["uint8", "uint16", "uint32", "uint64"]
    voxel_size_zyx_nm: tuple[float, float, float]

    @property
    def box(self) -> Box:
        """The whole volume as a box."""
        shape: ZYX = self.shape_zyx
        return Box(offset_zyx=(0, 0, 0), shape_zyx=shape)
