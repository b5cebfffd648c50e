"""What a unit's computation costs, beside what it reports: peak of memory, bytes read and written."""

from __future__ import annotations

from collections.abc import Callable

from functions.store.limits import within
from functions.store.marks import UnitReport
from functions.store.traffic import counted

PEAK = "peak_mib"


def measured(compute: Callable[[], UnitReport], *, memory_gib: float | None, subject: str) -> UnitReport:
    """The report of a unit, computed within its memory, with `peak_mib` of its process and its bytes.

    Raises:
        MemoryBudgetError: naming `subject`; it asked for more.
    """
    with within(memory_gib, subject=subject) as memory, counted() as traffic:
        report = compute()
    told = report.figures | traffic.figures | {PEAK: float(memory.peak_mib)}
    return report.model_copy(update={"figures": told})
