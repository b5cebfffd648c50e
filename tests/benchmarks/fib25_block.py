"""A box of the FIB-25 block: its image, its truth, and what google/ffn published for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from functions.model.geometry import Box

VOXEL_SIZE_NM = (10.0, 10.0, 10.0)
RIM_PX = 16
BLOCK = "training_sample2_z000-173.npz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The box of the block: image, truth, and what google/ffn published; all (Z, Y, X)."""

    raw: np.ndarray
    truth: np.ndarray
    published: np.ndarray


def read_block(data: Path, box: Box) -> Block:
    """Cut the box out of the block."""
    with np.load(data / "fib25" / BLOCK, allow_pickle=False) as archive:
        return Block(
            raw=archive["raw"][box.slices],
            truth=archive["gt"][box.slices],
            published=archive["google_ffn_segmentation"][box.slices],
        )


def parse_box(text: str) -> Box:
    """`z0:z1,y0:y1,x0:x1` in voxels of the block, or one range for all three axes."""
    axes = text.split(",") if "," in text else [text] * 3
    (z0, z1), (y0, y1), (x0, x1) = (map(int, axis.split(":")) for axis in axes)
    return Box(offset_zyx=(z0, y0, x0), shape_zyx=(z1 - z0, y1 - y0, x1 - x0))
