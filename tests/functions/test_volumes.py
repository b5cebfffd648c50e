"""Volumes are opened checked: wrong shape, missing or damaged chunks are errors, not zeros."""

from pathlib import Path

import numpy as np
import pytest
import zarr

from functions.model.errors import VolumeError
from functions.model.geometry import Box
from functions.model.volume import VolumeRef
from functions.store.volumes import Volume


def reference(**changes: object) -> VolumeRef:
    document = {
        "path": "cell/image.zarr",
        "kind": "image",
        "shape_zyx": (4, 20, 30),
        "chunk_zyx": (1, 16, 16),
        "dtype": "uint8",
        "voxel_size_zyx_nm": (30.0, 8.0, 8.0),
    }
    return VolumeRef.model_validate(document | changes)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    volume = Volume.create(tmp_path, reference())
    box = Box(offset_zyx=(1, 0, 16), shape_zyx=(2, 16, 14))
    data = np.arange(box.voxels, dtype=np.uint8).reshape(box.shape_zyx)
    volume.write(box, data)
    whole = Volume.open(tmp_path, reference()).read(volume.ref.box)
    np.testing.assert_array_equal(whole[box.slices], data)
    assert whole.sum() == data.sum()


def test_another_shape_is_refused(tmp_path: Path) -> None:
    Volume.create(tmp_path, reference())
    with pytest.raises(VolumeError, match=r"image\.zarr: shape \(4, 20, 30\)"):
        Volume.open(tmp_path, reference(shape_zyx=(4, 20, 31)))


def test_a_missing_array_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="run the step that writes it"):
        Volume.open(tmp_path, reference())


def test_a_box_outside_is_refused(tmp_path: Path) -> None:
    volume = Volume.create(tmp_path, reference())
    with pytest.raises(VolumeError, match="leaves the volume"):
        volume.read(Box(offset_zyx=(0, 0, 20), shape_zyx=(1, 1, 11)))


def test_a_truncated_chunk_is_an_error(tmp_path: Path) -> None:
    volume = Volume.create(tmp_path, reference())
    volume.write(volume.ref.box, np.random.default_rng(0).integers(0, 255, (4, 20, 30), dtype=np.uint8))
    chunk = tmp_path / "cell/image.zarr/c/2/0/0"
    chunk.write_bytes(chunk.read_bytes()[:20])
    with pytest.raises(VolumeError, match="damaged chunk"):
        volume.read(volume.ref.box)


@pytest.mark.parametrize(
    "box", [((0, 0, 0), (1, 32, 70)), ((2, 32, 64), (1, 18, 6)), ((1, 0, 32), (2, 32, 32))]
)
def test_whole_chunks_are_the_files_that_zarr_writes(
    tmp_path: Path, box: tuple[tuple[int, int, int], tuple[int, int, int]]
) -> None:
    where = Box(offset_zyx=box[0], shape_zyx=box[1])
    data = np.random.default_rng(1).integers(0, 9, where.shape_zyx).astype(np.uint16)
    data[..., :32] = 0  # a chunk of nothing is no file
    files = []
    for name in ("zarr", "ours"):
        ref = VolumeRef(
            path=f"{name}.zarr", kind="image", shape_zyx=(3, 50, 70), chunk_zyx=(1, 32, 32), dtype="uint16",
            voxel_size_zyx_nm=(1.0, 1.0, 1.0),
        )  # fmt: skip
        volume = Volume.create(tmp_path, ref)
        for values in (np.ones_like(data), data):  # what was there is replaced
            if name == "ours":
                volume.write(where, values)
            else:
                zarr.open_array(str(tmp_path / ref.path), mode="r+")[where.slices] = values
        np.testing.assert_array_equal(volume.read(where), data)
        root = tmp_path / ref.path
        files.append({p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()})
    assert files[0] == files[1]


def test_a_box_that_shares_a_chunk_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    ref = VolumeRef(
        path="v.zarr", kind="image", shape_zyx=(1, 50, 70), chunk_zyx=(1, 32, 32), dtype="uint8",
        voxel_size_zyx_nm=(1.0, 1.0, 1.0),
    )  # fmt: skip
    volume = Volume.create(tmp_path, ref)
    volume.write(ref.box, np.full(ref.shape_zyx, 7, np.uint8))
    part = Box(offset_zyx=(0, 0, 0), shape_zyx=(1, 32, 40))
    with pytest.raises(VolumeError, match="not of whole chunks"):
        volume.write(part, np.full(part.shape_zyx, 9, np.uint8))
    assert (volume.read(ref.box) == 7).all()
