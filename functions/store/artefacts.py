"""The artefact codes of a stitched section, beside its image: `artefacts.npz` in the cell of stitch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from functions.store.run import Run
from functions.store.transforms import read_arrays, write_arrays

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
