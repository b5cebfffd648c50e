"""Merges that are taken from columns of numbers are those of one decision after the other."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.agglomeration.settling import NOBODY, Judged, Settled, settle

SEGMENTS = 9


def judged(pairs: list[tuple[int, int, float, bool]]) -> Judged:
    return Judged(
        first=np.array([p[0] for p in pairs], np.uint32),
        second=np.array([p[1] for p in pairs], np.uint32),
        point_zyx=np.array([(0, k, 2 * k) for k in range(len(pairs))], np.int32).reshape(-1, 3),
        score=np.array([p[2] for p in pairs]),
        speculative=np.array([p[2] / 2 for p in pairs]),
        merge=np.array([p[3] for p in pairs], np.bool_),
    )


def one_by_one(
    pairs: list[tuple[int, int, float, bool]], sizes: dict[int, int], bridge: int
) -> dict[int, str]:
    """What becomes of each pair, by sets of segments."""
    groups = {s: {s} for s in sizes}
    joins = dict.fromkeys(sizes, 0)
    out = {}
    for k in sorted(range(len(pairs)), key=lambda k: (not pairs[k][3], -pairs[k][2], *pairs[k][:2], k)):
        a, b, _, merge = pairs[k]
        if not merge:
            out[k] = "refused"
        elif a not in sizes or b not in sizes:
            out[k] = "lost"
        elif groups[a] is groups[b]:
            out[k] = "one already"
        elif any(joins[s] and sizes[s] < bridge for s in (a, b)):
            out[k] = "crumb"
        else:
            out[k] = "joined"
            both = groups[a] | groups[b]
            groups.update(dict.fromkeys(both, both))
            joins[a] += 1
            joins[b] += 1
    return out


pairs = st.lists(
    st.tuples(
        st.integers(1, SEGMENTS + 2),
        st.integers(1, SEGMENTS + 2),
        st.sampled_from([0.6, 0.8, 0.9]),
        st.booleans(),
    ).filter(lambda p: p[0] < p[1]),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(pairs, st.sampled_from([0, 350, 10_000]))
def test_columns_are_settled_as_one_pair_after_the_other(
    found: list[tuple[int, int, float, bool]], bridge: int
) -> None:
    sizes = {s: 100 * s for s in range(1, SEGMENTS + 1)}
    segments = np.array(list(sizes)[::-1], np.uint64)
    voxels = np.array(list(sizes.values())[::-1], np.int64)
    result = settle(judged(found), segments=segments, voxels=voxels, min_bridge_voxels=bridge)
    expected = one_by_one(found, sizes, bridge)
    assert result.order.tolist() == list(expected)
    for k, verdict in expected.items():
        assert (result.lost[k] != NOBODY) == (verdict == "lost"), k
        assert (result.crumb[k] != NOBODY) == (verdict == "crumb"), k
    assert objects(result) == groups_of([found[k][:2] for k, v in expected.items() if v == "joined"], sizes)


def objects(result: Settled) -> set[frozenset[int]]:
    """Segments of each object; each is called by its lowest."""
    members: dict[int, set[int]] = {}
    for segment, name in zip(result.segments.tolist(), result.representative.tolist(), strict=True):
        members.setdefault(name, set()).add(segment)
    assert all(name == min(group) for name, group in members.items())
    return {frozenset(group) for group in members.values()}


def groups_of(joined: list[tuple[int, int]], sizes: dict[int, int]) -> set[frozenset[int]]:
    group = {s: frozenset([s]) for s in sizes}
    for a, b in joined:
        both = group[a] | group[b]
        group.update(dict.fromkeys(both, both))
    return set(group.values())


def test_the_one_that_is_not_there_is_named() -> None:
    found = [(1, 7, 0.9, True), (0, 2, 0.8, True)]
    result = settle(
        judged(found),
        segments=np.array([1, 2], np.uint64),
        voxels=np.array([5, 5], np.int64),
        min_bridge_voxels=0,
    )
    assert result.lost.tolist() == [1, 0]
    nothing = settle(
        judged(found), segments=np.zeros(0, np.uint64), voxels=np.zeros(0, np.int64), min_bridge_voxels=0
    )
    assert nothing.lost.tolist() == [0, 0]
    assert nothing.representative.size == 0
