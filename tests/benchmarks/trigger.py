"""Does the trigger lose or double anything? One JSON document.

    python -m tests.benchmarks.trigger [--small]

1. A fake SBEMimage with every fault at a steady pace; the watcher is killed with SIGKILL at random moments
and
   comes back at once or a little later; the service fails 20 % of its calls in 8 ways. Each state in which a
   section was complete may be started once, with its own tiles, whole; the last state of each must be.
   `lost` counts last states without a start, `doubled` starts beyond the first of a state, `wrong_tiles`
   starts that fit no state. Latency is from the moment a section was complete on disk to the run, the
   watcher's absence and the service's failures included.
2. An idle watcher over 100,000 tiles: CPU seconds a minute and resident memory, after it has taken them in.
3. A fake MultiSEM at 1,000 tiles a second for 60 s: nothing lost, and how long the watcher takes to catch up.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from flows.watch.ledger import Ledger
from flows.watch.rows import SEEN
from flows.watch.service import Places
from functions.testing.microscopes import Script, Truth, faults_of, simulate
from tests.benchmarks.trigger_service import canonical

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 120.0


@contextlib.contextmanager
def process(*words: object, log: Path) -> Iterator[subprocess.Popen[str]]:
    """A Python process of this project; killed at the end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with open(log, "a") as errors:
        child = subprocess.Popen(
            [sys.executable, "-m", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
            cwd=ROOT,
        )
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


@contextlib.contextmanager
def service(root: Path, *, share: float, seed: int) -> Iterator[int]:
    """The failing service; yields its port."""
    words = ("tests.benchmarks.trigger_service", root / "service.sqlite", share, seed)
    with process(*words, log=root / "service.log") as child:
        assert child.stdout is not None
        yield int(child.stdout.readline())


def watcher(
    root: Path, folder: Path, port: int, *, every: int
) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    """The watcher's process."""
    words = ("tests.benchmarks.trigger_watcher", folder, root / "home", port, every)
    return process(*words, log=root / "watcher.log")


def acquire(kind: str, folder: Path, script: Script, truth: Path, rate: float) -> threading.Thread:
    """Start a fake microscope in a thread of this process."""
    thread = threading.Thread(
        target=simulate, args=(kind, folder, script), kwargs={"truth": truth, "tiles_per_second": rate}
    )
    thread.start()
    return thread


def settled(root: Path, folder: Path) -> bool:
    """Whether all that the watcher saw has been started and has ended, the volume too."""
    ledger = Ledger(Places.of(folder, root / "home").ledger)
    try:
        starts = ledger.starts()
        return any(s.kind == "volume" for s in starts) and all(s.state == "ended" for s in starts)
    finally:
        ledger.close()


def finish(root: Path, folder: Path) -> None:
    """Say that the acquisition is over."""
    ledger = Ledger(Places.of(folder, root / "home").ledger)
    ledger.finish()
    ledger.close()


def over(root: Path, folder: Path) -> bool:
    """Say so again, as a watcher that lags takes it back with each tile; and whether all has ended."""
    finish(root, folder)
    return settled(root, folder)


def until(condition: Any, *, seconds: float = PATIENCE_SECONDS) -> bool:
    """Wait for a condition; False when it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.25)
    return True


def judged(truth: dict[str, Any], database: Path) -> dict[str, Any]:
    """Compare what was started with what was acquired."""
    db = sqlite3.connect(database)
    runs = db.execute("SELECT time, tiles FROM runs WHERE kind = 'sections' ORDER BY time").fetchall()
    volumes = db.execute("SELECT count(*) FROM runs WHERE kind = 'volume'").fetchone()[0]
    calls = Counter(way for (way,) in db.execute("SELECT way FROM calls"))
    db.close()
    times: dict[tuple[str, int], list[float]] = {}
    wrong = 0
    for when, text in runs:
        for z, tiles in json.loads(text).items():
            states = [canonical(state) for state in truth["states"].get(z, [])]
            places = {path: tile[:2] for path, tile in tiles.items()}
            fitting = [i for i, s in enumerate(states) if {p: t[:2] for p, t in s.items()} == places]
            # a retake may replace a file between the decision and the move: any take of that place is whole
            whole = all(any(s.get(p, [0, 0, ""])[2] == t[2] for s in states) for p, t in tiles.items())
            if not fitting or not whole:
                wrong += 1
            else:
                times.setdefault((z, fitting[-1]), []).append(when)
    last = [(z, len(states) - 1) for z, states in truth["states"].items()]
    latencies = [times[state][0] - truth["times"][state[0]][state[1]] for state in times]
    return {
        "sections": len(truth["states"]),
        "versions": sum(len(states) for states in truth["states"].values()),
        "starts": len(runs),
        "lost": sum(state not in times for state in last),
        "doubled": sum(len(when) - 1 for when in times.values()),
        "superseded": sum(map(len, truth["states"].values()))
        - len(times)
        - sum(s not in times for s in last),
        "wrong_tiles": wrong,
        "volumes_started": volumes,
        "latency_s_median": round(statistics.median(latencies), 2) if latencies else None,
        "latency_s_max": round(max(latencies), 2) if latencies else None,
        "calls": sum(calls.values()),
        "calls_failed": {way: count for way, count in sorted(calls.items()) if way},
    }


def faulty(root: Path, *, sections: int, kills: int, rate: float, every: int, seed: int) -> dict[str, Any]:
    """Part 1."""
    root.mkdir(parents=True)
    folder, truth = root / "stack", root / "truth.json"
    folder.mkdir()
    script = Script(sections=sections, tile_px=16, faults=faults_of("sbemimage"), share=0.1, seed=seed)
    expected = sections * 6.5 / rate  # of tiles, cuts and pauses
    rng = random.Random(seed)
    moments = sorted(rng.uniform(0.02, 1.0) * expected for _ in range(kills))
    killed = 0
    with service(root, share=0.2, seed=seed) as port:
        began = time.monotonic()
        microscope = acquire("sbemimage", folder, script, truth, rate)
        while killed < kills:
            with watcher(root, folder, port, every=every) as child:
                time.sleep(max(1.0, began + moments[killed] - time.monotonic()))
                child.send_signal(signal.SIGKILL)
                killed += 1
            time.sleep(rng.uniform(0.0, 0.5))
        with watcher(root, folder, port, every=every):
            microscope.join()
            until(lambda: _quiet(root, folder), seconds=60)
            ended = until(lambda: over(root, folder))
    found = judged(Truth.read(truth), root / "service.sqlite")
    return {
        **found,
        **slowest(root, folder),
        "every": every,
        "killed": killed,
        "settled": ended,
        "seconds": round(time.monotonic() - began),
    }


def slowest(root: Path, folder: Path) -> dict[str, Any]:
    """The start that took longest from being decided to being made, and what it went through."""
    ledger = Ledger(Places.of(folder, root / "home").ledger)
    try:
        row = max(ledger.starts(), key=lambda s: (s.started or s.created) - s.created)
        seconds = round((row.started or row.created) - row.created, 2)
        return {"decided_to_started_s_max": seconds, "its_tag": row.tag, "its_attempts": row.attempts}
    finally:
        ledger.close()


def _quiet(root: Path, folder: Path) -> bool:
    """Whether no section is open but such as wait for the end."""
    ledger = Ledger(Places.of(folder, root / "home").ledger)
    try:
        return time.time() - (ledger.newest_change() or 0) > 4 and len(ledger.sections(SEEN)) <= 1
    finally:
        ledger.close()


def idle(root: Path, *, tiles: int, seconds: float) -> dict[str, Any]:
    """Part 2."""
    root.mkdir(parents=True)
    folder = root / "stack"
    rows = columns = 10
    script = Script(sections=max(1, tiles // (rows * columns)), rows=rows, columns=columns, tile_px=16)
    simulate("sbemimage", folder, script, truth=None)
    with service(root, share=0.0, seed=1) as port, watcher(root, folder, port, every=50) as child:
        began, probe = time.monotonic(), psutil.Process(child.pid)
        finished = False
        while time.monotonic() - began < 3 * PATIENCE_SECONDS and not finished:
            time.sleep(1.0)
            if time.monotonic() - began > 2:
                finished = over(root, folder)
        taken, busy = time.monotonic() - began, probe.cpu_times()
        time.sleep(3.0)
        before, started = probe.cpu_times(), time.monotonic()
        time.sleep(seconds)
        after = probe.cpu_times()
        used = after.user + after.system - before.user - before.system
        memory = probe.memory_info().rss
        peak = _peak_bytes(child.pid)
    return {
        "tiles": script.sections * rows * columns,
        "settled": finished,
        "taken_in_s": round(taken, 1),
        "taken_in_cpu_s": round(busy.user + busy.system, 1),
        "cpu_s_per_minute": round(used / (time.monotonic() - started) * 60, 3),
        "rss_mib": round(memory / 2**20, 1),
        "peak_rss_mib": round(peak / 2**20, 1),
    }


def _peak_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def burst(root: Path, *, rate: float, seconds: float) -> dict[str, Any]:
    """Part 3."""
    root.mkdir(parents=True)
    folder, truth = root / "wafer", root / "truth.json"
    folder.mkdir()
    per_section = 61 * 9
    script = Script(
        sections=max(1, round(rate * seconds / per_section)), rows=3, columns=3, tile_px=8, seed=3
    )
    with service(root, share=0.0, seed=1) as port, watcher(root, folder, port, every=1) as child:
        began = time.monotonic()
        acquire("multisem", folder, script, truth, rate).join()
        wrote = time.monotonic() - began
        until(lambda: _quiet(root, folder), seconds=60)
        until(lambda: over(root, folder))
        caught_up = time.monotonic() - began - wrote
        used = psutil.Process(child.pid).cpu_times()
    found = judged(Truth.read(truth), root / "service.sqlite")
    tiles = script.sections * per_section
    kept = ("sections", "starts", "lost", "doubled", "wrong_tiles", "latency_s_median", "latency_s_max")
    return {
        "tiles": tiles,
        "tiles_per_second": round(tiles / wrote),
        **{key: found[key] for key in kept},
        "settled_after_s": round(caught_up, 1),
        "watcher_cpu_s": round(used.user + used.system, 1),
    }


def main() -> None:
    """Run it all and print one document."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--small", action="store_true", help="a few seconds, for a test")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--only", choices=("faulty", "idle", "burst"))
    chosen = parser.parse_args()
    small = chosen.small
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        parts = {
            "faulty": lambda: faulty(
                root / "a",
                sections=12 if small else 200,
                kills=2 if small else 20,
                rate=16.0,
                every=chosen.every,
                seed=chosen.seed,
            ),
            "idle": lambda: idle(root / "b", tiles=1000 if small else 100_000, seconds=2 if small else 30),
            "burst": lambda: burst(root / "c", rate=1000, seconds=2 if small else 60),
        }
        document: dict[str, Any] = {}
        for name, part in parts.items():
            if chosen.only in (None, name):
                document[name] = part()
        print(json.dumps(document, indent=1), flush=True)  # before the folders go, which takes a while


if __name__ == "__main__":
    main()
