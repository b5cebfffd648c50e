"""Opening an SQLite file that several threads and processes share, some of them at the same moment."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random

BUSY_SECONDS = 60.0
"""How long a call waits for others; what is never free for so long is an error."""


def open_shared(path: Path) -> sqlite3.Connection:
    """A connection in write-ahead mode without implicit transactions; the folder is made for its owner alone.

    Raises:
        sqlite3.OperationalError: the file is no database, or somebody keeps it for a minute.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    # SQLite does not wait for others where the mode changes, as it does for the first of a new file
    for attempt in Retrying(
        retry=retry_if_exception(_is_busy), wait=wait_random(0.01, 0.05), stop=stop_after_delay(BUSY_SECONDS),
        reraise=True,
    ):  # fmt: skip
        with attempt:
            connection.execute("PRAGMA journal_mode = WAL")
    return connection


@contextmanager
def transaction_on(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All statements or none; nobody else writes meanwhile."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _is_busy(error: BaseException) -> bool:
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)
