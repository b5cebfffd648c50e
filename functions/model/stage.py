"""Where the microscope says that a raw tile lies, turned and scaled as its metadata state."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from functions.model.acquisition import Tile

Floats = NDArray[np.float64]


def tile_linear(tile: Tile, pixel_yx_nm: tuple[float, float]) -> Floats:
    """The linear map (2, 2) on y, x from px of a tile to px of the section, `pixel_yx_nm` large."""
    c, s = np.cos(np.deg2rad(tile.rotation_deg)), np.sin(np.deg2rad(tile.rotation_deg))
    own = np.array(tile.pixel_size_yx_nm or pixel_yx_nm, dtype=np.float64)
    out: Floats = np.array([[c, s], [-s, c]]) * own / np.array(pixel_yx_nm, dtype=np.float64)[:, None]
    return out


def tile_to_stage(tile: Tile, pixel_yx_nm: tuple[float, float]) -> Floats:
    """The affine map (2, 3) on y, x from px of a tile to nm of the stage.

    The tile is turned about its centre, which lies half a tile from `stage_yx_nm`.
    """
    nm = tile_linear(tile, pixel_yx_nm) * np.array(pixel_yx_nm)[:, None]
    centre = (np.array(tile.shape_yx) - 1) / 2.0
    own = np.array(tile.pixel_size_yx_nm or pixel_yx_nm, dtype=np.float64)
    move = np.array(tile.stage_yx_nm) + own * centre - nm @ centre
    return np.concatenate([nm, move[:, None]], axis=1)
