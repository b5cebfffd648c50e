"""Agglomerate: evidence of all pairs -> decisions with their scores -> the edge list, and a mapping of ids.

No network runs here and no voxel is read: another threshold is this step and finish again. Objects keep the
ids that relabel gave them; one that is merged takes the lowest of its object.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from functions.agglomeration.decisions import Agglomeration, Decision, DecisionParameters, agglomerate, tally
from functions.model.errors import ModelError, UpstreamError
from functions.store.cells import UnitReport, result_of_unit
from functions.store.edge_list import Edge, write_edges
from functions.store.edges import (
    AGGLOMERATE_UNIT,
    EVIDENCE,
    SIZE,
    batches_of,
    blocks_of,
    edges_path,
    evidence_path,
    sizes_path,
    unpack_evidence,
    write_mapping,
)
from functions.store.equalities import Records, note_user, read_records
from functions.store.files import sha256_file
from functions.store.run import Run
from functions.store.thresholds import read_thresholds
from functions.tasks import StepResult

Place = tuple[int, int, int, int, int]


def perform(run: Run) -> StepResult:
    """Decide on all pairs, unless that is done; nothing where agglomeration is off.

    Raises:
        UpstreamError: pairs are not flooded yet.
        ModelError: the thresholds were chosen for another network.
    """
    if not run.agglomerates:
        return StepResult(step="agglomerate")
    mark, fresh = run.cell("agglomerate").run_unit(AGGLOMERATE_UNIT, lambda: compute(run))
    return result_of_unit("agglomerate", mark, fresh=fresh, paths={"edges": str(edges_path(run))})


def compute(run: Run) -> UnitReport:
    """Read all evidence, decide, and write edge list and mapping."""
    require_flooded(run)
    note_user(run, "agglomerate")
    points, records = read_pairs(run)
    ids, voxels = sizes_of_all(run)
    evidence = unpack_evidence(records)
    found = agglomerate(evidence, segments=ids, voxels=voxels, parameters=decision_parameters(run))
    write_edges(edges_path(run), edges_of(found, points))
    write_mapping(run, found.segments, found.representative)
    verdicts = {f"verdict_{name}": float(n) for name, n in tally(found.decisions).items() if n}
    return UnitReport(
        figures={
            "pairs": len(evidence),
            "fovs": sum(e.moves for e in evidence),
            "objects_before": int(ids.size),
            "objects": found.objects,
            **verdicts,
        }
    )


def require_flooded(run: Run) -> None:
    """Check that every block was searched and every batch flooded.

    Raises:
        UpstreamError: naming the step and the first that was not.
    """
    blocks = [block.id for block in blocks_of(run) if not run.cell("candidates").is_done(block.id)]
    if blocks:
        raise UpstreamError(
            f"candidates: {len(blocks)} units are not finished ({blocks[0]})",
            remedy="start the run at candidates",
        )
    batches = [unit for unit, _ in batches_of(run) if not run.cell("resegment").is_done(unit)]
    if batches:
        raise UpstreamError(
            f"resegment: {len(batches)} units are not finished ({batches[0]})",
            remedy="start the run at resegment",
        )


def read_pairs(run: Run) -> tuple[Records, Records]:
    """Candidates and their evidence, row by row."""
    batches = list(batches_of(run))
    evidence = [read_records(evidence_path(run, unit), EVIDENCE) for unit, _ in batches]
    if not batches:
        return np.zeros(0, np.dtype([])), np.zeros(0, EVIDENCE)
    return np.concatenate([points for _, points in batches]), np.concatenate(evidence)


def sizes_of_all(run: Run) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """All objects, ascending, and their voxels in the whole volume."""
    rows = [read_records(sizes_path(run, block.id), SIZE) for block in blocks_of(run)]
    records = np.concatenate(rows)
    ids, index = np.unique(records["id"], return_inverse=True)
    voxels = np.zeros(ids.size, np.int64)
    np.add.at(voxels, index, records["voxels"].astype(np.int64))
    return ids.astype(np.uint64), voxels


def decision_parameters(run: Run) -> DecisionParameters:
    """The limits of the run: those of a file of thresholds, with the run's own score if it names one; else
    the run's own parameters, then the defaults.

    Raises:
        ModelError: the thresholds were chosen for another network.
    """
    p, path = run.parameters.agglomerate, run.thresholds_path
    seeds, score = p.seeds, p.min_score
    if path is not None:
        chosen = read_thresholds(path)
        if chosen.model_sha256 != sha256_file(run.model_path):
            raise ModelError(
                f"agglomerate.thresholds: {path}: chosen for another network than {run.model_path.name}",
                remedy="choose them for this one: petavoxel model evaluate MODEL --edges ... --to FILE",
            )
        seeds, score = chosen.seeds, chosen.min_score if score is None else score
    defaults = DecisionParameters(
        seeds=seeds or "either",
        min_recovered=p.min_recovered,
        max_deletion_fraction=p.max_deletion_fraction,
        max_foreign_fraction=p.max_foreign_fraction,
        min_voxels=p.min_voxels,
        min_bridge_voxels=p.min_bridge_voxels,
    )
    return defaults if score is None else defaults.at_score(score)


def edges_of(found: Agglomeration, points: Records) -> Iterator[Edge]:
    """The decisions in the order in which they were taken, each with what was known of the contact."""
    contact = {_place(p): p for p in points}
    for decision in found.decisions:
        e = decision.evidence
        p = contact[(e.first, e.second, *e.point_zyx)]
        yield edge_of(decision, p)


def edge_of(decision: Decision, point: np.void) -> Edge:
    """One row of the edge list."""
    e = decision.evidence
    sides = [s for s in (e.from_first, e.from_second) if s is not None]
    both = len(sides) == 2
    z, y, x = e.point_zyx
    return Edge(
        first_id=e.first,
        second_id=e.second,
        z=z,
        y=y,
        x=x,
        verdict=decision.verdict,
        score=decision.score,
        agreement=decision.agreement,
        speculative=decision.speculative,
        recovered=min(min(s.recovered_first, s.recovered_second) for s in sides) if both else 0.0,
        deleted=min((s.deletion_fraction for s in sides), default=0.0),
        foreign=max((s.foreign_fraction for s in sides), default=0.0),
        voxels_first=e.voxels_first,
        voxels_second=e.voxels_second,
        contact_faces=int(point["faces"]),
        contact_share=float(point["share"]),
        contact_grey=None if np.isnan(point["grey"]) else float(point["grey"]),
        refused_overlap=float(point["overlap"]),
    )


def _place(point: np.void) -> Place:
    first, second, z, y, x = (int(point[name]) for name in ("first", "second", "z", "y", "x"))
    return first, second, z, y, x
