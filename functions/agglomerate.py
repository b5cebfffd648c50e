"""Agglomerate: evidence of all pairs -> decisions with their scores -> the edge list, and a mapping of ids.

No network runs here and no voxel is read: another threshold is this step and finish again. Objects keep the
ids that relabel gave them; one that is merged takes the lowest of its object.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from functions.agglomeration.decisions import VERDICTS, Decision, DecisionParameters, decide
from functions.agglomeration.settling import NOBODY, Judged, settle
from functions.model.errors import ModelError, UpstreamError
from functions.store.cells import UnitReport, result_of_unit
from functions.store.edge_list import EDGE_ROW, edge_of, write_edges
from functions.store.edges import (
    AGGLOMERATE_UNIT,
    SIZE,
    batches_of,
    blocks_of,
    edges_path,
    read_evidence,
    sizes_path,
    write_mapping,
)
from functions.store.equalities import Records, note_user, read_records
from functions.store.files import sha256_file
from functions.store.run import Run
from functions.store.thresholds import read_thresholds
from functions.tasks import StepResult


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
    """Read all evidence, batch by batch, decide, and write edge list and mapping."""
    require_flooded(run)
    note_user(run, "agglomerate")
    parameters = decision_parameters(run)
    rows, moves = judge_all(run, parameters)
    ids, voxels = sizes_of_all(run)
    found = settle(
        judged_rows(rows), segments=ids, voxels=voxels, min_bridge_voxels=parameters.min_bridge_voxels
    )
    rows["verdict"][found.lost != NOBODY] = VERDICTS.index("unknown")
    rows["verdict"][found.crumb != NOBODY] = VERDICTS.index("bridge")
    write_edges(edges_path(run), (edge_of(rows[k], VERDICTS) for k in found.order))
    write_mapping(run, found.segments, found.representative)
    counts = np.bincount(rows["verdict"], minlength=len(VERDICTS))
    verdicts = {f"verdict_{name}": float(n) for name, n in zip(VERDICTS, counts, strict=True) if n}
    return UnitReport(
        figures={
            "pairs": rows.size,
            "fovs": moves,
            "objects_before": int(ids.size),
            "objects": int(np.unique(found.representative).size),
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


def judge_all(run: Run, parameters: DecisionParameters) -> tuple[Records, int]:
    """Every pair by itself, one row each (`EDGE_ROW`); and how often the network moved for them."""
    parts, moves = [np.zeros(0, EDGE_ROW)], 0
    for unit, points in batches_of(run):
        rows = np.zeros(points.size, EDGE_ROW)
        for row, e, point in zip(rows, read_evidence(run, unit, points), points, strict=True):
            _fill(row, decide(e, parameters=parameters), point)
            moves += e.moves
        parts.append(rows)
    return np.concatenate(parts), moves


def judged_rows(rows: Records) -> Judged:
    """What of the rows decides which merges are taken."""
    return Judged(
        first=rows["first_id"],
        second=rows["second_id"],
        point_zyx=np.stack([rows[axis] for axis in "zyx"], axis=1),
        score=rows["score"],
        speculative=rows["speculative"],
        merge=rows["verdict"] == VERDICTS.index("merge"),
    )


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


def _fill(row: np.void, decision: Decision, point: np.void) -> None:
    """One row of the edge list: a decision, and what was known of the contact."""
    e = decision.evidence
    sides = [s for s in (e.from_first, e.from_second) if s is not None]
    row["first_id"], row["second_id"] = e.first, e.second
    row["z"], row["y"], row["x"] = e.point_zyx
    row["verdict"] = VERDICTS.index(decision.verdict)
    for name in ("score", "agreement", "speculative"):
        row[name] = getattr(decision, name)
    if len(sides) == 2:
        row["recovered"] = min(min(s.recovered_first, s.recovered_second) for s in sides)
    row["deleted"] = min((s.deletion_fraction for s in sides), default=0.0)
    row["foreign"] = max((s.foreign_fraction for s in sides), default=0.0)
    row["voxels_first"], row["voxels_second"] = e.voxels_first, e.voxels_second
    row["contact_faces"], row["contact_share"] = point["faces"], point["share"]
    row["contact_grey"], row["refused_overlap"] = point["grey"], point["overlap"]
