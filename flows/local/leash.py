"""Run a command for as long as a lease is held; when it is given up, whatever the command started ends too.

    python leash.py LEASE COMMAND...

The holder locks the file LEASE. The kernel drops that lock however the holder ends, `kill -9` included, so an
engine's interchange and workers never outlive the runner they belong to. Each leash adds its process id to
the file, so that the holder can wait until all are gone. It is run by its path, by Parsl and its scripts, and
needs nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time

GRACE_SECONDS = 3.0


def main(arguments: list[str]) -> int:
    """Run the command in a session of its own; its exit status."""
    lease, command = arguments[0], arguments[1:]
    with open(lease, "a") as handle:
        handle.write(f"{os.getpid()}\n")
    child = subprocess.Popen(command, start_new_session=True, preexec_fn=_die_with_parent)
    signal.signal(signal.SIGTERM, lambda *_: _signal_group(child.pid, signal.SIGTERM))
    threading.Thread(target=_end_with, args=(lease, child.pid), daemon=True).start()
    status = child.wait()
    _signal_group(child.pid, signal.SIGKILL)  # what a killed command left running
    return status if status >= 0 else 128 - status


def _die_with_parent() -> None:
    """Ask the kernel to kill this process when the leash itself is killed."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _end_with(lease: str, group: int) -> None:
    """Wait until nobody holds the lease, then end the command's processes."""
    with open(lease) as handle:
        fcntl.flock(handle, fcntl.LOCK_SH)
    _signal_group(group, signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    _signal_group(group, signal.SIGKILL)


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
