"""The log of a run, read through the service page by page, and only what is new."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flows.records import LogEntry
from flows.tracking import entry_of

if TYPE_CHECKING:
    from globus_sdk import FlowsClient

LONGEST_PAGE = 100


class LogTail:
    """A run's log as far as it was read; `more` reads on from the page where the last reading ended."""

    def __init__(self, flows: FlowsClient, run_id: str, *, page: int = LONGEST_PAGE) -> None:
        self.entries: list[LogEntry] = []
        self._flows = flows
        self._run_id = run_id
        self._page = page
        self._marker: str | None = None
        self._seen = 0
        """Lines of the page at `_marker` that were read before."""

    def first(self) -> LogEntry | None:
        """The first line, if there is one."""
        lines = self._lines().get("entries") or []
        return entry_of(lines[0]) if lines else None

    def more(self) -> list[LogEntry]:
        """Lines that were not read before, oldest first."""
        new: list[LogEntry] = []
        while True:
            page = self._lines()
            lines = page["entries"]
            new += [entry_of(line) for line in lines[self._seen :]]
            if not page.get("has_next_page"):
                self._seen = len(lines)
                break
            self._marker, self._seen = page["marker"], 0
        self.entries += new
        return new

    def _lines(self) -> Any:
        if self._marker is None:
            return self._flows.get_run_logs(self._run_id, limit=self._page)
        return self._flows.get_run_logs(self._run_id, limit=self._page, marker=self._marker)
