"""What the network is shown of a box of the aligned volume, and where it may go: the same for every step.

image, mask, artefact codes (a box) -> gaps filled, artefacts bridged or avoided -> mirrored at the volume's
faces (`functions.agglomeration.gaps` says what is shown and labelled where)
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ffn.masks import Masks
from functions.agglomeration.gaps import Mask, Shown, show
from functions.model.artefacts import NAMES, RESIN
from functions.model.errors import VolumeError
from functions.model.geometry import ZYX, Box
from functions.model.parameters import SegmentParameters
from functions.store.aligned import read_aligned
from functions.store.artefacts import Codes
from functions.store.run import Run
from functions.store.transforms import aligned_volume_ref
from functions.store.volumes import Volume

Value = TypeVar("Value", bound=np.generic)
Image = NDArray[np.uint8]
Margins = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""Voxels before and behind, of each axis."""


def read(run: Run, box: Box) -> tuple[Image, Mask, Codes]:
    """The aligned image, its tissue mask and its artefact codes in a box.

    Raises:
        VolumeError: an array is missing or of an older version, or the image is not of 8 bits.
    """
    tissue = read_tissue(run, box)
    image = np.asarray(read_aligned(run, "image", box), np.uint8)
    return image, tissue, np.asarray(read_aligned(run, "artefacts", box), np.uint8)


def read_tissue(run: Run, box: Box) -> Mask:
    """Where there is tissue in a box.

    Raises:
        VolumeError: the mask is missing, or the image is not of 8 bits.
    """
    ref = run.aligned.volume
    if ref.dtype != "uint8":
        raise VolumeError(
            f"{ref.path}: {ref.dtype}, the network reads uint8", remedy="start the run at stitch"
        )
    return read_aligned(run, "mask", box).astype(bool)


def has_tissue(run: Run, box: Box) -> bool:
    """Whether there is any in a box; of a volume's mask as little is read as tells.

    Raises:
        VolumeError: the mask is missing.
    """
    return Volume.open(run.work, aligned_volume_ref(run.aligned, "mask")).holds(box)


def shown_to(parameters: SegmentParameters, image: Image, tissue: Mask, codes: Codes) -> Shown:
    """A box as the network is shown it, under the run's parameters."""
    avoided = [NAMES.index(name) for name in parameters.avoid]
    return show(
        image,
        tissue,
        resin=codes == RESIN if RESIN in avoided else np.zeros(codes.shape, np.bool_),
        artefact=_codes_in(codes, [code for code in avoided if code != RESIN]),
        fill_gap=parameters.fill_gap_sections,
        fill_avoided=parameters.fill_avoided_sections,
    )


def _codes_in(codes: Codes, wanted: list[int]) -> Mask:
    """Where a code is one of those wanted; `np.isin` takes an index of 8 bytes a voxel."""
    table = np.zeros(256, np.bool_)
    table[wanted] = True
    found: Mask = table[codes]
    return found


def cut(shown: Shown, part: Box) -> Shown:
    """A part of a box, placed from its corner."""
    return Shown(
        image=shown.image[part.slices],
        tissue=shown.tissue[part.slices],
        resin=shown.resin[part.slices],
        artefact=shown.artefact[part.slices],
        bridged=shown.bridged[part.slices],
    )


def permissions(shown: Shown, margins: Margins) -> Masks:
    """Where objects may start, move and be labelled, mirrored at the volume's faces as the image is."""

    def mirrored(mask: Mask) -> Mask | None:
        return padded(mask, margins) if mask.any() else None

    missing = mirrored(~shown.tissue)
    return Masks.combine(
        tissue=None if missing is None else ~missing,
        resin=mirrored(shown.resin),
        artefact=mirrored(shown.artefact),
    )


def padded(array: NDArray[Value], margins: Margins) -> NDArray[Value]:
    """An array mirrored at its faces; itself where there is nothing to mirror."""
    return np.pad(array, margins, mode="reflect") if any(map(any, margins)) else array


def mirror_margins(run: Run, box: Box, radius_zyx: ZYX) -> Margins:
    """How far to mirror the image at each face of a box: a radius where it is a face of the volume."""
    extent = run.aligned.volume.shape_zyx
    start, end = box.offset_zyx, box.end_zyx
    z, y, x = (
        (radius_zyx[a] if start[a] == 0 else 0, radius_zyx[a] if end[a] == extent[a] else 0) for a in range(3)
    )
    return z, y, x


def crop(labels: NDArray[np.uint32], margins: Margins) -> NDArray[np.uint32]:
    """Undo `np.pad`."""
    return labels[tuple(slice(a, n - b) for (a, b), n in zip(margins, labels.shape, strict=True))]
