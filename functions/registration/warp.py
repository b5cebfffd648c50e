"""Pull an image through a warp: inverse map by fixed point on a coarse grid, bicubic interpolation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import grid_sample

from functions.registration.filters import CPU, strips
from functions.registration.planes import Plane

Floats = NDArray[np.float32]
STEP_PX = 8
STEPS_PER_KNOT = 20
MARGIN_PX = 3


def step_for(spacing_px: float | None) -> int:
    """How far apart a sheet with knots `spacing_px` apart (None: no sheet) may be evaluated.

    Linear interpolation between 20 points a knot leaves 1/500 of a coefficient's height as error.
    """
    longest = 4 * STEP_PX
    return longest if spacing_px is None else int(np.clip(spacing_px / STEPS_PER_KNOT, STEP_PX, longest))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Places in an image: `local_yx` (2, H, W) px from the pixel `corner_yx`, so that float32 is exact enough
    in images of any size; nan where there is none."""

    corner_yx: tuple[int, int]
    local_yx: Floats

    @classmethod
    def of(cls, places_yx: NDArray[np.float64]) -> Sources:
        """From places (2, ...) of the image."""
        least = [float(np.fmin.reduce(c, axis=None)) for c in places_yx]
        corner = [0 if np.isnan(v) else int(np.floor(v)) - MARGIN_PX for v in least]
        local = places_yx - np.array(corner, dtype=np.float64).reshape(2, *[1] * (places_yx.ndim - 1))
        return cls(corner_yx=(corner[0], corner[1]), local_yx=local.astype(np.float32))

    def at(self, rows: slice, columns: slice) -> Floats:
        """Places (2, h, w) in the image, of a part."""
        corner = np.array(self.corner_yx, dtype=np.float32)[:, None, None]
        return np.asarray(self.local_yx[:, rows, columns] + corner, dtype=np.float32)


def dense_sources(
    source_of: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    top_left_yx: tuple[int, int],
    shape_yx: tuple[int, int],
    *,
    step_px: int = STEP_PX,
) -> Sources:
    """`dense_coordinates` as float32, in half the time."""
    coarse = Sources.of(_nodes(source_of, top_left_yx, shape_yx, step_px))
    return Sources(corner_yx=coarse.corner_yx, local_yx=_between(coarse.local_yx, shape_yx, step_px).numpy())


def dense_coordinates(
    source_of: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    top_left_yx: tuple[int, int],
    shape_yx: tuple[int, int],
    *,
    step_px: int = STEP_PX,
) -> NDArray[np.float64]:
    """Source y, x (2, H, W) of every pixel of a box, from every `step_px`th by linear interpolation."""
    nodes = _nodes(source_of, top_left_yx, shape_yx, step_px)
    out: NDArray[np.float64] = _between(nodes, shape_yx, step_px).numpy()
    return out


def _nodes(
    source_of: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    top_left_yx: tuple[int, int],
    shape_yx: tuple[int, int],
    step_px: int,
) -> NDArray[np.float64]:
    """Source y, x (2, h, w) of every `step_px`th pixel of a box, to beyond its end."""
    nodes = [(n - 1) // step_px + 2 for n in shape_yx]
    axes = [o + step_px * np.arange(n, dtype=np.float64) for o, n in zip(top_left_yx, nodes, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    return np.ascontiguousarray(source_of(grid).T.reshape(2, nodes[0], nodes[1]))


def _between(nodes: NDArray[np.floating[Any]], shape_yx: tuple[int, int], step_px: int) -> torch.Tensor:
    """All pixels (2, H, W) of a box from every `step_px`th, by linear interpolation."""
    coarse = torch.from_numpy(nodes)
    part = torch.arange(step_px, dtype=coarse.dtype) / step_px
    across = torch.addcmul(coarse[..., :-1, None], coarse.diff(dim=-1)[..., None], part)
    lines = across.flatten(-2)[..., : shape_yx[1]]
    down = torch.addcmul(lines[:, :-1, None], lines.diff(dim=-2)[:, :, None], part[:, None])
    return down.flatten(1, 2)[:, : shape_yx[0]]


def sample(
    image: NDArray[np.generic],
    coordinates: NDArray[np.float64] | Floats,
    *,
    cubic: bool = True,
    device: torch.device = CPU,
) -> Floats:
    """Values (H, W) of an image at y, x (2, H, W); beyond its border the nearest pixel is repeated."""
    source = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32)).to(device)[None, None]
    grid = np.empty((2, *coordinates.shape[1:]), np.float32)
    for plane, axis in zip(grid, (1, 0), strict=True):
        np.multiply(coordinates[axis], 2.0 / max(image.shape[axis] - 1, 1), out=plane, casting="same_kind")
    grid -= 1.0
    out = grid_sample(
        source,
        torch.from_numpy(grid).to(device).permute(1, 2, 0)[None],
        mode="bicubic" if cubic else "bilinear",
        padding_mode="border",
        align_corners=True,
    )
    return np.asarray(out[0, 0].cpu().numpy(), dtype=np.float32)


def source_box(coordinates: NDArray[np.float64], shape_yx: Sequence[int]) -> tuple[slice, slice] | None:
    """The part of a source image that coordinates (2, H, W) need; None if they miss it."""
    cuts = []
    for c, n in zip(coordinates, shape_yx, strict=True):
        start = max(0, int(np.floor(c.min())) - MARGIN_PX)
        stop = min(n, int(np.ceil(c.max())) + MARGIN_PX + 1)
        if stop - start < 2:
            return None
        cuts.append(slice(start, stop))
    return cuts[0], cuts[1]


def reached_box(
    reach_yx: Sequence[tuple[float, float]], corner_yx: Sequence[int], shape_yx: Sequence[int]
) -> tuple[slice, slice]:
    """The part of an image that places from the first to the last on each axis, px from a corner, need."""
    y, x = (
        slice(max(0, corner + int(np.floor(a)) - MARGIN_PX), min(n, corner + int(np.ceil(b)) + MARGIN_PX + 1))
        for (a, b), corner, n in zip(reach_yx, corner_yx, shape_yx, strict=True)
    )
    return y, x


def pull(
    crop: NDArray[np.generic],
    mask: NDArray[np.bool_],
    coordinates: NDArray[np.float64],
    box: tuple[slice, slice],
    *,
    device: torch.device = CPU,
) -> tuple[Floats, NDArray[np.bool_]]:
    """Values (H, W) and where they are usable, from the part `box` of a source image.

    Only that part is needed, so float32 coordinates stay exact in sections of any size.
    """
    local = coordinates - np.array([s.start for s in box], dtype=np.float64)[:, None, None]
    inside = np.ones(local.shape[1:], dtype=np.bool_)
    for c, n in zip(local, crop.shape, strict=True):
        inside &= (c >= -0.01) & (c <= n - 0.99)
    values = sample(crop, local, device=device)
    if not mask.all():
        inside &= sample(mask.astype(np.float32), local, cubic=False, device=device) > 0.99
    return np.where(inside, values, 0.0).astype(np.float32), inside


def draw(
    image: NDArray[np.generic],
    mask: NDArray[np.bool_],
    source_of: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    shape_yx: tuple[int, int],
    *,
    device: torch.device = CPU,
) -> tuple[Floats, NDArray[np.bool_]]:
    """Values (H, W) of a whole image and where they are usable."""
    box = (slice(0, shape_yx[0]), slice(0, shape_yx[1]))
    return draw_window(image, mask, source_of, box, device=device)


def draw_window(
    image: Plane,
    mask: Plane,
    source_of: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    window: tuple[slice, slice],
    *,
    device: torch.device = CPU,
) -> tuple[Floats, NDArray[np.bool_]]:
    """Values (H, W) of a window of the drawn image and where they are usable, strip by strip: coordinates
    take room. Only the part of the source that a strip needs is read."""
    top, left = (s.start for s in window)
    shape = (window[0].stop - top, window[1].stop - left)
    values, inside = np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
    for rows, _ in strips(shape, STEP_PX, device):
        strip = (rows.stop - rows.start, shape[1])
        coordinates = dense_coordinates(source_of, (top + rows.start, left), strip)
        box = source_box(coordinates, image.shape)
        if box is not None:
            usable = mask[box].astype(np.bool_)
            values[rows], inside[rows] = pull(image[box], usable, coordinates, box, device=device)
    return values, inside
