"""Reconcile: all equalities of all overlaps -> one global id for every local label.

Blocks of subvolumes are joined one by one, and only what touches their outer sides is handed on, level by
level (`functions.agglomeration.reduction`); memory is that of one block. An id is the rank of the object's
smallest member in (subvolume, local label) order, so it depends on neither the number of workers nor the
order in which they finished, nor on the size of the blocks.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from functions.agglomeration.at_once import join_at_once
from functions.agglomeration.blocks import Block, Hierarchy
from functions.agglomeration.reduction import Reduction, Summary
from functions.agglomeration.tables import BlockTable
from functions.budget import joining_mib
from functions.joining import MatchedOverlaps, Tables, write_table
from functions.model.errors import MemoryBudgetError, UpstreamError
from functions.store.cells import UnitReport, result_of_unit
from functions.store.equalities import (
    RECONCILE_UNIT,
    candidate_path,
    forget_users,
    note_reader,
    remove_tables,
    tables_path,
    write_leaf_zyx,
    write_records,
)
from functions.store.files import write_json
from functions.store.labels import grid_of, labels_ref
from functions.store.run import Run
from functions.store.scratch import Scratch
from functions.store.volumes import Volume
from functions.tasks import Problem, StepResult


def perform(run: Run) -> StepResult:
    """Join everything; write the tables and prepare the array that relabel fills."""
    cell = run.cell("reconcile")
    mark, fresh = cell.run_unit(RECONCILE_UNIT, lambda: compute(run))
    ref = labels_ref(run)
    Volume.create(run.work, ref)
    write_json(run.cell("relabel").file("labels.json"), ref.to_json())
    paths = {"table": str(tables_path(run)), "labels": ref.path}
    return result_of_unit("reconcile", mark, fresh=fresh, paths=paths)


def compute(run: Run) -> UnitReport:
    """Read counts and equalities, join, number, and write the tables and the candidates."""
    require_matched(run)
    note_reader(run)  # a subvolume alone has no overlap whose comparing said so
    forget_users(run)
    remove_tables(run)
    overlaps = MatchedOverlaps(run)
    summary, hierarchy, in_pieces = join(run, overlaps)
    candidates = write_candidates(run, overlaps, hierarchy)
    largest = summary.largest_voxels / max(summary.voxels, 1)
    problems = _look(run, largest)
    return UnitReport(
        status="look" if problems else "ok",
        figures={
            "local_labels": summary.labels,
            "equalities": summary.equalities,
            "joins_refused": summary.joins_refused,
            "candidates": candidates,
            "objects": summary.objects,
            "largest_share": round(largest, 4),
            "objects_in_pieces": in_pieces,
        },
        problems=tuple(problem.to_json() for problem in problems),
    )


def join(run: Run, overlaps: MatchedOverlaps) -> tuple[Summary, Hierarchy, int]:
    """Write the tables; what was joined, in which blocks, and how many objects are in pieces."""
    p, counts = run.parameters.reconcile, grid_of(run).counts_zyx
    if p.max_pieces_per_subvolume is not None:
        hierarchy = Hierarchy(counts_zyx=counts, leaf_zyx=counts)
        block = next(hierarchy.blocks(0))
        summary, table = join_at_once(
            overlaps.leaf(block, hierarchy), min_voxels=p.min_object_voxels, most=p.max_pieces_per_subvolume
        )
        return summary, hierarchy, _write_tables(run, hierarchy, [(block, table)])
    rows = overlaps.rows_per_overlap()
    try:
        hierarchy = Hierarchy.within(counts, rows_per_overlap=rows, budget_mib=joining_mib(run))
    except ValueError as error:
        raise MemoryBudgetError(
            f"reconcile: {error}", remedy="give its worker more (--memory-gib), or make subvolumes larger"
        ) from None
    with Scratch(run.cell("reconcile").file("scratch")) as scratch:
        reduction = Reduction(
            source=overlaps, hierarchy=hierarchy, scratch=scratch, min_voxels=p.min_object_voxels
        )
        summary = reduction.solve()
        return summary, hierarchy, _write_tables(run, hierarchy, reduction.tables())


def write_candidates(run: Run, overlaps: MatchedOverlaps, hierarchy: Hierarchy) -> int:
    """Write the pairs that overlap and were not joined; how many there are."""
    tables, count = Tables(run), 0
    for block in hierarchy.blocks(0):
        records = overlaps.candidates(block, hierarchy, tables)
        write_records(candidate_path(run, block.id), records)
        count += records.size
    return count


def require_matched(run: Run) -> None:
    """Check that every overlap was compared.

    Raises:
        UpstreamError: naming the first that was not.
    """
    cell = run.cell("match")
    missing = list(cell.unfinished(pair.id for pair in grid_of(run).neighbours()))
    if missing:
        raise UpstreamError(
            f"match: {len(missing)} units are not finished ({', '.join(missing[:3])})",
            remedy="start the run at match",
        )


def _write_tables(run: Run, hierarchy: Hierarchy, tables: Iterable[tuple[Block, BlockTable]]) -> int:
    in_pieces: list[NDArray[np.uint32]] = [np.zeros(0, np.uint32)]
    for block, table in tables:
        write_table(run, block, table)
        in_pieces.append(table.in_pieces())
    write_leaf_zyx(run, hierarchy.leaf_zyx)
    return int(np.unique(np.concatenate(in_pieces)).size)


def _look(run: Run, largest: float) -> list[Problem]:
    if largest <= run.parameters.reconcile.largest_share_to_look:
        return []
    return [
        Problem(
            code="largest_share",
            subject=f"one object holds {largest:.0%} of all labelled voxels",
            remedy="look for a false merger; reconcile.max_pieces_per_subvolume=2 limits joins",
        )
    ]
