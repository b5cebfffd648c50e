"""An aligned stack of synthetic tissue in many small subvolumes: what executors and faults are tried on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from functions.microscopes.importing import import_stack
from functions.model.parameters import FinishParameters, Parameters, ReconcileParameters, SegmentParameters
from functions.testing.phantom import make_phantom
from functions.testing.phantom_render import PhantomConfig

VOXEL_SIZE_NM = (16.0, 16.0, 16.0)


def write_stack(
    folder: Path,
    name: str,
    *,
    counts_zyx: tuple[int, int, int],
    subvolume_zyx_px: tuple[int, int, int],
    overlap_zyx_px: tuple[int, int, int],
    seed: int = 11,
) -> Path:
    """Write `folder/name`, an acquisition that comes aligned and makes so many subvolumes on each axis."""
    shape = tuple(
        (n - 1) * (size - overlap) + size
        for n, size, overlap in zip(counts_zyx, subvolume_zyx_px, overlap_zyx_px, strict=True)
    )
    image = make_phantom(PhantomConfig(seed=seed, shape_zyx=(shape[0], shape[1], shape[2]))).image
    np.save(folder / f"{name}.npy", image)
    return import_stack(folder / f"{name}.npy", folder / name, voxel_size_zyx_nm=VOXEL_SIZE_NM)


def parameters_of(subvolume_zyx_px: tuple[int, int, int], overlap_zyx_px: tuple[int, int, int]) -> Parameters:
    """The demo network on the CPU, with small chunks so that there are several of everything."""
    return Parameters(
        segment=SegmentParameters(
            subvolume_zyx_px=subvolume_zyx_px,
            overlap_zyx_px=overlap_zyx_px,
            mirror_border=True,
            device="cpu",
        ),
        reconcile=ReconcileParameters(chunk_zyx_px=(32, 64, 64)),
        finish=FinishParameters(chunk_zyx_px=(16, 32, 32), shard_zyx_px=(16, 64, 64)),
    )
