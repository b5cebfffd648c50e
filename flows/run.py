"""The facade over runs: start, list, show, logs, follow, cancel, rerun, and what a rerun would reuse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from flows.inputs import RunRequest
from flows.records import LogEntry, Reuse, RunEvent, RunRecord, StepRecord
from flows.site import Site, home_folder
from functions.model.parameters import Parameters


class Runs:
    """Runs of one site. Cheap to build; imports neither torch nor zarr."""

    def __init__(self, site: Site, *, home: Path | None = None) -> None:
        self.site = site
        self.home = home or home_folder()

    def start(
        self,
        request: RunRequest,
        *,
        wait: bool = False,
        on_event: Callable[[RunEvent], None] | None = None,
    ) -> RunRecord:
        """Start a run. With `wait` it runs here and the ended run is returned; else a detached process runs it.

        Raises:
            InputError: the request cannot become an input.
        """
        raise NotImplementedError

    def list(self) -> list[RunRecord]:
        """All runs, newest first."""
        raise NotImplementedError

    def show(self, run_id: str) -> tuple[RunRecord, list[StepRecord]]:
        """A run and its steps in order; `run_id` may be an unambiguous beginning of an id, or `last`.

        Raises:
            RunError: no such run, or more than one.
        """
        raise NotImplementedError

    def logs(self, run_id: str) -> list[LogEntry]:
        """The log of a run, oldest first."""
        raise NotImplementedError

    def request(self, run_id: str) -> RunRequest:
        """What a run was asked to do."""
        raise NotImplementedError

    def cancel(self, run_id: str) -> RunRecord:
        """Ask shards to stop, stop the runner, mark the run CANCELLED."""
        raise NotImplementedError

    def rerun(
        self,
        run_id: str,
        *,
        start_at: str | None = None,
        stop_after: str | None = None,
        parameters: Parameters | None = None,
        wait: bool = False,
        on_event: Callable[[RunEvent], None] | None = None,
    ) -> RunRecord:
        """Go on with an interrupted run (same id, when nothing is overridden), else start a linked new one.

        Raises:
            RunError: the run is still active.
        """
        raise NotImplementedError

    def reuse(self, run: str | RunRequest) -> list[Reuse]:  # type: ignore[valid-type]
        """Per step of a run or request: how many units there are and how many are done already."""
        raise NotImplementedError

    def follow(self, run_id: str, *, poll_seconds: float = 0.2) -> Iterator[RunEvent]:
        """Events of a run from its beginning until it ends, whoever runs it."""
        raise NotImplementedError
