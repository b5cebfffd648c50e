"""Cells: folders named by a fingerprint, and the done marks of the units of work inside them.

    <work>/<step>/<key>/          a cell: everything in it is a function of `key` alone
                        done/     one mark a finished unit, written last
                        attempts  one line each time a unit was begun

`key` is a fingerprint of inputs, parameters and code version, so a mark never outlives what it stands for: a
changed input has another cell. Running a unit again writes the same bytes; so resume = run again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from functions.model.base import Document
from functions.model.errors import VolumeError
from functions.store.files import write_json
from functions.store.limits import within
from functions.store.traffic import counted

CODE_VERSION = version("petavoxel")


class Mark(Document):
    """What a finished unit leaves: its time and figures (per unit, small)."""

    unit: str
    status: str = "ok"
    seconds: float
    started: float
    figures: dict[str, float] = {}
    problems: tuple[dict[str, str], ...] = ()


class UnitReport(Document):
    """What a unit's computation returns to be marked."""

    status: str = "ok"
    figures: dict[str, float] = {}
    problems: tuple[dict[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the work root; its units are held to `memory_gib` of their process, if that is given."""

    path: Path
    memory_gib: float | None = field(default=None, compare=False)

    def file(self, name: str) -> Path:
        """Path of a file or array inside the cell."""
        return self.path / name

    def mark_path(self, unit: str) -> Path:
        """Where the done mark of `unit` is or will be."""
        return self.path / "done" / f"{unit}.json"

    def is_done(self, unit: str) -> bool:
        """Whether `unit` is finished."""
        return self.mark_path(unit).exists()

    def mark(self, unit: str) -> Mark:
        """The done mark of a finished unit.

        Raises:
            VolumeError: there is none.
        """
        try:
            return Mark.parse(self.mark_path(unit).read_bytes(), source=str(self.mark_path(unit)))
        except FileNotFoundError:
            raise VolumeError(
                f"{self.path}: unit {unit} is not finished", remedy="run its step first"
            ) from None

    def marks(self) -> list[Mark]:
        """The done marks of all finished units, by name."""
        paths = sorted(self.file("done").glob("*.json"))
        return [Mark.parse(path.read_bytes(), source=str(path)) for path in paths]

    def run_unit(self, unit: str, compute: Callable[[], UnitReport]) -> tuple[Mark, bool]:
        """Compute `unit` unless it is marked; return its mark and whether it was computed now.

        The mark's figures tell, besides what the unit reports, `peak_mib` of its process and the bytes it
        read and wrote.

        Raises:
            MemoryBudgetError: it takes more than the cell's `memory_gib`.
        """
        if self.is_done(unit):
            return self.mark(unit), False
        self.path.mkdir(parents=True, exist_ok=True)
        self._note_attempt(unit)
        started = time.time()
        clock = time.perf_counter()
        with (
            within(self.memory_gib, subject=f"{self.path.parent.name} {unit}") as memory,
            counted() as bytes_,
        ):
            report = compute()
        mark = Mark(
            unit=unit,
            status=report.status,
            started=started,
            seconds=round(time.perf_counter() - clock, 4),
            figures=report.figures | bytes_.figures | {"peak_mib": float(memory.peak_mib)},
            problems=report.problems,
        )
        if mark.status != "failed":  # a failed unit is tried again by the next run
            write_json(self.mark_path(unit), mark.to_json())
        return mark, True

    def forget(self, unit: str) -> None:
        """Remove the done mark of a unit, if it has one, so that it is computed again."""
        self.mark_path(unit).unlink(missing_ok=True)

    def forget_all(self) -> None:
        """Remove all done marks."""
        for path in self.file("done").glob("*.json"):
            path.unlink(missing_ok=True)

    def _note_attempt(self, unit: str) -> None:
        """Append one line; O_APPEND keeps lines of several workers whole."""
        line = json.dumps({"unit": unit, "pid": os.getpid(), "time": time.time()}) + "\n"
        handle = os.open(self.path / "attempts", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)

    def attempts(self) -> dict[str, int]:
        """How often each unit was begun."""
        counts: dict[str, int] = {}
        path = self.path / "attempts"
        for line in path.read_text().splitlines() if path.exists() else []:
            unit = json.loads(line)["unit"]
            counts[unit] = counts.get(unit, 0) + 1
        return counts
