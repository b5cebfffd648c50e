"""Relabel: local labels -> the global volume, in chunk-aligned boxes that no two units share.

Each voxel takes the object that most of the subvolumes that read it say it is; 0 is no vote. In a tie the
subvolume that owns the voxel decides (see `functions.model.subvolumes`), then the first in grid order.
Of two, that is the owner's label, or the other's where the owner has none; of four or eight, one that split
or merged an object is outvoted by those that did not. Where no subvolume has a label the voxel stays 0, under
an artefact too: nothing here fills by neighbourhood (see `functions.agglomeration.gaps`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from functions.budget import relabel_voxels
from functions.joining import Tables
from functions.model.geometry import ZYX, Box, cut_box, find_box
from functions.store.cells import UnitReport
from functions.store.labels import grid_of, prepared_labels, read_local
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
    tables, target = Tables(run), Volume.open(run.work, prepared_labels(run))
    figures = dict.fromkeys(("labelled_voxels", "filled_voxels", "outvoted_voxels"), 0)
    for part in parts_of(box, target.ref.chunk_zyx, most_voxels=relabel_voxels(run)):
        for name, count in _relabel(run, part, tables, target).items():
            figures[name] += count
    return UnitReport(figures={"voxels": box.voxels, **figures})


def _relabel(run: Run, box: Box, tables: Tables, target: Volume) -> dict[str, int]:
    """Write a box of whole chunks, and count what its voxels got."""
    pieces = []
    for subvolume in grid_of(run).reading(box):
        part = subvolume.read.intersect(box)
        labels = tables.lookup(subvolume)[read_local(run, subvolume, part)]
        pieces.append(Piece(box=part, own=subvolume.write.intersect(box), labels=labels))
    p = run.parameters.reconcile
    painted = paint(box, pieces, vote=p.combine == "vote", fill=p.fill_unlabelled)
    target.write(box, painted)
    alone = paint_owned(box, pieces, [piece.labels for piece in pieces])
    return {
        "labelled_voxels": int(np.count_nonzero(painted)),
        "filled_voxels": int(np.count_nonzero((alone == 0) & (painted > 0))),
        "outvoted_voxels": int(np.count_nonzero((alone > 0) & (alone != painted))),
    }


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
    return list(cut_box(prepared_labels(run).shape_zyx, _box_shape(run)))


def write_box(run: Run, unit: str) -> Box:
    """The write box of that id, without looking at all others.

    Raises:
        KeyError: there is none.
    """
    return find_box(unit, prepared_labels(run).shape_zyx, _box_shape(run))


def _box_shape(run: Run) -> ZYX:
    ref, grid = prepared_labels(run), grid_of(run)
    stride = [max(1, s - o) for s, o in zip(grid.size_zyx, grid.overlap_zyx, strict=True)]
    z, y, x = (c * max(1, s // c) for s, c in zip(stride, ref.chunk_zyx, strict=True))
    return z, y, x


def parts_of(box: Box, chunk_zyx: ZYX, *, most_voxels: float) -> list[Box]:
    """A box of whole chunks as boxes of whole chunks of at most so many voxels, or of one chunk each.

    A voxel's label does not depend on them: only how often local labels are read does.
    """
    size = [-(-n // c) for n, c in zip(box.shape_zyx, chunk_zyx, strict=True)]
    while max(size) > 1 and prod(n * c for n, c in zip(size, chunk_zyx, strict=True)) > most_voxels:
        longest = size.index(max(size))
        size[longest] = -(-size[longest] // 2)
    z, y, x = (n * c for n, c in zip(size, chunk_zyx, strict=True))
    start = box.offset_zyx
    return [
        Box(offset_zyx=(start[0] + o[0], start[1] + o[1], start[2] + o[2]), shape_zyx=part.shape_zyx)
        for part in cut_box(box.shape_zyx, (z, y, x))
        for o in (part.offset_zyx,)
    ]
