"""What the host spends per field of view in FFN inference, with the network replaced by a no-op.

    python -m tests.benchmarks.ffn_engine --threads 1

Synthetic subvolumes of 120^3 voxels with eight cells each, field of view 33^3, deltas 8. The no-op answers
with the image: bright voxels belong to the object. Seeds are given, so all that is timed is gather, disco
rule, scatter, faces, queues and labelling: with `ffn.batching` (canvases as tensors) and, as the reference in
the same run, with `ffn.flood.Flood` (arrays, one move at a time, google/ffn's order). Every configuration is
timed `--repeats` times, in turn; the document has the fastest and the median. Seconds are of the wall clock
without the no-op; beside them stand CPU seconds, the no-op's included. `host_ms_per_row_p10`: between two
calls of the no-op, per row of the batch, a tenth of the steps took less; on a busy machine and for small
batches this is nearest to what a quiet one would show, for large ones the CPU seconds are. `tensor_share` of
the host's time is spent on fields of view, which an accelerator would do itself: here by `ffn.native.windows`
where there is a C compiler, else by tensor operations. The rest is Python, and stays on the host everywhere.
Whether all give the same labels and moves is in the document, too.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ffn.batching import Batcher
from ffn.canvas import Canvas, Thresholds
from ffn.config import InferenceConfig, NetworkConfig, Normalisation
from ffn.engine import Engine
from ffn.flood import Flood
from ffn.native import build
from ffn.network import IMAGE, FloodFillingNetwork
from ffn.segmentation import Segmentation
from ffn.snapshot import Snapshot

GOOGLE_MS = {
    "published": 2.9,
    "what": "Python per field of view, batch 1",
    "source": "counters published with google/ffn's FIB-25 segmentation (2018, one GPU); not measured here",
}
TARGET_MS = 0.2  # at batch 32
SIDE, PITCH, CELL, START = 120, 52, 34, 17
"""In voxels. The no-op sees no connection, so cells lie further apart than its field of view reaches."""
NETWORK = NetworkConfig(modules=1, features=1)
CONFIG = InferenceConfig()
NORMALISATION = Normalisation(mean=128, std=20)


class NoNetwork(Engine):
    """An engine whose network answers with the image; it counts the seconds that this takes."""

    def __init__(self) -> None:
        super().__init__(
            FloodFillingNetwork(NETWORK), NORMALISATION, device=torch.device("cpu"), kernel="torch"
        )
        self.memory_format = torch.contiguous_format  # as the native kernel, this CPU's best, takes it
        self.seconds = 0.0
        self.host_seconds: list[float] = []  # between two calls, per row
        self._left: float | None = None
        self._answer = torch.zeros((0, *NETWORK.fov_zyx))

    def forward(self, x: Tensor) -> Tensor:
        """The image as logits, in a buffer of its own as from a network."""
        started = time.perf_counter()
        if self._left is not None:
            self.host_seconds.append((started - self._left) / len(x))
        if len(self._answer) != len(x):
            self._answer = torch.zeros((len(x), *NETWORK.fov_zyx))
        self._answer.copy_(x[:, IMAGE])
        self._left = time.perf_counter()
        self.seconds += self._left - started
        return self._answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One way to run: `batch` 0 is the serial engine."""

    batch: int
    subvolumes: int
    objects: int


@dataclass(slots=True)
class Timing:
    """Milliseconds of the host per field of view, of each repeat, and what was done."""

    wall_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    row_ms: list[float] = field(default_factory=list)
    fovs: int = 0
    discarded: int = 0
    fill: float = 1.0
    tensor_share: float | None = None
    found: list[Segmentation] = field(default_factory=list)


def cells(number: int) -> NDArray[np.uint8]:
    """Eight grainy bright cubes on dark ground; each subvolume's grain is its own."""
    image = np.full((SIDE, SIDE, SIDE), 40, np.int16)
    starts = [START, START + PITCH]
    for z in starts:
        for y in starts:
            for x in starts:
                image[z : z + CELL, y : y + CELL, x : x + CELL] = 200
    image += np.random.default_rng(number).integers(-20, 20, image.shape, np.int16)
    return image.astype(np.uint8)


def seeds() -> NDArray[np.int32]:
    """The cells' centres, in raster order."""
    centre = [START + CELL // 2, START + PITCH + CELL // 2]
    return np.array([(z, y, x) for z in centre for y in centre for x in centre], np.int32)


def at_the_seeds(shape: tuple[int, ...]) -> Snapshot:
    """A subvolume whose seeds have been found and nothing else."""
    none = np.zeros((0, 3), np.int32)
    peaks = seeds()
    return Snapshot(
        fingerprint="",
        labels=np.zeros(shape, np.int32),
        probabilities=None,
        attempts=(),
        moves_zyx=none,
        peaks=peaks,
        fill_round=0,
        next_seed=0,
        labelled_before=0,
        calls=0,
        seeds=len(peaks),
        seeds_done=0,
        skipped_moves=0,
        seconds_network=0.0,
        seconds_total=0.0,
        seed=none,
        corner=np.zeros(3, np.int32),
        belief=np.zeros((0, 0, 0), np.float32),
        pending=none,
    )


def run(setting: Setting, timing: Timing) -> None:
    """Flood the subvolumes once more and write down what it took."""
    engine = NoNetwork()
    canvases = [
        Canvas(cells(i), fov_zyx=NETWORK.fov_zyx, thresholds=Thresholds.of(CONFIG))
        for i in range(setting.subvolumes)
    ]
    common: dict[str, Any] = {
        "config": CONFIG,
        "deltas_zyx": NETWORK.deltas_zyx,
        "max_fovs": None,
        "clock": time.perf_counter,
    }
    floods: list[Flood]
    batcher = None
    if setting.batch:
        batcher = Batcher(canvases, engine, batch=setting.batch, objects=setting.objects, **common)
        floods = list(batcher.floods)
    else:
        floods = [Flood(canvas, engine, **common) for canvas in canvases]
    for flood in floods:
        flood.take_up(at_the_seeds(flood.canvas.shape_zyx))
    started, cpu = time.perf_counter(), time.process_time()
    if batcher is not None:
        batcher.run()
    else:
        for flood in floods:
            flood.run()
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    timing.found = [flood.result(seconds=0.0) for flood in floods]
    timing.fovs = sum(found.counters.fovs for found in timing.found)
    timing.discarded = sum(found.counters.discarded_fovs for found in timing.found)
    if batcher is not None:
        timing.fill = batcher.rows / (batcher.steps * batcher.batch)
        timing.tensor_share = batcher.seconds_tensors / (wall - engine.seconds)
    timing.wall_ms.append(1000 * (wall - engine.seconds) / timing.fovs)
    timing.row_ms.append(1000 * float(np.percentile(engine.host_seconds, 10)))
    timing.cpu_ms.append(1000 * cpu / timing.fovs)


def measure(settings: list[Setting], repeats: int) -> dict[Setting, Timing]:
    """All settings, `repeats` times in turn, so that a busy moment does not hit one alone."""
    timings = {setting: Timing() for setting in settings}
    for number in range(repeats):
        for setting, timing in timings.items():
            print(f"{number + 1}/{repeats} {setting}", file=sys.stderr, flush=True)
            run(setting, timing)
    return timings


def figures(setting: Setting, timing: Timing) -> dict[str, Any]:
    """One line of the document."""
    return {
        "batch": setting.batch,
        "subvolumes": setting.subvolumes,
        "objects_at_once": setting.objects,
        "fovs": timing.fovs,
        "discarded_fovs": timing.discarded,
        "batch_fill": round(timing.fill, 3),
        "host_ms_per_fov": round(min(timing.wall_ms), 4),
        "host_ms_per_fov_median": round(statistics.median(timing.wall_ms), 4),
        "host_cpu_ms_per_fov": round(min(timing.cpu_ms), 4),
        "host_ms_per_row_p10": round(min(timing.row_ms), 4),
        "tensor_share": None if timing.tensor_share is None else round(timing.tensor_share, 3),
    }


def document(batches: list[int], subvolumes: int, repeats: int) -> dict[str, Any]:
    """Everything that the command prints."""
    serial = Setting(batch=0, subvolumes=subvolumes, objects=1)
    by_batch = [Setting(batch=batch, subvolumes=subvolumes, objects=8) for batch in batches]
    by_objects = [Setting(batch=32, subvolumes=subvolumes, objects=objects) for objects in (2, 4, 8)]
    some = sorted({max(subvolumes // 4, 1), max(subvolumes // 2, 1), subvolumes})
    by_subvolumes = [Setting(batch=32, subvolumes=n, objects=8) for n in some]
    timings = measure(list(dict.fromkeys([serial, *by_batch, *by_objects, *by_subvolumes])), repeats)
    reference = timings[serial]
    at_32 = min(timings[by_objects[-1]].wall_ms)
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "machine": {
            "cpu": cpu or platform.processor(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "c_compiler": build.compiler() is not None,
        },
        "field_of_view": list(NETWORK.fov_zyx),
        "google_ffn_ms_per_fov": GOOGLE_MS,
        "serial": figures(serial, reference),
        "by_batch": [figures(s, timings[s]) for s in by_batch],
        "by_objects_at_once": [figures(s, timings[s]) for s in by_objects],
        "by_subvolumes": [figures(s, timings[s]) for s in by_subvolumes],
        "same_as_serial": all(
            np.array_equal(found.labels, expected.labels)
            and np.array_equal(found.moves_zyx, expected.moves_zyx)
            for timing in timings.values()
            for found, expected in zip(timing.found, reference.found, strict=False)
        ),
        "target_ms_at_batch_32": TARGET_MS,
        "target_met": at_32 <= TARGET_MS,
        "serial_to_batch_32": round(min(reference.wall_ms) / at_32, 2),
    }


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description="Host milliseconds per field of view, without a network")
    parser.add_argument(
        "--batches", type=lambda text: [int(n) for n in text.split(",")], default=[1, 8, 32, 128]
    )
    parser.add_argument("--subvolumes", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(json.dumps(document(arguments.batches, arguments.subvolumes, arguments.repeats), indent=1))


if __name__ == "__main__":
    main()
