"""Oversegmentation consensus against a flood fill written out, and what its statistics say."""

import itertools
import math
import tracemalloc
from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffn.config import ConfigError
from ffn.metrics import variation_of_information
from functions.agglomeration.consensus import ConsensusParameters, agree, consensus, render

Inputs = list[np.ndarray]


def row(*labels: int, dtype: type = np.uint32) -> np.ndarray:
    return np.array(labels, dtype).reshape(1, 1, -1)


def reference(inputs: Inputs, *, labelled_by: str, connectivity: int, min_voxels: int) -> np.ndarray:
    """Pieces by flooding voxel after voxel, in raster order."""
    steps = [
        s
        for s in itertools.product((-1, 0, 1), repeat=3)
        if 0 < sum(map(abs, s)) <= {6: 1, 18: 2, 26: 3}[connectivity]
    ]
    shape = inputs[0].shape
    found, number = np.zeros(shape, np.uint32), 0
    tuples = {p: tuple(int(i[p]) for i in inputs) for p in np.ndindex(*shape)}
    done = {p for p, t in tuples.items() if t[0] == 0 or (labelled_by == "all" and 0 in t)}
    for start in np.ndindex(*shape):
        if start in done:
            continue
        done.add(start)
        piece, queue = [start], deque([start])
        while queue:
            here = queue.popleft()
            for step in steps:
                there = tuple(a + b for a, b in zip(here, step, strict=True))
                if there in tuples and there not in done and tuples[there] == tuples[start]:
                    done.add(there)
                    piece.append(there)
                    queue.append(there)
        if len(piece) >= min_voxels:
            number += 1
            for p in piece:
                found[p] = number
    return found


@st.composite
def inputs(draw: st.DrawFn) -> Inputs:
    """Segmentations of few, blocky, large-numbered labels."""
    shape = tuple(draw(st.integers(1, n)) for n in (9, 5, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    names = np.array([0, 1, 2**32 - 1, 2**32 + 1, 2**63 + 1, 2**64 - 1], np.uint64)
    result = []
    for _ in range(draw(st.integers(2, 3))):
        coarse = rng.integers(0, draw(st.integers(1, 6)), tuple(-(-n // 2) for n in shape))
        fine = coarse.repeat(2, 0).repeat(2, 1).repeat(2, 2)[tuple(slice(n) for n in shape)]
        result.append(names[fine])
    return result


@settings(max_examples=60, deadline=None)
@given(
    inputs(),
    st.sampled_from(["all", "first"]),
    st.sampled_from([6, 18, 26]),
    st.integers(0, 6),
    st.integers(1, 10),
)
def test_it_is_the_flood_fill_of_equal_tuples_whatever_the_slabs(
    inputs: Inputs, labelled_by: str, connectivity: int, min_voxels: int, slab: int
) -> None:
    parameters = ConsensusParameters(
        min_voxels=min_voxels,
        labelled_by=labelled_by,  # type: ignore[arg-type]
        connectivity=connectivity,  # type: ignore[arg-type]
        slab_sections=slab,
    )
    labels, agreement = consensus(inputs, parameters=parameters)
    expected = reference(inputs, labelled_by=labelled_by, connectivity=connectivity, min_voxels=min_voxels)
    assert np.array_equal(labels, expected)
    assert agreement.pieces == expected.max()
    assert agreement.voxels.tolist() == np.bincount(expected.ravel())[1:].tolist()
    for piece in range(1, agreement.pieces + 1):
        for i, values in enumerate(inputs):
            assert set(values[expected == piece].tolist()) == {int(agreement.members[i, piece - 1])}


@settings(max_examples=40, deadline=None)
@given(inputs(), st.integers(1, 3), st.integers(3, 10))
def test_filling_does_not_depend_on_the_slabs_and_contradicts_nobody(
    inputs: Inputs, fill: int, slab: int
) -> None:
    bare, agreement = consensus(inputs, parameters=ConsensusParameters(min_voxels=3))
    thin = ConsensusParameters(min_voxels=3, fill_voxels=fill, slab_sections=slab)
    thick = ConsensusParameters(min_voxels=3, fill_voxels=fill, slab_sections=64)
    filled, _ = consensus(inputs, parameters=thin)
    assert np.array_equal(filled, consensus(inputs, parameters=thick)[0])
    assert np.array_equal(filled[bare > 0], bare[bare > 0])
    for position in np.argwhere((filled > 0) & (bare == 0)):
        member = agreement.members[:, int(filled[tuple(position)]) - 1].tolist()
        here = [int(values[tuple(position)]) for values in inputs]
        assert any(here)
        assert all(h in (0, m) for h, m in zip(here, member, strict=True))


def test_filling_mends_a_frayed_surface_voxel_by_voxel() -> None:
    first = row(1, 1, 1, 1, 1, 1, 2, 2, 0)
    second = row(0, 7, 7, 7, 0, 0, 0, 9, 9)
    for fill, expected in ((0, [0, 1, 1, 1, 0, 0, 0, 2, 0]), (1, [1, 1, 1, 1, 1, 0, 2, 2, 2])):
        parameters = ConsensusParameters(min_voxels=1, fill_voxels=fill)
        assert consensus([first, second], parameters=parameters)[0].ravel().tolist() == expected


def test_a_merger_of_one_and_a_split_of_the_other_both_part_the_pieces() -> None:
    merged = row(5, 5, 5, 5, 5, 5, 0, 8, 8)
    halves = row(1, 1, 1, 2, 2, 2, 2, 2, 3)
    labels, agreement = consensus([merged, halves], parameters=ConsensusParameters(min_voxels=2))
    assert labels.ravel().tolist() == [1, 1, 1, 2, 2, 2, 0, 0, 0]
    assert labels.dtype == np.uint32
    assert (agreement.small_pieces, agreement.small_voxels) == (2, 2)
    one, other = agreement.inputs
    assert (one.segments, one.cut_segments, one.cut_pieces, one.lost_segments) == (2, 1, 2, 1)
    assert (one.voxels, one.dropped_voxels) == (8, 2)
    assert one.split_bits == pytest.approx(1.0)
    assert (other.segments, other.cut_segments, other.lost_segments) == (3, 0, 1)
    assert (other.voxels, other.dropped_voxels, other.split_bits) == (9, 3, 0.0)


def test_split_bits_are_those_of_the_variation_of_information() -> None:
    rng = np.random.default_rng(3)
    blocks = [rng.integers(1, 4, (4, 4, 4)).repeat(3, 0).repeat(3, 1).repeat(3, 2) for _ in range(2)]
    first, second = (b.astype(np.uint16) for b in blocks)
    labels, agreement = consensus([first, second], parameters=ConsensusParameters(min_voxels=1))
    for truth, statistics in zip((first, second), agreement.inputs, strict=True):
        voi = variation_of_information(labels, truth, treatment="keep")
        assert statistics.split_bits == pytest.approx(voi.split)
        assert voi.merge == pytest.approx(0, abs=1e-9)


def test_first_keeps_what_the_others_left_empty_as_google_ffn_does() -> None:
    first, second = row(4, 4, 4, 4, 0), row(0, 0, 6, 6, 6)
    by_first = ConsensusParameters(min_voxels=1, labelled_by="first")
    assert consensus([first, second], parameters=by_first)[0].ravel().tolist() == [1, 1, 2, 2, 0]
    by_all = ConsensusParameters(min_voxels=1)
    assert consensus([first, second], parameters=by_all)[0].ravel().tolist() == [0, 0, 1, 1, 0]


def test_nothing_in_common_gives_nothing() -> None:
    labels, agreement = consensus([row(1, 0), row(0, 1)])
    assert not labels.any()
    assert agreement.pieces == 0
    assert [s.lost_segments for s in agreement.inputs] == [1, 1]
    assert not any(math.isnan(s.split_bits) for s in agreement.inputs)


def test_memory_follows_the_slab_not_the_volume() -> None:
    class Endless:
        """A tall volume that only ever exists in slabs."""

        def __init__(self, sections: int, step: int) -> None:
            self.shape = (sections, 64, 64)
            self.step = step

        def __getitem__(self, key: slice) -> np.ndarray:
            z = np.arange(key.start, key.stop)[:, None, None]
            y = np.arange(64)[None, :, None]
            return np.broadcast_to(1 + z // self.step % 2 + 2 * (y // 16), (z.size, 64, 64)).astype(np.uint64)

    peaks = []
    for sections in (64, 512):
        parameters = ConsensusParameters(slab_sections=16)
        volumes = [Endless(sections, 32), Endless(sections, 64)]
        tracemalloc.start()
        agreement = agree(volumes, parameters=parameters)
        written = sum(slab.shape[0] for _, slab in render(volumes, agreement, parameters=parameters))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert written == sections
        assert agreement.pieces == 4 * sections // 32
    assert peaks[1] < 1.2 * peaks[0]
    assert peaks[1] < 90 * 16 * 64 * 64


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        agree([row(1)])
    with pytest.raises(ValueError, match=r"segmentations\[1\]: shape"):
        agree([row(1), row(1, 2)])
    with pytest.raises(ValueError, match=r"segmentations\[1\]: labels are int32"):
        agree([row(1), row(1, dtype=np.int32)])
    with pytest.raises(ValueError, match="none of them empty"):
        agree([np.zeros((0, 2, 2), np.uint8)] * 2)
    with pytest.raises(ConfigError, match="slab_sections: must be at least fill_voxels"):
        ConsensusParameters(fill_voxels=9, slab_sections=8)
    agreement = agree([row(1, 2)] * 2, parameters=ConsensusParameters(min_voxels=1))
    with pytest.raises(ValueError, match="belongs to other segmentations"):
        list(render([row(1, 2, 3)] * 2, agreement))
    with pytest.raises(ValueError, match="belongs to other segmentations"):
        list(render([row(1, 1)] * 2, agreement))
