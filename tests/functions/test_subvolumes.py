"""The plan of subvolumes: covers, partitions, and depends on geometry alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.model.geometry import Box
from functions.model.subvolumes import SubvolumeGrid

extent = st.integers(1, 40)


@st.composite
def grids(draw: st.DrawFn) -> SubvolumeGrid:
    size = draw(st.tuples(*[st.integers(1, 24)] * 3))
    overlap = tuple(draw(st.integers(0, n - 1)) for n in size)
    shape = tuple(max(draw(extent), n // 2 + 1) for n in size)
    # keep the number of subvolumes small: overlaps of size - 1 make one a voxel
    overlap = tuple(max(0, min(o, n - 4)) for o, n in zip(overlap, size, strict=True))
    return SubvolumeGrid(shape_zyx=shape, size_zyx=size, overlap_zyx=overlap)


@settings(max_examples=60, deadline=None)
@given(grids())
def test_write_boxes_partition_the_volume_and_lie_in_their_read_boxes(grid: SubvolumeGrid) -> None:
    owners = np.zeros(grid.shape_zyx, int)
    for subvolume in grid:
        assert subvolume.read.contains(subvolume.write)
        assert subvolume.write.voxels > 0
        owners[subvolume.write.slices] += 1
    assert (owners == 1).all()


@settings(max_examples=60, deadline=None)
@given(grids())
def test_names_lead_back_to_subvolumes_and_pairs(grid: SubvolumeGrid) -> None:
    subvolumes = list(grid)
    assert [s.position for s in subvolumes] == list(range(len(grid)))
    assert [s.id for s in subvolumes] == sorted({s.id for s in subvolumes})
    assert all(grid.get(s.id) == s for s in subvolumes[:20])
    pairs = list(grid.neighbours())
    assert all(grid.pair(p.id) == p and p.first.position < p.second.position for p in pairs[:20])
    assert len({p.id for p in pairs}) == len(pairs)


def test_neighbours_overlap_by_at_least_what_was_asked_and_cut_in_the_middle() -> None:
    grid = SubvolumeGrid(shape_zyx=(128, 128, 128), size_zyx=(96, 96, 96), overlap_zyx=(64, 64, 64))
    assert grid.counts_zyx == (2, 2, 2)
    assert len(list(grid.neighbours())) == 12
    assert grid.writes(0) == ((0, 64), (64, 128))
    assert grid.pair("z00000_y00000_x00000-z00032_y00000_x00000").overlap.shape_zyx == (64, 96, 96)
    assert grid.overlap_factor() == pytest.approx(8 * 96**3 / 128**3)


def test_a_box_finds_who_reads_it() -> None:
    grid = SubvolumeGrid(shape_zyx=(4, 40, 40), size_zyx=(4, 16, 16), overlap_zyx=(0, 4, 4))
    box = Box(offset_zyx=(0, 0, 13), shape_zyx=(4, 5, 2))
    assert [s.id for s in grid.reading(box)] == ["z00000_y00000_x00000", "z00000_y00000_x00012"]


@pytest.mark.parametrize(
    "unit", ["z00000_y00000_x00001", "nonsense", "z00000_y00000_x00000-z00000_y00000_x00000"]
)
def test_a_unit_of_another_plan_is_refused(unit: str) -> None:
    grid = SubvolumeGrid(shape_zyx=(8, 8, 8), size_zyx=(6, 6, 6), overlap_zyx=(2, 2, 2))
    with pytest.raises(KeyError):
        grid.get(unit)
    with pytest.raises(KeyError):
        grid.pair(unit)


def test_an_overlap_as_large_as_the_subvolume_is_refused() -> None:
    with pytest.raises(ValueError, match="overlap_zyx"):
        SubvolumeGrid(shape_zyx=(8, 8, 8), size_zyx=(4, 4, 4), overlap_zyx=(0, 4, 0))
