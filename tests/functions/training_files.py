"""A small data set that a network can learn in seconds, as files, and the recipe that trains on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import zarr

SHAPE_ZYX = (26, 34, 34)

RECIPE = """
data = "data"

[[volumes]]
kind = "npz"
path = "cells.npz"
image = "raw"
labels = "gt"
box = "0:26,0:34,0:34"

[validation]
every_steps = 20
max_fovs = 300

[[validation.volumes]]
kind = "npz"
path = "cells.npz"
image = "raw"
labels = "gt"
box = "0:18,0:26,0:26"

[training]
voxel_size_zyx_nm = [16.0, 16.0, 16.0]

[training.network]
modules = 2
features = 6
fov_zyx = [7, 7, 7]
deltas_zyx = [2, 2, 2]

[training.normalisation]
mean = 150.0
std = 64.0

[training.inference]
min_segment_size = 20

[training.inference.seeds]
policy = "distance"
sigma_zyx = [4.0, 4.0, 4.0]
smooth_zyx = [0.0, 0.0, 0.0]
order = "depth"

[training.examples]
shape_zyx = [11, 11, 11]
fill_fractions = [0.3, 0.7, 1.0]
positions_per_volume = 300

[training.augmentation]
noise = 5.0

[training.optimiser]
steps = 40
batch = 8
rate = 0.01
warmup_steps = 5
"""


def cells() -> tuple[np.ndarray, np.ndarray]:
    """Bright cells 7 voxels wide between dark walls: image uint8, labels uint32."""
    z, y, x = np.indices(SHAPE_ZYX)
    inside = (z % 8 < 7) & (y % 8 < 7) & (x % 8 < 7)
    labels = np.where(inside, 1 + z // 8 + 10 * (y // 8) + 100 * (x // 8), 0).astype(np.uint32)
    return np.where(inside, 200, 60).astype(np.uint8), labels


def write_npz(folder: Path) -> Path:
    """`cells.npz` with `raw` and `gt` in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    image, labels = cells()
    np.savez(folder / "cells.npz", raw=image, gt=labels)
    return folder / "cells.npz"


def write_zarr(path: Path, array: np.ndarray, chunks: tuple[int, int, int]) -> Path:
    """A plain zarr array."""
    stored = zarr.create_array(store=str(path), shape=array.shape, chunks=chunks, dtype=str(array.dtype))
    stored[...] = array
    return path


def write_recipe(folder: Path, text: str = RECIPE) -> Path:
    """The recipe, with its data beside it."""
    write_npz(folder / "data")
    path = folder / "recipe.toml"
    path.write_text(text)
    return path
