"""Merges that are taken one after the other, by numbers, are those of sets of segments."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.agglomeration.settling import NOBODY, Refusal, Settling

SEGMENTS = 9
Pair = tuple[int, int]


def by_sets(pairs: list[Pair], sizes: list[int], bridge: int) -> tuple[list[str], list[frozenset[int]]]:
    """What becomes of each pair, and the object of each segment."""
    groups = [frozenset([s]) for s in range(len(sizes))]
    joins = [0] * len(sizes)
    told = []
    for a, b in pairs:
        if NOBODY in (a, b):
            told.append("unknown")
        elif groups[a] == groups[b]:
            told.append("one already")
        elif any(joins[s] and sizes[s] < bridge for s in (a, b)):
            told.append("bridge")
        else:
            told.append("joined")
            both = groups[a] | groups[b]
            groups = [both if s in both else group for s, group in enumerate(groups)]
            joins[a] += 1
            joins[b] += 1
    return told, groups


pairs = st.lists(
    st.tuples(st.integers(NOBODY, SEGMENTS - 1), st.integers(NOBODY, SEGMENTS - 1)).filter(
        lambda p: p[0] != p[1]
    ),
    max_size=30,
)


@settings(max_examples=200, deadline=None)
@given(pairs, st.sampled_from([0, 350, 10_000]), st.integers(1, SEGMENTS))
def test_pairs_are_settled_as_sets_are(found: list[Pair], bridge: int, part: int) -> None:
    sizes = [100 * (s + 1) for s in range(SEGMENTS)]
    settling = Settling(np.array(sizes, np.uint32), min_bridge_voxels=bridge)
    refused = [settling.take(*pair) for pair in found]
    told, groups = by_sets(found, sizes, bridge)
    assert [r.verdict if r else None for r in refused] == [
        v if v in ("unknown", "bridge") else None for v in told
    ]
    assert settling.joins == told.count("joined")
    assert settling.objects().tolist() == [min(group) for group in groups]
    parts = [settling.objects(start, start + part) for start in range(0, SEGMENTS, part)]
    assert np.concatenate(parts).tolist() == settling.objects().tolist()


def test_who_is_the_reason_is_named() -> None:
    settling = Settling(np.array([9000, 9000, 5], np.int64), min_bridge_voxels=100)
    assert settling.take(NOBODY, 1) == Refusal("unknown", 0)
    assert settling.take(1, NOBODY) == Refusal("unknown", 1)
    assert settling.take(0, 2) is None
    assert settling.take(2, 1) == Refusal("bridge", 0)
    assert settling.take(1, 2) == Refusal("bridge", 1)
    assert settling.objects().tolist() == [0, 1, 0]


def test_a_long_chain_ends_at_its_lowest() -> None:
    count = 300_000
    settling = Settling(np.full(count, 10), min_bridge_voxels=0)
    for segment in reversed(range(count - 1)):
        assert settling.take(segment, segment + 1) is None
    for start in range(0, count, 100_000):
        assert not settling.objects(start, start + 100_000).any()
    assert settling.joins == count - 1
    assert Settling(np.zeros(0, np.int64), min_bridge_voxels=5).objects().size == 0
