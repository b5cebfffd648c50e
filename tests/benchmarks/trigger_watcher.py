"""The shipped watcher over the failing service, as a process to be killed.

python -m tests.benchmarks.trigger_watcher FOLDER HOME PORT EVERY
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from flows.site import local_site
from flows.watch.service import Places, WatchService
from flows.watch.watcher import WatchSettings
from tests.benchmarks.trigger_service import GRACE_SECONDS, HttpStarter

SETTINGS = {
    "quiet_seconds": 3.0,
    "end_quiet_seconds": None,
    "scan_seconds": 2.0,
    "at_most": 1000,
    "grace_seconds": GRACE_SECONDS,
    "follow_seconds": 2.0,
}


def main(arguments: list[str]) -> None:
    """Watch until told to stop."""
    folder, home, port, every = Path(arguments[0]), Path(arguments[1]), int(arguments[2]), int(arguments[3])
    service = WatchService(
        Places.of(folder, home),
        HttpStarter(port),
        site=local_site(home, workers=1),
        settings=WatchSettings(every=every, **SETTINGS),
    )
    signal.signal(signal.SIGTERM, lambda *_: service.stop())
    service.run()


if __name__ == "__main__":
    main(sys.argv[1:])
