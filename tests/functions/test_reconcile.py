"""Reconcile: one id space, whatever the order; limits and refusals."""

import random
from pathlib import Path

import numpy as np
import pytest

from functions import match, reconcile, relabel, segment
from functions.model.errors import UpstreamError, VolumeError
from functions.runtime import execute
from functions.store.labels import grid_of, local_path, read_table, table_path
from functions.store.run import Run
from tests.functions.aligned_runs import ScrambledTruth, make_run, segment_all, voronoi

SMALL = {"subvolume_zyx_px": (6, 12, 12), "overlap_zyx_px": (2, 4, 4)}


def matched(root: Path, *, seed: int = 0, **parameters: object) -> Run:
    """A run up to match, its units done in an order that depends on `seed`."""
    image = voronoi((10, 26, 26), 15, seed=2)
    run = make_run(root, image, segment=SMALL, reconcile={"min_voxels": 1, **parameters})
    order = random.Random(seed)
    segment_all(run, ScrambledTruth(), order=order.sample(units := segment.units(run), len(units)))
    for unit in order.sample(pairs := match.units(run), len(pairs)):
        run.cell("match").run_unit(unit, lambda unit=unit: match.compute(run, unit))  # type: ignore[misc]
    return run


def test_the_table_is_the_same_in_any_order(tmp_path: Path) -> None:
    tables = []
    for seed in (1, 2):
        run = matched(tmp_path / str(seed), seed=seed)
        result = reconcile.perform(run)
        tables.append(table_path(run).read_bytes())
    assert tables[0] == tables[1]
    assert result.figures["objects"] == 15
    table = read_table(run)
    first_seen = [int(np.flatnonzero(table.ids == i)[0]) for i in range(1, 16)]
    assert first_seen == sorted(first_seen)
    assert len(table.offsets) == len(grid_of(run)) + 1


def test_a_second_run_reuses_the_table(tmp_path: Path) -> None:
    run = matched(tmp_path)
    payload = {"run": run.spec.to_json()}
    assert execute("reconcile", payload)["computed"] == 1
    again = execute("reconcile", payload)
    assert (again["computed"], again["reused"]) == (0, 1)
    assert again["paths"]["labels"] == relabel.opened(run).path


def test_small_objects_are_dropped(tmp_path: Path) -> None:
    run = matched(tmp_path, min_object_voxels=300)
    sizes = np.bincount(voronoi((10, 26, 26), 15, seed=2).ravel())
    assert reconcile.perform(run).figures["objects"] == np.count_nonzero(sizes >= 300) < 15


def test_limited_joins_agree_with_unlimited_ones_where_nothing_is_wrong(tmp_path: Path) -> None:
    run = matched(tmp_path, max_pieces_per_subvolume=1)
    figures = reconcile.perform(run).figures
    assert (figures["objects"], figures["joins_refused"], figures["objects_in_pieces"]) == (15, 0, 0)


def test_one_object_that_holds_nearly_all_is_reported(tmp_path: Path) -> None:
    result = reconcile.perform(matched(tmp_path, largest_share_to_look=0.05))
    assert result.status == "look"
    assert result.problems[0].code == "largest_share"


def test_an_unfinished_match_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path, voronoi((10, 26, 26), 15, seed=2), segment=SMALL)
    segment_all(run, ScrambledTruth())
    with pytest.raises(UpstreamError, match=r"match: \d+ units.*start the run at match"):
        reconcile.perform(run)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    run = matched(tmp_path)
    path = local_path(run, next(iter(grid_of(run))))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(VolumeError, match=r"z00000_y00000_x00000\.npz: damaged.*done mark"):
        reconcile.perform(run)
