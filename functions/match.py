"""Match: where two neighbouring subvolumes overlap, which of their labels are the same object."""

from __future__ import annotations

import numpy as np

from functions.agglomeration.overlaps import decide, overlaps
from functions.store.cells import UnitReport
from functions.store.equalities import OVERLAP, RECONCILE_UNIT, match_path, note_reader, write_records
from functions.store.labels import grid_of, read_local
from functions.store.run import Run
from functions.tasks import Problem


def units(run: Run) -> list[str]:
    """Ids of all pairs of subvolumes that share a face of the grid."""
    return [pair.id for pair in grid_of(run).neighbours()]


def compute(run: Run, unit: str) -> UnitReport:
    """Compare both segmentations of one overlap; write every pair of labels that meet, with its verdict."""
    pair = grid_of(run).pair(unit)
    first = read_local(run, pair.first, pair.overlap)
    second = read_local(run, pair.second, pair.overlap)
    p = run.parameters.reconcile
    decisions = decide(overlaps(first, second), min_iou=p.min_iou, min_voxels=p.min_voxels)
    pairs = decisions.overlaps
    note_reader(run)
    run.cell("reconcile").forget(RECONCILE_UNIT)
    records = np.zeros(pairs.first.shape, OVERLAP)
    for name in ("first", "second", "voxels", "first_voxels", "second_voxels"):
        records[name] = getattr(pairs, name)
    records["verdict"] = decisions.verdict
    write_records(match_path(run, pair), records)
    both = int(pairs.voxels.sum())
    agreement = int(pairs.voxels[decisions.accepted].sum()) / both if both else 1.0
    problems = []
    if agreement < p.agreement_to_look:
        problems.append(
            Problem(
                code="overlap_disagrees",
                subject=f"{pair.id}: {agreement:.0%} of the voxels that both label are in equal objects",
                remedy="look at both subvolumes; one may hold a false merger or bad sections",
            )
        )
    return UnitReport(
        status="look" if problems else "ok",
        figures={
            "overlap_voxels": pair.overlap.voxels,
            "labelled_by_first": int(np.count_nonzero(first)),
            "labelled_by_second": int(np.count_nonzero(second)),
            "labelled_by_both": both,
            "equalities": int(decisions.accepted.sum()),
            "refused": int((~decisions.accepted).sum()),
            "agreement": round(agreement, 4),
        },
        problems=tuple(problem.to_json() for problem in problems),
    )
