"""What an engine costs: seconds to start, to the first result and to end, and trivial tasks a second.

    python -m tests.benchmarks.engines [--tasks 500] [--workers 2]

One JSON line for each engine that works on this machine.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from concurrent import futures
from itertools import pairwise
from pathlib import Path

from flows.local.engines import new_engine
from flows.local.registered import RegisteredFunction
from flows.site import local_site

DOUBLE = RegisteredFunction("double", "def double(x):\n    return 2 * x\n")


def measure(name: str, *, tasks: int, workers: int) -> dict[str, str | int | float]:
    """Start an engine, use it, end it."""
    with tempfile.TemporaryDirectory() as folder:
        site = local_site(Path(folder), workers=workers).model_copy(update={"engine": name})
        clock = [time.perf_counter()]
        with new_engine(site, Path(folder) / "logs") as engine:
            clock.append(time.perf_counter())
            assert engine.submit(DOUBLE, 2).result(timeout=120) == 4
            clock.append(time.perf_counter())
            futures.wait([engine.submit(DOUBLE, x) for x in range(tasks)], timeout=120)
            clock.append(time.perf_counter())
        clock.append(time.perf_counter())
    start, first, many, end = (after - before for before, after in pairwise(clock))
    return {
        "engine": name,
        "workers": workers,
        "start_s": round(start, 2),
        "first_result_s": round(first, 2),
        "tasks_per_s": round(tasks / many, 1),
        "end_s": round(end, 2),
    }


def main() -> None:
    """Measure all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tasks", type=int, default=500)
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    for name in ("process-pool", "parsl", "globus-compute"):
        print(json.dumps(measure(name, tasks=asked.tasks, workers=asked.workers)), flush=True)


if __name__ == "__main__":
    main()
