"""The pure parts of the trigger: completeness and batches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.watch.batches import ready
from flows.watch.completeness import Evidence, judge

QUIET = 60.0


def rule(faults=(), **known) -> str:
    return judge(Evidence(**{"tiles": 4, **known}), quiet_seconds=QUIET, faults=lambda: faults).rule


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({"tiles": 0, "marker": True}, ""),
        ({"marker": True}, "marker"),
        ({"marker": True, "expected": 9}, "marker"),  # a rejected tile, a grid that was switched off
        ({"expected": 4}, ""),  # a grid may be switched on yet, a montage may go on
        ({"expected": 4, "quiet_seconds": 60}, "expected_set"),
        ({"expected": 4, "followed": True}, "expected_set"),
        ({"expected": 4, "closing": True}, "expected_set"),
        ({"expected": 5, "done_file": True}, "done_file"),
        ({"done_file": True, "marker": True}, "marker"),
        ({"followed": True}, "next_section"),
        ({"expected": 5, "followed": True}, ""),
        ({"expected": 5, "followed": True, "quiet_seconds": 61}, "next_section"),
        ({"quiet_seconds": 59}, ""),
        ({"quiet_seconds": 60}, "quiescence"),
        ({"expected": 5, "quiet_seconds": 1e6}, ""),  # a microscope that pauses is quiet too
        ({"expected": 5, "quiet_seconds": 61, "closing": True}, "acquisition_end"),
        ({"expected": 5, "quiet_seconds": 1, "closing": True}, ""),
        ({"expected": 4, "missing": ("a",), "quiet_seconds": 1e6}, ""),  # four tiles, but not those
    ],
)
def test_the_rules_in_their_order(known, expected):
    assert rule(**known) == expected


def test_a_file_that_is_not_whole_stands_above_all_rules():
    evidence = Evidence(tiles=4, marker=True, expected=4, followed=True, quiet_seconds=1e6)
    verdict = judge(evidence, quiet_seconds=QUIET, faults=lambda: ("t3.tif", "t4.tif"))
    assert not verdict.complete
    assert verdict.waits_for == "files to be whole: t3.tif and 1 more"


def test_at_the_end_a_file_that_never_got_whole_is_left_out():
    evidence = Evidence(tiles=4, marker=True, quiet_seconds=61, closing=True)
    verdict = judge(evidence, quiet_seconds=QUIET, faults=lambda: ("t3.tif",))
    assert (verdict.rule, verdict.left_out) == ("acquisition_end", ("t3.tif",))
    assert not judge(evidence, quiet_seconds=QUIET, faults=lambda: ("1", "2", "3", "4")).complete


def test_files_are_looked_at_only_when_a_rule_fires():
    def never():
        raise AssertionError("looked")

    verdict = judge(Evidence(tiles=2, expected=4, missing=("a", "b")), quiet_seconds=QUIET, faults=never)
    assert verdict.waits_for == "2 of 4 tiles (a, b), a marker, or the next section"


@pytest.mark.parametrize(
    ("states", "every", "closing", "expected"),
    [
        ({}, 1, False, []),
        ({1: "complete", 2: "complete"}, 1, False, [(1,), (2,)]),
        ({1: "complete", 2: "complete", 3: "complete"}, 2, False, [(1, 2)]),
        ({1: "complete", 2: "complete", 3: "complete"}, 2, True, [(1, 2), (3,)]),
        ({1: "complete", 2: "seen", 3: "complete", 4: "complete"}, 2, False, [(3, 4)]),
        ({1: "ended", 2: "complete", 3: "started", 4: "seen"}, 5, False, [(2,)]),  # a retake: nobody comes
        ({1: "ended", 2: "complete", 3: "seen"}, 5, False, []),
        ({10: "complete", 20: "complete"}, 2, False, [(10, 20)]),  # every tenth section is imaged
    ],
)
def test_batches(states, every, closing, expected):
    assert ready(states, every=every, closing=closing) == expected


@given(
    st.lists(st.sampled_from(["seen", "complete", "starting", "ended"]), max_size=30),
    st.integers(1, 6),
    st.booleans(),
)
def test_a_batch_never_spans_what_is_not_in_it(names, every, closing):
    states = dict(enumerate(names))
    batches = ready(states, every=every, closing=closing)
    for batch in batches:
        assert list(batch) == list(range(batch[0], batch[-1] + 1))
        assert all(states[z] == "complete" for z in batch)
        assert len(batch) <= every
    flat = [z for batch in batches for z in batch]
    assert len(flat) == len(set(flat))
    if closing:
        assert set(flat) == {z for z, state in states.items() if state == "complete"}
