"""Candidates: which global objects might be one, block by block: refused by reconcile, or in wide contact.

global labels and image (block) -> contacts of objects -> those worth flooding again, with their place

Nothing is flooded here. What is taken decides what agglomeration costs: see `CandidatesParameters`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ffn.candidates import Contact, count_voxels, find_contacts, reach_zyx
from functions.agglomeration.blocks import Hierarchy
from functions.budget import search_planes
from functions.model.geometry import Box
from functions.model.parameters import CandidatesParameters
from functions.store.aligned import read_aligned
from functions.store.cells import UnitReport
from functions.store.edges import SIZE, block_of, blocks_of, pack_points, points_path, sizes_path
from functions.store.equalities import CANDIDATE, candidate_path, read_leaf_zyx, read_records, write_records
from functions.store.labels import grid_of, labels_ref
from functions.store.run import Run
from functions.store.volumes import Volume

Pair = tuple[int, int]


def units(run: Run) -> list[str]:
    """Ids of the blocks, in z, y, x order; none where agglomeration is off."""
    return [block.id for block in blocks_of(run)] if run.agglomerates else []


def compute(run: Run, unit: str) -> UnitReport:
    """Find the candidates of one block."""
    p = run.parameters.candidates
    core = block_of(run, unit)
    voxel_nm = run.aligned.volume.voxel_size_zyx_nm
    near_nm = p.near_px * min(voxel_nm)
    box = core.grow(reach_zyx(voxel_nm, near_nm)).intersect(run.aligned.volume.box)
    labels = np.asarray(Volume.open(run.work, labels_ref(run)).read(box), np.uint32)
    contacts = find_contacts(
        labels,
        voxel_size_zyx_nm=voxel_nm,
        max_distance_nm=near_nm,
        image=np.asarray(read_aligned(run, "image", box), np.uint8),
        core=core.relative_to(box).slices,
        min_voxels=p.min_voxels,
        planes=search_planes(run),
    )
    ids, voxels = count_voxels(labels)
    seen = dict(zip(ids.tolist(), voxels.tolist(), strict=True))
    refused = refused_overlaps(run, core) if "refused" in p.sources else {}
    taken = [
        (moved(contact, box), refused.get(pair_of(contact), 0.0))
        for contact in contacts
        if is_worth_it(contact, p, seen=seen, overlap=refused.get(pair_of(contact), 0.0))
    ]
    write_records(points_path(run, unit), pack_points(taken))
    write_records(sizes_path(run, unit), sizes_of(labels[core.relative_to(box).slices]))
    return UnitReport(
        figures={
            "contacts": len(contacts),
            "candidates": len(taken),
            "refused": sum(overlap >= p.refused_share for _, overlap in taken),
            "objects": int(np.count_nonzero(ids)),
        }
    )


def is_worth_it(
    contact: Contact, parameters: CandidatesParameters, *, seen: dict[int, int], overlap: float
) -> bool:
    """Whether a pair is flooded again; `seen` has the voxels of both in the block."""
    p = parameters
    if "refused" in p.sources and overlap >= p.refused_share:
        return True
    if "contact" not in p.sources:
        return False
    large = min(seen[contact.point.first], seen[contact.point.second]) >= p.large_voxels
    return contact.share >= p.contact_share or (large and contact.grey >= p.bright_grey)


def refused_overlaps(run: Run, box: Box) -> dict[Pair, float]:
    """Pairs that overlap near `box` and were not joined: how much of the smaller label is in the other."""
    grid, least = grid_of(run), run.parameters.reconcile.min_voxels
    hierarchy = Hierarchy(counts_zyx=grid.counts_zyx, leaf_zyx=read_leaf_zyx(run))
    leaves = {hierarchy.leaf_of(subvolume.index_zyx)[0].id for subvolume in grid.reading(box)}
    found: dict[Pair, float] = {}
    for leaf in sorted(leaves):
        rows = read_records(candidate_path(run, leaf), CANDIDATE)
        rows = rows[rows["voxels"] >= least]
        share = rows["voxels"] / np.minimum(rows["first_voxels"], rows["second_voxels"])
        pairs = zip(rows["first_id"].tolist(), rows["second_id"].tolist(), share.tolist(), strict=True)
        for first, second, value in pairs:
            pair = (min(first, second), max(first, second))
            found[pair] = max(found.get(pair, 0.0), value)
    return found


def sizes_of(labels: NDArray[np.uint32]) -> NDArray[np.void]:
    """Voxels of each object, as records."""
    ids, voxels = count_voxels(labels)
    some = ids > 0
    records = np.zeros(np.count_nonzero(some), SIZE)
    records["id"], records["voxels"] = ids[some], voxels[some]
    return records


def pair_of(contact: Contact) -> Pair:
    """The ids of a contact."""
    return contact.point.first, contact.point.second


def moved(contact: Contact, box: Box) -> Contact:
    """A contact found in a box, in voxels of the volume."""
    z, y, x = (p + o for p, o in zip(contact.point.point_zyx, box.offset_zyx, strict=True))
    return replace(contact, point=replace(contact.point, point_zyx=(z, y, x)))
