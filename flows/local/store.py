"""Runs of the embedded site: executions, steps and logs, in one SQLite file that several processes share."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from flows.errors import RunError
from flows.local.actions import Json
from flows.local.database import Database
from flows.local.interpreter import Execution
from flows.records import LogEntry, RunStatus, StepRecord, StepStatus
from flows.site import Site
from functions.tasks import Problem

_HEAD = (
    "runs.id, flow_id, flow_title, coalesce(flows.updated, runs.created), status, runs.created, runs.updated,"
    " label, tags, run_managers, run_monitors, error, runs.rowid"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHead:
    """What a list of runs shows of one. Times are ISO 8601 in UTC."""

    id: str
    flow_id: str
    flow_title: str
    flow_updated: str
    status: RunStatus
    created: str
    updated: str
    label: str
    tags: tuple[str, ...] = ()
    managers: tuple[str, ...] = ()
    monitors: tuple[str, ...] = ()
    error: str | None = None
    position: int = 0
    """Grows from run to run; a page of a list goes on below the last one's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A run as it is kept: what a list shows, and what its runner needs to go on."""

    head: RunHead
    site: Site
    body: Json
    """The document it was started with."""
    definition: Json
    """As of its start."""
    execution: Execution | None
    published: str | None = None
    hold: Json | None = None
    """Why it is INACTIVE or about to be: a Globus authorisation requirements error."""


class Store:
    """The runs of a home folder. Each call is one transaction; safe to use from several processes."""

    def __init__(self, path: Path) -> None:
        self.database = Database(path)

    def close(self) -> None:
        """Close the database."""
        self.database.close()

    # -- runs -----------------------------------------------------------------------------------------------
    def add(self, stored: StoredRun, steps: list[StepRecord]) -> None:
        """Keep a new run and its steps; a flow that is not ours has none."""
        head = stored.head
        with self.database.transaction() as db:
            db.execute(
                "INSERT INTO runs (id, flow_id, flow_title, created, updated, status, site, input,"
                " definition, label, tags, run_managers, run_monitors)"
                f" VALUES ({', '.join('?' * 13)})",
                (
                    *(head.id, head.flow_id, head.flow_title, head.created, head.updated, head.status),
                    *(stored.site.model_dump_json(), json.dumps(stored.body), json.dumps(stored.definition)),
                    *(head.label, json.dumps(head.tags)),
                    *(json.dumps(head.managers), json.dumps(head.monitors)),
                ),
            )
            for position, step in enumerate(steps):
                db.execute(
                    "INSERT INTO steps VALUES (?, ?, ?, ?)",
                    (head.id, position, step.name, json.dumps(step_fields(step))),
                )

    def heads(
        self, *, flow_ids: tuple[str, ...] = (), below: int | None = None, limit: int = -1
    ) -> list[RunHead]:
        """Runs of these flows (of all, without any), newest first; at most `limit`, from position `below`."""
        conditions = [f"flow_id IN ({', '.join('?' * len(flow_ids))})"] if flow_ids else []
        values: tuple[Any, ...] = flow_ids
        if below is not None:
            conditions.append("runs.rowid < ?")
            values = (*values, below)
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        rows = self.database.rows(
            f"SELECT {_HEAD} FROM runs LEFT JOIN flows ON flows.id = flow_id{where}"
            " ORDER BY runs.rowid DESC LIMIT ?",
            (*values, limit),
        )
        return [_head(row) for row in rows]

    def load(self, run_id: str) -> StoredRun:
        """A run by its whole id.

        Raises:
            RunError: no such run.
        """
        row = self.database.row(
            f"SELECT site, input, definition, execution, published, hold, {_HEAD}"
            " FROM runs LEFT JOIN flows ON flows.id = flow_id WHERE runs.id = ?",
            (run_id,),
        )
        if row is None:
            raise RunError(f"{run_id}: no such run", remedy="see `petavoxel run list`")
        site, body, definition, execution, published, hold, *head = row
        return StoredRun(
            head=_head(tuple(head)),
            site=Site.parse(site, source=f"run {run_id}: site"),
            body=json.loads(body),
            definition=json.loads(definition),
            execution=_execution(json.loads(execution)) if execution else None,
            published=published,
            hold=json.loads(hold) if hold else None,
        )

    def relabel(self, run_id: str, **fields: str | tuple[str, ...]) -> None:
        """Change label, tags, run_managers or run_monitors."""
        with self.database.transaction() as db:
            for name in ("label", "tags", "run_managers", "run_monitors"):
                if name in fields:
                    value = fields[name]
                    text = value if isinstance(value, str) else json.dumps(value)
                    db.execute(f"UPDATE runs SET {name} = ? WHERE id = ?", (text, run_id))

    def remove(self, run_id: str) -> None:
        """Forget a run, its steps and its log."""
        with self.database.transaction() as db:
            db.execute("DELETE FROM runs WHERE id = ?", (run_id,))
            db.execute("DELETE FROM steps WHERE run_id = ?", (run_id,))
            db.execute("DELETE FROM logs WHERE run_id = ?", (run_id,))

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
        with self.database.transaction() as db:
            db.execute(
                "UPDATE runs SET execution = ?, status = ?, updated = ?, error = ?, published = ?"
                " WHERE id = ?",
                (
                    json.dumps(asdict(execution)),
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
                        *(run_id, seq, entry.time, entry.code, entry.state_name, entry.description),
                        json.dumps(entry.details),
                    ),
                )
            if step is not None:
                _write_step(db, run_id, step)

    def save_step(self, run_id: str, step: StepRecord, *, time: str) -> None:
        """Keep a step's progress."""
        with self.database.transaction() as db:
            _write_step(db, run_id, step)
            db.execute("UPDATE runs SET updated = ? WHERE id = ?", (time, run_id))

    def steps(self, run_id: str) -> list[StepRecord]:
        """A run's steps, in order."""
        rows = self.database.rows("SELECT record FROM steps WHERE run_id = ? ORDER BY position", (run_id,))
        return [read_step(json.loads(row[0])) for row in rows]

    def logs(self, run_id: str, *, after: int = 0, limit: int = -1, newest: bool = False) -> list[LogEntry]:
        """A run's log lines after the first `after`, oldest first, or newest first."""
        rows = self.database.rows(
            "SELECT time, code, state_name, description, details FROM logs WHERE run_id = ?"
            f" ORDER BY seq {'DESC' if newest else ''} LIMIT ? OFFSET ?",
            (run_id, limit, after),
        )
        return [
            LogEntry(time=t, code=c, state_name=s, description=d, details=json.loads(more))
            for t, c, s, d, more in rows
        ]

    # -- stopping -------------------------------------------------------------------------------------------
    def request_stop(self, run_id: str, *, wanted: bool = True) -> None:
        """Ask the runner to stop, whichever process it is in; or take that back."""
        with self.database.transaction() as db:
            db.execute("UPDATE runs SET stop_requested = ? WHERE id = ?", (int(wanted), run_id))

    def stop_requested(self, run_id: str) -> bool:
        """Whether the run is asked to stop."""
        row = self.database.row("SELECT stop_requested FROM runs WHERE id = ?", (run_id,))
        return bool(row and row[0])

    def hold(self, run_id: str, reason: Json | None) -> None:
        """Ask the runner to go INACTIVE for this reason, a GARE; None takes that back."""
        with self.database.transaction() as db:
            text = json.dumps(reason) if reason else None
            db.execute("UPDATE runs SET hold = ? WHERE id = ?", (text, run_id))

    def hold_requested(self, run_id: str) -> bool:
        """Whether the run is to go INACTIVE."""
        row = self.database.row("SELECT hold IS NOT NULL FROM runs WHERE id = ?", (run_id,))
        return bool(row and row[0])


def _head(row: tuple[Any, ...]) -> RunHead:
    run_id, flow_id, title, flow_updated, status, created, updated, label, tags, managers, monitors = row[:11]
    return RunHead(
        id=run_id,
        flow_id=flow_id,
        flow_title=title,
        flow_updated=flow_updated,
        status=RunStatus(status),
        created=created,
        updated=updated,
        label=label,
        tags=tuple(json.loads(tags)),
        managers=tuple(json.loads(managers)),
        monitors=tuple(json.loads(monitors)),
        error=row[11],
        position=row[12],
    )


def _write_step(db: sqlite3.Connection, run_id: str, step: StepRecord) -> None:
    db.execute(
        "UPDATE steps SET record = ? WHERE run_id = ? AND name = ?",
        (json.dumps(step_fields(step)), run_id, step.name),
    )


def step_fields(step: StepRecord) -> Json:
    """A step as JSON."""
    return {**asdict(step), "problems": [problem.to_json() for problem in step.problems]}


def read_step(fields: Json) -> StepRecord:
    """A step from JSON, as `step_fields` writes it."""
    record = StepRecord(**fields)
    return replace(
        record,
        status=StepStatus(fields["status"]),
        problems=tuple(Problem.parse(p, source="stored step") for p in fields["problems"]),
    )


def _execution(fields: dict[str, Any]) -> Execution:
    return replace(Execution(**fields), status=RunStatus(fields["status"]))
