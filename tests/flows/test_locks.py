"""Locks that go with their process; a look does not cost anybody the lock."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

from flows import locks
from flows.watch.service import folder_lock


def test_a_lock_is_taken_once_and_given_up_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.lock"
    assert not locks.is_held(path)
    assert not path.exists()
    held = locks.take(path)
    assert held is not None
    assert locks.is_held(path)
    assert locks.take(path) is None
    os.close(held)
    assert not locks.is_held(path)


def test_who_only_looks_does_not_keep_a_watcher_out(tmp_path: Path) -> None:
    ledger = tmp_path / "stack.sqlite"
    looking = os.open(ledger.with_suffix(".lock"), os.O_RDWR | os.O_CREAT)
    fcntl.flock(looking, fcntl.LOCK_SH)
    threading.Timer(0.03, os.close, [looking]).start()
    with folder_lock(ledger):
        assert locks.is_held(ledger.with_suffix(".lock"))
