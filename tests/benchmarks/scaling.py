"""One worker against two, on every kind of engine: efficiency, identical output, and what a subvolume costs.

    python -m tests.benchmarks.scaling [--repeats 2] [--engines process-pool parsl ...]
        [--data ../shared/data --box 0:96,0:160,0:160] [--units 1000 100000]

An aligned volume (a phantom, or with --data a box of FIB-25 and its network) is drawn once. Then its segment
step alone runs on each engine with 1 and with 2 workers of one thread, in turns, so that other load of the
machine meets both alike; each time in a work root of its own.

    efficiency       seconds of one worker / (2 x seconds of two), from the first shard's start to the last's
                     end; start_s is told apart: the engine starts, each worker imports and loads the network
    cpu_efficiency   CPU seconds of one worker / (2 x those of the busier of two): what `efficiency` is where
                     each worker has a core to itself
    overhead         of a subvolume beyond inference (read, ledger, write): the shards' seconds less those
                     that the marks give to network and flooding

The ledger alone, with units that do nothing, is measured by `tests.benchmarks.ledger`. One JSON document goes
to stdout, progress to stderr.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from ffn.checkpoint import save_model
from ffn.importing import import_google_ffn
from flows.inputs import RunRequest
from flows.local.engines import Engine
from flows.local.registered import RegisteredFunction
from flows.records import RunStatus
from flows.run import Runs
from flows.site import available_cores, local_site
from functions import plan
from functions.microscopes.importing import import_stack
from functions.model.geometry import Box
from functions.model.parameters import Parameters
from functions.store.run import Run
from functions.tasks import PlanTask, RunSpec
from tests.benchmarks.fib25 import BLOCK, VOXEL_SIZE_NM, parse_box, parse_triple
from tests.benchmarks.ledger import measure
from tests.benchmarks.phantom_stack import parameters_of, write_stack
from tests.e2e.site import tree_digest
from tests.flows.engine_kinds import kind_of

ENGINES = ("process-pool", "parsl", "parsl-slurm", "parsl-pbs", "globus-compute", "compute-endpoint")
READY = RegisteredFunction(
    "ready",
    "def ready(folder, count, work):\n    import os, pathlib, time\n    from functions import segment\n"
    "    from functions.store.run import Run\n    from functions.tasks import RunSpec\n"
    "    run = Run(RunSpec.parse(work, source='ready'))\n"
    "    segment.FfnSegmenter(run.model_path, run.parameters.segment)\n"
    "    (pathlib.Path(folder) / str(os.getpid())).touch()\n"
    "    while len(list(pathlib.Path(folder).iterdir())) < count:\n        time.sleep(0.01)\n",
)
"""Loads the network, and waits until so many workers have: each has then taken one."""
SHARD = RegisteredFunction(
    "shard",
    "def shard(task):\n    import time\n    from functions.runtime import execute\n"
    "    began = time.process_time()\n    answer = execute('segment', task)\n"
    "    return {**answer, 'cpu': time.process_time() - began}\n",
)
"""The registered `segment`, with its CPU seconds."""
Row = dict[str, Any]


def say(text: str) -> None:
    """Progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


# -- the volume ---------------------------------------------------------------------------------------------
def phantom(folder: Path) -> tuple[Path, Parameters]:
    """A phantom of 50 subvolumes with the overlap that the demo network's field of view asks for."""
    subvolume, overlap = (32, 64, 64), (16, 16, 16)
    stack = write_stack(
        folder, "stack", counts_zyx=(2, 5, 5), subvolume_zyx_px=subvolume, overlap_zyx_px=overlap
    )
    return stack, parameters_of(subvolume, overlap)


def fib25(folder: Path, data: Path, box: Box, subvolume: tuple[int, int, int]) -> tuple[Path, Parameters]:
    """A box of FIB-25, and the network that google/ffn published for it."""
    model = folder / "fib25.safetensors"
    save_model(model, import_google_ffn(data / "fib25" / "fib25_weights.npz"))
    stack = import_stack(data / "fib25" / BLOCK, folder / "stack", voxel_size_zyx_nm=VOXEL_SIZE_NM, box=box)
    small = parameters_of(subvolume, (32, 32, 32))
    segment = small.segment.model_copy(update={"model": str(model)})
    return stack, small.model_copy(update={"segment": segment})


def drawn(folder: Path, parameters: Parameters, stack: Path) -> Run:
    """The stack as an aligned volume: everything before the segment step."""
    home = folder / "home"
    runs = Runs(local_site(home, workers=available_cores()), home=home)
    request = RunRequest(source=str(stack), parameters=parameters, stop_after="align_render")
    record = runs.start(request, wait=True)
    if record.status is not RunStatus.SUCCEEDED:
        raise SystemExit(f"{record.status}: {record.error}")
    record, _ = runs.show(record.id)
    return Run(RunSpec.parse(record.input["input"]["run"], source="run"))


# -- one engine ---------------------------------------------------------------------------------------------
def warm(engine: Engine, folder: Path, run: Run, *, workers: int) -> None:
    """Wait until all workers are there and have loaded the network."""
    folder.mkdir()
    asked = [engine.submit(READY, str(folder), workers, run.spec.to_json()) for _ in range(workers)]
    for answer in asked:
        answer.result(timeout=600)


def once(engine: Engine, run: Run, work: Path, *, workers: int) -> Row:
    """Segment the whole volume in a fresh work root."""
    shutil.copytree(run.work, work, ignore=shutil.ignore_patterns("segment"))
    fresh = Run(run.spec.model_copy(update={"work": str(work)}))
    planned = plan.perform(PlanTask(run=fresh.spec, step="segment", function_id="f", shards=workers))
    began = time.perf_counter()
    shards = [engine.submit(SHARD, **task.kwargs) for task in planned.tasks]
    answers = [shard.result(timeout=3600) for shard in shards]
    wall = time.perf_counter() - began
    marks = fresh.cell("segment").marks()
    inference = sum(mark.figures["network_seconds"] + mark.figures["host_seconds"] for mark in marks)
    busy = sum(answer["seconds"] for answer in answers)
    return {
        "wall_s": round(wall, 3),
        "cpu_s": round(sum(answer["cpu"] for answer in answers), 3),
        "busiest_cpu_s": round(max(answer["cpu"] for answer in answers), 3),
        "computed": [answer["computed"] for answer in answers],
        "inference_s": round(inference, 3),
        "overhead_ms": round(1000 * (busy - inference) / len(marks), 2),
        "labels": tree_digest(fresh.cell("segment").file("subvolumes")),
    }


def compared(name: str, run: Run, folder: Path, *, repeats: int) -> tuple[Row, list[dict[str, str]]]:
    """One engine with 1 and 2 workers in turns, and the digests of the labels of each run."""
    rows: dict[int, list[Row]] = {1: [], 2: []}
    for repeat in range(repeats):
        for workers in (1, 2) if repeat % 2 == 0 else (2, 1):
            place = folder / f"{name}-{repeat}-{workers}"
            place.mkdir()
            began = time.perf_counter()
            with kind_of(name, place, workers=workers) as kind, kind.new_engine() as engine:
                warm(engine, place / "ready", run, workers=workers)
                start = time.perf_counter() - began
                row = once(engine, run, place / "work", workers=workers)
            rows[workers].append({"start_s": round(start, 2), **row})
            shutil.rmtree(place, ignore_errors=True)
            say(f"{name}, {workers} workers: {row['wall_s']} s, CPU {row['cpu_s']} s, {row['computed']}")
    digests = [row.pop("labels") for n in rows for row in rows[n]]
    wall, cpu, start_s, overhead = (
        {n: median(row[figure] for row in rows[n]) for n in rows}
        for figure in ("wall_s", "busiest_cpu_s", "start_s", "overhead_ms")
    )
    found = {
        "engine": name,
        "efficiency": round(wall[1] / (2 * wall[2]), 3),
        "cpu_efficiency": round(cpu[1] / (2 * cpu[2]), 3),
        "overhead_ms_per_subvolume": overhead,
        "start_s": start_s,
        "runs": rows,
    }
    return found, digests


# -- the ledger alone ---------------------------------------------------------------------------------------
def claims(counts: list[int]) -> Row:
    """Units that do nothing: claims a second on this file system, and how the cost grows."""
    rows = []
    for count in sorted(counts):
        for workers in (1, 2):
            with tempfile.TemporaryDirectory() as folder:
                rows.append(measure(count, workers, Path(folder)))
            say(f"{count} units, {workers} workers: {rows[-1]['marks_per_s']} units/s")
    alone = [row for row in rows if row["workers"] == 1]
    first, last = alone[0], alone[-1]
    ratio = last["units"] / first["units"]
    growth = math.log(last["cpu_s"] / first["cpu_s"]) / math.log(ratio) if ratio > 1 else math.nan
    return {
        "claims_per_s": last["claims_per_s"],
        "units_per_s": last["marks_per_s"],
        "growth_exponent_of_cpu": None if math.isnan(growth) else round(growth, 3),
        "rows": rows,
    }


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--data", type=Path, help="with fib25/; by default a phantom")
    parser.add_argument("--box", type=parse_box, default=parse_box("0:96,0:160,0:160"))
    parser.add_argument("--subvolume", type=parse_triple, default=(64, 64, 64), help="of FIB-25")
    parser.add_argument("--units", type=int, nargs="*", default=[1_000, 100_000], help="for the ledger alone")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scaling-") as name:
        folder = Path(name)
        stack, parameters = (
            fib25(folder, asked.data, asked.box, asked.subvolume) if asked.data else phantom(folder)
        )
        run = drawn(folder, parameters, stack)
        say("the volume is drawn")
        results = [compared(engine, run, folder, repeats=asked.repeats) for engine in asked.engines]
    digests = [digest for _, found in results for digest in found]
    rows = [row for row, _ in results]
    document = {
        "volume": "fib25" if asked.data else "phantom",
        "subvolumes": len(digests[0]),
        "least_efficiency": min(row["efficiency"] for row in rows),
        "identical": all(digest == digests[0] for digest in digests),
        "engines": rows,
        "ledger": claims(asked.units) if asked.units else None,
    }
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
