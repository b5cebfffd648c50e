"""How long a list of many runs takes: `python -m tests.benchmarks.runs_listing [RUNS]`; prints JSON.

The runs are real documents in a real store; the list goes through FlowsClient, page by page, in this process.
Every tenth run is ACTIVE, so that its lock is looked at as well.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import uuid
from pathlib import Path

from flows.definition import definition
from flows.inputs import RunRequest, build_input, tags_of
from flows.local.builtin import FLOW_ID, TITLE
from flows.local.progress import first_steps
from flows.local.registered import function_ids
from flows.local.store import RunHead, StoredRun
from flows.records import RunStatus
from flows.run import Runs
from flows.site import Site, local_site


def fill(runs: Runs, source: Path, count: int) -> None:
    """Put `count` runs into the store of the embedded site, as `run start` would."""
    world = runs.service.world
    assert world is not None
    request = RunRequest(source=str(source))
    body = build_input(request, runs.site, functions=function_ids(runs.site.entry_points))
    flow = definition()
    for number in range(count):
        world.site.store.add(_run(number, runs.site, request, body, flow), first_steps(
            start_at=request.start_at, stop_after=request.stop_after
        ))  # fmt: skip


def _run(number: int, site: Site, request: RunRequest, body: dict, flow: dict) -> StoredRun:
    time_text = f"2026-01-01T{number // 3600:02d}:{number // 60 % 60:02d}:{number % 60:02d}+00:00"
    head = RunHead(
        id=str(uuid.UUID(int=number)),
        flow_id=FLOW_ID,
        flow_title=TITLE,
        flow_updated=time_text,
        status=RunStatus.ACTIVE if number % 10 == 0 else RunStatus.SUCCEEDED,
        created=time_text,
        updated=time_text,
        label=f"run {number}",
        tags=(*tags_of(request, "acq"), f"section:{number}"),
    )
    return StoredRun(head=head, site=site, body=body, definition=flow, execution=None)


def measure(count: int) -> dict[str, float]:
    """Seconds to list `count` runs, and to find one by its tag."""
    with tempfile.TemporaryDirectory() as folder:
        home, source = Path(folder) / "home", Path(folder) / "acq"
        source.mkdir()
        runs = Runs(local_site(home), home=home)
        begun = time.perf_counter()
        fill(runs, source, count)
        filled = time.perf_counter()
        cpu = time.process_time()
        listed = runs.list()
        told = time.perf_counter()
        cpu = time.process_time() - cpu
        (found,) = runs.tagged("section:7")
        end = time.perf_counter()
        assert len(listed) == count
        assert found.id == str(uuid.UUID(int=7))
        return {
            "runs": count,
            "fill_s": round(filled - begun, 3),
            "list_s": round(told - filled, 3),
            "list_cpu_s": round(cpu, 3),
            "tagged_s": round(end - told, 3),
        }


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)))
