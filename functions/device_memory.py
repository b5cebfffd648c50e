"""What a subvolume and a batch of fields of view take of an accelerator's memory. Pure arithmetic.

    canvases   image float32 and closed uint8 of the subvolume, belief float32 and visited uint8 of each
               object in progress: 5 bytes a voxel, and 5 for each object (`ffn.device_canvas`)
    batch      what the network is shown and answers, and three maps of its features at a time

With several subvolumes at once (`segment.at_once`, the default) canvases are on the host, and only the batch
is on the device. Tensors are counted, which a test holds to those that there are; what the driver, kernels
and cuDNN's workspaces take besides is a reserve, and was not measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from functions.model.geometry import ZYX
from functions.model.quantities import Figure

GIB = 1 << 30
RESERVED_GIB = 2.0
"""Assumed: context of the driver, kernels, workspaces."""
CANVAS_BYTES = 5
"""For each voxel of the subvolume, and again for each object in progress."""
WINDOW_BYTES = 16
"""For each voxel of a field of view in the batch: image and belief as seen, old belief, its bound."""
MAPS = 3
"""Of features that are alive at once: the sum so far, and two of a residual module."""
NUMBER_BYTES = {"fp32": 4, "tf32": 4, "int8": 4, "bf16": 2, "fp16": 2}
"""Of a feature, by precision; int8 is emulated in float32."""
STEP_PX = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class OnDevice:
    """One subvolume at a time on a device of so much memory, with `objects` of it in progress."""

    device_gib: float
    fov_zyx: ZYX
    features: int
    batch: int
    objects: int
    precision: str = "fp32"

    @property
    def batch_bytes(self) -> float:
        """Of a batch on its way through the network."""
        number = NUMBER_BYTES[self.precision]
        return self.batch * prod(self.fov_zyx) * (WINDOW_BYTES + MAPS * self.features * number)

    @property
    def bytes_per_voxel(self) -> int:
        """Of the subvolume."""
        return CANVAS_BYTES * (1 + self.objects)

    @property
    def most_voxels(self) -> float:
        """Of a subvolume that fits; none where the batch alone does not."""
        left = (self.device_gib - RESERVED_GIB) * GIB - self.batch_bytes
        return max(0.0, left / self.bytes_per_voxel)

    @property
    def largest_side(self) -> int:
        """Side of the largest cube that fits, in steps of `STEP_PX`."""
        side = int(self.most_voxels ** (1 / 3)) // STEP_PX * STEP_PX
        return side + STEP_PX if (side + STEP_PX) ** 3 <= self.most_voxels else side

    def holds(self, voxels: float) -> bool:
        """Whether a subvolume of so many voxels fits."""
        return voxels <= self.most_voxels

    def figures(self) -> tuple[Figure, ...]:
        """What fits, and by what it is bounded."""
        return (
            Figure(
                name="device_batch",
                value=self.batch_bytes,
                unit="bytes",
                formula=f"{self.batch} fields of view * {prod(self.fov_zyx):,} voxels * ({WINDOW_BYTES} +"
                f" {MAPS} maps * {self.features} features * {NUMBER_BYTES[self.precision]} byte)",
            ),
            Figure(
                name="device_bytes_per_voxel",
                value=self.bytes_per_voxel,
                unit="bytes",
                formula=f"{CANVAS_BYTES} + {CANVAS_BYTES} * {self.objects} objects in progress",
            ),
            Figure(
                name="device_subvolume",
                value=self.most_voxels,
                unit="voxels",
                formula=f"({self.device_gib:g} GiB - {RESERVED_GIB:g} GiB reserved (assumed) - batch)"
                " / bytes a voxel",
            ),
            Figure(
                name="device_subvolume_side",
                value=self.largest_side,
                unit="px",
                formula=f"cube root of that, in steps of {STEP_PX}",
            ),
        )
