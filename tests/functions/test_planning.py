"""The table of planning figures is golden: each row is the arithmetic anyone can check by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions import footprint
from functions.footprint import ALIGNED_CHUNK_PX, Footprint
from functions.model.errors import TaskError
from functions.model.geometry import tile_box
from functions.model.quantities import HOURS_PER_YEAR, interval, parse_rate, parse_volume, scaled
from functions.model.subvolumes import SubvolumeGrid
from functions.planning import KNOWN_TILINGS, Allocation, Extent, Plan, Tiling
from functions.store import numbering, spread
from functions.store.transforms import CHUNK_PX

CUBIC_MM = Extent.of_volume(parse_volume("1mm3"), (10.0, 10.0, 10.0))


def figures(plan: Plan) -> dict[str, float]:
    return {figure.name: figure.value for figure in plan.figures()}


def cube(size: int, overlap: int) -> Tiling:
    return Tiling(size_zyx=(size, size, size), overlap_zyx=(overlap, overlap, overlap))


def test_the_golden_table() -> None:
    fp32 = figures(Plan(extent=CUBIC_MM, rate=parse_rate("80MVx/h")))
    goal = figures(
        Plan(extent=CUBIC_MM, rate=parse_rate("1GVx/h"), gpus=(50_000, 63_744), overlap_factor=1.2)
    )
    exa = Extent(voxels=1e18, formula="1 EVx")
    big = figures(Plan(extent=exa, rate=1e9, gpus=(50_000, 63_744), overlap_factor=1.2))

    assert fp32["voxels"] == 1e15
    assert fp32["gpu_hours_without_overlap"] == 12.5e6
    assert goal["gpu_hours_without_overlap"] == 1.0e6
    assert goal["hours_on_50000_gpus_without_overlap"] == 20.0
    assert goal["hours_on_50000_gpus"] == 24.0
    assert round(big["hours_on_50000_gpus"] / HOURS_PER_YEAR, 2) == 2.74
    assert round(big["hours_on_63744_gpus"] / HOURS_PER_YEAR, 2) == 2.15
    assert goal["wall_hours"] == 24.0
    assert goal["gpu_hours"] == 1.2e6
    assert goal["node_hours"] == 0.3e6
    assert big["wall_hours"] == big["hours_on_50000_gpus"]
    assert goal["image"] == 1e15
    assert goal["raw_labels"] == 8e15


@pytest.mark.parametrize(
    ("tiling", "factor"),
    [
        (cube(256, 16), 1.214),
        (cube(512, 32), 1.214),
        (Tiling(size_zyx=(64, 256, 256), overlap_zyx=(16, 32, 32)), 1.741),
        (cube(256, 32), 1.493),
        (cube(512, 48), 1.344),
    ],
)
def test_overlap_factors(tiling: Tiling, factor: float) -> None:
    assert round(tiling.factor, 3) == factor
    assert tiling in KNOWN_TILINGS


def test_anisotropic_voxels() -> None:
    assert Extent.of_volume(parse_volume("1mm3"), (40, 4, 4)).voxels == pytest.approx(1.5625e15)


@settings(deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 24)] * 3),
    size=st.tuples(*[st.integers(2, 12)] * 3),
    overlap=st.tuples(*[st.integers(0, 1)] * 3),
)
def test_a_tiling_counts_what_the_segmentation_lays_out(
    shape: tuple[int, int, int], size: tuple[int, int, int], overlap: tuple[int, int, int]
) -> None:
    tiling = Tiling(size_zyx=size, overlap_zyx=overlap)
    boxes = list(tile_box(shape, size, overlap))
    assert tiling.count(shape) == len(boxes)
    assert tiling.voxels(shape) == sum(box.voxels for box in boxes)


def test_a_finite_volume_has_its_own_factor() -> None:
    plan = Plan(extent=Extent.of_shape((128, 128, 128)), rate=1e6, tiling=cube(80, 32))
    found = figures(plan)
    assert found["subvolumes"] == 8
    assert found["overlap_factor"] == pytest.approx(8 * 80**3 / 128**3)
    assert found["gpu_hours"] == pytest.approx(8 * 80**3 / 1e6)


def test_an_unbounded_volume_counts_subvolumes_by_what_each_adds() -> None:
    found = figures(Plan(extent=CUBIC_MM, rate=1e9, tiling=cube(512, 32)))
    assert found["subvolumes"] == pytest.approx(1e15 / 480**3)


def test_every_figure_has_a_formula() -> None:
    plan = Plan(extent=CUBIC_MM, rate=1e9, gpus=(1,), tiling=cube(512, 32))
    assert all(figure.formula and math.isfinite(figure.value) for figure in plan.figures())


@pytest.mark.parametrize(
    ("text", "value"),
    [("1mm3", 1e18), ("0.5 mm^3", 5e17), ("1000um3", 1e12), ("2µm³", 2e9), ("7nm3", 7.0), ("1cm3", 1e21)],
)
def test_volumes_parse(text: str, value: float) -> None:
    assert parse_volume(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "value"), [("80MVx/h", 8e7), ("1 GVx/h", 1e9), ("20kVx/s", 7.2e7), ("24Vx/d", 1.0)]
)
def test_rates_parse(text: str, value: float) -> None:
    assert parse_rate(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "mm3", "1mm", "1km3", "-1mm3", "1 mm2", "0mm3", "1e999mm3"])
def test_a_volume_that_is_none(text: str) -> None:
    with pytest.raises(TaskError, match="write it like 1mm3"):
        parse_volume(text)


@pytest.mark.parametrize("text", ["", "1", "1GVx", "GVx/h", "1GVx/w", "0GVx/h", "1e999Vx/s"])
def test_a_rate_that_is_none(text: str) -> None:
    with pytest.raises(TaskError, match=r"rate: .* write it like"):
        parse_rate(text)


def test_impossible_requests() -> None:
    with pytest.raises(ValueError, match="overlap y: 256"):
        Tiling(size_zyx=(64, 256, 256), overlap_zyx=(16, 256, 32))
    with pytest.raises(ValueError, match="overlap_factor"):
        Plan(extent=CUBIC_MM, rate=1e9, overlap_factor=0.9)
    with pytest.raises(ValueError, match="rate"):
        Plan(extent=CUBIC_MM, rate=0)
    with pytest.raises(ValueError, match="gpus"):
        Plan(extent=CUBIC_MM, rate=1, gpus=(0,))
    with pytest.raises(ValueError, match="shape_zyx"):
        Extent.of_shape((1, 0, 1))


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1e15, "voxels", "1 PVx"),
        (8e15, "bytes", "8 PB"),
        (12.5e6, "GPU-h", "12.5 M GPU-h"),
        (24.0, "h", "24 h"),
        (24000.0, "h", "2.74 years"),
        (1.7415, "x", "1.742 x"),
        (8, "subvolumes", "8 subvolumes"),
        (0, "bytes", "0 B"),
        (0.0123, "GPU-h", "0.0123 GPU-h"),
    ],
)
def test_figures_for_people(value: float, unit: str, text: str) -> None:
    assert scaled(value, unit) == text


def test_storage_tasks_and_files_by_hand() -> None:
    found = {
        f.name: f.value
        for f in Footprint(voxels=1e15, computed=1.2e15, subvolumes=9e6, neighbours=2.7e7).figures()
    }
    assert found["image"] == 1e15
    assert found["raw_labels"] == 8e15
    assert found["intermediate"] == pytest.approx(2e15 + 0.12e15)
    assert (found["tasks"], found["subvolumes_per_task"]) == (200, 45_000)
    assert found["fullest_folder"] == 6592
    aligned, global_labels, published = 3e15 / 2**18, 1e15 / 2**20, 2 * 8 / 7 * 1e15 / 2**24
    assert found["files"] == pytest.approx(aligned + 3.6e7 * (1 + 2 / 64) + global_labels + published)
    few = {f.name: f.value for f in Footprint(voxels=8, computed=8, subvolumes=1, neighbours=0).figures()}
    assert (few["tasks"], few["files"]) == (1, 5)


def test_files_are_written_in_the_chunks_lots_and_folders_that_are_counted() -> None:
    assert ALIGNED_CHUNK_PX == CHUNK_PX
    assert (footprint.MOST_IN_A_LOT, footprint.FOLDERS) == (numbering.MOST_IN_A_LOT, spread.FOLDERS)


def test_neighbours_are_those_that_are_matched() -> None:
    shape, size, overlap = (40, 50, 60), (16, 20, 24), (4, 6, 8)
    grid = SubvolumeGrid(shape_zyx=shape, size_zyx=size, overlap_zyx=overlap)
    tiling = Tiling(size_zyx=size, overlap_zyx=overlap)
    assert tiling.neighbours(shape) == len(list(grid.neighbours())) > 20


def test_subvolumes_without_a_tiling_are_nominal() -> None:
    plan = Plan(extent=CUBIC_MM, rate=1e9, overlap_factor=1.2)
    assert plan.subvolumes == pytest.approx(1.2e15 / 512**3)
    assert Plan(extent=Extent.of_shape((2, 2, 2)), rate=1).subvolumes == 1
    whole = Plan(extent=Extent.of_shape((128, 128, 128)), rate=1e6, tiling=cube(80, 32))
    assert (whole.subvolumes, whole.subvolume_voxels) == (8, 80**3)


def test_an_allocation_is_enough_or_not() -> None:
    enough = Allocation(granted=100, needed=80, needed_high=120)
    assert (enough.enough, enough.surely, enough.spare) == (True, False, 20)
    short = Allocation(granted=100, needed=130)
    assert (short.enough, short.surely, short.spare) == (False, False, -30)
    assert Allocation(granted=80, needed=80).surely


def test_intervals_for_people() -> None:
    assert interval(1.0, 24000.0, "h") == "1 h to 2.74 years"
    assert interval(None, 1.0, "h") == "-"
