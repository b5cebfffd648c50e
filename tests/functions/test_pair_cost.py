"""What agglomeration costs is arithmetic, from assumptions that are named or from a run's marks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from functions import candidates
from functions.comparison import skipped
from functions.pair_cost import Pairing, measured
from functions.planning import Extent, Plan, Skipped, Tiling
from functions.shown import has_tissue
from functions.store.cells import UnitReport
from functions.store.labels import grid_of
from tests.functions.aligned_runs import ScrambledTruth, make_run, segment_all, voronoi

EXTENT = Extent.of_shape((1000, 1000, 1000))
TILING = Tiling(size_zyx=(280, 280, 280), overlap_zyx=(40, 40, 40))


def figures(plan: Plan) -> dict[str, float]:
    return {figure.name: figure.value for figure in plan.figures()}


def test_pairs_cost_moves_and_moves_cost_what_segments_do() -> None:
    plan = Plan(extent=EXTENT, rate=1e9, gpus=(10,), overlap_factor=1.2)
    pairing = Pairing(pairs_per_voxel=2e-5, moves_per_pair=50.0, voxels_per_move=800.0)
    off, on = (
        figures(plan),
        figures(Plan(extent=EXTENT, rate=1e9, gpus=(10,), overlap_factor=1.2, pairing=pairing)),
    )
    assert not {"pairs", "moves_of_pairs", "gpu_hours_of_pairs"} & off.keys()
    assert (on["pairs"], on["moves_of_pairs"]) == (pytest.approx(2e4), pytest.approx(1e6))
    assert on["gpu_hours_of_pairs"] == pytest.approx(1e6 * 800 / 1e9)
    assert on["gpu_hours"] == off["gpu_hours"] == pytest.approx(1.2)
    assert on["node_hours"] == pytest.approx((1.2 + 0.8) / 4)
    assert on["wall_hours"] == on["hours_on_10_gpus"] == pytest.approx(2.0 / 10)


def test_assumptions_say_where_they_come_from_and_hours_have_the_rates_interval() -> None:
    plan = Plan(extent=EXTENT, rate=1e9, rate_low=5e8, rate_high=2e9, pairing=Pairing())
    found = {figure.name: figure for figure in plan.figures()}
    assert "181 by the default limits of candidates on FIB-25" in found["pairs"].formula
    assert found["pairs"].value == pytest.approx(1e9 * 181 / (173 * 250 * 250))
    assert (found["pairs"].low, found["moves_of_pairs"].low) == (None, None)
    hours = found["gpu_hours_of_pairs"]
    assert (hours.low, hours.high) == (pytest.approx(hours.value / 2), pytest.approx(hours.value * 2))


def test_a_runs_marks_take_the_place_of_assumptions(tmp_path: Path) -> None:
    block = (8, 48, 48)
    run = make_run(
        tmp_path,
        voronoi((16, 48, 48), 12, seed=3),
        segment={"subvolume_zyx_px": (16, 32, 32), "overlap_zyx_px": (0, 16, 16)},
        candidates={"sources": ["contact"], "block_zyx_px": block},
    )
    assert measured(run) == Pairing()
    segment_all(run, ScrambledTruth())  # each of the four says it took one move
    assert measured(run).voxels_per_move == 16 * 32 * 32
    assert measured(run).sources["voxels_per_move"] == "measured: 4 subvolumes of the run"
    assert measured(run).sources["pairs_per_voxel"].startswith("assumed")
    first = candidates.units(run)[0]
    run.cell("candidates").run_unit(first, lambda: UnitReport(figures={"candidates": 9.0, "objects": 20.0}))
    for name, pairs, moves in (("a", 5.0, 400.0), ("b", 4.0, 500.0)):
        told = UnitReport(figures={"pairs": pairs, "fovs": moves, "one_object": 0.0})
        run.cell("resegment").run_unit(name, lambda told=told: told)  # type: ignore[misc]
    found = measured(run)
    voxels = 8 * 48 * 48  # of the block that was searched
    assert (found.pairs_per_voxel, found.objects_per_voxel) == (9 / voxels, 20 / voxels)
    assert found.moves_per_pair == 100
    assert found.sources["moves_per_pair"] == "measured: 9 pairs of the run"


def test_what_needs_no_flooding_costs_no_hours() -> None:
    plan = Plan(extent=EXTENT, rate=1e9, tiling=TILING)
    count = TILING.count((1000, 1000, 1000))
    known = Plan(extent=EXTENT, rate=1e9, tiling=TILING, skipped=Skipped(empty=24, finished=8, quarantined=1))
    assert count == 64
    assert known.flooded == 40
    before, found = figures(plan), figures(known)
    assert found["gpu_hours"] == pytest.approx(before["gpu_hours"] * 40 / 64)
    assert found["gpu_hours_left"] == pytest.approx(before["gpu_hours"] * 31 / 64)
    assert [found[f"{n}_subvolumes"] for n in ("empty", "finished", "quarantined")] == [24, 8, 1]
    assert "gpu_hours_left" not in before
    assert (
        figures(
            Plan(extent=EXTENT, rate=1e9, tiling=TILING, skipped=Skipped(empty=64, finished=0, quarantined=0))
        )["gpu_hours_left"]
        == 0
    )


def test_a_share_without_tissue_costs_no_hours_and_leaves_no_labels() -> None:
    whole, half = (Plan(extent=EXTENT, rate=1e9, tiling=TILING, occupied=share) for share in (1.0, 0.5))
    before, found = figures(whole), figures(half)
    assert (half.subvolumes, half.flooded, found["empty_subvolumes"]) == (64, 32, 32)
    for name in ("gpu_hours", "node_hours"):
        assert found[name] == pytest.approx(before[name] / 2)
    assert found["intermediate"] < before["intermediate"]
    assert "empty_subvolumes" not in before
    assert {f.name: f.formula for f in half.figures()}["empty_subvolumes"] == "0.5 of them, as given"
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match=f"occupied: {share}"):
            Plan(extent=EXTENT, rate=1e9, tiling=TILING, occupied=share)


def test_subvolumes_without_tissue_are_counted_by_the_mask_and_by_marks(tmp_path: Path) -> None:
    shape = (20, 40, 64)
    tissue = np.ones(shape, bool)
    tissue[:, :, 32:] = False
    tissue[19, 39, 63] = True  # a single voxel, in the last subvolume
    run = make_run(
        tmp_path,
        voronoi(shape, 9, seed=1),
        tissue=tissue,
        segment={"subvolume_zyx_px": (20, 20, 16), "overlap_zyx_px": (0, 0, 0)},
    )
    grid = grid_of(run)
    held = {s.id: bool(tissue[s.read.slices].any()) for s in grid}
    assert {s.id: has_tissue(run, s.read) for s in grid} == held
    empty = sum(not h for h in held.values())
    assert (empty, len(held)) == (3, 8)
    assert skipped(run) == Skipped(empty=3, finished=0, quarantined=0)
    segment_all(run, ScrambledTruth(), order=[*held][:4])  # an empty one is among them, which its mark tells
    done = [*held][:4]
    assert skipped(run) == Skipped(empty=3, finished=sum(held[unit] for unit in done), quarantined=0)
