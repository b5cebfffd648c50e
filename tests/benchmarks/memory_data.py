"""Acquisitions of any size for `tests.benchmarks.memory`, and what takes the place of a network there.

Grey values are few, so that what is written compresses as tissue does and a volume of gigabytes needs not
many times that on the disk.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from ffn.checkpoint import Model
from ffn.config import InferenceConfig, NetworkConfig, Normalisation, Triple
from ffn.masks import Masks
from ffn.network import FloodFillingNetwork
from functions.segmenters import Flooded
from functions.store.files import write_json
from functions.store.images import write_tile

GREY_STEP = 24
MARGIN_PX = 16
"""Sections lie at most so far beside each other."""
OVERLAP_PX = 128
BRIGHT = 110
VOXEL_NM = (40.0, 8.0, 8.0)
FIELDS = ("section", "row", "column", "path", "stage_y_nm", "stage_x_nm", "height_px", "width_px")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """An acquisition of `sections` sections (Y, X), of one aligned image each or of tiles that overlap."""

    sections: int
    shape_yx: tuple[int, int]
    tile_px: int | None = None
    """Side of the tiles; None: an aligned stack."""

    @property
    def bytes(self) -> int:
        """Of the volume."""
        return self.sections * self.shape_yx[0] * self.shape_yx[1]

    def write(self, folder: Path) -> None:
        """Write the images and what describes them (the `plain` layout)."""
        folder.mkdir(parents=True)
        field = texture((self.shape_yx[0] + 2 * MARGIN_PX, self.shape_yx[1] + 2 * MARGIN_PX))
        random = np.random.default_rng(1)
        rows: list[tuple[object, ...]] = []
        # none lies as another does: the same images twice are a fault of the microscope, and left out
        places = random.choice((2 * MARGIN_PX + 1) ** 2, self.sections, replace=False)
        for z, place in enumerate(places.tolist()):
            y, x = (0, 0) if self.tile_px is None else np.array(divmod(place, 2 * MARGIN_PX + 1)) - MARGIN_PX
            top, left = MARGIN_PX + int(y), MARGIN_PX + int(x)
            section = field[top : top + self.shape_yx[0], left : left + self.shape_yx[1]]
            for row, column, corner, pixels in self._cut(section):
                name = f"s{z:04d}_{row}_{column}.tif"
                write_tile(folder / name, np.ascontiguousarray(pixels))
                nm = [float(c) * VOXEL_NM[1] for c in corner]
                rows.append((z, row, column, name, *nm, *pixels.shape))
        with open(folder / "tiles.csv", "w", newline="") as handle:
            csv.writer(handle).writerows([FIELDS, *rows])
        header = {
            "schema": "petavoxel.acquisition/1",
            "id": folder.name,
            "instrument": "synthetic",
            "voxel_size_zyx_nm": VOXEL_NM,
            "dtype": "uint8",
            "aligned": self.tile_px is None,
        }
        write_json(folder / "acquisition.json", header)

    def _cut(self, section: NDArray[np.uint8]) -> list[tuple[int, int, tuple[int, int], NDArray[np.uint8]]]:
        """Row, column, corner and pixels of each tile."""
        if self.tile_px is None:
            return [(0, 0, (0, 0), section)]
        starts = [self._starts(n) for n in section.shape]
        side = self.tile_px
        return [
            (i, k, (y, x), section[y : y + side, x : x + side])
            for i, y in enumerate(starts[0])
            for k, x in enumerate(starts[1])
        ]

    def _starts(self, extent: int) -> list[int]:
        assert self.tile_px is not None
        count = max(1, -(-(extent - OVERLAP_PX) // (self.tile_px - OVERLAP_PX)))
        return [round(k * (extent - self.tile_px) / max(1, count - 1)) for k in range(count)]


def texture(shape_yx: tuple[int, int]) -> NDArray[np.uint8]:
    """Blobs with dark borders, in steps of `GREY_STEP`."""
    random = np.random.default_rng(0)
    noise = random.standard_normal(shape_yx, dtype=np.float32)
    coarse = ndimage.gaussian_filter(noise, 7.0, mode="wrap")
    coarse /= coarse.std()
    fine = ndimage.gaussian_filter(noise, 2.0, mode="wrap")
    fine /= fine.std()
    grey = 140.0 - 70.0 * np.exp(-((coarse / 0.35) ** 2)) + 18.0 * fine
    return (np.clip(grey, 20, 235) // GREY_STEP * GREY_STEP).astype(np.uint8)


def bright_model(fov_zyx: Triple) -> Model:
    """A network that floods what is brighter than `BRIGHT`, in moves of a quarter of its field of view."""
    z, y, x = fov_zyx
    network = FloodFillingNetwork(
        NetworkConfig(modules=1, features=2, fov_zyx=fov_zyx, deltas_zyx=(z // 4, y // 4, x // 4))
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        centre = (1, 1, 1)
        network.conv0_a.weight[0, 0][centre], network.conv0_a.weight[1, 0][centre] = 1, -1
        network.conv0_b.weight[0, 0][centre] = network.conv0_b.weight[1, 1][centre] = 1
        network.conv_lom.weight[0, :, 0, 0, 0] = torch.tensor([6.0, -6.0])
    return Model(
        network=network,
        normalisation=Normalisation(mean=BRIGHT, std=64),
        voxel_size_zyx_nm=VOXEL_NM,
        inference=InferenceConfig(),
    )


class Blobs:
    """Labels the connected bright parts of an image: a stand-in where a network would take hours."""

    radius_zyx = (1, 1, 1)

    def __call__(self, image: NDArray[np.uint8], masks: Masks) -> Flooded:
        """Connected voxels above a grey value that `masks` lets be labelled."""
        bright = image > BRIGHT
        if masks.labels is not None:
            bright &= masks.labels
        labels = np.empty(image.shape, np.int32)
        ndimage.label(bright, output=labels)
        return Flooded(labels=labels.view(np.uint32), fovs=1, seeds=1, network_seconds=1e-3, host_seconds=0.0)
