"""A site that refuses files for a while: nothing is taken for damaged, so nothing whole is lost or blamed."""

from __future__ import annotations

import errno
import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from functions.blame import remedy_of
from functions.store.equalities import OVERLAP, read_records, write_records
from functions.store.images import read_tile, write_tile
from functions.store.labels import grid_of, read_local
from functions.store.progress import ProgressFile
from functions.store.transforms import read_arrays, write_arrays
from functions.store.volumes import Volume
from tests.functions.aligned_runs import ScrambledTruth, make_run, segment_all, voronoi

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")


@contextmanager
def no_more_files() -> Iterator[None]:
    """This process has as many files open as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(int(number) for number in os.listdir("/proc/self/fd")) + 8
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    held: list[int] = []
    try:
        with suppress(OSError):
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        yield
    finally:
        for handle in held:
            os.close(handle)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def refused(read: Callable[[], object]) -> None:
    """A worker that may open no more files says so; read again later, all is there."""
    with no_more_files(), pytest.raises(OSError, match="Too many open files") as caught:
        read()
    assert caught.value.errno == errno.EMFILE
    assert "ulimit" in str(remedy_of(caught.value, expendable=True))
    read()


def test_what_cannot_be_opened_is_not_taken_for_damaged(tmp_path: Path) -> None:
    run = make_run(tmp_path, voronoi((8, 20, 20), 9, seed=2), segment={"subvolume_zyx_px": (8, 20, 20)})
    segment_all(run, ScrambledTruth())
    (subvolume,) = grid_of(run)
    volume = Volume.open(run.work, run.aligned.volume)
    refused(lambda: volume.read(volume.ref.box))
    refused(lambda: read_local(run, subvolume))
    assert run.cell("segment").is_done(subvolume.id)
    records, arrays = tmp_path / "records.npy", tmp_path / "arrays.npz"
    write_records(records, np.zeros(3, OVERLAP))
    refused(lambda: read_records(records, OVERLAP))
    write_arrays(arrays, {"codes": np.zeros(3, np.uint8)})
    refused(lambda: read_arrays(arrays, "codes"))
    progress = ProgressFile(tmp_path / "progress.npz")
    progress.write({"labels": np.zeros(3)})
    refused(progress.read)


def test_a_tile_that_cannot_be_opened_now_is_not_left_out(tmp_path: Path) -> None:
    tile = tmp_path / "tile.tif"
    write_tile(tile, np.zeros((8, 8), np.uint8))
    refused(lambda: read_tile(tile))
