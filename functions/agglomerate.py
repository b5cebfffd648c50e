"""Agglomerate: evidence of all pairs -> decisions with their scores -> the edge list, and a mapping of ids.

    evidence, batch by batch -> judged rows -> in order, strongest merge first -> guarded, one by one -> files

In memory are a few bytes an object; rows are put in order in files where they do not fit.

No network runs here and no voxel is read: another threshold is this step and finish again. Objects keep the
ids that relabel gave them; one that is merged takes the lowest of its object.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from functions.agglomeration.decisions import VERDICTS, Decision, DecisionParameters, Verdict, decide
from functions.agglomeration.ordering import Ordering
from functions.agglomeration.settling import NOBODY, Settling
from functions.budget import edges_at_once
from functions.model.errors import ModelError, UpstreamError, VolumeError
from functions.store.cells import UnitReport, result_of_unit
from functions.store.edge_list import EDGE_ROW, Edge, edge_of, write_edges
from functions.store.edges import (
    AGGLOMERATE_UNIT,
    MAPPED,
    SIZE,
    batches_of,
    blocks_of,
    edges_path,
    read_evidence,
    sizes_path,
    write_mapping,
)
from functions.store.equalities import Records, highest_object, note_user, read_records
from functions.store.files import sha256_file
from functions.store.run import Run
from functions.store.scratch import Scratch
from functions.store.thresholds import read_thresholds
from functions.tasks import StepResult

Sizes = NDArray[np.uint32]
IDS_AT_ONCE = 1 << 18


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
    """Decide on all pairs, batch by batch, take the merges in the order of their scores, and write the edge
    list in that order, and the mapping."""
    require_flooded(run)
    note_user(run, "agglomerate")
    parameters, voxels = decision_parameters(run), sizes_of_all(run)
    settling = Settling(voxels, min_bridge_voxels=parameters.min_bridge_voxels)
    verdicts = dict.fromkeys(VERDICTS, 0)
    with Scratch(run.cell("agglomerate").file("scratch")) as scratch:
        rows = Ordering(EDGE_ROW, strongest_first, scratch=scratch, at_once=edges_at_once(run, voxels.size))
        moves = judge_all(run, parameters, rows)
        write_edges(edges_path(run), settled(rows.in_order(), settling, voxels, verdicts))
    write_mapping(run, settling.joins, changed_ids(settling, voxels.size))
    before = int(np.count_nonzero(voxels))
    return UnitReport(
        figures={
            "pairs": sum(verdicts.values()),
            "fovs": moves,
            "objects_before": before,
            "objects": before - settling.joins,
            **{f"verdict_{name}": float(n) for name, n in verdicts.items() if n},
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


def judge_all(run: Run, parameters: DecisionParameters, rows: Ordering) -> int:
    """Give every pair's row (`EDGE_ROW`), each judged by itself; how often the network moved for them."""
    moves = 0
    for unit, points in batches_of(run):
        judged = np.zeros(points.size, EDGE_ROW)
        for row, e, point in zip(judged, read_evidence(run, unit, points), points, strict=True):
            _fill(row, decide(e, parameters=parameters), point)
            moves += e.moves
        rows.add(judged)
    return moves


def strongest_first(rows: Records) -> tuple[NDArray[Any], ...]:
    """What the order of edges follows, as in `decisions.agglomerate`: merges first, the strongest first."""
    worse = rows["verdict"] != VERDICTS.index("merge")
    names = ("first_id", "second_id", "z", "y", "x")
    return worse, -rows["score"], -rows["speculative"], *(rows[name] for name in names)


def settled(
    rows: Iterable[np.void], settling: Settling, voxels: Sizes, verdicts: dict[Verdict, int]
) -> Iterator[Edge]:
    """Edges of rows in order, with the verdict of the guard that refused a merge, if one did; counts them."""
    for row in rows:
        verdict = VERDICTS[row["verdict"]]
        if verdict == "merge":
            first, second = (_segment(int(row[name]), voxels) for name in ("first_id", "second_id"))
            refusal = settling.take(first, second)
            verdict = verdict if refusal is None else refusal.verdict
        verdicts[verdict] += 1
        yield edge_of(row, verdict)


def sizes_of_all(run: Run) -> Sizes:
    """Voxels of each id in the whole volume, at most 2**32 - 1; 0 for an id that is not there.

    Raises:
        VolumeError: the sizes of a block are missing, damaged, or of other labels.
    """
    voxels = np.zeros(1 + highest_object(run), np.uint32)
    for block in blocks_of(run):
        path = sizes_path(run, block.id)
        records = read_records(path, SIZE)  # each id once
        if records["id"].max(initial=0) >= voxels.size:
            raise VolumeError(f"{path}: objects of other labels", remedy="start the run at candidates")
        sums = voxels[records["id"]] + records["voxels"]
        voxels[records["id"]] = np.minimum(sums, np.iinfo(np.uint32).max)
    return voxels


def changed_ids(settling: Settling, ids: int) -> Iterator[Records]:
    """Which ids belong to another object, ascending, some at a time."""
    for start in range(0, ids, IDS_AT_ONCE):
        objects = settling.objects(start, start + IDS_AT_ONCE)
        own = np.arange(start, start + objects.size, dtype=np.uint32)
        other = objects != own
        records = np.zeros(np.count_nonzero(other), MAPPED)
        records["id"], records["object"] = own[other], objects[other]
        yield records


def _segment(segment: int, voxels: Sizes) -> int:
    return segment if segment < voxels.size and voxels[segment] else NOBODY


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
