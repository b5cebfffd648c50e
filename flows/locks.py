"""Locks held by an open file: they go with their process, however that ends, and may be handed to another."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

_TRIES, _TRY_SECONDS = 10, 0.01
"""Who only looks holds the lock for a moment."""


def take(path: Path) -> int | None:
    """The open file that is the lock, or None while somebody holds it. Closing it gives the lock up."""
    descriptor = _open(path)
    for _ in range(_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(_TRY_SECONDS)
        else:
            return descriptor
    os.close(descriptor)
    return None


def is_held(path: Path) -> bool:
    """Whether somebody holds the lock now."""
    if not path.exists():
        return False
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _open(path: Path) -> int:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
