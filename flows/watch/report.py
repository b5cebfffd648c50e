"""What a watched folder waits for, from its ledger alone: also while the watcher runs, or does not."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flows.errors import RunError
from flows.locks import is_held
from flows.watch.ledger import Ledger
from flows.watch.rows import COMPLETE, ENDED, SEEN, STARTED, STARTING, SectionRow, StartRow
from flows.watch.service import Places


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchReport:
    """The state of a watched folder."""

    places: Places
    watched: bool
    """Whether a watcher has its lock now."""
    looked_seconds_ago: float | None
    problems: tuple[str, ...]
    tiles: int
    counts: dict[str, int]
    """Sections by state."""
    sections: tuple[SectionRow, ...]
    """Those that are not ended, ascending in z."""
    starts: tuple[StartRow, ...]
    """Those that are not ended, in order, and those that ended without success."""

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready document."""
        return {
            "folder": str(self.places.folder),
            "acquisition": self.places.acquisition_id,
            "ledger": str(self.places.ledger),
            "watched": self.watched,
            "looked_seconds_ago": self.looked_seconds_ago,
            "problems": list(self.problems),
            "tiles": self.tiles,
            "sections": self.counts,
            "waiting": [_section(row) for row in self.sections],
            "starts": [_start(row) for row in self.starts],
        }


def watch_report(places: Places) -> WatchReport:
    """Read a folder's ledger.

    Raises:
        RunError: the folder has never been watched.
    """
    if not places.ledger.exists():
        raise RunError(
            f"{places.folder}: has not been watched",
            remedy=f"petavoxel watch {places.folder} --site SITE",
        )
    ledger = Ledger(places.ledger)
    try:
        whole, states = ledger.acquisition(), ledger.states()
        starts = [row for row in ledger.starts() if row.state != ENDED or not row.succeeded]
        return WatchReport(
            places=places,
            watched=is_held(places.ledger.with_suffix(".lock")),
            looked_seconds_ago=round(max(0.0, time.time() - whole.looked), 1) if whole.looked else None,
            problems=whole.problems,
            tiles=ledger.tile_count(),
            counts={
                state: sum(found == state for found in states.values())
                for state in (SEEN, COMPLETE, STARTING, STARTED, ENDED)
            },
            sections=tuple(ledger.sections(SEEN, COMPLETE, STARTING, STARTED)),
            starts=tuple(starts),
        )
    finally:
        ledger.close()


def waits_for(row: SectionRow) -> str:
    """What a section that is not ended waits for, for people."""
    return {
        SEEN: row.waits or "a look",
        COMPLETE: "its batch to fill",
        STARTING: "the service to take its start",
        STARTED: "its run to end",
    }.get(row.state, "")


def outcome(row: StartRow) -> str:
    """How a start stands, for people."""
    if row.state == ENDED:
        return "succeeded" if row.succeeded else "the run failed; see `petavoxel run show`"
    if row.error:
        return f"attempt {row.attempts}: {row.error}"
    if row.state == STARTED:
        return "at work"
    return "being sent" if row.attempts else "not sent yet"


def _section(row: SectionRow) -> dict[str, Any]:
    return {
        "z": row.z,
        "version": row.version,
        "state": row.state,
        "rule": row.rule or None,
        "waits_for": waits_for(row),
        "completed": _time(row.completed),
        "left_out": list(row.left_out),
    }


def _start(row: StartRow) -> dict[str, Any]:
    return {
        "tag": row.tag,
        "kind": row.kind,
        "state": row.state,
        "run": row.run_id,
        "attempts": row.attempts,
        "created": _time(row.created),
        "started": _time(row.started),
        "outcome": outcome(row),
    }


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, tz=UTC).isoformat(timespec="seconds")
