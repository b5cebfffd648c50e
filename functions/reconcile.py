"""Reconcile: all equalities of all overlaps -> one global id for every local label.

An id is the rank of the object's smallest member in (subvolume, local label) order, so it depends on neither
the number of workers nor the order in which they finished.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from functions.agglomeration.overlaps import ACCEPTED
from functions.agglomeration.union_find import components, limited_components, ranks
from functions.model.errors import UpstreamError
from functions.store.cells import UnitReport
from functions.store.files import write_json
from functions.store.labels import (
    GlobalTable,
    grid_of,
    labels_ref,
    match_path,
    read_arrays,
    read_owned,
    table_path,
    write_table,
)
from functions.store.run import Run
from functions.store.volumes import Volume
from functions.tasks import Problem, StepResult

UNIT = "all"
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """All local labels of all subvolumes in one row: label l of subvolume p is node `offsets[p] + l - 1`."""

    offsets: Integers
    owned_voxels: Integers

    @property
    def size(self) -> int:
        """Number of local labels."""
        return int(self.offsets[-1])

    @property
    def subvolume(self) -> Integers:
        """Position of each node's subvolume."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


@dataclass(frozen=True, slots=True, kw_only=True)
class Edges:
    """Equalities between nodes, with their intersection over union."""

    first: Integers
    second: Integers
    iou: NDArray[np.float64]


def perform(run: Run) -> StepResult:
    """Join everything; write the table and prepare the array that relabel fills."""
    cell = run.cell("reconcile")
    mark, computed = cell.run_unit(UNIT, lambda: compute(run))
    ref = labels_ref(run)
    Volume.create(run.work, ref)
    write_json(run.cell("relabel").file("labels.json"), ref.to_json())
    return StepResult(
        step="reconcile",
        status=mark.status,
        units=1,
        computed=int(computed),
        reused=int(not computed),
        figures=mark.figures,
        paths={"table": str(table_path(run)), "labels": ref.path},
        problems=tuple(Problem.parse(p, source=f"mark {UNIT}") for p in mark.problems),
        problem_count=len(mark.problems),
    )


def compute(run: Run) -> UnitReport:
    """Read counts and equalities, join, number, and write the table."""
    p = run.parameters.reconcile
    require_matched(run)
    nodes = read_nodes(run)
    edges = read_edges(run, nodes)
    refused = np.zeros(edges.first.shape, bool)
    if p.max_pieces_per_subvolume is None:
        representative = components(nodes.size, edges.first, edges.second)
    else:
        representative, refused = limited_components(
            nodes.size, edges.first, edges.second, edges.iou, nodes.subvolume, most=p.max_pieces_per_subvolume
        )
    sizes = np.zeros(nodes.size, np.int64)
    np.add.at(sizes, representative, nodes.owned_voxels)
    ids = ranks(representative, sizes[representative] >= p.min_object_voxels)
    write_table(run, GlobalTable(offsets=nodes.offsets, ids=ids))
    largest = int(sizes.max(initial=0)) / max(int(sizes.sum()), 1)
    objects, pieces = np.unique(np.stack([representative, nodes.subvolume]), axis=1, return_counts=True)
    problems = _look(run, largest)
    return UnitReport(
        status="look" if problems else "ok",
        figures={
            "local_labels": nodes.size,
            "equalities": len(edges.first),
            "joins_refused": int(refused.sum()),
            "objects": int(ids.max(initial=0)),
            "largest_share": round(largest, 4),
            "objects_in_pieces": len(np.unique(objects[0, pieces > 1])),
        },
        problems=tuple(problem.to_json() for problem in problems),
    )


def require_matched(run: Run) -> None:
    """Check that every overlap was compared.

    Raises:
        UpstreamError: naming the first that was not.
    """
    cell = run.cell("match")
    missing = [pair.id for pair in grid_of(run).neighbours() if not cell.is_done(pair.id)]
    if missing:
        raise UpstreamError(
            f"match: {len(missing)} units are not finished ({', '.join(missing[:3])})",
            remedy="start the run at match",
        )


def read_nodes(run: Run) -> Nodes:
    """Count the local labels of every subvolume."""
    owned = [read_owned(run, subvolume) for subvolume in grid_of(run)]
    return Nodes(
        offsets=np.concatenate([[0], np.cumsum([len(n) for n in owned])]).astype(np.int64),
        owned_voxels=np.concatenate(owned),
    )


def read_edges(run: Run, nodes: Nodes) -> Edges:
    """The accepted equalities of every overlap, as nodes."""
    first, second, iou = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0)]
    for pair in grid_of(run).neighbours():
        found = read_arrays(match_path(run, pair), ("first", "second", "iou", "verdict"))
        equal = found["verdict"] == ACCEPTED
        first.append(found["first"][equal].astype(np.int64) + nodes.offsets[pair.first.position] - 1)
        second.append(found["second"][equal].astype(np.int64) + nodes.offsets[pair.second.position] - 1)
        iou.append(found["iou"][equal].astype(np.float64))
    return Edges(first=np.concatenate(first), second=np.concatenate(second), iou=np.concatenate(iou))


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
