"""What a recipe's volumes become: coarser, relabelled, partly unknown, or windows on zarr arrays."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffn.augment import AugmentConfig
from ffn.config import ConfigError, Normalisation
from ffn.examples import ExampleConfig, ExampleSource
from functions.model.geometry import Box
from functions.testing.phantom_training import PhantomVolumes
from functions.training.cache import BlockCache, Window
from functions.training.entries import NpzVolume, ZarrVolume
from functions.training.sampling import downsample_image, downsample_labels, split_pieces, upsample_labels
from functions.training.volumes import open_held_out, open_training
from tests.functions.training_files import cells, write_npz, write_zarr


def npz(file: Path, **changes: Any) -> NpzVolume:
    return NpzVolume(**{"path": file.name, "image": "raw", "labels": "gt", **changes})


def source(volumes: Any, **changes: Any) -> ExampleSource:
    return ExampleSource(
        volumes,
        config=ExampleConfig(shape_zyx=(9, 9, 9), positions_per_volume=400, **changes),
        augmentation=AugmentConfig(),
        normalisation=Normalisation(),
        seed=1,
    )


def test_means_and_commonest_labels_of_blocks() -> None:
    image = np.array([[[0, 2, 9], [4, 7, 9]], [[1, 1, 9], [1, 2, 9]]], np.uint8)
    np.testing.assert_array_equal(downsample_image(image, (2, 2, 1))[0, 0], [2, 3, 9])  # 1.5 and 3 and 9
    labels = np.array([[[5, 5, 7, 7], [5, 3, 3, 7]]], np.uint32)
    np.testing.assert_array_equal(downsample_labels(labels, (1, 2, 2)), [[[5, 7]]])
    tied = np.array([[[8, 2]]], np.uint64)
    np.testing.assert_array_equal(downsample_labels(tied, (1, 1, 2)), [[[2]]])
    assert downsample_image(image.astype(np.uint16), (1, 1, 3)).dtype == np.uint16
    np.testing.assert_allclose(downsample_image(image.astype(np.float32), (2, 2, 2))[0, 0], [18 / 8])


@given(st.integers(0, 1000), st.sampled_from([(1, 2, 2), (2, 2, 2), (3, 1, 2)]))
@settings(max_examples=30, deadline=None)
def test_downsampling_is_the_commonest_by_definition(seed: int, factor: tuple[int, int, int]) -> None:
    labels = np.random.default_rng(seed).integers(0, 4, (7, 6, 9)).astype(np.uint32)
    coarse = downsample_labels(labels, factor)
    assert coarse.shape == tuple(n // f for n, f in zip(labels.shape, factor, strict=True))
    for index in np.ndindex(coarse.shape):
        block = labels[tuple(slice(i * f, i * f + f) for i, f in zip(index, factor, strict=True))]
        assert coarse[index] == np.bincount(block.ravel()).argmax()
    np.testing.assert_array_equal(downsample_labels(upsample_labels(coarse, factor), factor), coarse)


def test_pieces_get_ids_of_their_own() -> None:
    labels = np.zeros((3, 4, 9), np.uint64)
    labels[:, :, :2] = labels[:, :, 7:] = 2**40
    labels[:, :, 3:5] = 4
    pieces = split_pieces(labels)
    assert sorted(np.unique(pieces).tolist()) == [0, 1, 2, 3]
    assert pieces[0, 0, 0] != pieces[0, 0, 8]


def test_an_npz_is_cut_downsampled_and_relabelled(tmp_path: Path) -> None:
    path = write_npz(tmp_path)
    image, labels = cells()
    entry = npz(path, box="1:26,0:34,2:34", downsample_zyx=(2, 2, 2), relabel=True, min_object_voxels=10)
    (volume,) = open_held_out((entry,), data=tmp_path)
    seen = volume.training
    assert seen.image.shape == seen.labels.shape == (12, 17, 16)
    assert volume.truth.shape == (24, 34, 32)
    np.testing.assert_array_equal(seen.image[:, :, :], downsample_image(image[1:26, :, 2:], (2, 2, 2)))
    assert ((volume.truth > 0) == (labels[1:25, :, 2:] > 0)).all()
    sizes = np.bincount(seen.labels[:, :, :].ravel())[1:]
    assert sizes.min() >= 10 or (sizes == 0).any()
    assert len(np.unique(volume.truth)) == len(np.unique(labels[1:25, :, 2:]))


def test_labels_may_be_background_or_unknown(tmp_path: Path) -> None:
    image, labels = cells()
    labels = np.where(labels == 1, 2**31, labels).astype(np.uint64)
    np.savez(tmp_path / "cells.npz", raw=image, gt=labels)
    entry = npz(tmp_path / "cells.npz", background_labels=(0, 2**31), ignore_labels=(11,), relabel=True)
    (volume,) = open_held_out((entry,), data=tmp_path)
    (unknown,) = volume.training.ignore_labels
    ids = volume.training.labels[:, :, :]
    np.testing.assert_array_equal(ids == unknown, labels == 11)
    np.testing.assert_array_equal(ids == 0, (labels == 0) | (labels == 2**31))
    np.testing.assert_array_equal(volume.truth == volume.unknown, labels == 11)
    examples = source([volume.training])
    assert any(not examples[n].known.all() for n in range(20))  # type: ignore[union-attr]


def test_zarr_arrays_are_windows_that_train_as_arrays_do(tmp_path: Path) -> None:
    image, labels = cells()
    write_zarr(tmp_path / "run" / "image.zarr", image, (1, 16, 16))
    write_zarr(tmp_path / "run" / "labels.zarr", labels, (8, 16, 16))
    entry = ZarrVolume(path="run", box="2:26,0:30,4:34")
    (streamed,) = open_training((entry,), data=tmp_path)
    assert isinstance(streamed.image, Window)
    (whole,) = open_held_out((entry,), data=tmp_path)
    np.testing.assert_array_equal(whole.training.image[:, :, :], image[2:26, 0:30, 4:34])
    a, b = source([streamed]), source([whole.training])
    for number in range(10):
        np.testing.assert_array_equal(a[number].image, b[number].image)
        np.testing.assert_array_equal(a[number].target, b[number].target)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_a_window_reads_what_the_array_holds(data: st.DataObject) -> None:
    array = np.arange(70 * 20 * 90, dtype=np.int32).reshape(70, 20, 90)
    box = Box(offset_zyx=(3, 2, 5), shape_zyx=(66, 17, 80))
    cache = BlockCache(most_bytes=200_000)
    window = Window(array, box, cache=cache)
    where = []
    for extent in window.shape:
        start = data.draw(st.integers(0, extent - 1))
        where.append(slice(start, data.draw(st.integers(start, extent))))
    z, y, x = where
    np.testing.assert_array_equal(window[z, y, x], array[box.slices][z, y, x])
    assert cache.nbytes <= 200_000
    np.testing.assert_array_equal(Window(array, box)[z, y, x], window[z, y, x])


def test_a_cache_reads_a_block_once_and_forgets_the_oldest() -> None:
    cache, reads = BlockCache(most_bytes=250), list[int]()

    def read(n: int) -> np.ndarray:
        reads.append(n)
        return np.full(100, n, np.uint8)

    for n in (1, 2, 1, 3, 1, 2):
        assert cache.get((n,), lambda n=n: read(n))[0] == n
    assert reads == [1, 2, 3, 2]
    assert cache.nbytes == 200


def test_training_on_zarr_stays_within_its_memory(tmp_path: Path) -> None:
    shape = (96, 512, 512)  # 24 MiB of image and 96 MiB of labels
    labels = (np.indices(shape, dtype=np.uint32) // 24).sum(axis=0, dtype=np.uint32) + 1
    write_zarr(tmp_path / "v" / "image.zarr", (labels % 7 * 30).astype(np.uint8), (32, 64, 64))
    write_zarr(tmp_path / "v" / "labels.zarr", labels, (32, 64, 64))
    del labels
    (volume,) = open_training((ZarrVolume(path="v", cache_mib=8),), data=tmp_path)
    tracemalloc.start()
    examples = source([volume])
    for number in range(40):
        assert examples[number].target[4, 4, 4]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 24 << 20  # the cache, and a block of labels to look for centres in


def test_phantoms_by_seed() -> None:
    entry = PhantomVolumes(seeds=(7, 8), shape_zyx=(16, 48, 48))
    (a, b) = open_held_out((entry,), data=Path())
    assert a.training.image.shape == (16, 48, 48)
    assert (a.truth != b.truth).any()
    assert [v.name for v in (a, b)] == ["phantom 7", "phantom 8"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "none.npz"}, r"volumes\[0\]\.path: .*none\.npz does not exist; .*--data"),
        ({"path": "text.npz"}, r"volumes\[0\]\.path: .*text\.npz is not a readable \.npz file"),
        ({"image": "grey"}, r"volumes\[0\]\.image: .* has no array 'grey', but raw, gt"),
        ({"labels": "seg"}, r"volumes\[0\]\.labels: .* has no array 'seg'"),
        (
            {"box": "0:27,0:34,0:34"},
            r"volumes\[0\]\.box: 0:27,0:34,0:34 leaves the volume's shape \(26, 34, 34\)",
        ),
        ({"path": "flat.npz"}, r"volumes\[0\]\.image: must be \(Z, Y, X\), found 2 axes"),
        ({"path": "real.npz"}, r"volumes\[0\]\.labels: float64 are no ids"),
        ({"path": "nan.npz"}, r"volumes\[0\]\.image: has NaN"),
        ({"path": "shapes.npz"}, r"volumes\[0\]\.labels: must have the shape of the image"),
    ],
)
def test_bad_volumes_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    image, labels = cells()
    write_npz(tmp_path)
    (tmp_path / "text.npz").write_text("not an archive")
    np.savez(tmp_path / "flat.npz", raw=image[0], gt=labels[0])
    np.savez(tmp_path / "real.npz", raw=image, gt=labels.astype(float))
    np.savez(tmp_path / "nan.npz", raw=np.full(image.shape, np.nan, np.float32), gt=labels)
    np.savez(tmp_path / "shapes.npz", raw=image, gt=labels[1:])
    with pytest.raises(ConfigError, match=message):
        open_training((npz(tmp_path / "cells.npz", **changes),), data=tmp_path)


def test_a_bad_zarr_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    with pytest.raises(ConfigError, match=r"validation\.volumes\[0\]\.image: .*image\.zarr is no zarr array"):
        open_held_out((ZarrVolume(path="v"),), data=tmp_path)
