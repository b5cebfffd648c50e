"""Bytes are counted at the door: those of files as stored, those of arrays unpacked."""

from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path

import numpy as np

from functions import segment
from functions.model.geometry import Box
from functions.model.volume import VolumeRef
from functions.runtime import moved_totals
from functions.store.images import read_tile, write_tile
from functions.store.labels import read_arrays, write_arrays
from functions.store.pyramid import plan_levels, write_levels
from functions.store.traffic import Traffic, counted, note_read
from functions.store.volumes import Volume
from tests.functions.aligned_runs import ScrambledTruth, make_run, segment_all, voronoi


def noise(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 256, shape).astype(np.uint8)


def sizes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("c/**/*") if path.is_file())


def make(tmp_path: Path) -> Volume:
    ref = VolumeRef(
        path="v.zarr", kind="image", shape_zyx=(2, 64, 64), chunk_zyx=(1, 32, 32), dtype="uint8",
        voxel_size_zyx_nm=(1.0, 1.0, 1.0),
    )  # fmt: skip
    return Volume.create(tmp_path, ref)


def test_a_volume_counts_files_and_voxels(tmp_path: Path) -> None:
    volume = make(tmp_path)
    with counted() as written:
        volume.write(volume.ref.box, noise((2, 64, 64)))
    assert written.written_bytes == sizes(tmp_path) > 2 * 64 * 64 * 0.9
    assert (written.written_raw_bytes, written.read_raw_bytes) == (2 * 64 * 64, 0)
    with counted() as read:  # a part of a chunk is all of its file
        volume.read(Box(offset_zyx=(0, 0, 0), shape_zyx=(1, 8, 8)))
    assert read.read_bytes == (tmp_path / "v.zarr/c/0/0/0").stat().st_size
    assert (read.read_raw_bytes, read.written_bytes) == (64, 0)


def test_a_pyramid_counts_every_level_and_writes_each_shard_once(tmp_path: Path) -> None:
    data = noise((8, 64, 64))
    levels = plan_levels(data.shape, (1.0, 1.0, 1.0), smallest_px=32)
    with counted() as moved:
        write_levels(
            tmp_path / "v",
            levels,
            read=lambda box: data[box.slices],
            dtype="uint8",
            pooling="mean",
            chunk_zyx=(4, 16, 16),
            shard_zyx=(8, 32, 32),
        )
    on_disk = sizes(tmp_path / "v")
    documents = sum(path.stat().st_size for path in (tmp_path / "v").rglob("zarr.json"))
    assert on_disk <= moved.written_bytes <= on_disk + documents
    assert moved.written_raw_bytes == data.size + data.size // 8


def test_other_files_are_counted(tmp_path: Path) -> None:
    write_tile(tmp_path / "t.tif", noise((40, 50)))
    with counted() as tile:
        read_tile(tmp_path / "t.tif")
    assert (tile.read_bytes, tile.read_raw_bytes) == ((tmp_path / "t.tif").stat().st_size, 2000)
    with counted() as arrays:
        write_arrays(tmp_path / "a.npz", {"x": np.zeros(1000, np.uint32)})
        read_arrays(tmp_path / "a.npz", ("x",))
    size = (tmp_path / "a.npz").stat().st_size
    assert arrays == Traffic(read_bytes=size, read_raw_bytes=4000, written_bytes=size, written_raw_bytes=4000)


def test_threads_count_for_whom_they_work() -> None:
    with counted() as outer:
        with counted() as mine, ThreadPoolExecutor(2) as threads:
            for _ in range(100):
                threads.submit(copy_context().run, note_read, stored=3)
        note_read(stored=1)
    assert (mine.read_bytes, outer.read_bytes) == (300, 301)
    note_read(stored=5)
    assert outer.read_bytes == 301


def test_marks_and_totals_tell_bytes_for_each_voxel(tmp_path: Path) -> None:
    image = voronoi((8, 16, 28), 6, seed=1)
    run = make_run(tmp_path, image, segment={"subvolume_zyx_px": (8, 16, 16), "overlap_zyx_px": (2, 4, 4)})
    assert moved_totals(run, "segment") == {}
    segment_all(run, ScrambledTruth())
    marks = run.cell("segment").marks()
    totals = moved_totals(run, "segment")
    files = [p.stat().st_size for p in run.cell("segment").file("subvolumes").rglob("*.npz")]
    assert len(marks) == len(segment.units(run)) == 2
    assert totals["written_bytes"] == sum(files)
    assert totals["read_raw_bytes"] == 2 * 4 * 8 * 16 * 16  # image, mask (twice) and codes of both
    assert totals["written_bytes_per_voxel"] == round(sum(files) / image.size, 4)
    assert totals["peak_mib"] == max(m.figures["peak_mib"] for m in marks) > 50
