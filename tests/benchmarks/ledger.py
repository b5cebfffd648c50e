"""What the ledger costs: claims and marks a second, operations a unit, the fullest folder; is it linear?

    python -m tests.benchmarks.ledger --units 1000 10000 100000 --workers 1 2

Units do nothing. Prints one JSON document. Wall seconds depend on what else the machine does: growth is
judged by CPU seconds, and operations are counted, not timed.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from functions.claiming import Claims
from functions.store.ledger import Ledger
from functions.store.ledger_files import LedgerFiles
from functions.store.marks import Mark
from functions.store.numbering import lot_size
from functions.store.presence import Heartbeat, Watch, myself

FIGURES = dict.fromkeys([f"figure_{k}" for k in range(20)], 1234.5)
"""As many as a subvolume's mark has."""


class CountingFiles(LedgerFiles):
    """Counts what it is asked for."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def create(self, path: Path, first: bytes) -> int | None:
        self.counts["create"] += 1
        return super().create(path, first)

    def append(self, handle: int, data: bytes) -> None:
        self.counts["append"] += 1
        super().append(handle, data)

    def sync(self, handle: int) -> None:
        self.counts["sync"] += 1
        super().sync(handle)

    def note(self, path: Path) -> None:
        self.counts["create"] += 1
        super().note(path)

    def read(self, path: Path) -> bytes | None:
        self.counts["read"] += 1
        return super().read(path)

    def exists(self, path: Path) -> bool:
        self.counts["stat"] += 1
        return super().exists(path)

    def names(self, folder: Path) -> list[str]:
        self.counts["list"] += 1
        return super().names(folder)


def unit_names(count: int) -> list[str]:
    """As subvolumes are called."""
    side = math.ceil(count ** (1 / 3))
    return [
        f"z{64 * (k // side**2):05d}_y{256 * (k // side % side):05d}_x{256 * (k % side):05d}"
        for k in range(count)
    ]


def work(folder: str, worker: int, workers: int) -> dict[str, Any]:
    """One worker: claims lots until none is left, marks each unit."""
    files, owner = CountingFiles(), myself()
    ledger = Ledger(Path(folder) / "ledger", files=files)
    beats = Path(folder) / "workers"
    numbering = ledger.numbering
    assert numbering is not None
    units = claims = 0
    started, cpu = time.perf_counter(), time.process_time()
    with Heartbeat(beats, owner, lease_seconds=600):
        for number, claim in Claims(
            ledger,
            owner,
            Watch(beats, lease_seconds=600, files=files),
            worker=worker,
            workers=workers,
            lease_seconds=600,
            stop=lambda: False,
        ):
            claims += 1
            for unit in numbering.units(number):
                if not claim.standing(unit).settled and not claim.overtaken:
                    claim.begin(unit)
                    claim.done(Mark(unit=unit, seconds=0.0, started=0.0, figures=FIGURES))
                    units += 1
            claim.finish()
    return {
        "units": units,
        "claims": claims,
        "wall_s": time.perf_counter() - started,
        "cpu_s": time.process_time() - cpu,
        "operations": dict(files.counts),
    }


def measure(units: int, workers: int, folder: Path) -> dict[str, Any]:
    """All of it once: plan, work, count, read."""
    ledger = Ledger(folder / "ledger")
    cpu = time.process_time()
    ledger.number(unit_names(units), size=lot_size(units, workers))
    planned = time.process_time() - cpu
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        answers = pool.starmap(work, [(str(folder), k, workers) for k in range(workers)])
    assert sum(answer["units"] for answer in answers) == units
    cpu = time.process_time()
    census = ledger.census()
    counted = time.process_time() - cpu
    assert (census.done, census.open) == (units, 0)
    started, cpu = time.perf_counter(), time.process_time()
    marks = sum(standing.mark is not None for _, standing in ledger.standings_of_all())
    assert marks == units
    operations: Counter[str] = sum((Counter(answer["operations"]) for answer in answers), Counter())
    wall = max(answer["wall_s"] for answer in answers)
    claims = sum(answer["claims"] for answer in answers)
    return {
        "units": units,
        "workers": workers,
        "units_per_lot": ledger.numbering.size if ledger.numbering else 0,
        "lots": claims,
        "wall_s": round(wall, 3),
        "cpu_s": round(sum(answer["cpu_s"] for answer in answers), 3),
        "plan_cpu_s": round(planned, 3),
        "count_cpu_s": round(counted, 4),
        "read_all_marks_s": round(time.perf_counter() - started, 3),
        "read_all_marks_cpu_s": round(time.process_time() - cpu, 3),
        "claims_per_s": round(claims / wall, 1),
        "marks_per_s": round(units / wall, 1),
        "operations_per_unit": {name: round(n / units, 4) for name, n in sorted(operations.items())},
        "operations_per_claim": {name: round(n / claims, 3) for name, n in sorted(operations.items())},
        "metadata_operations_per_unit": round(
            sum(operations[name] for name in ("create", "read", "stat", "list")) / units, 4
        ),
        "fullest_folder": max(len(names) for names in folders(folder)),
        "files": sum(path.is_file() for path in folder.rglob("*")),
    }


def folders(root: Path) -> list[list[str]]:
    """What each folder below `root` holds."""
    return [[*inner, *files] for _, inner, files in os.walk(root)]


def growth(rows: list[dict[str, Any]], name: str) -> float | None:
    """Exponent between the smallest and the largest number of units of one worker."""
    ours = [row for row in rows if row["workers"] == 1 and row[name]]
    if len(ours) < 2:
        return None
    a, b = ours[-2], ours[-1]
    return round(math.log(b[name] / a[name]) / math.log(b["units"] / a["units"]), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    asked = parser.parse_args()
    rows = []
    for units in sorted(asked.units):
        for workers in asked.workers:
            with tempfile.TemporaryDirectory() as folder:
                rows.append(measure(units, workers, Path(folder)))
    names = ("cpu_s", "plan_cpu_s", "count_cpu_s", "read_all_marks_cpu_s")
    exponents = {name: growth(rows, name) for name in names}
    print(json.dumps({"rows": rows, "growth_exponent_of_the_last_two": exponents}, indent=1))


if __name__ == "__main__":
    main()
