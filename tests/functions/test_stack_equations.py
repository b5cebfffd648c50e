"""Equations that are summed up piece by piece are those that matches say, knot for knot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from functions.model.scratch import Held
from functions.model.transform import Sheet, Warp
from functions.registration import match_rows, plates, relax
from functions.registration.common import lay_frame
from functions.registration.match_rows import Former
from functions.registration.plates import Plates, coarse_modes, lay_plates
from functions.registration.priors import PAIR_SIGMA_PX, lay_prior
from functions.registration.relax import solve_stack
from functions.registration.stack import StackPair, StackSection, StoredPair
from functions.registration.stack_equations import StackEquations
from functions.store.scratch import Scratch
from tests.functions.synthetic_stacks import SPACING_PX, SyntheticStack, synthetic_stack
from tests.functions.test_cut_sheets import two_regions

LOCKED = 2


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several groups, and pieces that cut pairs in two."""
    monkeypatch.setattr(plates, "GROUP_UNKNOWNS", 100)
    monkeypatch.setattr(match_rows, "PIECE_MATCHES", 29)


def stack_and_plates(*, locked: bool) -> tuple[SyntheticStack, Former, StackEquations, float]:
    stack = synthetic_stack(9, apart=(1, 3), shape=(200, 240), grid=4, match_sigma_px=0.5)
    held = dict(enumerate(stack.truth[:LOCKED])) if locked else {}
    rigid = [warp.affine for warp in stack.truth]
    frame = lay_frame(stack.sections, rigid, SPACING_PX) if locked else None
    pairs = [p for p in stack.pairs if not (p.a in held and p.b in held)]
    laid = lay_plates(stack.sections, pairs, SPACING_PX, held, frame)
    former = Former(
        sections=stack.sections,
        pairs=pairs,
        counts=np.array([len(p.matches) for p in pairs]),
        rigid=rigid,
        plates=laid,
        spacing_px=SPACING_PX,
        locked=held,
    )
    factors = np.linspace(1.0, 2.0, len(laid.owner))
    prior = lay_prior(laid, rigid, factors, frame=frame, locked=held, locked_stiffness=1.0)
    return stack, former, StackEquations(former, prior, Held()), 0.7


def placed(former: Former, unknowns: np.ndarray, section: int, points: np.ndarray) -> np.ndarray:
    """Where a section's map puts points, if these are the unknowns."""
    if section in former.locked:
        return former.locked[section].apply(points)
    laid = former.plates
    (plate,) = laid.of(section)
    coefficients = unknowns[laid.range_of(plate)].T.reshape(2, *laid.knots[section])
    sheet = Sheet(spacing_px=SPACING_PX, coefficients=coefficients)
    return Warp(affine=former.rigid[section]).apply(points) + sheet(points)


def misfits(former: Former, unknowns: np.ndarray) -> np.ndarray:
    """How far (M, 2) each match is off, from what maps are."""
    return np.concatenate(
        [
            placed(former, unknowns, p.a, p.matches.a_yx)
            - placed(former, unknowns, p.b, p.matches.b_yx)
            + unknowns[former.plates.offset[k]]
            for k, p in enumerate(former.pairs)
        ]
    )


@pytest.mark.parametrize("locked", [False, True])
def test_residuals_are_those_of_the_maps(locked: bool) -> None:
    _, former, equations, _ = stack_and_plates(locked=locked)
    unknowns = np.random.default_rng(0).normal(size=(former.plates.size, 2))
    expected = np.linalg.norm(misfits(former, unknowns), axis=1)
    np.testing.assert_allclose(equations.residual_px(unknowns), expected, rtol=1e-9)
    assert len({piece.edge for piece in former.pieces()}) > 3
    assert max(len(piece.parts) for piece in former.pieces()) > 1
    assert any(part.start for piece in former.pieces() for _, part in piece.parts)


@pytest.mark.parametrize("locked", [False, True])
def test_the_system_is_the_slope_of_the_cost(locked: bool) -> None:
    """2 (N x - r) is how the cost of matches and prior changes with the unknowns: by differences of it."""
    _, former, equations, weight = stack_and_plates(locked=locked)
    rng = np.random.default_rng(1)
    robust = rng.uniform(0, weight, equations.count)
    nothing = np.zeros(equations.count)
    matrix, right = equations.system(robust, np.zeros((former.plates.size, 2)), nothing)
    dz = np.repeat([p.b - p.a for p in former.pairs], former.counts)
    variance = 0.6**2 / dz / match_rows.MATCH_SIGMA_PX**2
    prior = sum_of_prior(equations, former.plates)

    def cost(unknowns: np.ndarray) -> float:
        misfit = (variance * robust) @ (misfits(former, unknowns) ** 2).sum(axis=1)
        known = (unknowns * (prior @ unknowns)).sum() - 2 * (unknowns * equations.prior.right).sum()
        return float(misfit + known)

    for _ in range(5):
        x, step = rng.normal(size=(2, former.plates.size, 2))
        expected = (cost(x + step) - cost(x - step)) / 2  # exact: the cost is quadratic
        assert 2 * float((step * (matrix @ x - right)).sum()) == pytest.approx(expected, rel=1e-9)


def sum_of_prior(equations: StackEquations, laid: Plates) -> np.ndarray:
    """The prior's blocks as one dense matrix."""
    bounds = laid.bounds[laid.groups]
    whole = np.zeros((laid.size, laid.size))
    for row in range(len(bounds) - 1):
        for column, block in equations.prior.blocks(row).items():
            rows, columns = (slice(bounds[g], bounds[g + 1]) for g in (row, column))
            whole[rows, columns], whole[columns, rows] = block.toarray(), block.toarray().T
    assert (np.linalg.eigvalsh(whole) > -1e-9).all()
    offsets = laid.offset[:, None], laid.offset[None]
    np.testing.assert_array_equal(whole[offsets], np.eye(len(laid.offset)) / PAIR_SIGMA_PX**2)
    return whole


def test_every_unknown_is_one_thing() -> None:
    """Plates of whole, parted and locked sections, offsets and the frame's sheet share no unknown."""
    shapes = [(200, 240), (160, 160), (300, 200), (200, 240)]
    sections = [
        StackSection(z=k, shape_yx=shape, regions=two_regions() if k == 1 else None)
        for k, shape in enumerate(shapes)
    ]
    matches = synthetic_stack(2).pairs[0].matches
    pairs = [StackPair(a=a, b=b, matches=matches) for a, b in ((2, 3), (0, 1), (1, 2), (0, 3))]
    locked = {0: Warp(affine=np.eye(2, 3))}
    frame = lay_frame(sections, [np.eye(2, 3)] * 4, SPACING_PX)
    laid = lay_plates(sections, pairs, SPACING_PX, locked, frame)
    assert [len(laid.of(k)) for k in range(5)] == [0, 2, 1, 1, 1]
    owned = [np.r_[laid.range_of(plate)] for plate in range(len(laid.owner))]
    np.testing.assert_array_equal(np.sort(np.concatenate([*owned, laid.offset])), np.arange(laid.size))
    holder = np.searchsorted(laid.bounds, laid.offset, side="right") - 1
    assert holder.tolist() == [2, 1, 1, 3]  # the first section of a pair that is not locked
    assert laid.groups[-2:].tolist() == [4, 5], "the frame's sheet is a group by itself"
    modes = coarse_modes(laid)
    assert modes.shape == (laid.size, 3 * 5 + 4)
    assert (abs(modes).sum(axis=1) > 0).all()


@pytest.mark.parametrize("locked", [False, True])
def test_matches_and_equations_in_files_give_the_same_maps(tmp_path: Path, locked: bool) -> None:
    """To the bit, whatever is held in memory."""
    stack = synthetic_stack(8, apart=(1, 2), shape=(240, 240), grid=6)
    held = dict(enumerate(stack.truth[:LOCKED])) if locked else {}
    reads: list[int] = []

    def stored(pair: StackPair) -> StoredPair:
        def read() -> object:
            reads.append(pair.a)
            return pair.matches

        return StoredPair(a=pair.a, b=pair.b, read=read)  # type: ignore[arg-type]

    layout = relax.Layout(step=2)
    first = solve_stack(stack.sections, stack.pairs, spacing_px=SPACING_PX, locked=held, layout=layout)
    with Scratch(tmp_path / "scratch") as scratch:
        second = solve_stack(
            stack.sections,
            [stored(p) for p in stack.pairs],
            spacing_px=SPACING_PX,
            locked=held,
            layout=layout,
            scratch=scratch,
        )
        assert {path.name for path in (tmp_path / "scratch").glob("*/*")} == {"factors", "normal", "rows"}
    assert set(reads) == {p.a for p in stack.pairs}
    for one, other in zip(first.warps, second.warps, strict=True):
        np.testing.assert_array_equal(one.affine, other.affine)
        assert isinstance(one.sheet, Sheet)
        assert isinstance(other.sheet, Sheet)
        np.testing.assert_array_equal(one.sheet.coefficients, other.sheet.coefficients)


@pytest.mark.parametrize("placed", [range(3), range(6, 9), (0, 3, 4, 8)])
def test_locked_sections_make_up_no_group(monkeypatch: pytest.MonkeyPatch, placed: Sequence[int]) -> None:
    """A section that fills a group by itself, among locked ones: the same maps as in one group."""
    stack = synthetic_stack(9, apart=(1, 3), shape=(200, 240), grid=6)
    held = {k: stack.truth[k] for k in placed}
    found = []
    for unknowns in (10_000, 30):
        monkeypatch.setattr(plates, "GROUP_UNKNOWNS", unknowns)
        found.append(solve_stack(stack.sections, stack.pairs, spacing_px=SPACING_PX, locked=held).warps)
    points = stack.sections[0].grid(7)
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one.apply(points), other.apply(points), atol=1e-6)


def test_a_parted_section_has_factors_no_wider_than_a_whole_one() -> None:
    stack, held = synthetic_stack(4, shape=(200, 240), grid=6), Held()
    sections = [replace(s, regions=two_regions() if k == 2 else None) for k, s in enumerate(stack.sections)]
    layout = relax.Layout(step=1, overlap=0)
    solve_stack(sections, stack.pairs, spacing_px=SPACING_PX, layout=layout, scratch=held)
    bands = [held.read(f"factors/{k}", ("bands",))["bands"] for k in range(5)]
    assert len({factor.shape for factor in bands}) == 1
