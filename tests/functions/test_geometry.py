"""Boxes and the tiling of axes."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.model.geometry import Box, tile_axis, tile_box

coordinate = st.integers(-50, 50)
extent = st.integers(0, 40)
boxes = st.builds(
    lambda o, n: Box(offset_zyx=o, shape_zyx=n),
    st.tuples(coordinate, coordinate, coordinate),
    st.tuples(extent, extent, extent),
)


@given(boxes, boxes)
def test_intersection_lies_in_both_and_does_not_depend_on_order(a: Box, b: Box) -> None:
    common = a.intersect(b)
    assert common == b.intersect(a)
    if common.voxels:
        assert a.contains(common)
        assert b.contains(common)


@given(boxes)
def test_grow_adds_the_margin_on_both_sides(box: Box) -> None:
    grown = box.grow((1, 2, 3))
    assert grown.contains(box)
    assert grown.relative_to(box).offset_zyx == (-1, -2, -3)
    assert [g - n for g, n in zip(grown.shape_zyx, box.shape_zyx, strict=True)] == [2, 4, 6]


@given(st.integers(1, 500), st.integers(1, 120), st.data())
def test_tiled_axis_is_covered_with_at_least_the_overlap(length: int, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    tiles = tile_axis(length, size, overlap)
    assert tiles[0][0] == 0
    assert tiles[-1][1] == length
    assert {stop - start for start, stop in tiles} == {min(size, length)}
    for (_, stop), (start, _) in pairwise(tiles):
        assert stop - start >= overlap


def test_tile_axis_refuses_an_overlap_as_large_as_the_tile() -> None:
    with pytest.raises(ValueError, match="overlap: 8"):
        tile_axis(100, 8, 8)


def test_tile_box_covers_the_volume_in_zyx_order() -> None:
    boxes = list(tile_box((10, 20, 20), (10, 12, 12), (2, 4, 4)))
    assert [b.id for b in boxes] == [
        "z00000_y00000_x00000",
        "z00000_y00000_x00008",
        "z00000_y00008_x00000",
        "z00000_y00008_x00008",
    ]


def test_negative_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="shape_zyx"):
        Box(offset_zyx=(0, 0, 0), shape_zyx=(1, -1, 1))
