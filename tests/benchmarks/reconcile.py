"""The joining of subvolumes: what it costs at 10^4, 10^5 and 10^6 of them, and that it is right.

    python -m tests.benchmarks.reconcile                                   (minutes; 10^6 takes most of it)
    python -m tests.benchmarks.reconcile --sizes 10000,100000 --data labels.npz

`sizes`: equalities of tubes through that many subvolumes (`reconcile_tubes`), joined by the hierarchical
union-find with files, each size in a process of its own. Every id is compared with what the construction
says, and the smaller sizes are joined again in other blocks, in reverse order. `exponents` say how CPU time
and memory grow from each size to the next; 1 is linear.

`volume`: a label volume (`--data`, else the phantom's truth), its objects in one piece each, cut into
overlapping subvolumes with scrambled ids, and a share of them spoilt on purpose: two neighbours merged, or
one object cut. Matched, joined and relabelled by the steps of the pipeline, then compared with the
original. One JSON document goes to stdout.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from functions.agglomeration.blocks import LARGEST_LEAF, Block, Hierarchy
from functions.agglomeration.reduction import Leaf, Reduction
from functions.agglomeration.tables import BlockTable
from functions.joining import COLUMNS as TABLE
from functions.store.scratch import Scratch
from tests.benchmarks.reconcile_tubes import Tubes
from tests.benchmarks.reconcile_volume import measure_volume

Integers = NDArray[np.int64]

SIZES = {1_000: (10, 10, 10), 10_000: (20, 20, 25), 100_000: (40, 50, 50), 1_000_000: (100, 100, 100)}
LIMIT_MIB = 4096
CHECKED_AGAIN = 100_000
"""Sizes up to this are joined again in other blocks."""


class Backwards(Hierarchy):
    """The same blocks, last first."""

    def blocks(self, level: int) -> Iterator[Block]:
        """The blocks of a level, in reverse order."""
        return reversed(list(Hierarchy.blocks(self, level)))


@dataclass(slots=True)
class Clocked:
    """Tubes, and how long it took to make them up: that is no part of the joining."""

    tubes: Tubes
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0

    def leaf(self, block: Block, hierarchy: Hierarchy) -> Leaf:
        """The equalities of one block."""
        cpu, wall = time.process_time(), time.perf_counter()
        leaf = self.tubes.leaf(block, hierarchy)
        self.cpu_seconds += time.process_time() - cpu
        self.wall_seconds += time.perf_counter() - wall
        return leaf


def measure(hierarchy: Hierarchy, tubes: Tubes, folder: Path) -> dict[str, Any]:
    """Join the tubes with files in `folder`; what it cost, and how many ids are not what they must be."""
    source, tables = Clocked(tubes), Scratch(folder / "tables")
    cpu, wall = time.process_time(), time.perf_counter()
    with Scratch(folder / "scratch") as scratch:
        reduction = Reduction(source=source, hierarchy=hierarchy, scratch=scratch)
        summary = reduction.solve()
        for block, table in reduction.tables():
            tables.write(block.id, {name: getattr(table, name) for name in TABLE})
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    wrong, digest = compare(hierarchy, tubes, tables)
    return {
        "subvolumes": math.prod(hierarchy.counts_zyx),
        "leaf_zyx": list(hierarchy.leaf_zyx),
        "local_objects": summary.labels,
        "equalities": summary.equalities,
        "objects": summary.objects,
        "cpu_seconds": round(cpu - source.cpu_seconds, 2),
        "wall_seconds": round(wall - source.wall_seconds, 2),
        "generation_cpu_seconds": round(source.cpu_seconds, 2),
        "peak_rss_mib": round(peak, 1),
        "files_mib": round(size / 2**20, 1),
        "ids_checked": math.prod(hierarchy.counts_zyx) * tubes.slots,
        "ids_wrong": wrong,
        "ids_sha256": digest,
    }


def compare(hierarchy: Hierarchy, tubes: Tubes, tables: Scratch) -> tuple[int, str]:
    """How many of the tubes' ids are wrong, and a digest of all of them in the order of subvolumes."""
    wrong, digest = 0, hashlib.sha256()
    kept: dict[str, BlockTable] = {}
    for positions, expected in tubes.expected():
        labels = tubes.labels(positions)
        found = np.zeros_like(expected)
        places = [hierarchy.leaf_of(index) for index in zip(*indices(positions, hierarchy), strict=True)]
        needed = {block.id for block, _ in places}
        kept = {name: table for name, table in kept.items() if name in needed}
        for row, (block, rank) in enumerate(places):
            if block.id not in kept:
                kept[block.id] = BlockTable(**tables.read(block.id, TABLE))  # type: ignore[arg-type]
            found[row] = kept[block.id].lookup(rank)[labels[row]]
        wrong += int(np.count_nonzero(found != expected))
        digest.update(found.tobytes())
    return wrong, digest.hexdigest()


def indices(positions: Integers, hierarchy: Hierarchy) -> list[list[int]]:
    """z, y and x of subvolumes."""
    return [axis.tolist() for axis in np.unravel_index(positions, hierarchy.counts_zyx)]


def child(subvolumes: int, leaf: int, *, backwards: bool, tubes: int) -> dict[str, Any]:
    """`measure` in a process of its own, whose peak memory is that of the joining."""
    case = f"{subvolumes},{leaf},{int(backwards)}"
    command = [sys.executable, "-m", "tests.benchmarks.reconcile", "--child", case, "--tubes", str(tubes)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{subvolumes} subvolumes: {done.stderr.strip()[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    print(json.dumps(result), file=sys.stderr, flush=True)
    return result


def run_child(subvolumes: int, leaf: int, backwards: bool, tubes: int) -> dict[str, Any]:
    """What a child process does."""
    kind = Backwards if backwards else Hierarchy
    hierarchy = kind(counts_zyx=SIZES[subvolumes], leaf_zyx=(leaf, leaf, leaf))
    with tempfile.TemporaryDirectory() as folder:
        return measure(hierarchy, Tubes(counts_zyx=SIZES[subvolumes], tubes=tubes), Path(folder))


def measure_sizes(sizes: list[int], *, tubes: int) -> dict[str, Any]:
    """All sizes, the growth from one to the next, and whether other blocks give the same ids."""
    found = [child(size, LARGEST_LEAF, backwards=False, tubes=tubes) for size in sizes]
    again = {
        size: child(size, LARGEST_LEAF - 3, backwards=True, tubes=tubes)["ids_sha256"]
        for size in sizes
        if size <= CHECKED_AGAIN
    }
    return {
        "sizes": found,
        "exponents": [
            {
                "from": a["subvolumes"],
                "to": b["subvolumes"],
                **{
                    name: round(exponent(a, b, name), 3)
                    for name in ("cpu_seconds", "peak_rss_mib", "files_mib")
                },
            }
            for a, b in pairwise(found)
        ],
        "all_ids_right": all(f["ids_wrong"] == 0 for f in found),
        "same_in_other_blocks": all(
            again[f["subvolumes"]] == f["ids_sha256"] for f in found if f["subvolumes"] in again
        ),
        "under_4_gib": all(f["peak_rss_mib"] < LIMIT_MIB for f in found),
    }


def exponent(a: dict[str, Any], b: dict[str, Any], name: str) -> float:
    """How a figure grows with the number of subvolumes: the slope between two sizes on a log-log plot."""
    return math.log(b[name] / a[name]) / math.log(b["subvolumes"] / a["subvolumes"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", default="10000,100000,1000000", help=f"of {', '.join(map(str, SIZES))}")
    parser.add_argument("--tubes", type=int, default=8, help="of each of 4 kinds, in every subvolume")
    parser.add_argument("--data", type=Path, help="a label volume, .npz with `gt`; without it the phantom")
    parser.add_argument("--parts", default="sizes,volume")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        subvolumes, leaf, backwards = (int(n) for n in given.child.split(","))
        print(json.dumps(run_child(subvolumes, leaf, bool(backwards), given.tubes)))
        return
    parts, document = given.parts.split(","), {}
    if "sizes" in parts:
        document["synthetic"] = measure_sizes([int(n) for n in given.sizes.split(",")], tubes=given.tubes)
    if "volume" in parts:
        document["volume"] = measure_volume(given.data)
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
