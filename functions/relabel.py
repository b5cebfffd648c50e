"""Relabel: local labels -> the global volume, in chunk-aligned boxes that no two units share.

Each voxel takes the label of the subvolume that owns it (see `functions.model.subvolumes`). Where the owner
has none, the first other subvolume in grid order that has one may fill in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from functions.model.errors import UpstreamError
from functions.model.geometry import ZYX, Box, tile_box
from functions.model.volume import VolumeRef
from functions.store.cells import UnitReport
from functions.store.labels import grid_of, read_local, read_table
from functions.store.run import Run
from functions.store.volumes import Volume

Labels = NDArray[np.uint32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Global labels of one subvolume in the part of a box that it reads; it owns `own` of them."""

    box: Box
    own: Box
    labels: Labels


def units(run: Run) -> list[str]:
    """Ids of the write boxes, in z, y, x order."""
    return [box.id for box in write_boxes(run)]


def compute(run: Run, unit: str) -> UnitReport:
    """Write one box of the global labels."""
    box = next(box for box in write_boxes(run) if box.id == unit)
    table = read_table(run)
    pieces = []
    for subvolume in grid_of(run).reading(box):
        part = subvolume.read.intersect(box)
        labels = table.lookup(subvolume.position)[read_local(run, subvolume, part)]
        pieces.append(Piece(box=part, own=subvolume.write.intersect(box), labels=labels))
    painted = paint(box, pieces, fill=run.parameters.reconcile.fill_unlabelled)
    Volume.open(run.work, opened(run)).write(box, painted)
    owned = sum(int(np.count_nonzero(p.labels[p.own.relative_to(p.box).slices])) for p in pieces)
    labelled = int(np.count_nonzero(painted))
    return UnitReport(
        figures={"voxels": box.voxels, "labelled_voxels": labelled, "filled_voxels": labelled - owned}
    )


def paint(box: Box, pieces: Sequence[Piece], *, fill: bool) -> Labels:
    """Labels (Z, Y, X) of `box`: the owner's; with `fill`, where it is 0, the first piece's that has one."""
    painted = np.zeros(box.shape_zyx, np.uint32)
    for piece in pieces:
        painted[piece.own.relative_to(box).slices] = piece.labels[piece.own.relative_to(piece.box).slices]
    for piece in pieces if fill else ():
        target = painted[piece.box.relative_to(box).slices]
        np.copyto(target, piece.labels, where=target == 0)
    return painted


def write_boxes(run: Run) -> list[Box]:
    """Boxes of whole chunks, about as large as what a subvolume owns, that partition the volume."""
    ref, grid = opened(run), grid_of(run)
    stride = [max(1, s - o) for s, o in zip(grid.size_zyx, grid.overlap_zyx, strict=True)]
    z, y, x = (c * max(1, s // c) for s, c in zip(stride, ref.chunk_zyx, strict=True))
    return chunk_boxes(ref.shape_zyx, (z, y, x))


def chunk_boxes(shape_zyx: ZYX, size_zyx: ZYX) -> list[Box]:
    """Boxes of `size_zyx` from the origin on; the last on each axis is cut at the volume's end."""
    up = [-(-n // s) * s for n, s in zip(shape_zyx, size_zyx, strict=True)]
    whole = Box(offset_zyx=(0, 0, 0), shape_zyx=shape_zyx)
    return [box.intersect(whole) for box in tile_box((up[0], up[1], up[2]), size_zyx, (0, 0, 0))]


def opened(run: Run) -> VolumeRef:
    """The array that reconcile prepared.

    Raises:
        UpstreamError: reconcile has not run.
    """
    path = run.cell("relabel").file("labels.json")
    try:
        return VolumeRef.parse(path.read_bytes(), source=str(path))
    except FileNotFoundError:
        raise UpstreamError(
            f"{path}: no global labels to fill", remedy="start the run at reconcile"
        ) from None
