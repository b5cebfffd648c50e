"""Overlaps and union-find: pure, exact, and blind to order."""

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.agglomeration.overlaps import ACCEPTED, FEW_VOXELS, LOW_IOU, NOT_MUTUAL, decide, overlaps
from functions.agglomeration.union_find import components, limited_components, ranks

edges = st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=40)


def row(*labels: int) -> np.ndarray:
    return np.array(labels, np.uint32).reshape(1, 1, -1)


def test_overlap_fractions_count_only_voxels_that_both_label() -> None:
    counts = overlaps(row(1, 1, 1, 1, 0, 2), row(7, 7, 9, 0, 7, 0))
    assert counts.first.tolist() == [1, 1]
    assert counts.second.tolist() == [7, 9]
    assert counts.voxels.tolist() == [2, 1]
    assert counts.iou.tolist() == pytest.approx([2 / 3, 1 / 3])


def test_a_split_stays_a_split() -> None:
    """The larger piece is joined, the smaller is not, in both directions."""
    whole, cut = row(*[1] * 10), row(*[4] * 6, *[5] * 4)
    for first, second in ((whole, cut), (cut, whole)):
        verdict = decide(overlaps(first, second), min_iou=0.5, min_voxels=1).verdict
        assert verdict.tolist() == [ACCEPTED, NOT_MUTUAL]


def test_thresholds_say_why_a_pair_is_refused() -> None:
    first, second = row(*[1] * 3, *[2] * 20), row(*[8] * 3, *[9] * 8, *[10] * 12)
    verdict = decide(overlaps(first, second), min_iou=0.7, min_voxels=4).verdict
    assert verdict.tolist() == [FEW_VOXELS, NOT_MUTUAL, LOW_IOU]


def test_labels_may_be_large() -> None:
    counts = overlaps(row(2**32 - 1), row(2**32 - 2))
    assert (counts.first[0], counts.second[0]) == (2**32 - 1, 2**32 - 2)


def test_nothing_in_common() -> None:
    decisions = decide(overlaps(row(1, 0), row(0, 1)), min_iou=0.5, min_voxels=1)
    assert decisions.accepted.size == 0
    with pytest.raises(ValueError, match="shape"):
        overlaps(row(1), row(1, 2))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60))
def test_a_label_is_in_at_most_one_equality(pairs: list[tuple[int, int]]) -> None:
    a, b = (np.array(side, np.uint32) for side in zip(*pairs, strict=True))
    decisions = decide(overlaps(a, b), min_iou=0.0, min_voxels=1)
    for side in (decisions.overlaps.first, decisions.overlaps.second):
        joined = side[decisions.accepted]
        assert len(set(joined.tolist())) == len(joined)


@settings(deadline=None)
@given(edges, st.randoms(use_true_random=False))
def test_components_equal_those_of_networkx_in_any_order(pairs: list[tuple[int, int]], random) -> None:  # type: ignore[no-untyped-def]
    graph = nx.Graph(pairs)
    graph.add_nodes_from(range(30))
    expected = np.empty(30, int)
    for component in nx.connected_components(graph):
        expected[list(component)] = min(component)
    random.shuffle(pairs)
    first, second = np.array(pairs, np.int64).reshape(-1, 2).T
    assert (components(30, first, second) == expected).all()
    own = np.arange(30)
    limited, refused = limited_components(30, first, second, np.ones(len(pairs)), own, most=1)
    assert (limited == expected).all()
    assert not refused.any()


def test_a_long_chain_is_one_component() -> None:
    nodes = np.random.default_rng(0).permutation(10_000)
    assert (components(10_000, nodes[1:], nodes[:-1]) == 0).all()


def test_an_edge_to_nowhere_is_refused() -> None:
    with pytest.raises(ValueError, match="nodes"):
        components(2, np.array([0]), np.array([2]))


def test_the_limit_refuses_the_weaker_join() -> None:
    """Nodes 0 and 1 lie in one subvolume, 2 in another that merged them: only the stronger join is kept."""
    first, second = np.array([0, 1]), np.array([2, 2])
    group = np.array([0, 0, 1])
    for strength, expected in (([0.9, 0.5], [0, 1, 0]), ([0.5, 0.9], [0, 1, 1])):
        found, refused = limited_components(3, first, second, np.array(strength), group, most=1)
        assert found.tolist() == expected
        assert refused.tolist() == [strength[0] < strength[1], strength[1] < strength[0]]
    found, refused = limited_components(3, first, second, np.ones(2), group, most=2)
    assert found.tolist() == [0, 0, 0]
    assert not refused.any()


def test_ids_are_ranks_of_smallest_members() -> None:
    representative = np.array([0, 1, 0, 3, 1])
    assert ranks(representative, np.ones(5, bool)).tolist() == [1, 2, 1, 3, 2]
    assert ranks(representative, representative != 1).tolist() == [1, 0, 1, 2, 0]
