"""Levels, pooling and shards."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from functions.store.pyramid import plan_levels, pool_max, pool_mean, pool_mode, shard_boxes, write_levels


def test_fine_axes_are_halved_until_isotropic() -> None:
    levels = plan_levels((40, 1000, 1000), (30, 8, 8))
    assert [level.factor_zyx for level in levels] == [(1, 1, 1), (1, 2, 2), (1, 4, 4), (2, 8, 8), (4, 16, 16)]
    assert levels[-1].shape_zyx == (10, 63, 63)


def test_small_and_flat_volumes() -> None:
    assert len(plan_levels((8, 64, 64), (8, 8, 8))) == 1
    assert [level.shape_zyx for level in plan_levels((1, 200, 100), (8, 8, 8))] == [
        (1, 200, 100), (1, 100, 50), (1, 50, 25),
    ]  # fmt: skip


def test_mean_rounds_half_up_and_uses_what_there_is() -> None:
    data = np.array([[[0, 1, 7], [1, 0, 8]]], dtype=np.uint8)
    assert pool_mean(data, (1, 2, 2)).tolist() == [[[1, 8]]]
    full = np.full((2, 2, 2), 255, dtype=np.uint8)
    assert pool_mean(full, (2, 2, 2)).tolist() == [[[255]]]


def test_mode_prefers_labels_to_background_on_a_tie() -> None:
    data = np.array([[[0, 0], [7, 7]]], dtype=np.uint32)
    assert pool_mode(data, (1, 2, 2)).item() == 7
    data = np.array([[[0, 0], [0, 7]]], dtype=np.uint32)
    assert pool_mode(data, (1, 2, 2)).item() == 0


labels = hnp.arrays(
    np.uint32, hnp.array_shapes(min_dims=3, max_dims=3, max_side=5), elements=st.integers(0, 3)
)


@settings(max_examples=60, deadline=None)
@given(data=labels, step=st.sampled_from([(1, 2, 2), (2, 2, 2), (2, 1, 1)]))
def test_mode_is_a_most_frequent_label_of_its_block(data: np.ndarray, step: tuple[int, int, int]) -> None:
    pooled = pool_mode(data, step)
    assert pooled.shape == tuple(-(-n // s) for n, s in zip(data.shape, step, strict=True))
    padded = np.pad(data, [(0, -n % s) for n, s in zip(data.shape, step, strict=True)], mode="edge")
    for index in np.ndindex(pooled.shape):
        block = padded[tuple(slice(i * s, (i + 1) * s) for i, s in zip(index, step, strict=True))]
        counts = {int(v): int((block == v).sum()) for v in np.unique(block)}
        assert counts[int(pooled[index])] == max(counts.values())


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    shard=st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)),
)
def test_shards_cover_each_voxel_once(shape: tuple[int, int, int], shard: tuple[int, int, int]) -> None:
    hits = np.zeros(shape, dtype=int)
    for box in shard_boxes(shape, shard):
        hits[box.slices] += 1
    assert (hits == 1).all()


def _digest(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.mark.parametrize("dtype", ["uint8", "uint32"])
def test_levels_are_equal_to_pooling_in_memory_and_byte_identical(tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(3)
    data = rng.integers(0, 200, (19, 130, 75)).astype(dtype)
    data[:, :40] = 0
    levels = plan_levels(data.shape, (20, 10, 10), smallest_px=20)
    pooling = "mean" if dtype == "uint8" else "mode"
    for name in ("a", "b"):
        zarr.create_group(str(tmp_path / name), zarr_format=3)
        write_levels(
            tmp_path / name, levels, read=lambda box: data[box.slices], dtype=dtype, pooling=pooling,
            chunk_zyx=(8, 16, 16), shard_zyx=(16, 32, 48),
        )  # fmt: skip
    assert _digest(tmp_path / "a") == _digest(tmp_path / "b")
    expected = data
    for level in levels:
        if level.path != "0":
            expected = (pool_mean if pooling == "mean" else pool_mode)(expected, level.step_zyx)
        array = zarr.open_array(str(tmp_path / "a" / level.path), mode="r")
        np.testing.assert_array_equal(array[:], expected)
        assert array.metadata.codecs[0].index_location.value == "start"
        assert array.metadata.dimension_names == ("z", "y", "x")


def test_a_mask_of_thin_things_is_pooled_by_its_highest_value() -> None:
    codes = np.ones((4, 6, 6), np.uint8)
    codes[1, 2] = 3
    codes[3, 5, 5] = 0
    pooled = pool_max(codes, (2, 2, 2))
    assert pooled.dtype == np.uint8
    assert pooled[:, :, 0].tolist() == [[1, 3, 1], [1, 1, 1]]
    assert pooled[1, 2, 2] == 1
