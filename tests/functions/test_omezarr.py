"""The published volume as an independent reader sees it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import zarr
from ome_zarr_models.v05.image import Image

from functions.publication.omezarr import write_image, write_labels


def _volume(path: Path, *, shape: tuple[int, int, int] = (12, 150, 200)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    image = rng.integers(0, 256, shape).astype(np.uint8)
    labels = np.zeros(shape, dtype=np.uint32)
    labels[:, 20:90, 30:120] = 4_000_000_000
    labels[4:, 100:, :60] = 2
    voxel = (30.0, 8.0, 8.0)
    write_image(path, read=lambda b: image[b.slices], shape_zyx=shape, voxel_size_zyx_nm=voxel, name="demo")
    write_labels(
        path, read=lambda b: labels[b.slices], shape_zyx=shape, dtype="uint32", voxel_size_zyx_nm=voxel
    )
    return image, labels


def test_an_independent_reader_accepts_image_and_labels(tmp_path: Path) -> None:
    image, labels = _volume(tmp_path / "volume.zarr")
    model = Image.from_zarr(zarr.open_group(str(tmp_path / "volume.zarr"), mode="r"))
    assert model.labels is not None
    assert model.labels.label_paths == ["segmentation"]
    scales = model.ome_attributes.multiscales[0]
    assert [axis.name for axis in scales.axes] == ["z", "y", "x"]
    assert {axis.unit for axis in scales.axes} == {"nanometer"}
    scale, translation = scales.datasets[1].coordinateTransformations
    assert list(scale.scale) == [30.0, 16.0, 16.0]
    assert list(translation.translation) == [0.0, 4.0, 4.0]
    group = zarr.open_group(str(tmp_path / "volume.zarr"), mode="r")
    np.testing.assert_array_equal(group["0"][:], image)
    np.testing.assert_array_equal(group["labels/segmentation/0"][:], labels)


def test_no_level_has_an_id_that_is_not_there(tmp_path: Path) -> None:
    _, labels = _volume(tmp_path / "volume.zarr")
    group = zarr.open_group(str(tmp_path / "volume.zarr/labels/segmentation"), mode="r")
    ids = set(np.unique(labels).tolist())
    assert len(list(group.array_keys())) == 3
    for _, array in group.arrays():
        assert set(np.unique(array[:]).tolist()) == ids


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    trees = []
    for name in ("a", "b"):
        _volume(tmp_path / name)
        files = sorted(p for p in (tmp_path / name).rglob("*") if p.is_file())
        trees.append([(str(p.relative_to(tmp_path / name)), p.read_bytes()) for p in files])
    assert trees[0] == trees[1]
