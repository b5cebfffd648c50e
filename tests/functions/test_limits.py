"""A unit is held to its memory: what it asks for beyond is refused with a message, and the process lives."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from functions.model.errors import MemoryBudgetError
from functions.store.cells import Cell, UnitReport
from functions.store.limits import MIB, held_free, is_out_of_memory, process_memory, within

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits need Linux")
ROOM_MIB = 128


def budget_gib(room_mib: int = ROOM_MIB) -> float:
    """What this process takes, and so much more."""
    now = process_memory()
    assert now is not None
    return ((now.resident + held_free()) / MIB + room_mib) / 1024


def answer_of(script: str, threads: int = 1) -> list[str]:
    """What a process of its own prints."""
    answer = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "OPENBLAS_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.split()


def test_the_peak_is_that_of_the_block() -> None:
    with within(None, subject="large") as large:
        filled = np.ones(96 * MIB, np.uint8)
        assert filled[-1] == 1
        del filled
    with within(None, subject="small") as small:
        pass
    assert 80 <= large.peak_mib - small.peak_mib <= 130


@pytest.mark.parametrize("make", [np.ones, lambda n: torch.ones(n)], ids=["numpy", "torch"])
def test_more_than_the_budget_is_refused_and_the_process_lives(make) -> None:  # type: ignore[no-untyped-def]
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with (
        pytest.raises(MemoryBudgetError, match=r"segment z00000: asked for more than its .*--memory-gib"),
        within(budget_gib(), subject="segment z00000"),
    ):
        make(2 * ROOM_MIB * MIB // 4)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert len(np.ones(2 * ROOM_MIB * MIB, np.uint8)) > 0


def test_what_fits_is_not_refused() -> None:
    with within(budget_gib(), subject="small") as use:
        assert np.ones(ROOM_MIB // 2 * MIB, np.uint8)[0] == 1
    assert use.peak_mib <= 1024 * budget_gib()


def test_a_process_that_is_too_large_already_is_told_so() -> None:
    with (
        pytest.raises(MemoryBudgetError, match=r"render: interpreter and libraries take \d+ MiB"),
        within(0.01, subject="render"),
    ):
        raise AssertionError("never begun")


def test_an_inner_block_keeps_the_outer_limit() -> None:
    with (
        pytest.raises(MemoryBudgetError, match="inner"),
        within(budget_gib(), subject="outer"),
        within(budget_gib(), subject="inner"),
    ):
        np.ones(2 * ROOM_MIB * MIB, np.uint8)


def test_another_error_stays_itself() -> None:
    with pytest.raises(ValueError, match="wrong"), within(budget_gib(), subject="x"):
        raise ValueError("wrong")
    assert not is_out_of_memory(RuntimeError("shapes differ"))
    assert not is_out_of_memory(FileNotFoundError(2, "no such file"))
    assert is_out_of_memory(OSError(12, "Cannot allocate memory"))


def test_a_unit_beyond_its_cells_memory_is_not_marked(tmp_path: Path) -> None:
    cell = Cell(tmp_path / "segment" / "k", budget_gib())

    def large() -> UnitReport:
        np.ones(2 * ROOM_MIB * MIB, np.uint8)
        return UnitReport()

    with pytest.raises(MemoryBudgetError, match="segment u1: asked for more"):
        cell.run_unit("u1", large)
    assert not cell.is_done("u1")
    mark, fresh = cell.run_unit("u2", UnitReport)
    assert fresh
    assert 0 < mark.figures["peak_mib"] <= 1024 * budget_gib()


@pytest.mark.parametrize("threads", [1, 2])
def test_linear_algebra_ends_where_memory_is_short(threads: int) -> None:
    """OpenBLAS wants a buffer at its first call; without one scipy's hangs, numpy's ends the process."""
    script = """
import numpy as np
from scipy.linalg import blas
from functions.store.limits import MIB, process_memory, within

square = np.eye(200) + 0.1
gib = (process_memory().resident / MIB + 90) / 1024  # less than the buffers take, with the margin
with within(gib, subject="small"):
    filled = [np.ones(MIB, np.uint8)]
    try:
        while True:
            filled.append(np.ones(MIB, np.uint8))
    except MemoryError:
        filled = filled[2:]
    assert blas.dtrsv(square, square[0]).shape == (200,)
    assert np.linalg.solve(square, square[0]).shape == (200,)
print("done", len(filled))
"""
    assert answer_of(script, threads)[0] == "done"


def test_chunks_are_read_where_memory_is_short() -> None:
    """zarr waits for ever for a loop whose thread was refused; a stack is not worth 8 MiB of a budget."""
    script = """
import threading
import numpy as np
import zarr
from functions.store.limits import FILE_MARGIN_MIB, MIB, give_back, held_free, process_memory, within

ROOM, THREADS = 12, 4
with within(64, subject="large"):
    pass  # what there is before any limit
give_back()
taken = (process_memory().resident + held_free()) / MIB
met = threading.Barrier(THREADS + 1)
with within((taken + FILE_MARGIN_MIB + ROOM) / 1024, subject="small"):
    array = zarr.create_array({}, shape=(8, 1000), chunks=(1, 1000), dtype="u1")
    array[:] = 7
    assert np.all(array[:] == 7)
    threads = [threading.Thread(target=met.wait, args=(30,)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    met.wait(30)
print("done")
"""
    assert answer_of(script) == ["done"]


def test_what_malloc_keeps_from_earlier_units_counts_as_taken() -> None:
    """What threads fill and free in their heaps they fill again without the kernel being asked."""
    script = """
import threading
import numpy as np
from functions.store.limits import MIB, give_back, held_free, process_memory, within

BLOCK, BLOCKS, THREADS = 60_000, 800, 4
kept, turn = [], threading.Barrier(THREADS + 1)

def work():
    filled = [b"x" * BLOCK for _ in range(BLOCKS)]
    kept.append(filled[::64])  # these hold the pages between them
    del filled
    turn.wait()  # freed
    turn.wait()  # the next unit has begun
    kept.append([b"x" * BLOCK for _ in range(BLOCKS)])
    turn.wait()

threads = [threading.Thread(target=work, daemon=True) for _ in range(THREADS)]
for thread in threads:
    thread.start()
turn.wait(60)
give_back()
held, resident = held_free() / MIB, process_memory().resident / MIB
budget = resident + held + 80
large = []
with within(budget / 1024, subject="next") as use:
    try:
        turn.wait(60)
        turn.wait(60)
        while True:
            large.append(np.ones(MIB, np.uint8))
    except MemoryError:
        pass
print(held, budget, use.peak_mib, len(large))
"""
    held, budget, peak, large = (float(v) for v in answer_of(script))
    assert held > 120
    assert budget - 60 <= peak <= budget
    assert large >= 40
