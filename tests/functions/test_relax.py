"""The joint solve of a stack: straight, sewn at no seam, true to what is locked, unmoved by damage."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from functions.model.regions import LINE, Regions
from functions.model.transform import CutSheet, Sheet, Warp
from functions.registration.blocks import Layout
from functions.registration.elastic import shrinks
from functions.registration.relax import solve_stack
from functions.registration.stack import StackPair, StackSection
from tests.functions.synthetic_stacks import (
    SPACING_PX,
    SyntheticStack,
    apart_px,
    fibre,
    matches,
    noise,
    steps,
    synthetic_stack,
)


def neighbour_errors(stack: SyntheticStack, warps: tuple[Warp, ...]) -> np.ndarray:
    axes = np.linspace(40, stack.sections[0].shape_yx[0] - 41, 6)
    placed = [fibre(stack, warps, (float(y), float(x))) for y in axes for x in axes]
    return np.linalg.norm(np.diff(placed, axis=1), axis=2)


def test_a_straight_fibre_stays_straight_over_200_sections() -> None:
    stack = synthetic_stack(200, apart=steps(), shape=(160, 160), grid=5, pair_sigma_px=1.0)
    warps = solve_stack(stack.sections, stack.pairs, spacing_px=SPACING_PX).warps
    for point in ((80.0, 80.0), (30.0, 30.0), (130.0, 60.0)):
        line = fibre(stack, warps, point)
        assert np.linalg.norm(line - line.mean(axis=0), axis=1).max() < 3.0


def test_oblique_tissue_keeps_its_slope_where_the_stage_is_trusted() -> None:
    """Fibres run sideways by 2 px a section; images alone set them upright, and push the sections apart."""
    slope = np.array([1.5, -1.3])
    plain = synthetic_stack(24, apart=steps(), shape=(200, 200), grid=6)
    pairs = [
        replace(p, matches=replace(p.matches, b_yx=p.matches.b_yx + (p.b - p.a) * slope)) for p in plain.pairs
    ]
    centre = np.full((1, 2), 99.5)
    gaps = [0, *range(5, 28)]
    sections = [
        replace(s, z=z, stage_origin_yx_px=tuple(t.apply(centre)[0] - centre[0]))
        for z, s, t in zip(gaps, plain.sections, plain.truth, strict=True)
    ]
    stack = replace(plain, pairs=pairs, sections=sections)
    upright, sloped = (
        solve_stack(sections, pairs, spacing_px=SPACING_PX, trust_stage=trust) for trust in (False, True)
    )
    lean = [np.polyfit(gaps, fibre(stack, found.warps, (100.0, 100.0)), 1)[0] for found in (upright, sloped)]
    assert np.linalg.norm(lean[0]) > 1.0
    assert np.linalg.norm(lean[1]) < 0.1
    held = solve_stack(sections, pairs, spacing_px=SPACING_PX, locked={0: upright.warps[0]}, trust_stage=True)
    late = [w.apply(centre)[0] - u.apply(centre)[0] for w, u in zip(held.warps, upright.warps, strict=True)]
    assert np.linalg.norm(late, axis=1).max() < 1.0, "locked sections have the slope already"


def test_a_cylinder_of_bent_sections_keeps_place_and_size() -> None:
    stack = synthetic_stack(30, apart=steps(), shape=(240, 240), grid=6, bend_px=3.0)
    warps = solve_stack(stack.sections, stack.pairs, spacing_px=SPACING_PX).warps
    ring = [(120 + 80 * np.sin(t), 120 + 80 * np.cos(t)) for t in np.arange(6) * np.pi / 3]
    lines = np.array([fibre(stack, warps, point) for point in ring])
    middle = lines.mean(axis=0)
    assert np.linalg.norm(middle - middle.mean(axis=0), axis=1).max() < 0.5
    radius = np.linalg.norm(lines - middle, axis=2).mean(axis=0)
    assert radius == pytest.approx(80.0, rel=0.01)
    assert np.ptp(radius) < 0.5


@pytest.fixture(scope="module")
def stack_of_24() -> SyntheticStack:
    return synthetic_stack(24, apart=steps(), shape=(200, 200), grid=6, pair_sigma_px=0.5)


@pytest.mark.parametrize("layout", [Layout(step=3), Layout(step=8, overlap=2), Layout(step=1, overlap=0)])
def test_blocks_of_any_layout_give_the_whole_solve(stack_of_24: SyntheticStack, layout: Layout) -> None:
    stack = stack_of_24
    whole = solve_stack(stack.sections, stack.pairs, spacing_px=SPACING_PX, layout=Layout(step=24, overlap=0))
    parted = solve_stack(stack.sections, stack.pairs, spacing_px=SPACING_PX, layout=layout)
    assert apart_px(whole.warps, parted.warps, stack.sections).max() < 0.1


@pytest.mark.slow
def test_time_and_memory_grow_no_faster_than_the_pairs() -> None:
    seconds, peak = [], []
    for count in (60, 240):  # fewer are solved at once
        stack = synthetic_stack(count, apart=steps(), shape=(240, 240), grid=5, pair_sigma_px=0.3)
        begun = time.process_time()
        solve_stack(stack.sections, stack.pairs, spacing_px=SPACING_PX)
        seconds.append((time.process_time() - begun) / len(stack.pairs))
        tracemalloc.start()
        solve_stack(stack.sections, stack.pairs, spacing_px=SPACING_PX)
        peak.append(tracemalloc.get_traced_memory()[1] / len(stack.pairs))
        tracemalloc.stop()
    assert seconds[1] < 1.5 * seconds[0]
    assert peak[1] < 1.1 * peak[0]


def test_sections_locked_as_they_arrive_do_not_move() -> None:
    stack = synthetic_stack(20, apart=steps(), shape=(240, 240), grid=7, pair_sigma_px=0.2)
    locked: dict[int, Warp] = {}
    first: dict[int, Warp] = {}
    for count in (4, 8, 12, 16, 20):
        sections, pairs = stack.first(count)
        solved = solve_stack(sections, pairs, spacing_px=SPACING_PX, locked=locked)
        for k, warp in locked.items():
            assert isinstance(warp.sheet, Sheet)
            assert isinstance(solved.warps[k].sheet, Sheet)
            assert solved.warps[k].affine.tobytes() == warp.affine.tobytes()
            assert solved.warps[k].sheet.coefficients.tobytes() == warp.sheet.coefficients.tobytes()
        locked = dict(enumerate(solved.warps))
        first = first or locked
    whole = solve_stack(stack.sections, stack.pairs, spacing_px=SPACING_PX, locked=first)
    off = apart_px([locked[k] for k in range(20)], whole.warps, stack.sections)
    assert off.mean() < 0.25
    assert np.percentile(off, 95) < 0.5
    assert neighbour_errors(stack, tuple(locked.values())).mean() < 0.3


def test_what_follows_locked_sections_is_where_the_whole_solve_has_it() -> None:
    """With matches off by 2 px the residuals are large: the stack gains by shrinking, unless they count in
    pixels of the sections."""
    stack = synthetic_stack(14, apart=(1, 2, 6), shape=(320, 320), grid=10, match_sigma_px=2.0)
    whole = solve_stack(stack.sections, stack.pairs, spacing_px=SPACING_PX)
    locked = dict(enumerate(whole.warps[:4]))
    again = solve_stack(stack.sections, stack.pairs, spacing_px=SPACING_PX, locked=locked)
    off = apart_px(again.warps, whole.warps, stack.sections)
    assert off[:4].max() == 0.0
    assert off.mean(axis=1).max() < 0.2
    assert np.linalg.det(whole.warps[0].affine[:, :2]) == pytest.approx(1.0, abs=0.02)


def test_a_new_section_that_matches_nothing_leaves_locked_ones_alone() -> None:
    stack = synthetic_stack(4)
    locked = dict(enumerate(stack.truth[:3]))
    pairs = [p for p in stack.pairs if p.b < 3]
    solved = solve_stack(stack.sections, pairs, spacing_px=SPACING_PX, locked=locked)
    assert all(solved.warps[k] is warp for k, warp in locked.items())
    assert solved.held == (True, True, True, False)


def test_all_locked_is_what_it_was() -> None:
    stack = synthetic_stack(3)
    locked = dict(enumerate(stack.truth))
    solved = solve_stack(stack.sections, stack.pairs, spacing_px=SPACING_PX, locked=locked)
    assert all(solved.warps[k] is warp for k, warp in locked.items())
    assert np.concatenate(solved.residuals_px).mean() < 0.3


def halves() -> Regions:
    labels = np.zeros((40, 40), dtype=np.int16)
    labels[:, 20], labels[:, 21:] = LINE, 1
    return Regions(labels=labels)


def folded(stack: SyntheticStack, section: int, hidden_px: float) -> SyntheticStack:
    """The stack after a fold along x = 164 of one section, whose right half moved left over its left one."""

    def moved(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        right = points[:, 1] > 164 + hidden_px
        seen = right | (points[:, 1] < 164)
        return points - np.stack([np.zeros(len(points)), hidden_px * right], axis=1), seen

    pairs = []
    for pair in stack.pairs:
        m = pair.matches
        a, seen_a = moved(m.a_yx) if pair.a == section else (m.a_yx, np.ones(len(m), bool))
        b, seen_b = moved(m.b_yx) if pair.b == section else (m.b_yx, np.ones(len(m), bool))
        pairs.append(replace(pair, matches=replace(m, a_yx=a, b_yx=b).take(seen_a & seen_b)))
    sections = [replace(s, regions=halves()) if k == section else s for k, s in enumerate(stack.sections)]
    return replace(stack, sections=sections, pairs=pairs)


def test_a_fold_is_opened_and_its_neighbours_stay() -> None:
    plain = synthetic_stack(6, grid=12)
    stack = folded(plain, 3, 24.0)
    warps = solve_stack(stack.sections, stack.pairs, spacing_px=SPACING_PX).warps
    assert isinstance(warps[3].sheet, CutSheet)
    edge = np.array([[y, x] for y in (60.0, 160.0, 250.0) for x in (150.0, 180.0)])
    # what lies right of the fold was 24 px further right before it folded
    unfolded = edge + np.where(edge[:, 1:] > 164, [[0.0, 24.0]], 0.0)
    there = plain.truth[4].inverse(plain.truth[3].apply(unfolded))
    assert np.linalg.norm(warps[3].apply(edge) - warps[4].apply(there), axis=1).max() < 0.5


def test_a_region_without_matches_follows_its_neighbour() -> None:
    stack = folded(synthetic_stack(5, grid=12), 2, 0.0)
    pairs = []
    for pair in stack.pairs:
        points = pair.matches.a_yx if pair.a == 2 else pair.matches.b_yx
        left = points[:, 1] < 164 if 2 in (pair.a, pair.b) else np.ones(len(points), bool)
        pairs.append(replace(pair, matches=pair.matches.take(left)))
    warp = solve_stack(stack.sections, pairs, spacing_px=SPACING_PX).warps[2]
    beside = np.array([[y, x] for y in (60.0, 160.0, 250.0) for x in (158.0, 170.0)])
    left, right = warp.branches
    assert np.linalg.norm(left.apply(beside) - right.apply(beside), axis=1).max() < 1.5


def test_a_damaged_section_does_not_pull_on_its_neighbours() -> None:
    stack = synthetic_stack(9)
    rng = np.random.default_rng(5)
    pairs = [
        replace(p, matches=replace(p.matches, b_yx=p.matches.b_yx + noise(rng, p.matches.b_yx, 8.0)))
        if 4 in (p.a, p.b)
        else p
        for p in stack.pairs
    ]
    warps = solve_stack(stack.sections, pairs, spacing_px=SPACING_PX).warps
    others = [k for k in range(9) if k != 4]
    bare = SyntheticStack(
        sections=[stack.sections[k] for k in others], pairs=[], truth=[stack.truth[k] for k in others]
    )
    assert neighbour_errors(bare, tuple(warps[k] for k in others)).mean() < 0.4


def test_a_pair_that_contradicts_all_others_is_refused() -> None:
    stack = synthetic_stack(14, apart=(1, 2, 6), shape=(240, 240), grid=6)
    chosen = next(k for k, p in enumerate(stack.pairs) if (p.a, p.b) == (3, 9))
    wrong = stack.pairs[chosen]
    moved = replace(wrong.matches, b_yx=wrong.matches.b_yx + np.array([100.0, -80.0]))
    pairs = [replace(p, matches=moved) if k == chosen else p for k, p in enumerate(stack.pairs)]
    solved = solve_stack(stack.sections, pairs, spacing_px=SPACING_PX)
    assert solved.refused == (chosen,)
    assert neighbour_errors(stack, solved.warps).mean() < 0.2
    alone = [p for p in pairs if p.b < 4 or p.a > 8] + [pairs[chosen]]
    held = solve_stack(stack.sections, alone, spacing_px=SPACING_PX)
    assert held.refused == (), "no other pair says where the far group lies"


def test_a_map_that_would_turn_inside_out_is_stiffened() -> None:
    """Matches of one corner claim that tissue swapped sides within 60 px."""
    stack = synthetic_stack(3, apart=(1,), grid=12, bend_px=0.0)
    pairs = []
    for pair in stack.pairs:
        m = pair.matches
        near = np.linalg.norm(m.b_yx - m.b_yx[m.b_yx.sum(axis=1).argmin()], axis=1) < 110
        turned = m.b_yx.copy()
        turned[near] = 2 * m.b_yx[near].mean(axis=0) - m.b_yx[near]
        pairs.append(replace(pair, matches=replace(m, b_yx=turned)) if pair.b == 1 else pair)
    solved = solve_stack(stack.sections, pairs, spacing_px=40.0, stiffness=0.01)
    for k, section in enumerate(stack.sections):
        assert k in solved.bent or not shrinks(solved.warps[k], section)


def test_a_map_turned_inside_out_is_seen() -> None:
    section = StackSection(z=0, shape_yx=(320, 320))
    bump = np.zeros((2, 7, 7))
    assert not shrinks(Warp(affine=np.eye(2, 3), sheet=Sheet(spacing_px=80.0, coefficients=bump)), section)
    bump[0, 3, 3] = 200.0
    assert shrinks(Warp(affine=np.eye(2, 3), sheet=Sheet(spacing_px=80.0, coefficients=bump)), section)
    assert shrinks(Warp(affine=np.diag([1.0, -1.0, 0.0])[:2]), section)


def test_stacks_without_pairs_are_placed_by_stage() -> None:
    sections = [StackSection(z=k, shape_yx=(90, 80), stage_origin_yx_px=(5.0 * k, 0.0)) for k in range(2)]
    solved = solve_stack(sections, [], spacing_px=SPACING_PX)
    assert solved.held == (False, False)
    placed = [w.apply(np.zeros((1, 2)))[0] for w in solved.warps]
    np.testing.assert_allclose(placed[1] - placed[0], [5.0, 0.0], atol=1e-3)
    alone = solve_stack(sections[:1], [], spacing_px=SPACING_PX)
    assert alone.held == (True,)
    np.testing.assert_allclose(alone.warps[0].affine, np.eye(2, 3))


def test_a_group_of_its_own_goes_by_stage_and_is_not_held() -> None:
    stack = synthetic_stack(5, bend_px=0.0)
    pairs = [p for p in stack.pairs if p.b < 3] + [
        StackPair(a=3, b=4, matches=matches(stack.sections[3].grid(5), stack.sections[4].grid(5)))
    ]
    assert solve_stack(stack.sections, pairs, spacing_px=SPACING_PX).held == (True, True, True, False, False)
