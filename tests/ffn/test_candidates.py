import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffn.candidates import (
    CandidateError,
    DecisionPoint,
    find_contacts,
)

UNIT = (1.0, 1.0, 1.0)


def find_decision_points(labels: np.ndarray, **settings: Any) -> list[DecisionPoint]:
    return [contact.point for contact in find_contacts(labels, **settings)]


def bars(gap: int, *, ids: tuple[int, int] = (7, 3)) -> np.ndarray:
    """Two bars along y, `gap` voxels apart in x, that come 2 nearer around y = 10."""
    labels = np.zeros((5, 21, 30), np.uint64)
    labels[1:4, :, 3:10] = ids[0]
    labels[1:4, :, 10 + gap : 17 + gap] = ids[1]
    labels[2, 9:12, 10 + gap - 2] = labels[2, 9:12, 10 + gap - 1] = ids[1]
    return labels


def test_the_point_lies_in_the_middle_of_where_the_pair_is_nearest() -> None:
    (point,) = find_decision_points(bars(6), voxel_size_zyx_nm=(10.0, 10.0, 10.0), max_distance_nm=50.0)
    assert (point.first, point.second) == (3, 7)
    z, y, x = point.point_zyx
    assert (z, y) == (2, 10)
    assert 10 <= x < 14
    assert 20.0 <= point.distance_nm <= 30.0


@pytest.mark.parametrize(("limit", "found"), [(9.0, 0), (21.0, 1)])
def test_pairs_further_apart_than_twice_the_distance_are_none(limit: float, found: int) -> None:
    points = find_decision_points(bars(6), voxel_size_zyx_nm=(10.0, 10.0, 10.0), max_distance_nm=limit)
    assert len(points) == found


def test_the_voxel_size_decides_what_is_near() -> None:
    labels = np.zeros((6, 1, 1), np.uint32)
    labels[0], labels[3] = 1, 2
    for size_z, found in ((10.0, 1), (40.0, 0)):
        points = find_decision_points(labels, voxel_size_zyx_nm=(size_z, 1.0, 1.0), max_distance_nm=15.0)
        assert len(points) == found


def test_touching_segments_are_nearest_at_distance_zero_whatever_their_ids() -> None:
    ids = (2**64 - 1, 2**63)
    labels = bars(0, ids=ids)
    (point,) = find_decision_points(labels, voxel_size_zyx_nm=UNIT, max_distance_nm=0.0)
    assert (point.first, point.second, point.distance_nm) == (2**63, 2**64 - 1, 0.0)


def test_dust_is_no_candidate() -> None:
    labels = bars(6)
    labels[0, 0, 0] = 99
    pairs = [
        [
            (p.first, p.second)
            for p in find_decision_points(labels, voxel_size_zyx_nm=UNIT, max_distance_nm=9.0, min_voxels=n)
        ]
        for n in (0, 2)
    ]
    assert pairs == [[(3, 7), (7, 99)], [(3, 7)]]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_every_pair_of_touching_segments_has_a_point_where_it_touches(seed: int, most: int) -> None:
    labels = np.random.default_rng(seed).integers(0, most + 1, (4, 5, 6)).astype(np.uint16)
    touching: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    steps = list(itertools.product((-1, 0, 1), repeat=3))
    for here in np.ndindex(*labels.shape):
        for step in steps:
            there = tuple(a + b for a, b in zip(here, step, strict=True))
            if not all(0 <= t < n for t, n in zip(there, labels.shape, strict=True)):
                continue
            a, b = sorted((int(labels[here]), int(labels[there])))
            if a and a != b:
                touching.setdefault((a, b), []).append(here)
    points = find_decision_points(labels, voxel_size_zyx_nm=UNIT, max_distance_nm=0.0)
    assert [(p.first, p.second) for p in points] == sorted(touching)
    for point in points:
        assert point.point_zyx in touching[point.first, point.second]


def test_overlapping_volumes_share_the_points_by_their_cores() -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 9, (4, 6, 8)).repeat(4, 0).repeat(4, 1).repeat(4, 2).astype(np.uint32)
    reach = 6
    shared: list[DecisionPoint] = []
    for low, high in ((0, 16), (16, 32)):
        start, stop = max(low - reach, 0), min(high + reach, 32)
        core = (slice(None), slice(None), slice(low - start, high - start))
        for p in find_decision_points(
            labels[:, :, start:stop], voxel_size_zyx_nm=UNIT, max_distance_nm=2.0, core=core
        ):
            z, y, x = p.point_zyx
            assert low <= x + start < high
            shared.append(
                DecisionPoint(
                    first=p.first, second=p.second, point_zyx=(z, y, x + start), distance_nm=p.distance_nm
                )
            )
    whole = find_decision_points(labels, voxel_size_zyx_nm=UNIT, max_distance_nm=2.0)
    assert {(p.first, p.second) for p in shared} == {(p.first, p.second) for p in whole}
    nearest = {(p.first, p.second): p.distance_nm for p in sorted(shared, key=lambda p: -p.distance_nm)}
    assert nearest == {(p.first, p.second): p.distance_nm for p in whole}


def test_nothing_to_find_and_wrong_input() -> None:
    empty = np.zeros((4, 4, 4), np.uint8)
    assert find_decision_points(empty, voxel_size_zyx_nm=UNIT, max_distance_nm=3.0) == []
    assert find_decision_points(empty + 1, voxel_size_zyx_nm=UNIT, max_distance_nm=3.0) == []
    with pytest.raises(CandidateError, match="labels: expected three axes"):
        find_decision_points(empty[0], voxel_size_zyx_nm=UNIT, max_distance_nm=3.0)
    with pytest.raises(CandidateError, match="labels: expected unsigned"):
        find_decision_points(empty.astype(np.int32), voxel_size_zyx_nm=UNIT, max_distance_nm=3.0)
    with pytest.raises(CandidateError, match="voxel_size_zyx_nm"):
        find_decision_points(empty, voxel_size_zyx_nm=(0.0, 1.0, 1.0), max_distance_nm=3.0)


def test_a_contact_says_how_much_of_a_segment_it_is_and_how_dark() -> None:
    """3 lies in a corner of 5, beside 9 behind a dark wall: most of its faces are with 5."""
    labels = np.zeros((4, 6, 8), np.uint32)
    labels[:, :, :4], labels[:, :, 4:] = 5, 9
    labels[:2, :2, 2:4] = 3
    image = np.full(labels.shape, 150, np.uint8)
    image[:, :, 3:5] = 50
    inside = image.astype(np.float64)
    contacts = {
        (c.point.first, c.point.second): c
        for c in find_contacts(labels, voxel_size_zyx_nm=UNIT, max_distance_nm=0.0, image=image)
    }
    assert {pair: c.faces for pair, c in contacts.items()} == {
        (3, 5): 2 * 2 + 2 * 2 + 2 * 2,
        (3, 9): 2 * 2,
        (5, 9): 4 * 6 - 2 * 2,
    }
    assert contacts[3, 5].share == pytest.approx(12 / 16)
    assert contacts[3, 9].share == pytest.approx(4 / 16)
    assert contacts[5, 9].share == pytest.approx(20 / 24)  # 9 has fewer faces than 5
    dark = (50 - inside.mean()) / inside.std()
    assert contacts[5, 9].grey == pytest.approx(dark, rel=1e-5)
    bright = (150 - inside.mean()) / inside.std()
    seam = [bright] * 4 + [bright, dark] * 4  # towards x = 1; towards y = 2 and z = 2
    assert contacts[3, 5].grey == pytest.approx(np.mean(seam), rel=1e-5)


def test_the_faces_of_a_core_are_those_of_its_own_voxels() -> None:
    random = np.random.default_rng(3)
    labels = random.integers(1, 4, (6, 6, 6)).astype(np.uint32)
    whole = find_contacts(labels, voxel_size_zyx_nm=UNIT, max_distance_nm=0.0)
    halves = [
        find_contacts(
            labels,
            voxel_size_zyx_nm=UNIT,
            max_distance_nm=0.0,
            core=(slice(a, b), slice(0, 6), slice(0, 6)),
        )
        for a, b in ((0, 3), (3, 6))
    ]
    assert [c.faces for c in whole] == [sum(c.faces for c in found) for found in zip(*halves, strict=True)]
    assert all(np.isnan(c.grey) for c in whole)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([UNIT, (40.0, 8.0, 8.0), (3.3, 1.7, 1.1)]),
    near=st.sampled_from([0.0, 1.0, 2.5, 6.0]),
    planes=st.integers(1, 7),
)
def test_contacts_do_not_depend_on_how_many_planes_are_grown_at_a_time(
    seed: int, size: tuple[float, float, float], near: float, planes: int
) -> None:
    """Ties between segments as near as each other included: sparse labels on a lattice have many."""
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(3, 16, 3))
    labels = (random.integers(1, 9, shape) * (random.random(shape) < random.choice([0.02, 0.1, 0.6]))).astype(
        np.uint64
    )
    image = random.integers(0, 256, shape).astype(np.uint8)
    core = (slice(1, shape[0] - 1), slice(0, shape[1]), slice(0, shape[2] - 1))

    def found(**how: int) -> list[object]:
        return [
            *find_contacts(
                labels,
                voxel_size_zyx_nm=size,
                max_distance_nm=near * min(size),
                image=image,
                core=core,
                min_voxels=2,
                **how,
            )
        ]

    assert repr(found(planes=planes)) == repr(found())


def test_an_image_of_fractions_is_refused() -> None:
    labels = bars(2)
    with pytest.raises(CandidateError, match="image: expected integers, found float64"):
        find_contacts(labels, voxel_size_zyx_nm=UNIT, max_distance_nm=1.0, image=labels.astype(float))
