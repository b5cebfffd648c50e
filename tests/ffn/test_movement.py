import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ffn.movement import Frontier, face_maxima


def test_each_face_gives_its_first_maximum_best_first() -> None:
    logits = np.zeros((9, 9, 9), np.float32)
    logits[4 - 2, 4, 4] = 5  # the -z face, its centre
    logits[4, 4 + 2, 3] = 7  # the +y face
    assert face_maxima(logits, deltas_zyx=(2, 2, 2), threshold=2.0) == [(7.0, (0, 2, -1)), (5.0, (-2, 0, 0))]


def test_equal_scores_go_by_descending_offset_and_an_edge_counts_once() -> None:
    logits = np.full((5, 5, 5), 3, np.float32)
    moves = face_maxima(logits, deltas_zyx=(1, 1, 1), threshold=3.0)
    assert [offset for _, offset in moves] == [(1, -1, -1), (-1, 1, -1), (-1, -1, 1), (-1, -1, -1)]


def test_an_axis_without_delta_has_no_faces() -> None:
    logits = np.full((1, 5, 5), 3, np.float32)
    moves = face_maxima(logits, deltas_zyx=(0, 1, 1), threshold=0.0)
    assert {offset[0] for _, offset in moves} == {0}
    assert len(moves) == 3


@given(st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_every_candidate_is_a_maximum_of_a_face_above_the_threshold(seed: int, levels: int) -> None:
    logits = np.random.default_rng(seed).integers(-levels, levels, (7, 9, 11)).astype(np.float32)
    deltas = (2, 3, 4)
    cube = logits[1:6, 1:8, 1:10]
    faces = [cube.take(i, axis) for axis, i in itertools.product(range(3), (0, -1))]
    moves = face_maxima(logits, deltas_zyx=deltas, threshold=1.0)
    expected = {float(face.max()) for face in faces if face.max() >= 1.0}
    assert {score for score, _ in moves} == expected
    for score, (z, y, x) in moves:
        assert logits[3 + z, 4 + y, 5 + x] == score
        assert any(abs(o) == d for o, d in zip((z, y, x), deltas, strict=True))
    assert moves == sorted(moves, reverse=True)


def test_the_start_lies_in_the_middle_of_its_lattice_cell() -> None:
    frontier = Frontier((20, 20, 20), deltas_zyx=(8, 8, 8))
    assert frontier.pop(lambda _: True) == (20, 20, 20)
    frontier.visit((20, 20, 20))
    frontier.extend((20, 20, 20), [(1.0, (3, -4, 0)), (1.0, (4, 0, 0)), (1.0, (-4, -5, 0))])
    assert frontier.pop(lambda _: True) == (24, 20, 20)  # offset -4..3 is the start's own cell
    assert frontier.pop(lambda _: True) == (16, 15, 20)
    assert frontier.pop(lambda _: True) is None


def test_the_corner_of_a_cell_is_its_first_voxel() -> None:
    frontier = Frontier((20, 20, 20), deltas_zyx=(8, 0, 5))
    assert frontier.cell_corner((20, 20, 20)) == (16, 20, 18)
    assert frontier.cell_corner((16, 20, 18)) == (16, 20, 18)
    assert frontier.cell_corner((23, 7, 22)) == (16, 7, 18)
    assert frontier.cell_corner((15, 7, 23)) == (8, 7, 23)


def test_a_look_ahead_leaves_the_queue_as_it_is() -> None:
    frontier = Frontier((0, 0, 0), deltas_zyx=(2, 2, 2))
    frontier.extend((0, 0, 0), [(1.0, (0, 0, 4)), (1.0, (0, 0, 8))])
    assert frontier.ahead(2) == ((0, 0, 0), (0, 0, 4))
    assert frontier.ahead(9) == frontier.pending
    assert len(frontier) == 3


def test_validity_is_asked_when_a_move_is_popped() -> None:
    frontier = Frontier((0, 0, 0), deltas_zyx=(2, 2, 2))
    frontier.extend((0, 0, 0), [(1.0, (0, 0, 4)), (1.0, (0, 0, 8))])
    assert frontier.pop(lambda p: p[2] > 5) == (0, 0, 8)
    assert len(frontier) == 0


def test_moves_near_a_visited_centre_are_left_out() -> None:
    frontier = Frontier((0, 0, 0), deltas_zyx=(4, 4, 4), min_distance=6)
    frontier.pop(lambda _: True)
    frontier.visit((0, 0, 0))
    near = [(1.0, (0, 0, 5)), (1.0, (-3, 4, 3))]  # 5 and 5.8 away
    frontier.extend((0, 0, 0), [*near, (1.0, (0, -6, 0)), (1.0, (-4, 4, 4))])
    assert frontier.pop(lambda _: True) == (0, -6, 0)
    assert frontier.pop(lambda _: True) == (-4, 4, 4)
    assert frontier.pop(lambda _: True) is None


def test_moves_left_out_for_nearness_are_counted_and_others_are_not() -> None:
    frontier = Frontier((10, 10, 10), deltas_zyx=(4, 4, 4), min_distance=5)
    frontier.visit((10, 10, 10))
    frontier.take_up(
        visited=[], pending=[(10, 10, 11), (10, 10, 14), (10, 14, 10), (10, 10, 20), (10, 10, 16)]
    )
    assert frontier.pop(lambda p: p != (10, 14, 10)) == (10, 10, 20)
    assert (
        frontier.skipped == 1
    )  # the first lies in a visited cell, the third is not valid: near was the second
    assert frontier.pending == ((10, 10, 16),)


def test_a_frontier_that_is_taken_up_goes_on_as_the_first_would_have() -> None:
    first = Frontier((10, 10, 10), deltas_zyx=(4, 4, 4), min_distance=3)
    start = first.pop(lambda _: True)
    assert start is not None
    first.visit(start)
    first.extend(start, [(1.0, (4, 0, 1)), (0.9, (0, 4, 2)), (0.8, (1, 1, 4))])
    second = Frontier((10, 10, 10), deltas_zyx=(4, 4, 4), min_distance=3)
    second.take_up(visited=[start], pending=first.pending)
    while (position := first.pop(lambda _: True)) is not None:
        assert second.pop(lambda _: True) == position
        first.visit(position)
        second.visit(position)
    assert second.pop(lambda _: True) is None
