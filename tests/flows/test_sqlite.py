"""A new database that many open at the same moment."""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flows.sqlite import open_shared
from flows.watch.ledger import Ledger


def test_many_may_open_a_new_file_at_once(tmp_path: Path) -> None:
    for attempt in range(10):
        path, together = tmp_path / str(attempt) / "ledger.sqlite", threading.Barrier(8)

        def opened(path: Path = path, together: threading.Barrier = together) -> str:
            together.wait()
            ledger = Ledger(path)
            ledger.close()
            return str(path)

        with ThreadPoolExecutor(8) as pool:
            assert [f.result() for f in [pool.submit(opened) for _ in range(8)]] == [str(path)] * 8


def test_a_writer_that_is_at_work_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "new.sqlite"
    writer = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    writer.execute("BEGIN EXCLUSIVE")
    threading.Timer(0.3, lambda: writer.execute("COMMIT")).start()
    connection = open_shared(path)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    writer.close()


def test_what_is_no_database_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "text.sqlite"
    path.write_text("not a database" * 100)
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        open_shared(path)
