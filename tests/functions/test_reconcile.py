"""Reconcile: one id space, whatever the order; limits and refusals."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ffn.masks import Masks
from functions import match, reconcile, segment
from functions.agglomeration.blocks import Hierarchy
from functions.agglomeration.overlaps import ACCEPTED, NOT_MUTUAL
from functions.agglomeration.reduction import Reduction
from functions.joining import MatchedOverlaps, Tables
from functions.model.errors import UpstreamError, VolumeError
from functions.runtime import execute
from functions.segment import Flooded
from functions.store.equalities import CANDIDATE, candidates_path, match_path, read_records
from functions.store.labels import grid_of, local_path, prepared_labels
from functions.store.run import Run
from functions.store.scratch import Scratch
from tests.functions.aligned_runs import ScrambledTruth, make_run, segment_all, voronoi
from tests.functions.test_relabel import label_all

LOOSE = {"min_voxels": 1}
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
        folder = run.cell("reconcile").path
        files = [*(folder / "tables").rglob("*.*"), *(folder / "candidates").rglob("*.*")]
        tables.append({path.name: path.read_bytes() for path in files})
    assert tables[0] == tables[1]
    assert len(tables[0]) == 3
    assert not (folder / "scratch").exists()
    assert result.figures["objects"] == 15
    lookup = Tables(run)
    ids = np.concatenate([lookup.lookup(subvolume)[1:] for subvolume in grid_of(run)])
    first_seen = [int(np.flatnonzero(ids == i)[0]) for i in range(1, 16)]
    assert first_seen == sorted(first_seen)
    assert ids.size == result.figures["local_labels"]


def test_a_second_run_reuses_the_table(tmp_path: Path) -> None:
    run = matched(tmp_path)
    payload = {"run": run.spec.to_json()}
    assert execute("reconcile", payload)["computed"] == 1
    again = execute("reconcile", payload)
    assert (again["computed"], again["reused"]) == (0, 1)
    assert again["paths"]["labels"] == prepared_labels(run).path


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


def test_a_damaged_file_is_named_and_only_its_subvolume_computed_again(tmp_path: Path) -> None:
    run = matched(tmp_path)
    subvolume = next(iter(grid_of(run)))
    path = local_path(run, subvolume)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(VolumeError, match=rf"{subvolume.id}\.npz: damaged.*; start the run at segment"):
        reconcile.perform(run)
    unfinished = [s.id for s in grid_of(run) if not run.cell("segment").is_done(s.id)]
    assert unfinished == [subvolume.id]


def test_blocks_of_any_size_give_the_ids_of_the_whole(tmp_path: Path) -> None:
    """Overlaps across blocks are met in the same order from both sides."""
    run = matched(tmp_path, max_pieces_per_subvolume=9)  # takes the simple way
    reconcile.perform(run)
    lookup, source = Tables(run), MatchedOverlaps(run)
    counts = grid_of(run).counts_zyx
    assert min(counts) > 1
    expected = {s.position: lookup.lookup(s).tolist() for s in grid_of(run)}
    for leaf_zyx in ((1, 1, 1), (2, 1, 2), (1, 2, 3)):
        hierarchy = Hierarchy(counts_zyx=counts, leaf_zyx=leaf_zyx)
        with Scratch(tmp_path / "scratch") as scratch:
            reduction = Reduction(source=source, hierarchy=hierarchy, scratch=scratch)
            reduction.solve()
            found = {
                position: table.lookup(rank).tolist()
                for block, table in reduction.tables()
                for rank, position in enumerate(hierarchy.positions(block).tolist())
            }
        assert found == expected


class Splitting(ScrambledTruth):
    """Cuts every object of an image in two."""

    def __call__(self, image: np.ndarray, masks: Masks) -> Flooded:
        flooded = super().__call__(image, masks)
        half = np.arange(image.shape[2]) < image.shape[2] // 2
        labels = np.where(half, flooded.labels, flooded.labels + np.uint32(20_000))
        return replace(flooded, labels=np.where(flooded.labels > 0, labels, 0).astype(np.uint32))


def test_a_subvolume_recomputed_costs_its_own_overlaps_only(tmp_path: Path) -> None:
    run = matched(tmp_path / "changed")
    label_all(run)
    changed = grid_of(run).at((1, 1, 1))
    pairs = {pair.id for pair in grid_of(run).touching(changed)}
    run.cell("segment").forget(changed.id)
    segment_all(run, Splitting(), order=[changed.id])
    open_units = {unit for unit in match.units(run) if not run.cell("match").is_done(unit)}
    assert open_units == pairs
    assert len(pairs) < len(match.units(run))
    found = label_all(run)
    attempts = run.cell("match").attempts()
    assert {unit for unit, n in attempts.items() if n > 1} == pairs

    fresh = make_run(tmp_path / "fresh", voronoi((10, 26, 26), 15, seed=2), segment=SMALL, reconcile=LOOSE)
    segment_all(fresh, ScrambledTruth(), order=[s.id for s in grid_of(run) if s.id != changed.id])
    segment_all(fresh, Splitting(), order=[changed.id])
    assert (label_all(fresh) == found).all()


def test_what_was_not_joined_is_kept_with_its_numbers(tmp_path: Path) -> None:
    image = voronoi((10, 26, 26), 15, seed=2)
    run = make_run(tmp_path, image, segment=SMALL, reconcile=LOOSE)
    middle = grid_of(run).at((1, 1, 1))
    segment_all(run, Splitting(), order=[middle.id])
    segment_all(run, ScrambledTruth())
    label_all(run)
    figures = run.cell("reconcile").mark("all").figures
    (path,) = candidates_path(run).glob("*/*.npy")
    records = read_records(path, CANDIDATE)
    assert len(records) == figures["candidates"] > 0
    with_it = (records["first_subvolume"] == middle.position) | (
        records["second_subvolume"] == middle.position
    )
    assert with_it.any()
    assert (records["verdict"][~with_it] == ACCEPTED).all()  # its neighbours' labels are contested
    assert (records["first_id"] != records["second_id"]).all()
    assert (records["voxels"] <= np.minimum(records["first_voxels"], records["second_voxels"])).all()
    assert NOT_MUTUAL in records["verdict"]


def test_what_an_interrupted_joining_left_behind_does_not_count(tmp_path: Path) -> None:
    run = matched(tmp_path)
    reconcile.perform(run)
    folder = run.cell("reconcile").path
    expected = {path: path.read_bytes() for path in folder.rglob("*.np?")}
    run.cell("reconcile").forget("all")
    for name in (
        "tables/l0_z0009_y0000_x0000.npz",
        "candidates/l0_z0000_y0000_x0000.npy",
        "scratch/ids/x.npz",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"half")
    assert reconcile.perform(run).computed == 1
    assert {path: path.read_bytes() for path in folder.rglob("*.np?")} == expected


def test_a_damaged_overlap_is_named(tmp_path: Path) -> None:
    run = matched(tmp_path)
    pair = next(grid_of(run).neighbours())
    path = match_path(run, pair)
    whole, mark = path.read_bytes(), run.cell("match").mark(pair.id)
    for damaged in (whole[:-5], b"", b"nonsense"):
        path.write_bytes(damaged)
        with pytest.raises(VolumeError, match=rf"{pair.id}\.npy: damaged.*; start the run at match"):
            reconcile.perform(run)
        assert not run.cell("match").is_done(pair.id)
        run.cell("match").keep(mark)
    path.unlink()
    with pytest.raises(VolumeError, match="no such file; start the run at match"):
        reconcile.perform(run)
    with pytest.raises(UpstreamError, match="match: 1 units are not finished"):
        reconcile.perform(run)
