"""Relabel: local labels -> the global volume, in chunk-aligned boxes that no two units share.

Each voxel takes the object that most of the subvolumes that read it say it is; 0 is no vote. In a tie the
subvolume that owns the voxel decides (see `functions.model.subvolumes`), then the first in grid order.
Of two, that is the owner's label, or the other's where the owner has none; of four or eight, one that split
or merged an object is outvoted by those that did not. Where no subvolume has a label the voxel stays 0, under
an artefact too: nothing here fills by neighbourhood (see `functions.agglomeration.gaps`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from functions.joining import Tables
from functions.model.errors import UpstreamError
from functions.model.geometry import ZYX, Box, tile_box
from functions.model.volume import VolumeRef
from functions.store.cells import UnitReport
from functions.store.labels import grid_of, read_local
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
    box = write_box(run, unit)
    tables = Tables(run)
    pieces = []
    for subvolume in grid_of(run).reading(box):
        part = subvolume.read.intersect(box)
        labels = tables.lookup(subvolume)[read_local(run, subvolume, part)]
        pieces.append(Piece(box=part, own=subvolume.write.intersect(box), labels=labels))
    p = run.parameters.reconcile
    painted = paint(box, pieces, vote=p.combine == "vote", fill=p.fill_unlabelled)
    Volume.open(run.work, opened(run)).write(box, painted)
    alone = paint_owned(box, pieces, [piece.labels for piece in pieces])
    return UnitReport(
        figures={
            "voxels": box.voxels,
            "labelled_voxels": int(np.count_nonzero(painted)),
            "filled_voxels": int(np.count_nonzero((alone == 0) & (painted > 0))),
            "outvoted_voxels": int(np.count_nonzero((alone > 0) & (alone != painted))),
        }
    )


def paint(box: Box, pieces: Sequence[Piece], *, vote: bool, fill: bool) -> Labels:
    """Labels (Z, Y, X) of `box` from all pieces, given in grid order.

    Without `vote` only the owner's label counts, where it has one. Without `fill` voxels stay 0 where the
    owner has none.
    """
    ballots = [count_votes(piece, pieces) for piece in pieces]
    painted = paint_owned(box, pieces, [piece.labels for piece in pieces])
    votes = paint_owned(box, pieces, ballots)
    owned = painted > 0
    for piece, ballot in zip(pieces, ballots, strict=True):
        place = piece.box.relative_to(box).slices
        better = ballot > votes[place]
        if not vote:
            better &= ~owned[place]
        if not fill:
            better &= owned[place]
        np.copyto(painted[place], piece.labels, where=better)
        np.copyto(votes[place], ballot, where=better)
    return painted


def paint_owned(box: Box, pieces: Sequence[Piece], values: Sequence[Labels]) -> Labels:
    """What each voxel's owner says: `values` has one array a piece, over the piece's box."""
    painted = np.zeros(box.shape_zyx, np.uint32)
    for piece, array in zip(pieces, values, strict=True):
        painted[piece.own.relative_to(box).slices] = array[piece.own.relative_to(piece.box).slices]
    return painted


def count_votes(piece: Piece, pieces: Sequence[Piece]) -> Labels:
    """How many pieces, itself included, give each voxel of `piece` the same object; 0 where it has none."""
    votes = np.zeros(piece.box.shape_zyx, np.uint32)
    for other in pieces:
        common = piece.box.intersect(other.box)
        if common.voxels:
            own, others = common.relative_to(piece.box).slices, common.relative_to(other.box).slices
            votes[own] += piece.labels[own] == other.labels[others]
    votes[piece.labels == 0] = 0
    return votes


def write_boxes(run: Run) -> list[Box]:
    """Boxes of whole chunks, about as large as what a subvolume owns, that partition the volume."""
    return chunk_boxes(opened(run).shape_zyx, _box_shape(run))


def write_box(run: Run, unit: str) -> Box:
    """The write box of that id, without looking at all others.

    Raises:
        KeyError: there is none.
    """
    whole, size = opened(run).box, _box_shape(run)
    z, y, x = ([int(digits) for digits in re.findall(r"\d+", unit)] + [-1, -1, -1])[:3]
    if all(0 <= o < n and o % s == 0 for o, n, s in zip((z, y, x), whole.shape_zyx, size, strict=True)):
        box = Box(offset_zyx=(z, y, x), shape_zyx=size).intersect(whole)
        if box.id == unit:
            return box
    raise KeyError(unit)


def _box_shape(run: Run) -> ZYX:
    ref, grid = opened(run), grid_of(run)
    stride = [max(1, s - o) for s, o in zip(grid.size_zyx, grid.overlap_zyx, strict=True)]
    z, y, x = (c * max(1, s // c) for s, c in zip(stride, ref.chunk_zyx, strict=True))
    return z, y, x


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
