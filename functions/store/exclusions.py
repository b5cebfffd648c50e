"""Voxels that an evaluation leaves out: by the artefact codes of a published volume, or by any array."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from functions.model.artefacts import NAMES, UNSEEN
from functions.model.errors import VolumeError
from functions.model.geometry import ZYX, Box
from functions.store.label_files import LabelBox, open_labels

FOLDERS = ("volume.zarr/labels/artefacts", "labels/artefacts")
"""Where a published volume keeps its codes."""
NONZERO = {1: "nonzero"}
"""Of an array without codes, what is not 0 under one name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusion:
    """Voxels of `values` (Z, Y, X) that are left out: those of the values in `names`; of
    `NONZERO` all that are not 0. They are read as they are asked for."""

    values: LabelBox
    names: dict[int, str]

    @property
    def path(self) -> Path:
        """Where they are from."""
        return self.values.path

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the box."""
        return self.values.shape

    def __getitem__(self, box: tuple[slice, slice, slice], /) -> NDArray[np.bool_]:
        """Which voxels of a box (Z, Y, X) are left out.

        Raises:
            VolumeError: it has codes that do not exist.
        """
        return np.isin(self._codes(box), list(self.names))

    def shares(self, *, rim_zyx_px: ZYX = (0, 0, 0)) -> dict[str, float]:
        """Which share of the voxels inside the rim each code takes."""
        planes, *sides = (slice(r, n - r) for r, n in zip(rim_zyx_px, self.shape, strict=True))
        counts, size = dict.fromkeys(self.names, 0), 0
        for z in range(planes.start, planes.stop):
            plane = self._codes((slice(z, z + 1), sides[0], sides[1]))
            size += plane.size
            for value in counts:
                counts[value] += int(np.count_nonzero(plane == value))
        return {name: round(counts[value] / max(size, 1), 4) for value, name in self.names.items()}

    def _codes(self, box: tuple[slice, slice, slice]) -> NDArray[np.integer]:
        values: NDArray[np.integer] = self.values[box]
        if self.names == NONZERO:
            marked: NDArray[np.uint8] = (values != 0).astype(np.uint8)
            return marked
        if values.size and not 0 <= int(values.min()) <= int(values.max()) < len(NAMES):
            raise VolumeError(
                f"{self.path}: codes from {values.min()} to {values.max()}, known are 0 to {len(NAMES) - 1}",
                remedy="take the artefacts of a volume of this version, or an array in which 0 counts",
            )
        return values


def published_artefacts(path: Path) -> Path | None:
    """The artefact codes of a published volume (bundle, or its `volume.zarr`); None where there are none."""
    return next((path / name for name in FOLDERS if (path / name).is_dir()), None)


def read_exclusion(path: Path, *, box: Box | None = None) -> Exclusion:
    """The voxels that a mask leaves out.

    Of a published volume, its label image of artefacts, or `artefacts.zarr` of a run, those of `UNSEEN`;
    tissue and resin can be judged. Of any other array (.npy, .npz, zarr) those that are not 0, under the name
    `nonzero`.

    Raises:
        VolumeError: no such array, or not of integers.
    """
    folder = published_artefacts(path) or path
    if folder == path and (folder.stem != "artefacts" or not folder.is_dir()):
        return Exclusion(values=open_labels(path, box=box), names=NONZERO)
    return Exclusion(values=open_labels(folder, box=box), names={code: NAMES[code] for code in UNSEEN})
