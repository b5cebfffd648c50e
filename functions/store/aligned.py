"""The aligned volume as the steps behind align_render read it: a section whose files are damaged is drawn
again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from functions.model.errors import VolumeError
from functions.model.geometry import Box
from functions.store.artefacts import open_artefacts
from functions.store.run import Run
from functions.store.transforms import AlignedKind, aligned_volume_ref
from functions.store.volumes import Volume

AGAIN = "`petavoxel run rerun RUN --start-at align_render --retry-quarantined` draws it again"


def read_aligned(run: Run, kind: AlignedKind, box: Box) -> NDArray[np.generic]:
    """The image, its mask or its artefact codes in a box (Z, Y, X); the latter two are 0 where nothing is.

    Raises:
        VolumeError: the array is missing, or a chunk is damaged. Then its section has lost its mark: run
            align_render, and it is drawn anew.
    """
    if kind == "artefacts":
        volume = open_artefacts(run)
    else:
        volume = Volume.open(run.work, aligned_volume_ref(run.aligned, kind))
    try:
        return volume.read(box)
    except VolumeError as error:
        damaged = _damaged(run, volume, box)
        if not damaged:
            raise
        for section in damaged:
            run.cell("align_render").forget(section)
        names = ", ".join(damaged)
        message = str(error).removesuffix(f"; {error.remedy}")
        raise VolumeError(f"{message}: section {names}", remedy=AGAIN) from error


def _damaged(run: Run, volume: Volume, box: Box) -> list[str]:
    """The sections whose rows of a box cannot be read; each row is files of its own."""
    if not volume.ref.box.contains(box):
        return []
    rows = {z: row for row, z in enumerate(run.aligned.sections)}
    found = []
    for section in (entry.section for entry in run.sections):
        plane = Box(offset_zyx=(rows[section.z], *box.offset_zyx[1:]), shape_zyx=(1, *box.shape_zyx[1:]))
        if box.contains(plane):
            try:
                volume.read(plane)
            except VolumeError:
                found.append(section.id)
    return found
