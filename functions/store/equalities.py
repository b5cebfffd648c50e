"""Files of the joining: what overlaps measured, and the global ids of local labels.

    match/<key>/overlaps/<xyz>/<pair>.npy        one row a pair of labels that meet, with its verdict
    reconcile/<key>/tables/<xyz>/<block>.npz     ids, a block of subvolumes in each
    reconcile/<key>/candidates/<xyz>/<block>.npy pairs that meet and are not in one object, under their ids
    segment/<key>/readers/<reconcile key>        who has compared these labels (empty files)
    reconcile/<key>/readers/<step>/<key>         what was made of these ids, under whatever parameters

Rows are plain arrays of records, since an overlap is read about as fast as it can be opened.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from functions.model.errors import UpstreamError
from functions.model.geometry import ZYX
from functions.model.subvolumes import Neighbours, Subvolume
from functions.store.cells import Cell
from functions.store.files import atomic_path, reading_arrays, write_json
from functions.store.labels import grid_of
from functions.store.run import Run
from functions.store.spread import spread
from functions.store.traffic import note_read, note_written
from functions.tasks import StepName

Records = NDArray[np.void]

RECONCILE_UNIT = "all"
"""The one unit of reconcile."""
MADE_OF_IDS: tuple[StepName, ...] = ("relabel", "candidates", "resegment", "agglomerate", "finish")
"""Steps whose results hold global ids. Only relabel has the key of reconcile: of the others there may be
several cells."""
OVERLAP = np.dtype(
    [
        ("first", "<u4"), ("second", "<u4"), ("voxels", "<u4"), ("first_voxels", "<u4"),
        ("second_voxels", "<u4"), ("verdict", "u1"),
    ]
)  # fmt: skip
CANDIDATE = np.dtype(
    [
        ("first_id", "<u4"), ("second_id", "<u4"), ("first_subvolume", "<u8"), ("second_subvolume", "<u8"),
        *((name, OVERLAP[name]) for name in OVERLAP.names or ()),
    ]
)  # fmt: skip


def match_path(run: Run, pair: Neighbours) -> Path:
    """Where the decisions on an overlap are."""
    return spread(run.cell("match").file("overlaps"), f"{pair.id}.npy")


def tables_path(run: Run) -> Path:
    """The folder of the tables of global ids."""
    return run.cell("reconcile").file("tables")


def candidates_path(run: Run) -> Path:
    """The folder of the pairs that were not joined."""
    return run.cell("reconcile").file("candidates")


def table_path(run: Run, block: str) -> Path:
    """Where the global ids of a block's subvolumes are."""
    return spread(tables_path(run), f"{block}.npz")


def candidate_path(run: Run, block: str) -> Path:
    """Where a block's pairs that were not joined are."""
    return spread(candidates_path(run), f"{block}.npy")


def remove_tables(run: Run) -> None:
    """Remove the tables and candidates of an earlier joining."""
    for folder in (tables_path(run), candidates_path(run)):
        shutil.rmtree(folder, ignore_errors=True)


def write_records(path: Path, records: Records) -> None:
    """Write an array of records, atomically."""
    with atomic_path(path) as partial, open(partial, "wb") as handle:
        np.save(handle, records, allow_pickle=False)
        note_written(stored=handle.tell(), raw=records.nbytes)


def read_records(path: Path, kind: np.dtype[np.void]) -> Records:
    """Read an array of records of one kind.

    Raises:
        VolumeError: the file is missing, damaged or of another kind.
    """
    with reading_arrays(path), open(path, "rb") as handle:
        records: Records = np.lib.format.read_array(handle, allow_pickle=False)
        if records.dtype != kind or records.ndim != 1:
            raise ValueError(f"{records.dtype} is not {kind}")
    note_read(stored=path.stat().st_size, raw=records.nbytes)
    return records


def highest_object(run: Run) -> int:
    """The highest id of an object: they are counted from 1.

    Raises:
        UpstreamError: reconcile has not run.
    """
    cell = run.cell("reconcile")
    if not cell.is_done(RECONCILE_UNIT):
        raise UpstreamError(f"{cell.path}: no global ids", remedy="start the run at reconcile")
    return int(cell.mark(RECONCILE_UNIT).figures["objects"])


def write_leaf_zyx(run: Run, leaf_zyx: ZYX) -> None:
    """Say how many subvolumes each table holds along each axis."""
    write_json(tables_path(run) / "blocks.json", {"leaf_zyx": list(leaf_zyx)})


def read_leaf_zyx(run: Run) -> ZYX:
    """How many subvolumes each table holds along each axis.

    Raises:
        UpstreamError: reconcile has not run.
    """
    path = tables_path(run) / "blocks.json"
    try:
        z, y, x = json.loads(path.read_bytes())["leaf_zyx"]
    except FileNotFoundError:
        raise UpstreamError(f"{path}: no global ids", remedy="start the run at reconcile") from None
    return int(z), int(y), int(x)


def note_reader(run: Run) -> None:
    """Leave word beside the local labels that this run compares them."""
    path = run.cell("segment").file("readers") / run.reconcile_key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def forget_overlaps(run: Run, subvolume: Subvolume) -> None:
    """Before a subvolume's labels change: its own overlaps, and what was joined, are to be computed again.

    No other subvolume and no other overlap is. In every cell that compared them, whatever its parameters.
    """
    readers = run.cell("segment").file("readers")
    for key in sorted(path.name for path in readers.iterdir()) if readers.is_dir() else ():
        Cell(run.work / "reconcile" / key).forget(RECONCILE_UNIT)
        for pair in grid_of(run).touching(subvolume):
            Cell(run.work / "match" / key).forget(pair.id)


def note_user(run: Run, step: StepName) -> None:
    """Leave word beside the global ids that a step's cell is made of them."""
    path = run.cell("reconcile").file("readers") / step / run.cell(step).path.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def forget_users(run: Run) -> None:
    """Before the global ids change: all that was made of them is to be computed again, in every cell.

    There may be other candidates then, and so other batches of them.
    """
    for step in MADE_OF_IDS:
        readers = run.cell("reconcile").file("readers") / step
        noted = {path.name for path in readers.iterdir()} if readers.is_dir() else set()
        for key in sorted(noted | {run.cell(step).path.name}):
            Cell(run.work / step / key).forget_all(numbering=step == "resegment")
