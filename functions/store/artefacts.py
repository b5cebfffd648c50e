"""The artefact codes of a stitched section, `artefacts.npz` in the cell of stitch, and of the aligned volume,
`artefacts.zarr` beside its image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from functions.model.errors import VolumeError
from functions.store.run import Run
from functions.store.transforms import aligned_volume_ref, read_arrays, write_arrays
from functions.store.volumes import Volume

Codes = NDArray[np.uint8]
FILE = "artefacts.npz"


def save_artefacts(run: Run, section_id: str, codes: Codes) -> None:
    """Write codes of cells of 8 x 8 px (ceil(Y / 8), ceil(X / 8)); see `functions.registration.artefacts`."""
    write_arrays(run.cell("stitch", section_id).file(FILE), {"codes": codes})


def load_artefacts(run: Run, section_id: str) -> Codes:
    """The codes of a stitched section.

    Raises:
        VolumeError: the section is not stitched.
    """
    (codes,) = read_arrays(run.cell("stitch", section_id).file(FILE), "codes")
    return codes.astype(np.uint8, copy=False)


def open_artefacts(run: Run) -> Volume:
    """The codes of the aligned volume, (Z, Y, X) uint8, written by align_render.

    Raises:
        VolumeError: they are missing, since an older version drew the volume, or damaged.
    """
    ref = aligned_volume_ref(run.aligned, "artefacts")
    if not (run.work / ref.path).exists():
        raise VolumeError(
            f"{run.work / ref.path}: missing; an older version drew this volume",
            remedy=f"remove {run.cell('align_render').path}, then start the run at align_render",
        )
    return Volume.open(run.work, ref)
