"""Cuts a phantom into raw overlapping tiles, as a microscope writes them, and keeps the exact truth beside.

    phantom section --affine, elastic warp--> section on the stage --cut at stage position + jitter--> tiles
                      contrast, shading and noise differ from section to section and from tile to tile

The microscope notes only the nominal stage positions. Points are (y, x) pixels; pixel centres are whole
numbers.
"""

import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

from functions.testing.phantom import Phantom
from functions.testing.phantom_render import smooth_noise
from functions.testing.truth import Truth, save_truth

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class AcquisitionConfig:
    """How the microscope works: lengths in pixels (sigma where random), angles in degrees, greys 0..255."""

    seed: int = 0
    id: str = "phantom"
    tile_shape_yx: Pair = (192, 192)
    grid: Pair = (2, 2)
    overlap_px: int = 36
    stage_jitter_px: float = 3.5
    max_jitter_px: float = 9.0
    section_shift_px: float = 4.0
    max_shift_px: float = 8.0
    max_rotation_deg: float = 1.0
    warp_px: float = 1.3
    warp_scale_px: float = 90.0
    section_gain: float = 0.06
    tile_gain: float = 0.03
    tile_offset_grey: float = 4.0
    shading_grey: float = 4.0
    noise_grey: float = 3.0

    def __post_init__(self) -> None:
        if not 0 < self.overlap_px < min(self.tile_shape_yx):
            raise ValueError(f"overlap_px: {self.overlap_px} must be positive and smaller than a tile")
        if min(self.grid) < 1:
            raise ValueError(f"grid: {self.grid} must have at least one row and one column")

    @property
    def field_shape_yx(self) -> Pair:
        """Pixels of the whole nominal mosaic."""
        height, width = (
            n * t - (n - 1) * self.overlap_px for n, t in zip(self.grid, self.tile_shape_yx, strict=True)
        )
        return height, width

    @property
    def margin_px(self) -> int:
        """How much tissue must lie around the mosaic, on every side, so that no tile sees beyond it."""
        turn = np.deg2rad(self.max_rotation_deg) * max(self.field_shape_yx) / 2
        return int(np.ceil(self.max_jitter_px + self.max_shift_px + turn + 4 * self.warp_px + 2))


DEMO = AcquisitionConfig(seed=7, id="demo")
DEMO_SECTIONS = 44


def phantom_shape_zyx(config: AcquisitionConfig, sections: int) -> tuple[int, int, int]:
    """The smallest phantom this acquisition can be cut from."""
    height, width = config.field_shape_yx
    return sections, height + 2 * config.margin_px, width + 2 * config.margin_px


def write_acquisition(folder: Path, phantom: Phantom, config: AcquisitionConfig) -> Truth:
    """Writes `acquisition.json`, `tiles.csv`, the tiles, and beside the folder `truth/`; returns the truth.

    The truth goes to `folder.parent / "truth"`, so nothing that reads the acquisition can see it by accident.
    Raises ValueError when the phantom is too small.
    """
    needed = phantom_shape_zyx(config, phantom.image.shape[0])
    if any(have < need for have, need in zip(phantom.image.shape, needed, strict=True)):
        raise ValueError(f"phantom: {phantom.image.shape} is smaller than {needed}; make it that large")
    rng = np.random.default_rng([config.seed, 0])
    truth = _draw_truth(phantom, config, rng)
    rows = list(_write_tiles(folder, phantom, truth, config))
    with (folder / "tiles.csv").open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(
            [
                "section",
                "row",
                "column",
                "path",
                "stage_y_nm",
                "stage_x_nm",
                "height_px",
                "width_px",
                "sha256",
            ]
        )
        writer.writerows(rows)
    header = {
        "schema": "petavoxel.acquisition/1",
        "id": config.id,
        "instrument": "phantom",
        "voxel_size_zyx_nm": list(phantom.config.voxel_size_zyx_nm),
        "sections": [0, phantom.image.shape[0]],
        "dtype": "uint8",
        "stage_uncertainty_px": float(np.ceil(2 * config.max_jitter_px)),
    }
    (folder / "acquisition.json").write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")
    save_truth(folder.parent / "truth", truth)
    return truth


def _draw_truth(phantom: Phantom, config: AcquisitionConfig, rng: np.random.Generator) -> Truth:
    """Where everything really is: a transform per section, an offset per tile."""
    sections, (rows, columns) = phantom.image.shape[0], config.grid
    centre = (np.asarray(config.field_shape_yx) - 1) / 2
    middle = (np.asarray(phantom.image.shape[1:]) - 1) / 2
    affine = np.empty((sections, 2, 3))
    for z in range(sections):
        angle = np.deg2rad(rng.uniform(-1, 1) * config.max_rotation_deg)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        limit = config.max_shift_px
        shift = np.clip(rng.normal(0, config.section_shift_px, 2), -limit, limit)
        affine[z, :, :2], affine[z, :, 2] = turn, middle - turn @ centre + shift
    knots = [int(np.ceil(n / config.warp_scale_px)) + 4 for n in config.field_shape_yx]
    warp = np.clip(rng.normal(0, 1, (sections, 2, *knots)), -2, 2) * (2 * config.warp_px)
    step = np.asarray(config.tile_shape_yx) - config.overlap_px
    places = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1) * step
    nominal = np.broadcast_to(places, (sections, rows, columns, 2)).astype(float)
    limit = config.max_jitter_px
    jitter = np.clip(rng.normal(0, config.stage_jitter_px, nominal.shape), -limit, limit)
    return Truth(
        tile_shape_yx=config.tile_shape_yx,
        nominal_yx=nominal,
        offset_yx=nominal + jitter,
        affine=affine,
        warp=warp,
        warp_scale_px=config.warp_scale_px,
        labels=phantom.labels,
    )


def _write_tiles(
    folder: Path, phantom: Phantom, truth: Truth, config: AcquisitionConfig
) -> Iterator[tuple[object, ...]]:
    """Writes every tile; yields its row of the table."""
    height, width = config.tile_shape_yx
    grid = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), -1).reshape(-1, 2)
    for z, section in enumerate(phantom.image):
        rng = np.random.default_rng([config.seed, 1, z])
        spline = ndimage.spline_filter(section.astype(np.float32), order=3, output=np.float32)
        gain = rng.normal(1, config.section_gain)
        directory = folder / "tiles" / f"s{z:04d}"
        directory.mkdir(parents=True, exist_ok=True)
        for row, column in np.ndindex(*config.grid):
            where = truth.tile_to_phantom(z, row, column, grid.astype(float)).T
            seen = ndimage.map_coordinates(spline, where, order=3, prefilter=False, mode="nearest")
            tile = _develop(seen.reshape(height, width), gain, config, rng)
            path = directory / f"r{row}_c{column}.tif"
            tifffile.imwrite(path, tile, photometric="minisblack", metadata=None)
            stage = truth.nominal_yx[z, row, column] * phantom.config.voxel_size_zyx_nm[1:]
            checksum = hashlib.sha256(path.read_bytes()).hexdigest()
            relative = path.relative_to(folder).as_posix()
            yield z, row, column, relative, float(stage[0]), float(stage[1]), height, width, checksum


def _develop(
    seen: NDArray[np.float32], gain: float, config: AcquisitionConfig, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """The tile's own contrast, shading and noise."""
    tile = 128 + (seen - 128) * (gain * rng.normal(1, config.tile_gain))
    tile += rng.normal(0, config.tile_offset_grey)
    tile += config.shading_grey * smooth_noise(seen.shape, scale=max(seen.shape) / 1.5, rng=rng)
    tile += config.noise_grey * rng.standard_normal(seen.shape)
    return np.asarray(np.clip(np.rint(tile), 0, 255), np.uint8)
