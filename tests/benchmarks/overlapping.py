"""What reading ahead and writing behind gain in the segment step: one JSON document.

    python -m tests.benchmarks.overlapping                   chunks take 50 ms longer, a network of 1 s
    python -m tests.benchmarks.overlapping --latency-ms 0    the disk as it is: how large is its share?

The same subvolumes are segmented by a worker as it is and by one that is kept from working on two at once (a
budget that only holds one does that), with a stand-in for the network that waits so long a subvolume, as the
host does for an accelerator. Latency is laid on every chunk that zarr gets and every local label file that is
written, as a busy parallel file system would.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from ffn.masks import Masks
from functions import plan, segment
from functions.runtime import read_manifest
from functions.segmenters import Flooded
from functions.stopping import Stopping
from functions.store import counted, labels
from functions.store.run import Run
from functions.tasks import PlanTask
from functions.worker import Worker
from tests.benchmarks.memory_data import Blobs, texture
from tests.functions.aligned_runs import make_run

SIZE, OVERLAP = (16, 128, 128), (4, 16, 16)


class Waiting(Blobs):
    """Blobs, found as late as a network would find them."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __call__(self, image: NDArray[np.uint8], masks: Masks) -> Flooded:
        """Label, and wait."""
        found = super().__call__(image, masks)
        time.sleep(self._seconds)
        return replace(found, network_seconds=self._seconds)


def seconds_of(root: Path, *, network_s: float, latency_s: float, beside: bool) -> tuple[float, bytes]:
    """How long a worker takes for all subvolumes, and their labels."""
    image = np.stack([texture((352, 352))] * 16)
    run = make_run(root, image, segment={"subvolume_zyx_px": SIZE, "overlap_zyx_px": OVERLAP})
    run.board("segment").ledger.number(segment.units(run), size=100)
    planned = plan.perform(PlanTask(run=run.spec, step="segment", function_id="f", shards=1))
    module = SimpleNamespace(
        compute=partial(segment.compute, segmenter=Waiting(network_s)), abandon=segment.abandon
    )
    manifest = read_manifest(Path(planned.paths["manifest"]))
    get, write = counted.CountedStore.get, labels.write_local

    async def late(self: counted.CountedStore, *arguments: object, **named: object) -> object:
        await asyncio.sleep(latency_s)
        return await get(self, *arguments, **named)  # type: ignore[arg-type]

    def written_late(*arguments: object) -> None:
        time.sleep(latency_s)
        write(*arguments)  # type: ignore[arg-type]

    with (
        patch.object(counted.CountedStore, "get", late),
        patch.object(segment, "write_local", written_late),
        patch("functions.worker.has_room_for_two", lambda _: beside),
    ):
        started = time.perf_counter()
        marks = list(Worker(manifest, 0, module, stopping=Stopping(), run=run).work())
        taken = time.perf_counter() - started
    assert len(marks) == len(segment.units(run)), run.board("segment").ledger.quarantined()
    return taken, b"".join(path.read_bytes() for path in files_of(run))


def files_of(run: Run) -> list[Path]:
    """Local labels, by name."""
    return sorted(run.cell("segment").file("subvolumes").rglob("*.npz"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--latency-ms", type=float, default=50.0)
    parser.add_argument("--network-s", type=float, default=1.0)
    asked = parser.parse_args()
    found = {}
    for name in ("alone", "beside"):
        with tempfile.TemporaryDirectory() as folder:
            found[name] = seconds_of(
                Path(folder),
                network_s=asked.network_s,
                latency_s=asked.latency_ms / 1000,
                beside=name == "beside",
            )
    (alone, first), (beside, second) = found["alone"], found["beside"]
    units = 9
    document = {
        "units": units,
        "latency_ms": asked.latency_ms,
        "network_seconds": units * asked.network_s,
        "alone_seconds": round(alone, 2),
        "beside_seconds": round(beside, 2),
        "share_besides_the_network_alone": round(1 - units * asked.network_s / alone, 3),
        "share_besides_the_network_beside": round(1 - units * asked.network_s / beside, 3),
        "same_bytes": first == second,
    }
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
