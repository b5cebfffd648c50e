"""Planning arithmetic: what a volume costs in accelerator hours and bytes. No files, no clock, no arrays.

Overlap is the lever. A subvolume of side s, overlapped by o, adds only s - o new voxels on an axis:

    |<------- s ------->|
                  |<------- s ------->|        overlap factor = product over the axes of s / (s - o)
                  |<-o->|

so 256³ with overlap 32 computes every voxel 1.49 times, 512³ with overlap 32 only 1.21 times.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from functions.model.errors import TaskError
from functions.model.geometry import ZYX

HOURS_PER_YEAR = 8766.0
"""365.25 days."""

RAW_LABEL_BYTES = 8
IMAGE_BYTES = 1

_CUBIC = {"nm3": 1.0, "um3": 1e9, "mm3": 1e18, "cm3": 1e21}
"""Cubic nanometres in a volume unit."""
_PREFIX = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_NUMBER = r"([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One planned quantity with the formula that gives it."""

    name: str
    value: float
    unit: str
    formula: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """Subvolumes of one size, overlapping by `overlap_zyx` voxels.

    Raises:
        ValueError: an overlap is negative or not below the size; the message names the axis.
    """

    size_zyx: ZYX
    overlap_zyx: ZYX

    def __post_init__(self) -> None:
        for axis, size, overlap in zip("zyx", self.size_zyx, self.overlap_zyx, strict=True):
            if size < 1 or not 0 <= overlap < size:
                raise ValueError(f"overlap {axis}: {overlap} must be at least 0 and below the size {size}")

    @property
    def factor(self) -> float:
        """How often a voxel deep inside a large volume is computed on average."""
        return math.prod(s / (s - o) for s, o in zip(self.size_zyx, self.overlap_zyx, strict=True))

    @property
    def label(self) -> str:
        """E.g. `64x256x256 overlap 16x32x32`."""
        return f"{'x'.join(map(str, self.size_zyx))} overlap {'x'.join(map(str, self.overlap_zyx))}"

    def count(self, shape_zyx: ZYX) -> int:
        """How many subvolumes cover a volume (`functions.model.geometry.tile_box` lays them so)."""
        return math.prod(n for n, _ in self._axes(shape_zyx))

    def voxels(self, shape_zyx: ZYX) -> int:
        """Voxels computed in a volume of that shape, overlaps counted again."""
        return math.prod(n * size for n, size in self._axes(shape_zyx))

    def _axes(self, shape_zyx: ZYX) -> list[tuple[int, int]]:
        """Per axis: the number of intervals and their size."""
        axes = []
        for extent, size, overlap in zip(shape_zyx, self.size_zyx, self.overlap_zyx, strict=True):
            whole = extent <= size
            axes.append((1, extent) if whole else (-(-(extent - overlap) // (size - overlap)), size))
        return axes


KNOWN_TILINGS = (
    Tiling(size_zyx=(512, 512, 512), overlap_zyx=(32, 32, 32)),
    Tiling(size_zyx=(256, 256, 256), overlap_zyx=(16, 16, 16)),
    Tiling(size_zyx=(512, 512, 512), overlap_zyx=(48, 48, 48)),
    Tiling(size_zyx=(256, 256, 256), overlap_zyx=(32, 32, 32)),
    Tiling(size_zyx=(64, 256, 256), overlap_zyx=(16, 32, 32)),
)
"""Choices worth comparing, cheapest first; the last is HappyNeuron's real job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much there is to compute: `voxels`, and the shape where it is known."""

    voxels: float
    formula: str
    shape_zyx: ZYX | None = None

    @classmethod
    def of_shape(cls, shape_zyx: ZYX) -> Extent:
        """A volume of a known shape.

        Raises:
            ValueError: an axis has no voxels.
        """
        if min(shape_zyx) < 1:
            raise ValueError(f"shape_zyx: {shape_zyx} must be positive on each axis")
        return cls(
            voxels=float(math.prod(shape_zyx)), formula=" * ".join(map(str, shape_zyx)), shape_zyx=shape_zyx
        )

    @classmethod
    def of_volume(cls, cubic_nm: float, voxel_size_zyx_nm: tuple[float, float, float]) -> Extent:
        """A piece of tissue of a known volume, sampled with a voxel size.

        Raises:
            ValueError: the volume or a voxel size is not positive.
        """
        if cubic_nm <= 0 or min(voxel_size_zyx_nm) <= 0:
            raise ValueError("volume and voxel size must be positive")
        sizes = " * ".join(f"{size:g}" for size in voxel_size_zyx_nm)
        return cls(
            voxels=cubic_nm / math.prod(voxel_size_zyx_nm), formula=f"{cubic_nm:.3g} nm3 / ({sizes} nm3)"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A request to plan: `rate` in voxels per GPU and hour, overlap either by tiling or by its factor."""

    extent: Extent
    rate: float
    gpus: tuple[int, ...] = ()
    tiling: Tiling | None = None
    overlap_factor: float = 1.0

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise ValueError(f"rate: {self.rate} must be positive")
        if self.overlap_factor < 1:
            raise ValueError(f"overlap_factor: {self.overlap_factor} must be at least 1")
        if any(n < 1 for n in self.gpus):
            raise ValueError(f"gpus: {self.gpus} must be positive")

    @property
    def factor(self) -> float:
        """Voxels computed over voxels there; exact where shape and tiling are both known."""
        if self.tiling is None:
            return self.overlap_factor
        if self.extent.shape_zyx is None:
            return self.tiling.factor
        return self.tiling.voxels(self.extent.shape_zyx) / self.extent.voxels

    def figures(self) -> tuple[Figure, ...]:
        """Every figure of the plan in the order in which one follows from another."""
        voxels = self.extent.voxels
        plain = voxels / self.rate
        work = plain * self.factor
        rows = [
            Figure(name="voxels", value=voxels, unit="voxels", formula=self.extent.formula),
            Figure(name="image", value=voxels * IMAGE_BYTES, unit="bytes", formula="voxels * 1 byte (uint8)"),
            Figure(
                name="raw_labels",
                value=voxels * RAW_LABEL_BYTES,
                unit="bytes",
                formula="voxels * 8 byte (uint64, before compression)",
            ),
            *self._tiling_figures(),
            Figure(
                name="gpu_hours_without_overlap",
                value=plain,
                unit="GPU-h",
                formula=f"voxels / ({self.rate:.3g} voxels per GPU-hour)",
            ),
            Figure(
                name="gpu_hours",
                value=work,
                unit="GPU-h",
                formula="GPU-hours without overlap * overlap factor",
            ),
        ]
        for gpus in self.gpus:
            rows += [
                Figure(
                    name=f"hours_on_{gpus}_gpus_without_overlap",
                    value=plain / gpus,
                    unit="h",
                    formula=f"GPU-hours without overlap / {gpus:,}",
                ),
                Figure(
                    name=f"hours_on_{gpus}_gpus", value=work / gpus, unit="h", formula=f"GPU-hours / {gpus:,}"
                ),
            ]
        return tuple(rows)

    def _tiling_figures(self) -> list[Figure]:
        tiling, shape = self.tiling, self.extent.shape_zyx
        if tiling is None:
            return [Figure(name="overlap_factor", value=self.factor, unit="x", formula="as given")]
        steps = " * ".join(
            f"{s}/{s - o}" for s, o in zip(tiling.size_zyx, tiling.overlap_zyx, strict=True)
        )  # fmt: skip
        if shape is None:
            return [
                Figure(name="overlap_factor", value=self.factor, unit="x", formula=steps),
                Figure(
                    name="subvolumes",
                    value=self.extent.voxels * self.factor / math.prod(tiling.size_zyx),
                    unit="subvolumes",
                    formula="voxels * overlap factor / subvolume",
                ),
            ]
        count = tiling.count(shape)
        return [
            Figure(
                name="subvolumes", value=count, unit="subvolumes", formula=f"{tiling.label}, spread evenly"
            ),
            Figure(
                name="overlap_factor",
                value=self.factor,
                unit="x",
                formula=f"subvolumes * their voxels / voxels (unbounded: {steps} = {tiling.factor:.3f})",
            ),
        ]


def parse_volume(text: str) -> float:
    """Cubic nanometres of `1mm3`, `0.5 mm3`, `1000um3` or `1mm^3`.

    Raises:
        TaskError: the text is not a positive number with one of the units.
    """
    match = re.fullmatch(rf"{_NUMBER}\s*(nm|um|µm|mm|cm)\^?[3³]", text.strip())
    if not match:
        raise TaskError(
            f"volume: {text!r} is not a number with a unit",
            remedy="write it like 1mm3, with nm3, um3, mm3 or cm3",
        )
    volume = float(match[1]) * _CUBIC[match[2].replace("µ", "u") + "3"]
    if not 0 < volume < math.inf:
        raise TaskError(f"volume: {text!r} is not a finite positive volume", remedy="write it like 1mm3")
    return volume


def parse_rate(text: str) -> float:
    """Voxels an hour of `80MVx/h`, `1GVx/h`, `250kVx/s`.

    Raises:
        TaskError: the text is not a positive rate.
    """
    match = re.fullmatch(rf"{_NUMBER}\s*([kMGTPE]?)[Vv]x/(s|h|d)", text.strip())
    if not match:
        raise TaskError(f"rate: {text!r} is not a rate", remedy="write it like 80MVx/h, 1GVx/h or 20kVx/s")
    rate = float(match[1]) * _PREFIX[match[2]] * {"s": 3600.0, "h": 1.0, "d": 1 / 24}[match[3]]
    if not 0 < rate < math.inf:
        raise TaskError(f"rate: {text!r} is not a finite positive rate", remedy="write it like 1GVx/h")
    return rate


def scaled(value: float, unit: str) -> str:
    """A figure for people: `12.5 M GPU-h`, `24.0 h`, `2.74 years`, `1.00 PB`.

    Hours from 90 days on become years.
    """
    if unit == "h":
        if value >= 90 * 24:
            return f"{value / HOURS_PER_YEAR:.2f} years"
        return f"{value / 24:.1f} days" if value > 48 else f"{value:.3g} h"
    if unit == "x":
        return f"{value:.3f} x"
    symbol, size = max(((p, s) for p, s in _PREFIX.items() if s <= max(value, 1.0)), key=lambda item: item[1])
    short = {"bytes": "B", "voxels": "Vx"}.get(unit, f" {unit}")
    return f"{value / size:.3g} {symbol}{short}".replace("  ", " ")
