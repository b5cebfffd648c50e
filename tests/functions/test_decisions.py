"""Merge decisions: the rule, the guards, and the same answer whatever the order."""

import dataclasses
import random

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffn.config import ConfigError
from ffn.evidence import PairEvidence, Reflooding
from functions.agglomeration.decisions import (
    VERDICTS,
    Agglomeration,
    DecisionParameters,
    agglomerate,
    decide,
    tally,
)

GOOD = Reflooding(
    seed_zyx=(5, 5, 5),
    attempts=1,
    moves=30,
    voxels=1000,
    recovered_first=0.9,
    recovered_second=0.8,
    foreign_fraction=0.01,
    deleted_voxels=5,
    max_edt_nm=80.0,
)


def evidence(first: int, second: int, *, iou: float = 0.9, **changes: object) -> PairEvidence:
    base = PairEvidence(
        first=first,
        second=second,
        point_zyx=(1, 2, 3),
        voxels_first=500,
        voxels_second=400,
        max_edt_first_nm=60.0,
        max_edt_second_nm=70.0,
        from_first=GOOD,
        from_second=GOOD,
        iou=iou,
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def side(**changes: object) -> Reflooding:
    return dataclasses.replace(GOOD, **changes)  # type: ignore[arg-type]


def merged(
    *found: PairEvidence, voxels: dict[int, int] | None = None, parameters: DecisionParameters | None = None
) -> Agglomeration:
    sizes = voxels or {s: 5000 for e in found for s in (e.first, e.second)}
    return agglomerate(
        found,
        segments=np.array(list(sizes), np.uint64),
        voxels=np.array(list(sizes.values()), np.int64),
        parameters=parameters,
    )


@pytest.mark.parametrize(
    ("found", "verdict", "reason"),
    [
        (evidence(1, 2), "merge", "Jaccard index 0.900, recovered 0.800, took back 0.005"),
        (evidence(1, 2, iou=0.8), "low_iou", "Jaccard index 0.800, must be above 0.8"),
        (evidence(1, 2, from_second=side(recovered_first=0.6)), "low_recovery", "recovered 0.600"),
        (evidence(1, 2, from_first=side(recovered_second=0.1)), "low_recovery", "recovered 0.100"),
        (evidence(1, 2, from_first=side(deleted_voxels=20)), "merge", "took back 0.005"),
        (
            evidence(1, 2, from_first=side(deleted_voxels=30), from_second=side(deleted_voxels=20)),
            "deleted",
            "took back 0.020, must be below 0.02",
        ),
        (evidence(1, 2, from_first=side(foreign_fraction=0.3)), "foreign", "0.300 in other segments"),
        (evidence(1, 2, voxels_second=99), "few_voxels", "99 voxels near the point"),
        (evidence(1, 2, from_second=None, iou=0.0), "not_flooded", "nothing was flooded from 2"),
        (evidence(1, 2, from_first=None, from_second=None), "not_flooded", "nothing was flooded from 1"),
        (  # stopped early: the second was not worth it
            evidence(1, 2, from_first=side(recovered_second=0.2), from_second=None, iou=0.0),
            "low_recovery",
            "recovered 0.200",
        ),
    ],
)
def test_every_decision_says_why(found: PairEvidence, verdict: str, reason: str) -> None:
    decision = decide(found)
    assert decision.verdict == verdict
    assert reason in decision.reason
    assert decision.score == found.iou


def test_either_object_is_enough_if_the_rule_says_so() -> None:
    either = DecisionParameters(seeds="either")
    split = side(recovered_second=0.05)
    found = evidence(1, 2, from_first=split, from_second=side(recovered_first=0.7), iou=0.2)
    assert decide(found).verdict == "low_recovery"
    merged = decide(found, parameters=either)
    assert (merged.verdict, merged.score, merged.agreement) == ("merge", 0.7, 0.2)
    assert decide(found, parameters=either.at_score(0.7)).verdict == "low_recovery"
    alone = evidence(1, 2, from_second=None, iou=0.0)
    assert decide(alone, parameters=either).verdict == "merge"
    nothing = evidence(1, 2, from_first=None, from_second=None, iou=0.0)
    assert decide(nothing, parameters=either).verdict == "not_flooded"
    leaking = side(foreign_fraction=0.3)
    assert decide(evidence(1, 2, from_first=leaking), parameters=either).verdict == "foreign"
    both = DecisionParameters().at_score(0.95)
    assert (both.min_iou, both.min_recovered) == (0.95, 0.6)


def test_the_speculative_score_is_the_better_of_the_two_seeds() -> None:
    found = evidence(
        1,
        2,
        from_first=side(recovered_second=0.3),
        from_second=side(recovered_first=0.5, recovered_second=0.7),
    )
    assert decide(found).speculative == 0.5
    assert decide(evidence(1, 2, from_first=None, from_second=None)).speculative == 0.0


def test_objects_take_the_lowest_id_of_their_segments() -> None:
    big = 2**63 + 5
    result = merged(evidence(4, 9), evidence(9, big), evidence(3, 7, iou=0.5))
    assert result.segments.tolist() == [3, 4, 7, 9, big]
    assert result.representative.tolist() == [3, 4, 7, 4, 4]
    assert result.objects == 3
    labels = np.array([[0, big], [9, 3]], np.uint64)
    assert result.apply(labels).tolist() == [[0, 4], [4, 3]]
    with pytest.raises(ValueError, match="not agglomerated"):
        result.apply(np.array([5], np.uint8))
    assert tally(result.decisions) == dict.fromkeys(VERDICTS, 0) | {"merge": 2, "low_iou": 1}


def test_a_crumb_joins_its_best_partner_and_bridges_nothing() -> None:
    sizes = {1: 90_000, 2: 80_000, 3: 400}
    result = merged(evidence(1, 3, iou=0.85), evidence(2, 3, iou=0.95), voxels=sizes)
    assert result.representative.tolist() == [1, 2, 2]
    assert [(d.pair, d.verdict) for d in result.decisions] == [((2, 3), "merge"), ((1, 3), "bridge")]
    assert "400 voxels" in result.decisions[1].reason
    direct = merged(evidence(1, 3, iou=0.85), evidence(2, 3, iou=0.95), evidence(1, 2, iou=0.9), voxels=sizes)
    assert direct.objects == 1
    assert [d.verdict for d in direct.decisions] == ["merge"] * 3
    free = DecisionParameters(min_bridge_voxels=0)
    bridged = merged(evidence(1, 3, iou=0.85), evidence(2, 3, iou=0.95), voxels=sizes, parameters=free)
    assert bridged.objects == 1


def test_nothing_is_merged_with_or_through_a_segment_that_was_dropped() -> None:
    result = merged(evidence(1, 5), evidence(2, 5), voxels={1: 5000, 2: 5000})
    assert result.representative.tolist() == [1, 2]
    assert tally(result.decisions)["unknown"] == 2
    assert result.decisions[0].reason == "segment 5 is not there any more"


def test_one_merge_of_several_points_is_enough() -> None:
    result = merged(evidence(1, 2, iou=0.3), evidence(1, 2, iou=0.9, point_zyx=(9, 9, 9)))
    assert result.objects == 1
    assert [d.verdict for d in result.decisions] == ["merge", "low_iou"]


pairs = st.lists(
    st.tuples(st.integers(1, 12), st.integers(1, 12), st.sampled_from([0.5, 0.85, 0.9, 0.95])).filter(
        lambda p: p[0] < p[1]
    ),
    unique_by=lambda p: p[:2],
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(pairs, st.randoms(use_true_random=False), st.integers(0, 3000))
def test_the_answer_does_not_depend_on_the_order_and_obeys_the_guard(
    found: list[tuple[int, int, float]], shuffler: random.Random, bridge: int
) -> None:
    sizes = {s: 250 * s for s in range(1, 13)}
    parameters = DecisionParameters(min_bridge_voxels=bridge)
    items = [evidence(a, b, iou=iou) for a, b, iou in found]
    one = merged(*items, voxels=sizes, parameters=parameters)
    shuffler.shuffle(items)
    other = merged(*items, voxels=dict(reversed(sizes.items())), parameters=parameters)
    assert np.array_equal(one.representative, other.representative)
    assert [(d.pair, d.verdict) for d in one.decisions] == [(d.pair, d.verdict) for d in other.decisions]
    graph = nx.Graph([d.pair for d in one.decisions if d.verdict == "merge"])
    graph.add_nodes_from(sizes)
    expected = {s: min(c) for c in nx.connected_components(graph) for s in c}
    assert dict(zip(one.segments.tolist(), one.representative.tolist(), strict=True)) == expected
    graph.remove_nodes_from([s for s, n in sizes.items() if n < bridge])
    strong = {s for s in sizes if sizes[s] >= bridge}
    if strong:
        apart = {frozenset(c) for c in nx.connected_components(graph)}
        together = {frozenset(s for s in strong if expected[s] == r) for r in {expected[s] for s in strong}}
        assert apart == together  # no two large segments are one without a chain of large ones


def test_nothing_to_merge() -> None:
    result = agglomerate([], segments=np.zeros(0, np.uint64), voxels=np.zeros(0, np.int64))
    assert result.objects == 0
    assert result.apply(np.zeros((2, 2), np.uint32)).tolist() == [[0, 0], [0, 0]]


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match="voxels: shape"):
        agglomerate([], segments=np.array([1, 2], np.uint64), voxels=np.array([1], np.int64))
    for ids in ([1, 1], [0, 1]):
        with pytest.raises(ValueError, match="0 or an id twice"):
            agglomerate([], segments=np.array(ids, np.uint64), voxels=np.array([5, 5], np.int64))
    with pytest.raises(ConfigError, match="min_iou: is a fraction"):
        DecisionParameters(min_iou=1.2)
    with pytest.raises(ConfigError, match="max_deletion_fraction"):
        DecisionParameters(max_deletion_fraction=-1.0)
