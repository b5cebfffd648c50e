"""Units in progress: what a long unit has reached so far, beside its cell's results until it is done.

<work>/segment/<key>/progress/3fa/<unit>.npz          written whole every few minutes, removed when done
                                 <unit>.npz.damaged   could not be read: the unit was begun anew
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from functions.model.errors import VolumeError
from functions.store.cells import Cell
from functions.store.files import atomic_path, reading_arrays
from functions.store.spread import spread

Array = NDArray[np.generic]


class Drained(Exception):  # noqa: N818 - not an error: the unit goes on elsewhere
    """A unit was put away in the middle, because its worker has to go."""


@dataclass(frozen=True, slots=True)
class ProgressFile:
    """Named arrays of one unit in progress; whose they are is for the arrays themselves to say."""

    path: Path

    @classmethod
    def of(cls, cell: Cell, unit: str) -> ProgressFile:
        """That of a unit of a cell."""
        return cls(spread(cell.file("progress"), f"{unit}.npz"))

    @property
    def reached(self) -> str:
        """Differs whenever the unit got further; empty where nothing is kept."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return ""
        return f"{found.st_mtime_ns}-{found.st_size}"

    def write(self, arrays: Mapping[str, Array]) -> None:
        """Replace the file atomically; not compressed, since a node may be about to be taken away."""
        with atomic_path(self.path) as partial, open(partial, "wb") as handle:
            np.savez(handle, allow_pickle=False, **arrays)

    def read(self) -> dict[str, Array] | None:
        """All arrays, or None where there is no file.

        Raises:
            VolumeError: the file is damaged.
        """
        with reading_arrays(self.path, remedy="remove it"):
            try:
                handle = open(self.path, "rb")  # noqa: SIM115 - closed below
            except FileNotFoundError:
                return None
            with handle, np.load(handle, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}

    def put_aside(self) -> None:
        """Have a damaged file out of the way, so that the unit is begun anew: once. Who is put away each time
        before it is done, and can never go on with that, would begin anew for ever.

        Raises:
            VolumeError: it is the second time.
        """
        if self._damaged.exists():
            raise VolumeError(
                f"{self.path}: damaged, like the one before it",
                remedy=f"look at scratch, then remove it and {self._damaged.name}",
            )
        os.replace(self.path, self._damaged)

    @property
    def _damaged(self) -> Path:
        return self.path.with_name(f"{self.path.name}.damaged")

    def remove(self) -> None:
        """Forget what was reached, and what a killed process left of writing it."""
        self.path.unlink(missing_ok=True)
        self._damaged.unlink(missing_ok=True)
        for left in self.path.parent.glob(f".{self.path.name}.*.partial"):
            left.unlink(missing_ok=True)
