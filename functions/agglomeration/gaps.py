"""What a network is shown where a section is missing or cannot be trusted, and what may be labelled there.

A neurite that crosses a damaged section is one object, and the network has to see it as one. Two rules:

no picture    a gap of up to `fill_gap` voxels along z between tissue shows the nearest tissue, and is
              labelled
an artefact   there is a picture, and the detector may be wrong about it (a false fold). Where it is at most
              `fill_avoided` voxels thick along z, between trusted tissue on both sides, the network is shown
              the nearest trusted tissue instead (a bridge), so that it passes. A bridged voxel then has the
              label of the voxels above and below it if both have the same one, else none: nothing is made up
              where the sides differ. A thicker one is shown as it is: no object starts and no field of view
              is centred there, but what is seen from beside is labelled.

Neither changes the aligned image. The artefact codes are published with the labels, so a voxel labelled under
an artefact can be told from one that was seen, and evaluation leaves it out. If the artefact is false, the
tissue under it comes back by segmenting with fewer codes in `segment.avoid`.

Arrays are (Z, Y, X); arguments are not changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Labels = NDArray[np.uint32]
Indices = NDArray[np.int32]
SLAB_VOXELS = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A subvolume as the network is shown it.

    `tissue`: what has a picture, its own or another section's. `resin` and `artefact`: what of it is avoided;
    bridged voxels are no longer. `bridged`: artefacts in whose place trusted tissue is shown.
    """

    image: Image
    tissue: Mask
    resin: Mask
    artefact: Mask
    bridged: Mask

    @property
    def trusted(self) -> Mask:
        """Tissue that is seen as it is."""
        return self.tissue & ~self.resin & ~self.artefact & ~self.bridged


def show(
    image: Image, tissue: Mask, *, resin: Mask, artefact: Mask, fill_gap: int, fill_avoided: int
) -> Shown:
    """Fill gaps, then bridge artefacts; see above. A filled gap is avoided where its source is.

    Only what lies along z counts, so that rows are worked on in slabs: indices take 30 bytes a voxel.
    """
    masks = {name: np.zeros(tissue.shape, np.bool_) for name in ("tissue", "resin", "artefact", "bridged")}
    filled = image
    for rows in _slabs(tissue.shape):
        cut = (slice(None), rows)
        seen = image[cut]
        part = _show(seen, tissue[cut], resin[cut], artefact[cut], fill_gap, fill_avoided)
        for name, mask in masks.items():
            mask[cut] = getattr(part, name)
        if part.image is not seen:
            filled = image.copy() if filled is image else filled
            filled[cut] = part.image
    return Shown(image=filled, **masks)


def _show(image: Image, tissue: Mask, resin: Mask, artefact: Mask, fill_gap: int, fill_avoided: int) -> Shown:
    source, gap = _nearest(tissue, longest=fill_gap)
    if gap.any():
        image = np.take_along_axis(image, source, axis=0)
        resin, artefact = (np.take_along_axis(mask, source, axis=0) for mask in (resin, artefact))
        tissue = tissue | gap
    resin, artefact = tissue & resin, tissue & artefact & ~resin
    source, bridged = _nearest(tissue & ~resin & ~artefact, longest=fill_avoided if artefact.any() else 0)
    bridged &= artefact
    if bridged.any():
        image = np.where(bridged, np.take_along_axis(image, source, axis=0), image)
    return Shown(image=image, tissue=tissue, resin=resin, artefact=artefact & ~bridged, bridged=bridged)


def label_bridges(labels: Labels, shown: Shown) -> Labels:
    """Labels in which every bridged voxel has what the trusted voxels on both of its sides agree on, or 0."""
    if not shown.bridged.any():
        return labels
    out, trusted = labels.copy(), shown.trusted
    for rows in _slabs(labels.shape):
        cut = (slice(None), rows)
        before, after = _neighbours(trusted[cut])
        above = np.take_along_axis(labels[cut], np.maximum(before, 0), axis=0)
        below = np.take_along_axis(labels[cut], np.minimum(after, len(labels) - 1), axis=0)
        agreed = np.where(above == below, above, np.uint32(0))
        np.copyto(out[cut], agreed, where=shown.bridged[cut])
    return out


def _slabs(shape_zyx: tuple[int, ...]) -> Iterator[slice]:
    """Rows (y) of about `SLAB_VOXELS` voxels."""
    step = max(1, SLAB_VOXELS // max(1, shape_zyx[0] * shape_zyx[2]))
    for start in range(0, shape_zyx[1], step):
        yield slice(start, min(start + step, shape_zyx[1]))


def _nearest(present: Mask, *, longest: int) -> tuple[Indices, Mask]:
    """For every voxel the z of what it shows, and which voxels lie in gaps that are closed.

    A gap has at most `longest` voxels along z and something present on both sides; it shows the nearest, of
    equally near ones the section above (lower z). All other voxels show themselves.
    """
    depth = len(present)
    z = np.arange(depth, dtype=np.int32)[:, None, None]
    if longest == 0 or present.all():
        return np.broadcast_to(z, present.shape), np.zeros_like(present)
    before, after = _neighbours(present)
    gap = ~present & (before >= 0) & (after < depth) & (after - before - 1 <= longest)
    return np.where(gap, np.where(z - before <= after - z, before, after), z), gap


def _neighbours(present: Mask) -> tuple[Indices, Indices]:
    """The nearest z at or before each voxel, and at or after it, that is present; -1 and Z where none is."""
    depth = len(present)
    z = np.arange(depth, dtype=np.int32)[:, None, None]
    before = np.maximum.accumulate(np.where(present, z, np.int32(-1)), axis=0)
    after = np.minimum.accumulate(np.where(present, z, np.int32(depth))[::-1], axis=0)[::-1]
    return before, after
