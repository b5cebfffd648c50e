"""Deployed flows, registered functions and transfer tasks of the embedded site."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from typing import Any

from flows.local.actions import Json
from flows.local.builtin import FLOW_ID, flow_fields
from flows.local.database import Database
from flows.local.interpreter import iso
from flows.local.registered import RegisteredFunction

FLOW_FIELDS: dict[str, Any] = {
    "title": "",
    "subtitle": "",
    "description": "",
    "keywords": [],
    "definition": {},
    "input_schema": {},
    "flow_viewers": [],
    "flow_starters": [],
    "flow_administrators": [],
    "run_managers": [],
    "run_monitors": [],
    "subscription_id": None,
    "authentication_policy_id": None,
}
"""What a client may say of a flow, and what holds while it does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFlow:
    """A deployed flow: what its owner said of it, and when."""

    id: str
    created: str
    updated: str
    fields: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTask:
    """A Transfer task: what was asked for, and its document once it has ended."""

    id: str
    submission_id: str
    kind: str
    created: str
    body: Json
    document: Json | None


class Catalog:
    """What clients have deployed, registered and submitted. The package's own flow is always there."""

    def __init__(self, database: Database) -> None:
        self._database = database
        fields = FLOW_FIELDS | flow_fields()
        known = self.find_flow(FLOW_ID)
        if known is None or known.fields != fields:
            self._write_flow(FLOW_ID, fields, created=known.created if known else None)

    # -- flows ----------------------------------------------------------------------------------------------
    def create_flow(self, fields: Json) -> StoredFlow:
        """Keep a new flow under a new id."""
        return self._write_flow(str(uuid.uuid4()), FLOW_FIELDS | fields, created=None)

    def update_flow(self, flow: StoredFlow, fields: Json) -> StoredFlow:
        """Replace some of a flow's fields."""
        return self._write_flow(flow.id, flow.fields | fields, created=flow.created)

    def _write_flow(self, flow_id: str, fields: Json, *, created: str | None) -> StoredFlow:
        now = iso(time.time())
        flow = StoredFlow(id=flow_id, created=created or now, updated=now, fields=fields)
        with self._database.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO flows VALUES (?, ?, ?, ?, ?)",
                (flow.id, flow.created, flow.updated, fields["title"], json.dumps(fields)),
            )
        return flow

    def find_flow(self, flow_id: str) -> StoredFlow | None:
        """A flow by its id."""
        row = self._database.row("SELECT id, created, updated, document FROM flows WHERE id = ?", (flow_id,))
        return _flow(row) if row else None

    def flows(self) -> list[StoredFlow]:
        """All flows, oldest first."""
        rows = self._database.rows("SELECT id, created, updated, document FROM flows ORDER BY created, id")
        return [_flow(row) for row in rows]

    def remove_flow(self, flow_id: str) -> None:
        """Forget a flow; its runs stay."""
        with self._database.transaction() as db:
            db.execute("DELETE FROM flows WHERE id = ?", (flow_id,))

    # -- functions ------------------------------------------------------------------------------------------
    def register(self, document: Json) -> str:
        """Keep a function as its client sent it; each registration has a new id."""
        function_id = str(uuid.uuid4())
        with self._database.transaction() as db:
            row = (function_id, iso(time.time()), json.dumps(document))
            db.execute("INSERT INTO functions VALUES (?, ?, ?)", row)
        return function_id

    def function_document(self, function_id: str) -> Json | None:
        """What a client sent to register a function."""
        row = self._database.row("SELECT document FROM functions WHERE id = ?", (function_id,))
        return dict(json.loads(row[0])) if row else None

    def remove_function(self, function_id: str) -> None:
        """Forget a function."""
        with self._database.transaction() as db:
            db.execute("DELETE FROM functions WHERE id = ?", (function_id,))

    def functions(self) -> dict[str, RegisteredFunction]:
        """Functions registered as source text, by id. Pickled ones are kept but never run, as on an
        endpoint whose `allowed_serializers` has none."""
        rows = self._database.rows("SELECT id, document FROM functions")
        documents = {row[0]: json.loads(row[1]) for row in rows}
        return {
            id_: RegisteredFunction(document["function_name"], document["function_code"])
            for id_, document in documents.items()
            if document.get("serialized") is False
        }

    # -- transfer tasks -------------------------------------------------------------------------------------
    def submit(self, kind: str, body: Json) -> tuple[StoredTask, bool]:
        """Keep a submitted task; the same submission id again gives the first one. The second answer tells
        whether it is new."""
        submission = str(body["submission_id"])
        with self._database.transaction() as db:
            row = (str(uuid.uuid4()), submission, kind, iso(time.time()), json.dumps(body))
            new = db.execute(
                "INSERT OR IGNORE INTO transfer_tasks VALUES (?, ?, ?, ?, ?, NULL)", row
            ).rowcount
        found = self._database.row(f"{_TASKS} WHERE submission_id = ?", (submission,))
        assert found is not None
        return _task(found), bool(new)

    def end_task(self, task_id: str, document: Json) -> None:
        """Keep how a task ended."""
        with self._database.transaction() as db:
            db.execute("UPDATE transfer_tasks SET document = ? WHERE id = ?", (json.dumps(document), task_id))

    def find_task(self, task_id: str) -> StoredTask | None:
        """A task by its id."""
        row = self._database.row(f"{_TASKS} WHERE id = ?", (task_id,))
        return _task(row) if row else None

    def tasks(self) -> list[StoredTask]:
        """All tasks, newest first."""
        return [_task(row) for row in self._database.rows(f"{_TASKS} ORDER BY rowid DESC")]


_TASKS = "SELECT id, submission_id, kind, created, body, document FROM transfer_tasks"


def _flow(row: tuple[Any, ...]) -> StoredFlow:
    return StoredFlow(id=row[0], created=row[1], updated=row[2], fields=json.loads(row[3]))


def _task(row: tuple[Any, ...]) -> StoredTask:
    task_id, submission, kind, created, body, document = row
    return StoredTask(
        id=task_id,
        submission_id=submission,
        kind=kind,
        created=created,
        body=json.loads(body),
        document=json.loads(document) if document else None,
    )
