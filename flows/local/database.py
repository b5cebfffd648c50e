"""The embedded site's SQLite file: its tables, their migrations, and transactions several processes share."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.sqlite import open_shared, transaction_on

VERSION = 2
_TABLES = """
CREATE TABLE IF NOT EXISTS runs (
  id TEXT PRIMARY KEY, created TEXT, updated TEXT, status TEXT, parent TEXT, site TEXT, request TEXT,
  input TEXT, definition TEXT, execution TEXT, error TEXT, published TEXT, stop_requested INTEGER DEFAULT 0);
CREATE TABLE IF NOT EXISTS steps (
  run_id TEXT, position INTEGER, name TEXT, record TEXT, PRIMARY KEY (run_id, name));
CREATE TABLE IF NOT EXISTS logs (
  run_id TEXT, seq INTEGER, time TEXT, code TEXT, state_name TEXT, description TEXT, details TEXT,
  PRIMARY KEY (run_id, seq));
CREATE TABLE IF NOT EXISTS flows (
  id TEXT PRIMARY KEY, created TEXT, updated TEXT, title TEXT, document TEXT);
CREATE TABLE IF NOT EXISTS functions (id TEXT PRIMARY KEY, created TEXT, document TEXT);
CREATE TABLE IF NOT EXISTS transfer_tasks (
  id TEXT PRIMARY KEY, submission_id TEXT UNIQUE, kind TEXT, created TEXT, body TEXT, document TEXT);
"""
_SECOND = """
ALTER TABLE runs ADD COLUMN flow_id TEXT;
ALTER TABLE runs ADD COLUMN flow_title TEXT DEFAULT '';
ALTER TABLE runs ADD COLUMN label TEXT DEFAULT '';
ALTER TABLE runs ADD COLUMN tags TEXT DEFAULT '[]';
ALTER TABLE runs ADD COLUMN run_managers TEXT DEFAULT '[]';
ALTER TABLE runs ADD COLUMN run_monitors TEXT DEFAULT '[]';
ALTER TABLE runs ADD COLUMN hold TEXT;
CREATE INDEX runs_of_flows ON runs (flow_id);
"""
"""Since version 2 a run belongs to a flow and carries its label and tags; `hold` is why it is INACTIVE."""


class Database:
    """One connection, used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._connection = open_shared(path)
        if self._version() < VERSION:
            self._migrate()

    def _version(self) -> int:
        return int(self._connection.execute("PRAGMA user_version").fetchone()[0])

    def _migrate(self) -> None:
        with self.transaction() as db:
            if self._version() >= VERSION:  # another process was first
                return
            for statement in (_TABLES + _SECOND).split(";"):
                if statement.strip():
                    db.execute(statement)
            _fill_second(db)
            db.execute(f"PRAGMA user_version = {VERSION}")

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All statements or none."""
        with self._lock, transaction_on(self._connection):
            yield self._connection

    def rows(self, statement: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """The rows that a SELECT finds."""
        with self._lock:
            return self._connection.execute(statement, values).fetchall()

    def row(self, statement: str, values: tuple[Any, ...] = ()) -> tuple[Any, ...] | None:
        """The first row that a SELECT finds."""
        found = self.rows(statement, values)
        return found[0] if found else None


def _fill_second(db: sqlite3.Connection) -> None:
    """Give the runs of an older home the flow, label and tags that their requests say."""
    from flows.inputs import RunRequest, tags_of
    from flows.local.builtin import FLOW_ID, TITLE

    for run_id, request, document in db.execute("SELECT id, request, input FROM runs").fetchall():
        facts = json.loads(document)["input"]
        asked = RunRequest.parse(request, source=f"run {run_id}: request")
        db.execute(
            "UPDATE runs SET flow_id = ?, flow_title = ?, label = ?, tags = ? WHERE id = ?",
            (FLOW_ID, TITLE, facts["label"], json.dumps(tags_of(asked, facts["acquisition_id"])), run_id),
        )
