"""Every setting of every step, with its default, in one place. `--set segment.overlap_zyx_px=24,24,24` writes here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from functions.model.base import Document

Pixels = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Size = Annotated[int, Field(gt=0)]


class IngestParameters(Document):
    """Which sections are taken and when a tile is called bad."""

    sections: tuple[int, int] | None = None
    """First and last-plus-one z index (`--sections 3:9`); None takes all."""
    blank_std: Annotated[float, Field(ge=0)] = 2.0
    saturated_fraction: Fraction = 0.5
    verify_checksums: bool = True


class StitchParameters(Document):
    """Tile registration within a section."""


class AlignParameters(Document):
    """Registration of sections with each other."""

    neighbours: Annotated[int, Field(ge=1, le=3)] = 2
    """Each section is registered with this many following usable sections."""


class SegmentParameters(Document):
    """FFN inference over overlapping subvolumes."""

    model: str = "demo"
    """`demo`, or the path of a .safetensors file readable at the site."""
    subvolume_zyx_px: tuple[Size, Size, Size] = (64, 256, 256)
    overlap_zyx_px: tuple[Pixels, Pixels, Pixels] = (24, 48, 48)
    device: Literal["auto", "cpu", "cuda", "xpu"] = "auto"


class ReconcileParameters(Document):
    """When labels of two subvolumes are called equal."""


class FinishParameters(Document):
    """The published volume and its report."""


class Parameters(Document):
    """The parameters of a run, one group a step."""

    ingest: IngestParameters = IngestParameters()
    stitch: StitchParameters = StitchParameters()
    align: AlignParameters = AlignParameters()
    segment: SegmentParameters = SegmentParameters()
    reconcile: ReconcileParameters = ReconcileParameters()
    finish: FinishParameters = FinishParameters()
