"""Voxels that an evaluation leaves out: by the artefact codes of a published volume, or by any array."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from functions.model.artefacts import NAMES, UNSEEN
from functions.model.errors import VolumeError
from functions.model.geometry import ZYX, Box
from functions.store.label_files import read_labels

FOLDERS = ("volume.zarr/labels/artefacts", "labels/artefacts")
"""Where a published volume keeps its codes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusion:
    """`values` (Z, Y, X), from `path`; voxels of the values in `names` are left out."""

    path: Path
    values: NDArray[np.integer]
    names: dict[int, str]

    @property
    def excluded(self) -> NDArray[np.bool_]:
        """Which voxels (Z, Y, X) are left out."""
        return np.isin(self.values, list(self.names))

    def shares(self, *, rim_zyx_px: ZYX = (0, 0, 0)) -> dict[str, float]:
        """Which share of the voxels inside the rim each code takes."""
        inner = tuple(slice(r, n - r) for r, n in zip(rim_zyx_px, self.values.shape, strict=True))
        values = self.values[inner]
        return {
            name: round(int(np.count_nonzero(values == value)) / max(values.size, 1), 4)
            for value, name in self.names.items()
        }


def published_artefacts(path: Path) -> Path | None:
    """The artefact codes of a published volume (bundle, or its `volume.zarr`); None where there are none."""
    return next((path / name for name in FOLDERS if (path / name).is_dir()), None)


def read_exclusion(path: Path, *, box: Box | None = None) -> Exclusion:
    """The voxels that a mask leaves out.

    Of a published volume, its label image of artefacts, or `artefacts.zarr` of a run, those of `UNSEEN`;
    tissue and resin can be judged. Of any other array (.npy, .npz, zarr) those that are not 0, under the name
    `nonzero`.

    Raises:
        VolumeError: no such array, not of integers, too large, or of codes that do not exist.
    """
    folder = published_artefacts(path) or path
    if folder == path and (folder.stem != "artefacts" or not folder.is_dir()):
        marked = read_labels(path, box=box) != 0
        return Exclusion(path=path, values=marked.astype(np.uint8), names={1: "nonzero"})
    codes = read_labels(folder, box=box)
    if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) < len(NAMES):
        raise VolumeError(
            f"{folder}: codes from {codes.min()} to {codes.max()}, known are 0 to {len(NAMES) - 1}",
            remedy="take the artefacts of a volume of this version, or an array in which 0 counts",
        )
    return Exclusion(path=folder, values=codes, names={code: NAMES[code] for code in UNSEEN})
