"""Memory of this process: the most that a unit of work took, and a limit that it cannot pass.

Counted is what is resident, interpreter and libraries with it: what `top` shows as RES and what a batch
system holds against a job. The kernel does not limit that, but on Linux (4.7 and later) it limits what a
process may write to (RLIMIT_DATA), whatever address space it reserves. So a unit that begins with `resident`
MiB may let its data grow by `budget - resident`, less a margin for pages of files that are touched later, and
less what malloc holds free: pages that earlier units filled, and that are filled again without the kernel
being asked. Stacks of threads and buffers of BLAS, which are reserved and hardly touched, are not counted
where they are there before; stacks of later threads are, and are made small.

A request beyond is refused at once: the unit fails with a message, and the worker lives on. Elsewhere (macOS)
nothing is enforced, and peaks are those of the whole process so far.
"""

from __future__ import annotations

import ctypes
import errno
import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import zarr
from scipy.linalg import blas

from functions.model.errors import MemoryBudgetError

zarr.config.set({"threading.max_workers": 4, "async.concurrency": 4})
"""A worker has one thread of arithmetic; chunks in flight and stacks of threads would count as its memory."""
STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"
"""Written to `CLEAR_REFS`: the peak begins anew (proc(5))."""
FILE_MARGIN_MIB = 16
"""Pages of libraries and files that are mapped, and become resident meanwhile."""
KIB, MIB = 1 << 10, 1 << 20
MALLINFO = (
    *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
    *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
)
"""Fields of what mallinfo(3) tells."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Numbers of mallopt(3)."""
MAPPED_BYTES = 8 * MIB
"""Blocks from here on do not come from the heap. What is mapped is filled with zeros first: where all
from 1 MiB on are mapped, comparing two sections takes three times as long."""
STACK_BYTES = 2 * MIB
"""Of a thread that is started under a limit, which counts all of it: glibc's are of 8 MiB, of which tens of
KiB are used. Elsewhere half a MiB is the rule (macOS), or less."""
BLAS_ROWS = 512
"""A matrix of so many is work for all threads of OpenBLAS."""
WORDS = ("can't allocate memory", "cannot allocate memory", "bad_alloc", "can't start new thread")
"""How torch, C++ and threading say that there is no memory: by a RuntimeError."""


@dataclass(slots=True, eq=False)
class MemoryUse:
    """`peak_mib`: the most that was resident at a time; 0 while that is not known."""

    peak_mib: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessMemory:
    """Bytes of this process now: resident, most resident, and data that it may write to."""

    resident: int
    peak: int
    data: int


_in_use: list[MemoryUse] = []
"""Blocks in progress, the outermost first: a unit may make another, and two may be in progress at once."""


def process_memory() -> ProcessMemory | None:
    """What the kernel says of this process; None without /proc."""
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return None
    found = {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}
    resident, peak, data = (int(found[name][0]) * KIB for name in ("VmRSS", "VmHWM", "VmData"))
    return ProcessMemory(resident=resident, peak=peak, data=data)


@contextmanager
def within(memory_gib: float | None, *, subject: str) -> Iterator[MemoryUse]:
    """Hold what happens inside to a budget, and tell its peak.

    Inside another such block the outer one's limit goes on, and the peak is that since it began.

    Raises:
        MemoryBudgetError: naming `subject`; it asked for more, or its worker is that large already.
    """
    use, inner = MemoryUse(), bool(_in_use)
    _in_use.append(use)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    try:
        if not inner:
            _start_anew()
            if memory_gib is not None:
                _limit_data(memory_gib, subject, hard=before[1])
        yield use
    except (MemoryError, RuntimeError, OSError) as error:
        if memory_gib is None or not is_out_of_memory(error):
            raise
        raise MemoryBudgetError(
            f"{subject}: asked for more than its {memory_gib:g} GiB of memory ({_short(error)})",
            remedy="give workers more (--memory-gib), or make the unit smaller: `petavoxel plan` says which",
        ) from error
    finally:
        if not inner:
            resource.setrlimit(resource.RLIMIT_DATA, before)
        use.peak_mib = _peak_mib()
        _in_use.remove(use)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was refused, whichever library raised it."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in WORDS)


def _limit_data(memory_gib: float, subject: str, *, hard: int) -> None:
    if not sys.platform.startswith("linux"):
        return
    _use_one_heap()
    _use_small_stacks()
    _have_blas_buffers()
    _have_chunk_threads()
    now = process_memory()
    if now is None:
        return
    taken = now.resident + held_free()
    room = int(memory_gib * 1024 * MIB) - taken - FILE_MARGIN_MIB * MIB
    if room <= 0:
        raise MemoryBudgetError(
            f"{subject}: interpreter and libraries take {taken // MIB} MiB of the worker's"
            f" {memory_gib * 1024:.0f}",
            remedy="give workers more (--memory-gib)",
        )
    limit = now.data + room
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))


@cache
def _use_one_heap() -> None:
    """Have little lie free in malloc, where it counts as taken: by itself glibc has a heap for each thread,
    of no use to others, and soon takes all below 32 MiB from them, whose holes a larger block cannot use."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_ARENA_MAX, 1)
        libc.mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, 2 * MAPPED_BYTES)  # as glibc has it


@cache
def _have_blas_buffers() -> None:
    """Let OpenBLAS have its work buffers before anything is refused: it maps 32 MiB a thread when it is
    first called, and where that is refused scipy's tries for ever, numpy's ends the process."""
    square = np.eye(BLAS_ROWS)
    np.linalg.solve(square, square)  # numpy and scipy bring one each
    blas.dtrsv(blas.dgemm(1.0, square, square), square[0])


@cache
def _use_small_stacks() -> None:
    threading.stack_size(STACK_BYTES)


@cache
def _have_chunk_threads() -> None:
    """Let zarr have its event loop and the threads that it reads and writes chunks by before anything is
    refused: once the loop's thread could not be started, it waits for an answer for ever."""
    zarr.create_array({}, shape=(64,), chunks=(1,), dtype="u1")[:] = 1


def give_back() -> None:
    """Give freed memory back, which threads would keep from any other request: it counts as taken."""
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def held_free() -> int:
    """Bytes that malloc has free in its heaps, those of threads too; 0 where it is not glibc's."""
    libc = ctypes.CDLL(None)
    for name, number in (("mallinfo2", ctypes.c_size_t), ("mallinfo", ctypes.c_uint)):  # before glibc 2.33
        if hasattr(libc, name):
            ask = getattr(libc, name)
            ask.restype = type(name, (ctypes.Structure,), {"_fields_": [(f, number) for f in MALLINFO]})
            return int(ask().fordblks)
    return 0


def _start_anew() -> None:
    """Let the peak begin anew, so that a unit answers for itself alone."""
    give_back()
    if sys.platform.startswith("linux"):
        with suppress(OSError):
            CLEAR_REFS.write_text(RESET_PEAK)


def _peak_mib() -> int:
    now = process_memory()
    if now is not None:
        return -(-now.peak // MIB)
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return -(-size // (MIB if sys.platform == "darwin" else KIB))


def _short(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:120] or type(error).__name__
