"""An acquisition as the microscope wrote it: sections of tiles, with positions, never pixels."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from functions.model.base import Document

Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Positive = Annotated[float, Field(gt=0)]


class Tile(Document):
    """One image. `stage_yx_nm` is its upper-left corner, before it is turned about its centre; y grows
    downwards."""

    row: int
    column: int
    path: str
    stage_yx_nm: tuple[float, float]
    shape_yx: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    grid: int = 0
    rotation_deg: float = 0.0
    """By which the tile was turned, from +x towards +y: clockwise as it is seen."""
    pixel_size_yx_nm: tuple[Positive, Positive] | None = None
    """None: that of the acquisition."""
    plane: Annotated[int, Field(ge=0)] | None = None
    """Which plane of a file of several (an MRC stack) it is; None: the file is the tile."""

    @property
    def id(self) -> str:
        """Name inside the section, e.g. `g0_r000_c001`."""
        return f"g{self.grid}_r{self.row:03d}_c{self.column:03d}"


class Section(Document):
    """One section: its index along z and its tiles."""

    z: Annotated[int, Field(ge=0)]
    tiles: tuple[Tile, ...]
    complete: bool = True
    completeness_rule: str = "manifest"

    @property
    def id(self) -> str:
        """Name that sorts along z, e.g. `z00012`."""
        return f"z{self.z:05d}"


class Acquisition(Document):
    """What an adapter of `functions.microscopes` reads from a folder. Paths are relative to that folder."""

    id: Identifier
    instrument: str
    layout: str
    voxel_size_zyx_nm: tuple[Positive, Positive, Positive]
    stage_uncertainty_px: Annotated[float, Field(ge=0)] = 20.0
    aligned: bool = False
    dtype: Literal["uint8", "uint16"] | None = None
    """Pixel type of all tiles; None where the microscope does not say."""
    sections: tuple[Section, ...]
    missing_sections: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        z = [section.z for section in self.sections]
        if z != sorted(set(z)):
            raise ValueError("sections: z indices must be unique and ascending")
        return self


class Finding(Document):
    """Something an adapter or ingest noticed; `subject` names file, row and field."""

    severity: Literal["note", "warning", "error"]
    code: str
    subject: str
    message: str
    remedy: str = ""
