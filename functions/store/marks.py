"""What a computed unit reports, and the mark that is kept of it."""

from __future__ import annotations

from functions.model.base import Document


class UnitReport(Document):
    """What a unit's computation returns to be marked."""

    status: str = "ok"
    figures: dict[str, float] = {}
    problems: tuple[dict[str, str], ...] = ()


class Mark(Document):
    """What a finished unit leaves: its time and figures (per unit, small)."""

    unit: str
    status: str = "ok"
    seconds: float
    started: float
    figures: dict[str, float] = {}
    problems: tuple[dict[str, str], ...] = ()

    @classmethod
    def of(cls, unit: str, report: UnitReport, *, started: float, seconds: float) -> Mark:
        """The mark of a unit that reported."""
        return cls(
            unit=unit,
            status=report.status,
            started=started,
            seconds=round(seconds, 4),
            figures=report.figures,
            problems=report.problems,
        )


class Attempt(Document):
    """An attempt at a unit that came to nothing."""

    worker: str
    error: str
    traceback: str = ""


class Quarantined(Document):
    """A unit that is left alone after too many attempts, and what became of them."""

    unit: str
    attempts: int
    failures: tuple[Attempt, ...]
    """Fewer than `attempts`: the others ended their process, which could say nothing."""
    memory_gib: float | None = None
    """What it might fill, if that was limited."""

    @property
    def reason(self) -> str:
        """The last error in one line."""
        if not self.failures:
            return f"it ended its worker {self.attempts} times, alone there (out of memory, or killed)"
        return self.failures[-1].error

    @property
    def remedy(self) -> str:
        """What to do about it. Without a limit the kernel ends a process that takes too much memory; within
        one, the unit itself says that it is too large."""
        if not self.failures and self.memory_gib is None:
            return "likely memory: rerun with --memory-gib and --retry-quarantined"
        return "rerun with --retry-quarantined when it is mended"
