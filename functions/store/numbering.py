"""The units of a cell in a fixed order, cut into lots: written once, whole, before anybody claims.

ledger/plan/units.npy    names, sorted, of one width: found by bisection and read by place, never as a whole
ledger/plan/lots.json    how many units a lot has
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from functions.store.files import atomic_path

MOST_IN_A_LOT = 64
CLAIMS_A_WORKER = 50
"""A worker claims about so often: with lots of that size the last one is a fiftieth of its work."""

READ_WHOLE_BYTES = 2**20


def lot_size(units: int, workers: int) -> int:
    """Units of a lot: few enough that all workers end together, up to `MOST_IN_A_LOT`."""
    return max(1, min(MOST_IN_A_LOT, units // (workers * CLAIMS_A_WORKER)))


@dataclass(frozen=True, slots=True)
class Numbering:
    """Names of units by number, and numbers by name."""

    names: Any
    """(n,) bytes, sorted; a file that is mapped, not read."""
    size: int

    def __len__(self) -> int:
        return len(self.names)

    @property
    def lots(self) -> int:
        """How many lots there are."""
        return -(-len(self.names) // self.size)

    def units(self, lot: int) -> list[str]:
        """Names of the units of a lot."""
        return [name.decode() for name in self.names[lot * self.size : (lot + 1) * self.size].tolist()]

    def width(self, lot: int) -> int:
        """How many units a lot has."""
        return min(self.size, len(self.names) - lot * self.size)

    def lot_of(self, unit: str) -> int | None:
        """The lot that a unit is in; None for a unit that is in none."""
        key = unit.encode()
        at = int(self.names.searchsorted(key))
        return at // self.size if at < len(self.names) and self.names[at] == key else None


def write_numbering(folder: Path, units: Sequence[str], *, size: int) -> None:
    """Write the numbering of a cell; one that is there stays, so that all workers use the same."""
    import numpy as np

    with atomic_path(folder, keep_older=True) as partial:
        partial.mkdir()
        np.save(partial / "units.npy", np.sort(np.array([unit.encode() for unit in units], "S")))
        (partial / "lots.json").write_text(json.dumps({"units_per_lot": size}))


def read_numbering(folder: Path) -> Numbering | None:
    """The numbering of a cell; None where no step was planned."""
    try:
        found = (folder / "lots.json").stat()
    except FileNotFoundError:
        return None
    return _read(folder, found.st_ino, found.st_mtime_ns)


@lru_cache(maxsize=16)
def _read(folder: Path, _inode: int, _written: int) -> Numbering:
    """A numbering never changes; the cache is for workers that look often."""
    import numpy as np

    path = folder / "units.npy"
    mapped: Literal["r"] | None = "r" if path.stat().st_size > READ_WHOLE_BYTES else None
    names = np.load(path, mmap_mode=mapped, allow_pickle=False)
    return Numbering(names=names, size=int(json.loads((folder / "lots.json").read_text())["units_per_lot"]))
