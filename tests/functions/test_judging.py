"""Verdicts follow from figures and limits alone, and name what is wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from functions.model.gate import REASONS, Reason
from functions.model.parameters import GateParameters
from functions.registration.evidence import Windows
from functions.registration.judging import PairFigures, SectionFigures, judge_pair, judge_section, judge_stack

LIMITS = GateParameters()


def windows(shift_yx: tuple[float, float] = (0.0, 0.0), ncc: float = 0.6, n: int = 5) -> Windows:
    """A grid of windows that all say the same."""
    grid = np.stack(np.meshgrid(np.arange(n), np.arange(n), indexing="ij"), -1).reshape(-1, 2) * 32.0
    return Windows(
        centre_yx=grid,
        ncc=np.full(n * n, ncc),
        peak=np.full(n * n, 0.6),
        shift_yx_px=np.tile(shift_yx, (n * n, 1)),
        sure=np.ones(n * n, dtype=bool),
    )


def section(z: int, **changes: object) -> SectionFigures:
    base = SectionFigures(section=f"z{z:05d}", z=z, placed="matched", tiles=4, confidence=0.6, coverage=0.9)
    return replace(base, **changes)  # type: ignore[arg-type]


def pair(a: int, b: int, **changes: object) -> PairFigures:
    base = PairFigures(
        pair=f"z{a:05d}-z{b:05d}",
        a=f"z{a:05d}",
        b=f"z{b:05d}",
        steps=b - a,
        gap=b - a,
        matches=100,
        residual_px_p95=1.0,
        confidence=0.6,
        windows=windows() if b - a == 1 else None,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def stack(count: int, bad_pairs: tuple[int, ...]) -> tuple[list[str], str, float]:
    """Names of failed sections, verdict and failures counted where pairs (k, k + 1) are 20 px off."""
    pairs = [
        pair(k, k + 1, windows=windows((12.0, 16.0) if k in bad_pairs else (0.3, 0.0)))
        for k in range(count - 1)
    ]
    document = judge_stack([section(k) for k in range(count)], pairs, LIMITS)
    failed = [s.section for s in document.sections if s.verdict == "fail"]
    return failed, document.verdict, document.figures["sections_failed"]


@pytest.mark.parametrize(
    ("bad_pairs", "named", "verdict", "counted"),
    [
        ((), [], "pass", 0),
        ((3, 4), ["z00004"], "fail", 1),
        ((0,), ["z00000"], "fail", 1),
        ((0, 1), ["z00001"], "fail", 1),
        ((8,), ["z00009"], "fail", 1),
        ((4,), [], "fail", 1),  # the stack is broken between 4 and 5: neither is out of place
        ((2, 4), [], "fail", 2),  # 3 and 4 are off together
    ],
)
def test_the_section_out_of_place_is_named(
    bad_pairs: tuple[int, ...], named: list[str], verdict: str, counted: int
) -> None:
    assert stack(10, bad_pairs) == (named, verdict, counted)


def test_one_bad_section_of_fifty_is_bridged() -> None:
    assert stack(49, (20, 21)) == (["z00021"], "fail", 1)
    assert stack(50, (20, 21)) == (["z00021"], "look", 1)


def test_two_sections_that_do_not_fit_are_both_named() -> None:
    assert stack(2, (0,))[0] == ["z00000", "z00001"]


@pytest.mark.parametrize(
    ("changes", "level", "code"),
    [
        ({"by_stage": ("a",)}, "look", "tiles_by_stage"),
        ({"by_stage": ("a", "b", "c")}, "fail", "tiles_by_stage"),
        ({"coverage": 0.4}, "look", "coverage"),
        ({"coverage": 0.1}, "fail", "coverage"),
        ({"confidence": 0.25}, "look", "confidence"),
        ({"confidence": 0.1}, "fail", "confidence"),
        ({"placed": "interpolated", "confidence": None, "coverage": 0.0}, "look", "interpolated"),
    ],
)
def test_what_holds_a_section_is_judged(changes: dict[str, object], level: str, code: str) -> None:
    verdict = judge_section(section(3, **changes), LIMITS)
    assert (verdict.verdict, [r.code for r in verdict.reasons]) == (level, [code])
    assert verdict.reasons[0].subject == "z00003"


@pytest.mark.parametrize(
    ("changes", "level", "code"),
    [
        ({"residual_px_p95": LIMITS.pair_look_px + 1}, "look", "pair_residual"),
        ({"residual_px_p95": LIMITS.pair_fail_px + 1}, "fail", "pair_residual"),
        ({"windows": windows(ncc=0.01)}, "fail", "pair_unlike"),
    ],
)
def test_pairs_are_judged(changes: dict[str, object], level: str, code: str) -> None:
    verdict = judge_pair(pair(1, 2, **changes), LIMITS, usual_ncc=0.6)
    assert (verdict.verdict, [r.code for r in verdict.reasons]) == (level, [code])


def test_distance_and_gaps_loosen_limits() -> None:
    far = {"residual_px_p95": LIMITS.pair_look_px + 1}
    assert judge_pair(pair(1, 3, **far), LIMITS, usual_ncc=0.6).verdict == "pass"
    gap = pair(1, 2, gap=3, windows=windows((LIMITS.shift_look_px + 1, 0.0), ncc=0.01))
    assert judge_pair(gap, LIMITS, usual_ncc=0.6).verdict == "pass"


def test_a_section_that_matches_do_not_hold_may_be_unlike() -> None:
    unlike = pair(1, 2, windows=windows(ncc=0.01))
    assert judge_pair(unlike, LIMITS, usual_ncc=0.6, held=False).verdict == "look"


def test_part_of_a_section_may_be_displaced_a_little() -> None:
    w = windows()
    w.shift_yx_px[:7] = (20.0, 0.0)  # 28 % of the windows: a fold
    verdict = judge_pair(pair(1, 2, windows=w), LIMITS, usual_ncc=0.6)
    assert (verdict.verdict, verdict.displaced) == ("look", 0.28)
    w.shift_yx_px[:12] = (20.0, 0.0)
    assert judge_pair(pair(1, 2, windows=w), LIMITS, usual_ncc=0.6).verdict == "fail"


def test_too_many_interpolated_sections_fail_the_whole() -> None:
    sections = [section(k, placed="interpolated" if k < 3 else "matched") for k in range(10)]
    document = judge_stack(sections, [pair(k, k + 1) for k in range(9)], LIMITS)
    assert document.verdict == "fail"
    assert [(r.code, r.value, r.limit) for r in document.reasons] == [("interpolated_share", 0.3, 0.2)]
    assert document.every_reason[0].text == "30 % of the sections are tied by no pair (limit 20 %)"


def test_every_reason_can_be_told() -> None:
    for code in REASONS:
        text = Reason(level="look", code=code, subject="x", value=0.5, limit=0.25).text
        assert "{" not in text
