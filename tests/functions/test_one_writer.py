"""Every file of an array is written whole, once, by one unit: in each step that writes arrays."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from functions import align_render, finish, match, reconcile, relabel, segment
from functions.model.geometry import Box
from functions.needs import BASE_MIB
from functions.relabel import parts_of
from functions.store.run import Run
from tests.functions.aligned_runs import ScrambledTruth, make_run, segment_all, voronoi
from tests.functions.placed_runs import placed_run

Files = dict[Path, tuple[int, int]]


def files_of(folder: Path) -> Files:
    """Which chunk files there are, and what changes when one is written again: inode and time."""
    found = ((path, path.stat()) for path in folder.rglob("c/**/*") if path.is_file())
    return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in found}


def require_one_writer(folder: Path, units: list[str], compute: Callable[[str], object]) -> int:
    """Compute unit after unit; none may touch a file that is there already. How many files there are."""
    before = files_of(folder)
    for unit in units:
        compute(unit)
        now = files_of(folder)
        assert {path: now[path] for path in before} == before, unit
        before = now
    return len(before)


def test_rows_of_the_aligned_volume_share_no_file(tmp_path: Path) -> None:
    run = placed_run(tmp_path)
    units = align_render.units(run)
    written = require_one_writer(run.cell("align_render").path, units, partial(align_render.compute, run))
    assert written == 3 * len(units)  # image, mask and codes


def relabelled(root: Path, memory_gib: float | None = None) -> Run:
    """A run whose tables are written."""
    image = voronoi((16, 40, 52), 30, seed=3)
    run = make_run(
        root,
        image,
        segment={"subvolume_zyx_px": (10, 24, 24), "overlap_zyx_px": (4, 8, 8)},
        reconcile={"chunk_zyx_px": (5, 8, 8), "min_voxels": 1},
    )
    segment_all(run, ScrambledTruth())
    for unit in match.units(run):
        run.cell("match").run_unit(unit, partial(match.compute, run, unit))
    reconcile.perform(run)
    return Run(run.spec.model_copy(update={"memory_gib": memory_gib}))


def test_boxes_of_the_global_labels_share_no_file(tmp_path: Path) -> None:
    run = relabelled(tmp_path)
    written = require_one_writer(run.cell("relabel").path, relabel.units(run), partial(relabel.compute, run))
    assert written == 4 * 5 * 7


def test_in_parts_the_same_labels_are_written_and_each_chunk_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole, parts = relabelled(tmp_path / "whole"), relabelled(tmp_path / "parts", (BASE_MIB + 80) / 1024)
    monkeypatch.setattr("functions.needs.PAINTED_BYTES", 64 * 2**20 / 700)  # 700 voxels fit
    figures = []
    for run in (whole, parts):
        units = relabel.units(run)
        compute = lambda unit, run=run: figures.append(relabel.compute(run, unit).figures)  # noqa: E731
        require_one_writer(run.cell("relabel").path, units, compute)
    files = [
        {p.relative_to(r.work): p.read_bytes() for p in files_of(r.cell("relabel").path)}
        for r in (whole, parts)
    ]
    assert files[0] == files[1]
    assert figures[: len(figures) // 2] == figures[len(figures) // 2 :]


def test_parts_are_of_whole_chunks_and_fill_the_box() -> None:
    box = Box(offset_zyx=(10, 16, 24), shape_zyx=(9, 20, 16))
    parts = parts_of(box, (5, 8, 8), most_voxels=700)
    seen = np.zeros((40, 60, 60), np.uint8)
    for part in parts:
        assert part.voxels <= 700
        assert all(
            o % c == 0 for o, c in zip((part.offset_zyx[0], *part.offset_zyx[1:]), (5, 8, 8), strict=True)
        )
        seen[part.slices] += 1
    assert (seen[box.slices] == 1).all()
    assert seen.sum() == box.voxels
    assert parts_of(box, (5, 8, 8), most_voxels=float("inf")) == [box]
    assert len(parts_of(box, (5, 8, 8), most_voxels=1)) == 2 * 3 * 2


def test_the_bundle_writes_each_shard_once(finished: Run, tmp_path: Path) -> None:
    """A shard that was written twice would have been renamed over: its index would have another inode."""
    bundle = finished.cell("finish").file("bundle")
    volume = files_of(bundle / "volume.zarr")
    mark = finished.cell("finish").mark(finish.UNIT)
    documents = sum(p.stat().st_size for p in (bundle / "volume.zarr").rglob("zarr.json"))
    on_disk = sum(path.stat().st_size for path in volume)
    assert on_disk <= mark.figures["written_bytes"] <= on_disk + 20 * documents
    assert len(volume) >= 3
    assert segment.units(finished)
