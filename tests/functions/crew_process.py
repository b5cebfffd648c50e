"""A crew in a process of its own, with a unit that ends it.

    python -m tests.functions.crew_process MANIFEST SIZE POISON

`computed.txt` beside the manifest names the units, as they are begun.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from functions.crew import Crew
from functions.runtime import read_manifest
from functions.stopping import Stopping
from functions.store.cells import UnitReport
from functions.store.run import Run


@dataclass(frozen=True, slots=True)
class PoisonedStep:
    """All units take a moment; `poison` ends its process while its neighbours are in progress."""

    poison: str
    log: Path

    def compute(self, run: Run, unit: str) -> UnitReport:
        with open(self.log, "a") as handle:
            handle.write(f"{unit}\n")
        time.sleep(0.1)
        if unit == self.poison:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.1)
        return UnitReport()

    def abandon(self, run: Run, unit: str) -> None:
        """Nothing stands in for it."""


def main() -> None:
    """Work on shard 0 until none is left."""
    path, size, poison = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    manifest = read_manifest(path)
    module = PoisonedStep(poison=poison, log=path.with_name("computed.txt"))
    stopping = Stopping(environment={})
    run = Run(manifest.run, stop=stopping.asked)
    list(Crew(manifest, 0, module, stopping=stopping, run=run, size=size).work())


if __name__ == "__main__":
    main()
