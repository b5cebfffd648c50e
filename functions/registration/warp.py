"""Pull an image through a warp: inverse map by fixed point on a coarse grid, bicubic interpolation."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import grid_sample, interpolate

from functions.model.transform import Warp

Floats = NDArray[np.float32]
STEP_PX = 8
MARGIN_PX = 3


def inverse_coordinates(
    warp: Warp, top_left_yx: tuple[int, int], shape_yx: tuple[int, int]
) -> NDArray[np.float64]:
    """Source y, x (2, H, W) of every pixel of an output box."""
    nodes = [(n - 1) // STEP_PX + 2 for n in shape_yx]
    axes = [o + STEP_PX * np.arange(n, dtype=np.float64) for o, n in zip(top_left_yx, nodes, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    source = warp.inverse(grid).T.reshape(1, 2, nodes[0], nodes[1])
    full = [(n - 1) * STEP_PX + 1 for n in nodes]
    dense = interpolate(torch.from_numpy(np.ascontiguousarray(source)), size=full, mode="bilinear",
                        align_corners=True)  # fmt: skip
    out: NDArray[np.float64] = dense[0, :, : shape_yx[0], : shape_yx[1]].numpy()
    return out


def sample(image: NDArray[np.generic], coordinates: NDArray[np.float64], *, cubic: bool = True) -> Floats:
    """Values (H, W) of an image at y, x (2, H, W); beyond its border the nearest pixel is repeated."""
    h, w = image.shape
    source = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))[None, None]
    y = torch.from_numpy(2.0 * coordinates[0] / max(h - 1, 1) - 1.0)
    x = torch.from_numpy(2.0 * coordinates[1] / max(w - 1, 1) - 1.0)
    grid = torch.stack([x, y], dim=-1).to(torch.float32)[None]
    out = grid_sample(
        source, grid, mode="bicubic" if cubic else "bilinear", padding_mode="border", align_corners=True
    )
    return np.asarray(out[0, 0].numpy(), dtype=np.float32)


def pull(
    image: NDArray[np.generic],
    mask: NDArray[np.bool_],
    warp: Warp,
    *,
    top_left_yx: tuple[int, int],
    shape_yx: tuple[int, int],
    cubic: bool = True,
) -> tuple[Floats, NDArray[np.bool_]]:
    """The part of an output box that an image fills, and where it is usable.

    The source is cropped to what the box needs, so that float32 coordinates stay exact in large sections.
    """
    coordinates = inverse_coordinates(warp, top_left_yx, shape_yx)
    start = [max(0, int(np.floor(c.min())) - MARGIN_PX) for c in coordinates]
    stop = [
        min(n, int(np.ceil(c.max())) + MARGIN_PX + 1) for c, n in zip(coordinates, image.shape, strict=True)
    ]
    if stop[0] - start[0] < 2 or stop[1] - start[1] < 2:
        return np.zeros(shape_yx, np.float32), np.zeros(shape_yx, np.bool_)
    crop = (slice(start[0], stop[0]), slice(start[1], stop[1]))
    inside = np.ones(shape_yx, dtype=np.bool_)
    for c, n in zip(coordinates, image.shape, strict=True):
        inside &= (c >= -0.01) & (c <= n - 0.99)
    local = coordinates - np.array(start, dtype=np.float64)[:, None, None]
    values = sample(image[crop], local, cubic=cubic)
    if not mask[crop].all():
        inside &= sample(mask[crop].astype(np.float32), local, cubic=False) > 0.99
    return np.where(inside, values, 0.0).astype(np.float32), inside
