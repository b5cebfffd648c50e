"""Runs, executions, steps and logs of the embedded site, in one SQLite file that several processes share."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from flows.errors import RunError
from flows.inputs import RunRequest, tags_of
from flows.local.interpreter import Execution
from flows.records import LogEntry, RunRecord, RunStatus, StepRecord, StepStatus
from flows.site import Site
from functions.tasks import Problem

_SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS runs (
  id TEXT PRIMARY KEY, created TEXT, updated TEXT, status TEXT, parent TEXT, site TEXT, request TEXT,
  input TEXT, definition TEXT, execution TEXT, error TEXT, published TEXT, stop_requested INTEGER DEFAULT 0);
CREATE TABLE IF NOT EXISTS steps (
  run_id TEXT, position INTEGER, name TEXT, record TEXT, PRIMARY KEY (run_id, name));
CREATE TABLE IF NOT EXISTS logs (
  run_id TEXT, seq INTEGER, time TEXT, code TEXT, state_name TEXT, description TEXT, details TEXT,
  PRIMARY KEY (run_id, seq));
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A run as it is kept: its record, and what its runner needs to go on."""

    record: RunRecord
    site: Site
    request: RunRequest
    definition: dict[str, Any]
    execution: Execution | None


class Store:
    """The database of a home folder. Each call is one transaction; safe to use from several processes."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = path
        self._connection = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    # -- runs -----------------------------------------------------------------------------------------------
    def add(self, stored: StoredRun, steps: list[StepRecord]) -> None:
        """Keep a new run and its steps."""
        record = stored.record
        with self._transaction() as db:
            db.execute(
                "INSERT INTO runs (id, created, updated, status, parent, site, request, input, definition)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    record.id,
                    record.created,
                    record.updated,
                    record.status,
                    record.parent_run,
                    stored.site.model_dump_json(),
                    stored.request.model_dump_json(),
                    json.dumps(record.input),
                    json.dumps(stored.definition),
                ),
            )
            for position, step in enumerate(steps):
                db.execute(
                    "INSERT INTO steps VALUES (?, ?, ?, ?)",
                    (record.id, position, step.name, json.dumps(asdict(step), default=_plain)),
                )

    def find(self, beginning: str) -> str:
        """The id of the run whose id begins so; `last` is the newest run.

        Raises:
            RunError: none or several.
        """
        if beginning == "last":
            rows = self._connection.execute("SELECT id FROM runs ORDER BY created DESC, rowid DESC LIMIT 1")
        else:
            pattern = "".join(f"\\{c}" if c in "%_\\" else c for c in beginning) + "%"
            rows = self._connection.execute(
                "SELECT id FROM runs WHERE id LIKE ? ESCAPE '\\' LIMIT 3", (pattern,)
            )
        found = [str(row[0]) for row in rows]
        if not found:
            raise RunError(f"{beginning}: no such run", remedy="see `petavoxel run list`")
        if len(found) > 1:
            raise RunError(f"{beginning}: several runs begin so", remedy="give more of the id")
        return found[0]

    def run_ids(self) -> list[str]:
        """Ids of all runs, newest first."""
        return [
            str(row[0])
            for row in self._connection.execute("SELECT id FROM runs ORDER BY created DESC, rowid DESC")
        ]

    def load(self, run_id: str) -> StoredRun:
        """A run by its whole id."""
        row = self._connection.execute(
            "SELECT created, updated, status, parent, site, request, input, definition, execution, error,"
            " published FROM runs WHERE id = ?",
            (run_id,),
        ).fetchone()
        if row is None:
            raise RunError(f"{run_id}: no such run", remedy="see `petavoxel run list`")
        created, updated, status, parent, site, request, document, definition, execution, error, out = row
        input_document = json.loads(document)
        facts = input_document["input"]
        parsed_site = Site.parse(site, source=f"run {run_id}: site")
        parsed_request = RunRequest.parse(request, source=f"run {run_id}: request")
        record = RunRecord(
            id=run_id,
            status=RunStatus(status),
            label=facts["label"],
            tags=tags_of(parsed_request, facts["acquisition_id"]),
            site=parsed_site.name,
            acquisition_id=facts["acquisition_id"],
            source_path=str(parsed_site.instrument.file_path(facts["source"]["path"])),
            created=created,
            updated=updated,
            start_at=facts["start_at"],
            stop_after=facts["stop_after"],
            parent_run=parent,
            input=input_document,
            error=error,
            published_path=out,
            work_path=facts["run"]["work"],
        )
        return StoredRun(
            record=record,
            site=parsed_site,
            request=parsed_request,
            definition=json.loads(definition),
            execution=_execution(json.loads(execution)) if execution else None,
        )

    # -- progress -------------------------------------------------------------------------------------------
    def save(
        self,
        run_id: str,
        execution: Execution,
        entries: list[LogEntry],
        *,
        time: str,
        published: str | None,
        step: StepRecord | None,
    ) -> None:
        """Keep a transition: the execution, its log lines and its step, all or nothing."""
        with self._transaction() as db:
            db.execute(
                "UPDATE runs SET execution = ?, status = ?, updated = ?, error = ?, published = ?"
                " WHERE id = ?",
                (
                    json.dumps(asdict(execution), default=_plain),
                    execution.status,
                    time,
                    execution.cause,
                    published,
                    run_id,
                ),
            )
            (last,) = db.execute(
                "SELECT coalesce(max(seq), 0) FROM logs WHERE run_id = ?", (run_id,)
            ).fetchone()
            for seq, entry in enumerate(entries, start=last + 1):
                db.execute(
                    "INSERT INTO logs VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (
                        run_id,
                        seq,
                        entry.time,
                        entry.code,
                        entry.state_name,
                        entry.description,
                        json.dumps(entry.details),
                    ),
                )
            if step is not None:
                _write_step(db, run_id, step)

    def save_step(self, run_id: str, step: StepRecord, *, time: str) -> None:
        """Keep a step's progress."""
        with self._transaction() as db:
            _write_step(db, run_id, step)
            db.execute("UPDATE runs SET updated = ? WHERE id = ?", (time, run_id))

    def steps(self, run_id: str) -> list[StepRecord]:
        """A run's steps, in order."""
        rows = self._connection.execute(
            "SELECT record FROM steps WHERE run_id = ? ORDER BY position", (run_id,)
        )
        return [_step(json.loads(row[0])) for row in rows]

    def logs(self, run_id: str, *, after: int = 0) -> list[LogEntry]:
        """A run's log lines after the first `after`."""
        rows = self._connection.execute(
            "SELECT time, code, state_name, description, details FROM logs WHERE run_id = ? AND seq > ?"
            " ORDER BY seq",
            (run_id, after),
        )
        return [
            LogEntry(time=t, code=c, state_name=s, description=d, details=json.loads(more))
            for t, c, s, d, more in rows
        ]

    # -- stopping -------------------------------------------------------------------------------------------
    def request_stop(self, run_id: str, *, wanted: bool = True) -> None:
        """Ask the runner to stop, whichever process it is in; or take that back."""
        with self._transaction() as db:
            db.execute("UPDATE runs SET stop_requested = ? WHERE id = ?", (int(wanted), run_id))

    def stop_requested(self, run_id: str) -> bool:
        """Whether the run is asked to stop."""
        row = self._connection.execute("SELECT stop_requested FROM runs WHERE id = ?", (run_id,)).fetchone()
        return bool(row and row[0])


def _plain(value: object) -> object:
    if isinstance(value, Problem):
        return value.to_json()
    raise TypeError(f"{type(value).__name__} does not go into the store")


def _write_step(db: sqlite3.Connection, run_id: str, step: StepRecord) -> None:
    db.execute(
        "UPDATE steps SET record = ? WHERE run_id = ? AND name = ?",
        (json.dumps(asdict(step), default=_plain), run_id, step.name),
    )


def _step(fields: dict[str, Any]) -> StepRecord:
    record = StepRecord(**fields)
    return replace(
        record,
        status=StepStatus(fields["status"]),
        problems=tuple(Problem.parse(p, source="stored step") for p in fields["problems"]),
    )


def _execution(fields: dict[str, Any]) -> Execution:
    return replace(Execution(**fields), status=RunStatus(fields["status"]))
