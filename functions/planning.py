"""Planning arithmetic: what a volume costs in accelerator hours and bytes. No files, no clock, no arrays.

Overlap is the lever. A subvolume of side s, overlapped by o, adds only s - o new voxels on an axis:

    |<------- s ------->|
                  |<------- s ------->|        overlap factor = product over the axes of s / (s - o)
                  |<-o->|

so 256³ with overlap 32 computes every voxel 1.49 times, 512³ with overlap 32 only 1.21 times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from functions.footprint import LOCAL_LABEL_BYTES, Footprint
from functions.model.geometry import ZYX
from functions.model.quantities import Figure
from functions.pair_cost import Pairing


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

    def neighbours(self, shape_zyx: ZYX) -> int:
        """How many pairs of them share a face of the grid."""
        z, y, x = (n for n, _ in self._axes(shape_zyx))
        return (z - 1) * y * x + z * (y - 1) * x + z * y * (x - 1)

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
NOMINAL = KNOWN_TILINGS[0]
"""Counts subvolumes where only an overlap factor is given."""


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
class Skipped:
    """Subvolumes of a run that need no flooding: `empty` have no tissue; of the others some are `finished`
    already, and some in `quarantine`."""

    empty: int
    finished: int
    quarantined: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A request to plan: `rate` in voxels per GPU and hour, overlap either by tiling or by its factor.

    `rate_low` and `rate_high`: the interval of a measured rate; figures that depend on it then have one, too.
    `skipped`: what is known of the run whose volume it is; without it, `occupied` is the share of subvolumes
    that hold tissue. `pairing`: agglomeration is on, and costs that.
    """

    extent: Extent
    rate: float
    gpus: tuple[int, ...] = ()
    gpus_per_node: int = 4
    tiling: Tiling | None = None
    overlap_factor: float = 1.0
    rate_low: float | None = None
    rate_high: float | None = None
    local_label_bytes: float = LOCAL_LABEL_BYTES
    skipped: Skipped | None = None
    occupied: float = 1.0
    pairing: Pairing | None = None

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise ValueError(f"rate: {self.rate} must be positive")
        if self.overlap_factor < 1:
            raise ValueError(f"overlap_factor: {self.overlap_factor} must be at least 1")
        if not 0 < self.occupied <= 1:
            raise ValueError(f"occupied: {self.occupied} must be above 0 and at most 1")
        if any(n < 1 for n in self.gpus):
            raise ValueError(f"gpus: {self.gpus} must be positive")
        if self.gpus_per_node < 1:
            raise ValueError(f"gpus_per_node: {self.gpus_per_node} must be positive")

    @property
    def factor(self) -> float:
        """Voxels computed over voxels there; exact where shape and tiling are both known."""
        if self.tiling is None:
            return self.overlap_factor
        if self.extent.shape_zyx is None:
            return self.tiling.factor
        return self.tiling.voxels(self.extent.shape_zyx) / self.extent.voxels

    @property
    def subvolumes(self) -> float:
        """How many there are; not whole where the volume's shape is not known."""
        if self.tiling is not None and self.extent.shape_zyx is not None:
            return self.tiling.count(self.extent.shape_zyx)
        return max(1.0, self.extent.voxels * self.factor / self.subvolume_voxels)

    @property
    def flooded(self) -> float:
        """Subvolumes that hold tissue, as far as that is known."""
        return self.subvolumes - self.skipped.empty if self.skipped else self.subvolumes * self.occupied

    @property
    def gpu_hours(self) -> float:
        """Of segment: of all subvolumes that hold tissue."""
        return self.extent.voxels / self.rate * self.factor * self.flooded / self.subvolumes

    @property
    def subvolume_voxels(self) -> float:
        """Voxels of one subvolume."""
        if self.tiling is not None and self.extent.shape_zyx is not None:
            return self.tiling.voxels(self.extent.shape_zyx) / self.tiling.count(self.extent.shape_zyx)
        return float(math.prod((self.tiling or NOMINAL).size_zyx))

    def figures(self) -> tuple[Figure, ...]:
        """Every figure of the plan in the order in which one follows from another."""
        shape = self.extent.shape_zyx
        neighbours = self.tiling.neighbours(shape) if self.tiling and shape else 3 * self.subvolumes
        footprint = Footprint(
            voxels=self.extent.voxels,
            computed=self.extent.voxels * self.factor * self.flooded / self.subvolumes,
            subvolumes=self.subvolumes,
            neighbours=neighbours,
            local_label_bytes=self.local_label_bytes,
        )
        return (
            Figure(name="voxels", value=self.extent.voxels, unit="voxels", formula=self.extent.formula),
            *self._tiling_figures(),
            *self._skipped_figures(),
            *(self._with_interval(figure) for figure in self._time_figures()),
            *footprint.figures(),
        )

    def _time_figures(self) -> list[Figure]:
        """What the rate decides."""
        plain, work = self.extent.voxels / self.rate, self.gpu_hours
        rows = [
            Figure(
                name="gpu_hours_without_overlap",
                value=plain,
                unit="GPU-h",
                formula=f"voxels / ({self.rate:.3g} voxels per GPU-hour)",
            ),
            _figure(
                "gpu_hours",
                work,
                "GPU-h",
                "GPU-hours without overlap * overlap factor"
                + (" * (subvolumes - empty) / subvolumes" if self.skipped or self.occupied < 1 else ""),
            ),
        ]
        if self.skipped:
            left = self.flooded - self.skipped.finished - self.skipped.quarantined
            rows.append(
                _figure(
                    "gpu_hours_left",
                    work * left / max(self.flooded, 1),
                    "GPU-h",
                    "GPU-hours * those neither empty, finished nor quarantined / those not empty",
                )
            )
        told = "GPU-hours"
        if self.pairing is not None:
            pairs = self.pairing.figures(self.extent.voxels, self.rate)
            rows += pairs
            work, told = work + pairs[-1].value, "(GPU-hours + those of pairs)"
        per_node = f"{told} / {self.gpus_per_node} GPUs of a node"
        rows.append(_figure("node_hours", work / self.gpus_per_node, "node-h", per_node))
        if self.gpus:
            first = self.gpus[0]
            rows.append(
                _figure("wall_hours", work / first, "h", f"{told} / {first:,} GPUs, none of them idle")
            )
        for gpus in self.gpus:
            rows += [
                _figure(
                    f"hours_on_{gpus}_gpus_without_overlap",
                    plain / gpus,
                    "h",
                    f"GPU-hours without overlap / {gpus:,}",
                ),
                _figure(f"hours_on_{gpus}_gpus", work / gpus, "h", f"{told} / {gpus:,}"),
            ]
        return rows

    def _skipped_figures(self) -> list[Figure]:
        if self.skipped is None:
            empty, share = self.subvolumes - self.flooded, f"{1 - self.occupied:.3g} of them, as given"
            return [_figure("empty_subvolumes", empty, "subvolumes", share)] if empty else []
        told = (
            ("empty", self.skipped.empty, "without tissue by the run's mask: nothing is flooded"),
            ("finished", self.skipped.finished, "of the others, those that the run has done already"),
            ("quarantined", self.skipped.quarantined, "given up: they count as empty until tried again"),
        )
        return [_figure(f"{name}_subvolumes", count, "subvolumes", formula) for name, count, formula in told]

    def _with_interval(self, figure: Figure) -> Figure:
        if self.rate_low is None or self.rate_high is None or figure.name in ("pairs", "moves_of_pairs"):
            return figure
        return replace(
            figure,
            low=figure.value * self.rate / self.rate_high,
            high=figure.value * self.rate / self.rate_low,
        )

    def _tiling_figures(self) -> list[Figure]:
        tiling, shape = self.tiling, self.extent.shape_zyx
        if tiling is None:
            size = " * ".join(map(str, NOMINAL.size_zyx))
            return [
                _figure("overlap_factor", self.factor, "x", "as given"),
                _figure(
                    "subvolumes",
                    self.subvolumes,
                    "subvolumes",
                    f"voxels * overlap factor / ({size}), assumed",
                ),
            ]
        steps = " * ".join(
            f"{s}/{s - o}" for s, o in zip(tiling.size_zyx, tiling.overlap_zyx, strict=True)
        )  # fmt: skip
        if shape is None:
            return [
                _figure("overlap_factor", self.factor, "x", steps),
                _figure("subvolumes", self.subvolumes, "subvolumes", "voxels * overlap factor / subvolume"),
            ]
        return [
            _figure("subvolumes", self.subvolumes, "subvolumes", f"{tiling.label}, spread evenly"),
            _figure(
                "overlap_factor",
                self.factor,
                "x",
                f"subvolumes * their voxels / voxels (unbounded: {steps} = {tiling.factor:.3f})",
            ),
        ]


def _figure(name: str, value: float, unit: str, formula: str) -> Figure:
    return Figure(name=name, value=value, unit=unit, formula=formula)


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """Node-hours that there are against those that a plan needs; `surely`: at its interval's upper end."""

    granted: float
    needed: float
    needed_high: float | None = None

    @property
    def spare(self) -> float:
        """What is left, in node-hours; negative: what is missing."""
        return self.granted - self.needed

    @property
    def enough(self) -> bool:
        """Whether it suffices, by the plan's own figure."""
        return self.spare >= 0

    @property
    def surely(self) -> bool:
        """Whether it suffices at the upper end of the interval too."""
        return self.granted >= (self.needed if self.needed_high is None else self.needed_high)
