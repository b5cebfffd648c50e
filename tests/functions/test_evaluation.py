"""Evaluation: every figure says how unlabelled voxels were treated."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from functions.evaluation import evaluate
from functions.evaluation_parts import OBJECT_BYTES, SLAB_BYTES, require_whole
from functions.model.errors import MemoryBudgetError, VolumeError
from functions.model.geometry import Box
from functions.model.volume import VolumeRef
from functions.store.label_files import open_labels
from functions.store.volumes import Volume
from tests.functions.aligned_runs import voronoi
from tests.functions.reference_evaluation import evaluate_whole
from tests.functions.test_budget import blocks, in_fresh_process, linux, require_near, taken_mib

NM = (10.0, 10.0, 10.0)
HALVES = np.repeat([[[1, 1, 1, 1, 2, 2, 2, 2]]], 8, axis=1).repeat(8, axis=0)


def test_a_perfect_segmentation_has_no_error() -> None:
    truth = voronoi((16, 24, 24), 8, seed=1)
    found = evaluate(truth.astype(np.uint32) + 100, truth, voxel_size_zyx_nm=NM, min_skeleton_voxels=1)
    assert found.voi_sum_fill == pytest.approx(0, abs=1e-9)
    assert found.rand_error_keep == pytest.approx(0, abs=1e-12)
    assert found.labelled_fraction == 1.0
    assert found.objects == found.true_objects == 8
    assert found.erl_um is not None
    assert found.erl_um > 0
    assert found.to_json()["voi_sum_fill"] == 0.0


def test_two_halves_in_one_are_a_merge_of_one_bit_and_the_other_way_a_split() -> None:
    one = np.ones_like(HALVES)
    merged = evaluate(one, HALVES, voxel_size_zyx_nm=NM, min_skeleton_voxels=None)
    assert (merged.voi_split_fill, merged.voi_merge_fill) == pytest.approx((0, 1))
    split = evaluate(HALVES, one, voxel_size_zyx_nm=NM, min_skeleton_voxels=None)
    assert (split.voi_split_fill, split.voi_merge_fill) == pytest.approx((1, 0))
    assert merged.erl_um is None


def test_unlabelled_voxels_count_as_each_figure_says() -> None:
    seen = HALVES.copy()
    seen[:, :, 3:5] = 0
    found = evaluate(seen, HALVES, voxel_size_zyx_nm=NM, min_skeleton_voxels=None)
    assert found.labelled_fraction == 0.75
    assert found.voi_split_keep + found.voi_merge_keep > 0.5
    assert found.voi_split_labelled + found.voi_merge_labelled == pytest.approx(0)
    assert found.voi_sum_fill == pytest.approx(0)


def test_the_rim_is_cut_after_filling() -> None:
    seen = HALVES.copy()
    seen[:, :, 1:] = 0
    seen[:, :, 7] = 2
    found = evaluate(seen, HALVES, voxel_size_zyx_nm=NM, rim_zyx_px=(2, 2, 2), min_skeleton_voxels=None)
    assert found.voxels == 4**3
    assert found.labelled_fraction == 0
    assert found.voi_sum_fill == pytest.approx(0)


def test_background_may_be_left_out() -> None:
    truth = HALVES.copy()
    truth[0] = 0
    seen = HALVES.copy()
    seen[0] = 1
    without = evaluate(seen, truth, voxel_size_zyx_nm=NM, background_counts=False, min_skeleton_voxels=None)
    assert without.voi_sum_fill == pytest.approx(0)
    counted = evaluate(seen, truth, voxel_size_zyx_nm=NM, min_skeleton_voxels=None)
    assert counted.voi_merge_fill > 0.1


def test_shapes_must_agree_and_leave_something() -> None:
    with pytest.raises(VolumeError, match=r"segmentation \(8, 8, 8\), truth \(7, 8, 8\): shapes differ"):
        evaluate(HALVES, HALVES[1:], voxel_size_zyx_nm=NM)
    with pytest.raises(VolumeError, match="rim_zyx_px"):
        evaluate(HALVES, HALVES, voxel_size_zyx_nm=NM, rim_zyx_px=(4, 4, 4))


def test_volumes_are_compared_in_a_box(tmp_path: Path) -> None:
    truth = voronoi((8, 20, 20), 6, seed=2)
    ref = VolumeRef(
        path="truth.zarr", kind="labels", shape_zyx=(8, 20, 20), chunk_zyx=(8, 8, 8), dtype="uint32",
        voxel_size_zyx_nm=NM,
    )  # fmt: skip
    wide = ref.model_copy(update={"path": "wide.zarr", "dtype": "uint64"})
    Volume.create(tmp_path, ref).write(ref.box, truth.astype(np.uint32))
    Volume.create(tmp_path, wide).write(wide.box, truth.astype(np.uint64) + np.uint64(2**63))
    box = Box(offset_zyx=(0, 2, 2), shape_zyx=(8, 16, 16))
    found = evaluate(
        *(open_labels(tmp_path / stored.path, box=box) for stored in (wide, ref)), voxel_size_zyx_nm=NM
    )
    inside = truth[box.slices]
    assert repr(found) == repr(evaluate_whole(inside, inside, voxel_size_zyx_nm=NM))
    assert found.voxels == box.voxels
    assert found.voi_sum_fill == pytest.approx(0, abs=1e-9)
    assert found.labelled_fraction == 1.0


def test_what_is_too_large_is_refused_unless_it_is_read_in_parts() -> None:
    require_whole(2**28, "truth.zarr")
    with pytest.raises(VolumeError, match=r"truth\.zarr: 268435457 voxels are too many .* --memory-gib"):
        require_whole(2**28 + 1, "truth.zarr")


def crossed() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth of two straight neurites along x, a segmentation that errs in the middle, and a mask of that."""
    truth = np.zeros((9, 20, 60), np.int64)
    truth[2:7, 3:8], truth[2:7, 12:17] = 1, 2
    seen = truth.copy()
    masked = np.zeros(truth.shape, bool)
    masked[:, :, 25:35] = True
    seen[:, :, 25:30][truth[:, :, 25:30] > 0] = 9
    seen[:, :, 30:35] = 0
    return truth, seen, masked


def test_masked_voxels_are_in_no_figure() -> None:
    truth, seen, masked = crossed()
    whole = evaluate(seen, truth, voxel_size_zyx_nm=NM, min_skeleton_voxels=1)
    left = evaluate(seen, truth, voxel_size_zyx_nm=NM, min_skeleton_voxels=1, excluded=masked)
    other = np.where(masked, 77, seen)
    assert left == evaluate(other, truth, voxel_size_zyx_nm=NM, min_skeleton_voxels=1, excluded=masked)
    neurites = evaluate(seen, truth, voxel_size_zyx_nm=NM, background_counts=False, excluded=masked)
    assert neurites.voi_sum_fill == pytest.approx(0, abs=1e-9)
    assert whole.masked_fraction == 0.0
    assert left.masked_fraction == pytest.approx(1 / 6)
    assert left.voxels == 9 * 20 * 50
    assert left.voi_split_keep == left.voi_merge_keep == left.rand_error_keep == pytest.approx(0, abs=1e-9)
    assert left.labelled_fraction == 1.0
    assert (left.objects, left.true_objects) == (2, 2)
    assert whole.voi_sum_fill > 0.1
    assert whole.labelled_fraction < 1.0
    assert left.to_json()["masked_fraction"] == 0.1667


def test_nodes_under_a_mask_are_not_scored_and_do_not_cut_a_run() -> None:
    """Both neurites are followed across the mask: each is one run of what is outside of it."""
    truth, seen, masked = crossed()
    right = evaluate(truth, truth, voxel_size_zyx_nm=NM, min_skeleton_voxels=1)
    left = evaluate(seen, truth, voxel_size_zyx_nm=NM, min_skeleton_voxels=1, excluded=masked)
    whole = evaluate(seen, truth, voxel_size_zyx_nm=NM, min_skeleton_voxels=1)
    assert right.erl_um is not None
    assert left.erl_um == pytest.approx(right.erl_um - 0.11)  # 9 edges under the mask and the 2 that lead in
    assert whole.erl_um is not None
    assert whole.erl_um < left.erl_um  # type: ignore[operator]


def test_a_merge_under_a_mask_costs_nothing_and_one_beside_it_does() -> None:
    truth, _, masked = crossed()
    merged = truth.copy()
    merged[masked & (truth > 0)] = 1
    beside = truth.copy()
    beside[:, :, 34:36][truth[:, :, 34:36] > 0] = 1
    free, costly = (
        evaluate(
            s,
            truth,
            voxel_size_zyx_nm=NM,
            min_skeleton_voxels=1,
            background_counts=False,
            excluded=masked,
        )
        for s in (merged, beside)
    )
    right = evaluate(truth, truth, voxel_size_zyx_nm=NM, min_skeleton_voxels=1, excluded=masked)
    assert free.erl_um == right.erl_um
    assert costly.erl_um < 0.6 * right.erl_um  # type: ignore[operator]
    assert free.voi_merge_fill == pytest.approx(0, abs=1e-9)
    assert costly.voi_merge_fill > 0.01


def test_the_rim_is_cut_from_the_mask_too() -> None:
    truth, seen, masked = crossed()
    found = evaluate(
        seen, truth, voxel_size_zyx_nm=NM, rim_zyx_px=(1, 2, 20), min_skeleton_voxels=None, excluded=masked
    )
    assert found.masked_fraction == pytest.approx(0.5)
    assert found.voxels == 7 * 16 * 10


def test_a_mask_must_fit_and_leave_something() -> None:
    with pytest.raises(VolumeError, match=r"mask \(4, 8, 8\), truth \(8, 8, 8\): shapes differ"):
        evaluate(HALVES, HALVES, voxel_size_zyx_nm=NM, excluded=np.zeros((4, 8, 8), bool))
    with pytest.raises(VolumeError, match="no voxel to compare"):
        evaluate(HALVES, HALVES, voxel_size_zyx_nm=NM, excluded=np.ones(HALVES.shape, bool))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([NM, (40.0, 8.0, 8.0), (7.0, 13.0, 3.0)]),
    planes=st.integers(2, 15),
    skeletons=st.sampled_from([None, 30]),
    background=st.booleans(),
    masked=st.booleans(),
    rim=st.sampled_from([(0, 0, 0), (1, 0, 2), (2, 1, 0)]),
)
def test_slab_by_slab_everything_is_equal_to_the_last_bit(
    seed: int,
    size: tuple[float, float, float],
    planes: int,
    skeletons: int | None,
    background: bool,
    masked: bool,
    rim: tuple[int, int, int],
) -> None:
    """With gaps of all sizes, ties between labels as near as each other, and slabs of a plane and more."""
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(6, 18, 3))
    truth = voronoi(shape, 6, seed=seed % 1000).astype(np.int64) - 1
    seen = voronoi(shape, 7, seed=seed % 999 + 1).astype(np.uint64) + np.uint64(2**63)
    seen[random.random(shape) < random.choice([0.2, 0.6, 0.95])] = 0
    seen[random.integers(0, shape[0]) :][: random.integers(0, 6)] = 0
    excluded = random.random(shape) < 0.1 if masked else None
    how = {
        "voxel_size_zyx_nm": size,
        "rim_zyx_px": rim,
        "background_counts": background,
        "min_skeleton_voxels": skeletons,
        "merge_threshold_nodes": 1,
        "excluded": excluded,
    }
    small = np.unique(seen, return_inverse=True)[1].reshape(shape) + int(seen.min() != 0)
    whole = evaluate_whole(small, truth, **how)  # type: ignore[arg-type]
    assert repr(evaluate(seen, truth, **how)) == repr(whole)  # type: ignore[arg-type]
    room = planes * SLAB_BYTES * shape[1] * shape[2] / 2**20 + 1e-9
    given = max(room, 0.06)
    try:
        parts = evaluate(seen, truth, **how, room_mib=given)  # type: ignore[arg-type]
    except MemoryBudgetError:  # as the next test says
        event("does not fit")
        return
    event("slabs" if given * 2**20 < SLAB_BYTES * np.prod(shape) else "whole")
    assert repr(parts) == repr(whole)


class Read:
    """An array that tells how many voxels were read at once, at most."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape, self.most = values, values.shape, 0

    def __getitem__(self, box: tuple[slice, slice, slice], /) -> np.ndarray:
        part = self.values[box]
        self.most = max(self.most, part.size)
        return part


def test_no_more_is_read_at_once_than_there_is_room_for() -> None:
    truth = voronoi((40, 24, 24), 5, seed=3).astype(np.uint32)
    seen = np.where(np.indices(truth.shape)[0] % 5 == 0, 0, truth).astype(np.uint32)
    room = 12 * SLAB_BYTES * 24 * 24 / 2**20
    sources = Read(seen), Read(truth)
    parts = evaluate(*sources, voxel_size_zyx_nm=NM, min_skeleton_voxels=None, room_mib=room)
    assert repr(parts) == repr(evaluate_whole(seen, truth, voxel_size_zyx_nm=NM, min_skeleton_voxels=None))
    assert sources[0].most == 12 * 24 * 24
    assert sources[1].most <= 12 * 24 * 24
    seen[5:25] = 0
    with pytest.raises(
        MemoryBudgetError, match=r"unlabelled voxels lie \d+ planes or more .* and 12 planes of"
    ):
        evaluate(seen, truth, voxel_size_zyx_nm=NM, min_skeleton_voxels=None, room_mib=room)
    with pytest.raises(MemoryBudgetError, match=r"skeleton of true object \d takes .* --no-skeletons"):
        evaluate(truth, truth, voxel_size_zyx_nm=NM, min_skeleton_voxels=1, room_mib=0.06)


@linux
def test_a_slab_takes_what_is_said_of_it() -> None:
    """Ids of 64 bits, a third of the voxels without one, and skeletons of all objects."""
    for room in (40.0, 90.0):
        require_near(room, in_fresh_process(_taken_by_a_slab, room))
    solid = (48, 192, 192)
    require_near(OBJECT_BYTES * np.prod(solid) / 2**20, in_fresh_process(_taken_by_an_object, solid))


def _taken_by_a_slab(room: float) -> float:
    shape = (64, 192, 192)
    truth = blocks(shape).astype(np.uint64)
    seen = np.where(np.indices(shape, np.int16).min(axis=0) % 8 < 3, 0, truth)
    compare = partial(evaluate, seen, truth, voxel_size_zyx_nm=NM, min_skeleton_voxels=None)
    return taken_mib(partial(compare, room_mib=room))


def _taken_by_an_object(shape: tuple[int, int, int]) -> float:
    solid = np.ones(shape, np.uint32)
    return taken_mib(partial(evaluate, solid, solid, voxel_size_zyx_nm=NM, min_skeleton_voxels=1))
