"""The Search and permission action providers: kept in files that a person can read."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from flows.errors import ActionError
from flows.local.actions import Json, Progress

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
  search_index TEXT, subject TEXT, id TEXT, visible_to TEXT, content TEXT,
  PRIMARY KEY (search_index, subject, id));
CREATE TABLE IF NOT EXISTS permissions (
  endpoint_id TEXT, path TEXT, principal_type TEXT, principal TEXT, permissions TEXT,
  PRIMARY KEY (endpoint_id, path, principal));
"""


class LocalIndex:
    """An index of GMetaEntries by subject and id, and a list of granted permissions, in one SQLite file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _connect(self) -> closing[sqlite3.Connection]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=30)
        connection.executescript(_SCHEMA)
        return closing(connection)

    def ingest(self, body: Json, progress: Progress) -> Json:
        """Put one entry in the index; the same subject and id replace it.

        Raises:
            ActionError: subject, content or visible_to is missing.
        """
        for name in ("search_index", "subject", "content", "visible_to"):
            if not body.get(name):
                raise ActionError(f"{name}: is needed to index a volume", remedy="check the site's search")
        row = (body["search_index"], body["subject"], body.get("id", ""))
        with self._connect() as connection, connection:
            connection.execute(
                "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?)",
                (*row, json.dumps(body["visible_to"]), json.dumps(body["content"], sort_keys=True)),
            )
        progress.total = progress.done = 1
        return {"acknowledged": True, "success": True, "num_documents_ingested": 1}

    def entries(self, *, search_index: str) -> list[dict[str, Any]]:
        """All entries of an index, by subject."""
        with self._connect() as connection:
            rows = connection.execute(
                "SELECT subject, id, content FROM entries WHERE search_index = ? ORDER BY subject, id",
                (search_index,),
            ).fetchall()
        return [{"subject": s, "id": i, "content": json.loads(c)} for s, i, c in rows]

    def drop_subject(self, *, search_index: str, subject: str) -> None:
        """Take every entry of a subject out of an index."""
        with self._connect() as connection, connection:
            connection.execute(
                "DELETE FROM entries WHERE search_index = ? AND subject = ?", (search_index, subject)
            )

    def grant(self, body: Json, progress: Progress) -> Json:
        """Record a permission. The embedded site has one user, so nothing else happens.

        Raises:
            ActionError: an operation other than CREATE.
        """
        if body.get("operation") != "CREATE":
            raise ActionError(f"operation: {body.get('operation')!r} is not known here", remedy="use CREATE")
        row = tuple(body[k] for k in ("endpoint_id", "path", "principal_type", "principal", "permissions"))
        with self._connect() as connection, connection:
            connection.execute("INSERT OR REPLACE INTO permissions VALUES (?, ?, ?, ?, ?)", row)
        progress.total = progress.done = 1
        return {"access_id": f"{body['endpoint_id']}:{body['path']}", "code": "Created"}
