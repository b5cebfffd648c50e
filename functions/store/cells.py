"""Cells: folders named by a fingerprint, and the ledger of the units of work inside them.

    <work>/<step>/<key>/          a cell: everything in it is a function of `key` alone
                        ledger/   who claimed which units, and the mark of each that is finished, written last

`key` is a fingerprint of inputs, parameters and code version, so a mark never outlives what it stands for: a
changed input has another cell. Running a unit again writes the same bytes; so resume = run again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from functions.model.errors import VolumeError
from functions.store.ledger import Ledger
from functions.store.marks import Mark, UnitReport
from functions.store.measured import measured
from functions.store.presence import myself
from functions.tasks import MAX_PROBLEMS, Problem, StepName, StepResult

__all__ = ["CODE_VERSION", "Cell", "Mark", "UnitReport", "result_of_unit"]

CODE_VERSION = version("petavoxel")


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the work root; its units are held to `memory_gib` of their process, if that is given."""

    path: Path
    memory_gib: float | None = field(default=None, compare=False)

    def file(self, name: str) -> Path:
        """Path of a file or array inside the cell."""
        return self.path / name

    @property
    def ledger(self) -> Ledger:
        """Who does what, and what is done."""
        return Ledger(self.path / "ledger")

    @property
    def workers(self) -> Path:
        """Folder of the heartbeats of all workers of the step; cells of a step share it."""
        return self.path.parent / "workers"

    def is_done(self, unit: str) -> bool:
        """Whether `unit` is finished: one or two small files are read."""
        return self.ledger.mark(unit) is not None

    def mark(self, unit: str) -> Mark:
        """The mark of a finished unit.

        Raises:
            VolumeError: there is none.
        """
        mark = self.ledger.mark(unit)
        if mark is None:
            raise VolumeError(f"{self.path}: unit {unit} is not finished", remedy="run its step first")
        return mark

    def marks(self) -> list[Mark]:
        """The marks of all finished units, by name; packed files are read one by one."""
        found = {unit: s.mark for unit, s in self.ledger.standings_of_all() if s.mark is not None}
        return [found[unit] for unit in sorted(found)]

    def unfinished(self, units: Iterable[str]) -> Iterator[str]:
        """Those of all units of this cell that are not done; of settled lots nothing is read."""
        ledger = self.ledger
        if ledger.numbering is None:
            yield from (unit for unit in units if not self.is_done(unit))
            return
        yield from (found.unit for found in ledger.quarantined())
        yield from ledger.missing()

    def run_unit(self, unit: str, compute: Callable[[], UnitReport]) -> tuple[Mark, bool]:
        """Compute `unit` here and now, unless it is done; return its mark and whether it was computed now.

        It waits for nobody: two processes that compute a unit at a time write the same bytes. The mark's
        figures tell, besides what the unit reports, its peak of memory and its bytes.

        Raises:
            MemoryBudgetError: it takes more than the cell's `memory_gib`.
        """
        mark = self.ledger.mark(unit)
        if mark is not None:
            return mark, False
        claim = self.ledger.single(unit).take_next(myself())
        try:
            claim.begin(unit)
            started, clock = time.time(), time.perf_counter()
            report = measured(compute, memory_gib=self.memory_gib, subject=f"{self.path.parent.name} {unit}")
            mark = Mark.of(unit, report, started=started, seconds=time.perf_counter() - clock)
            if mark.status == "failed":  # a failed unit is tried again by the next run
                claim.drop(unit)
            else:
                claim.done(mark)
                claim.finish()
        finally:
            claim.release()  # unless it is finished
        return mark, True

    def keep(self, mark: Mark) -> None:
        """Keep the mark of a unit that was computed elsewhere."""
        claim = self.ledger.single(mark.unit).take_next(myself())
        claim.begin(mark.unit)
        claim.done(mark)
        claim.finish()

    def forget(self, unit: str) -> None:
        """Have a unit computed again, if it is done or in quarantine."""
        self.ledger.void(unit)

    def forget_all(self, *, numbering: bool = False) -> None:
        """Have all units computed again; with `numbering` they may be others than before."""
        self.ledger.void_all(numbering=numbering)

    def attempts(self) -> dict[str, int]:
        """How often each unit was begun."""
        counts: dict[str, int] = {}
        for unit, standing in self.ledger.standings_of_all():
            counts[unit] = counts.get(unit, 0) + standing.begun
        return counts


def result_of_unit(step: StepName, mark: Mark, *, fresh: bool, paths: dict[str, str]) -> StepResult:
    """What a step of a single unit answers; `fresh`: it was computed now."""
    return StepResult(
        step=step,
        status=mark.status,
        units=1,
        computed=int(fresh),
        reused=int(not fresh),
        figures=mark.figures,
        paths=paths,
        problems=tuple(Problem.parse(p, source=f"mark {mark.unit}") for p in mark.problems[:MAX_PROBLEMS]),
        problem_count=len(mark.problems),
    )
