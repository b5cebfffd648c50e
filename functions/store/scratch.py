"""Arrays that a computation puts aside in files meanwhile: in memory it then has one piece at a time."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from functions.model.scratch import Array
from functions.store.files import reading_arrays
from functions.store.spread import spread
from functions.store.traffic import note_read, note_written


@dataclass(frozen=True, slots=True)
class Scratch:
    """Files of a folder under `path` (see `functions.model.scratch`), removed last. What is there is removed
    first: a killed process left it. One that still computes the same then misses its files, and fails: two
    never read each other's.

    They are not flushed to the disk: a computation that was interrupted begins anew. Each holds the names of
    its arrays and then these, one .npy after the other: the checksums of an archive would take longer to
    compute than the arrays to read.
    """

    path: Path
    _own: str = field(default_factory=lambda: uuid.uuid4().hex[:8], init=False, repr=False)

    def __enter__(self) -> Scratch:
        shutil.rmtree(self.path, ignore_errors=True)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path / self._own, ignore_errors=True)
        with suppress(OSError):  # a later process has its own there
            self.path.rmdir()

    def write(self, name: str, arrays: Mapping[str, Array]) -> None:
        """Keep arrays under a name."""
        path = self._file(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as handle:
            for array in (np.array(list(arrays), dtype=np.str_), *arrays.values()):
                npy.write_array(handle, np.asarray(array), allow_pickle=False)
            note_written(stored=handle.tell(), raw=sum(array.nbytes for array in arrays.values()))

    def read(self, name: str, names: tuple[str, ...]) -> dict[str, Array]:
        """Some arrays of those kept under a name.

        Raises:
            VolumeError: they are missing or damaged: another process computes the same, for instance.
        """
        found: dict[str, Array] = {}
        path = self._file(name)
        with reading_arrays(path, remedy="run the step again"), open(path, "rb") as handle:
            for kept in npy.read_array(handle, allow_pickle=False):
                if kept in names:
                    found[str(kept)] = npy.read_array(handle, allow_pickle=False)
                else:
                    _skip(handle)
        size = sum(array.nbytes for array in found.values())
        note_read(stored=size, raw=size)
        return {wanted: found[wanted] for wanted in names}

    def remove(self, name: str) -> None:
        """Remove the arrays of a name: what is written once and read once would else lie there to the end."""
        self._file(name).unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        group, _, last = name.rpartition("/")
        return spread(self.path / self._own / group, last)


def _skip(handle: BinaryIO) -> None:
    """Pass over an array."""
    npy.read_magic(handle)  # all that is written here is of version 1
    shape, _, dtype = npy.read_array_header_1_0(handle)
    handle.seek(int(np.prod(shape)) * dtype.itemsize, os.SEEK_CUR)
