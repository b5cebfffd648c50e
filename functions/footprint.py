"""What a volume takes up on disk and in tasks: bytes, files, the fullest folder. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

from functions.model.parameters import FinishParameters, ReconcileParameters
from functions.model.quantities import Figure
from functions.tasks import MAX_SHARDS

IMAGE_BYTES = 1
RAW_LABEL_BYTES = 8
MASK_BYTES = 2
"""Mask and artefact codes of the aligned volume, uncompressed."""
LABEL_BYTES = 0.6
"""A voxel of uint64 labels in chunks of zstd level 1; measured on the synthetic phantom (219 objects)."""
LOCAL_LABEL_BYTES = 0.1
"""A voxel of a subvolume's uint32 labels, deflated; measured there; `plan --calibrate` weighs a run's own."""
PYRAMID = 8 / 7
"""All levels of a pyramid of halved axes over its first."""
ALIGNED_CHUNK_PX = 512
"""Side of the aligned volume's chunks, one section thick, each a file (`functions.store.transforms`)."""
LOT_FILES = 2
"""Of a lot of units: its claim with all marks, and the note on its end (`functions.store.lots`)."""
MOST_IN_A_LOT = 64
"""Units of a lot in a large volume (`functions.store.numbering`)."""
FOLDERS = 4096
"""That files of one kind are spread over (`functions.store.spread`)."""
ALIGNED_ARRAYS = 3
"""Image, mask, artefact codes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Of `voxels` in `subvolumes`, with `neighbours` pairs sharing a face; `computed`: with overlaps."""

    voxels: float
    computed: float
    subvolumes: float
    neighbours: float
    local_label_bytes: float = LOCAL_LABEL_BYTES

    def figures(self) -> tuple[Figure, ...]:
        """Storage first, then tasks and files."""
        return (*self._storage(), *self._files())

    def _storage(self) -> tuple[Figure, ...]:
        local = self.local_label_bytes
        return (
            _bytes("image", self.voxels * IMAGE_BYTES, "voxels * 1 byte (uint8)"),
            _bytes(
                "raw_labels", self.voxels * RAW_LABEL_BYTES, "voxels * 8 byte (uint64, before compression)"
            ),
            _bytes(
                "compressed_labels",
                self.voxels * LABEL_BYTES,
                f"voxels * {LABEL_BYTES:g} byte (zstd, as on the phantom)",
            ),
            _bytes(
                "intermediate",
                self.voxels * MASK_BYTES + self.computed * local,
                f"voxels * {MASK_BYTES} byte (mask, codes) + computed voxels * {local:.3g} byte (labels)",
            ),
        )

    def _files(self) -> tuple[Figure, ...]:
        tasks = min(float(MAX_SHARDS), self.subvolumes)
        chunk, shard = ReconcileParameters().chunk_zyx_px, FinishParameters().shard_zyx_px
        aligned = ceil(ALIGNED_ARRAYS * self.voxels / ALIGNED_CHUNK_PX**2)
        units = ceil((self.subvolumes + self.neighbours) * (1 + LOT_FILES / MOST_IN_A_LOT))
        relabelled = ceil(self.voxels / prod(chunk))
        published = ceil(2 * PYRAMID * self.voxels / prod(shard))
        return (
            Figure(name="tasks", value=tasks, unit="tasks", formula=f"at most {MAX_SHARDS} a fan-out"),
            Figure(
                name="subvolumes_per_task",
                value=self.subvolumes / tasks,
                unit="subvolumes",
                formula="subvolumes / tasks",
            ),
            Figure(
                name="files",
                value=aligned + units + relabelled + published,
                unit="files",
                formula=f"voxels * {ALIGNED_ARRAYS} / {ALIGNED_CHUNK_PX}^2 (aligned chunks: {aligned:.2g})"
                f" + (1 + {LOT_FILES}/{MOST_IN_A_LOT}) * (subvolumes + overlaps)"
                f" (results, packed marks: {units:.2g})"
                f" + voxels / {_times(chunk)} (global labels: {relabelled:.2g})"
                f" + 2 * 8/7 * voxels / {_times(shard)} (published: {published:.2g})",
            ),
            Figure(
                name="fullest_folder",
                value=ceil(max(self.neighbours, self.subvolumes) / FOLDERS),
                unit="files",
                formula=f"overlaps of neighbours / {FOLDERS} folders",
            ),
        )


def _bytes(name: str, value: float, formula: str) -> Figure:
    return Figure(name=name, value=value, unit="bytes", formula=formula)


def _times(numbers: tuple[int, ...]) -> str:
    return f"({' * '.join(map(str, numbers))})"
