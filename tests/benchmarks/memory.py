"""Every step of the flow under a memory budget, on volumes several times as large: one JSON document.

    python -m tests.benchmarks.memory                            two volumes of 2.4 GiB, 0.6 GiB a worker
    python -m tests.benchmarks.memory --times 0.13 --side 1024   units as large, but few

An aligned stack goes through every step; an acquisition of tiles until its volume is drawn, since what
follows knows no tiles. Each step runs in a process of its own, as a worker of a site does: planned and
carried out by the functions that the flow calls, with the run's `memory_gib` enforced. Only networks are
replaced, since they would take days: segment labels what is bright (`memory_data.Blobs`), and pairs are
flooded again by a network of two features that sees no more than that (`memory_data.bright_model`).

`peak_mib`: the largest resident set that the kernel saw (VmHWM), interpreter and libraries with it, over all
units and the process itself. `within`: it stayed below the budget. Needs about five times the volumes' size
on the disk under --folder, and removes what it wrote.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from math import ceil
from pathlib import Path
from types import SimpleNamespace

from ffn.checkpoint import save_model
from functions.model.parameters import Parameters
from functions.tasks import FAN_OUTS, STEPS, RunSpec, StepName
from tests.benchmarks.memory_data import Blobs, Scene, bright_model

GIB = 1 << 30
SIDE, TILE_PX = 4096, 1024
FOV_ZYX = (17, 33, 33)
REGISTRATION: tuple[StepName, ...] = STEPS[: STEPS.index("segment")]
PARAMETERS = Parameters.model_validate(
    {
        "align": {"neighbours": 1, "far_neighbours": [], "stride_px": 128},
        "segment": {"subvolume_zyx_px": [64, 256, 256], "overlap_zyx_px": [4, 16, 16], "device": "cpu"},
        "candidates": {
            "sources": ["refused", "contact"],
            "min_voxels": 50_000,
            "refused_share": 0.9,
            "contact_share": 0.9,
            "large_voxels": 1_000_000,
            "block_zyx_px": [64, 256, 256],
        },
        "resegment": {"max_attempts": 1},
        "finish": {"shard_zyx_px": [64, 256, 512]},
    }
)
"""As few pairs of sections, patches and pairs of objects as will do: the time goes with them, memory does
not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One step in a process of its own; bytes are stored ones."""

    step: str
    peak_mib: int
    started_with_mib: int
    seconds: float
    read_bytes_per_voxel: float
    written_bytes_per_voxel: float
    units: int


def measure(
    scene: Scene, folder: Path, *, memory_gib: float, steps: tuple[StepName, ...]
) -> dict[str, object]:
    """Write a scene and take it through some steps; what was found, with every step's peak."""
    started = time.perf_counter()
    scene.write(folder / "raw")
    save_model(folder / "bright.safetensors", bright_model(FOV_ZYX))
    segment = PARAMETERS.segment.model_copy(update={"model": str(folder / "bright.safetensors")})
    spec = RunSpec(
        work=str(folder / "work"),
        acquisition=str(folder / "raw"),
        parameters=PARAMETERS.model_copy(update={"segment": segment}),
        memory_gib=memory_gib,
    )
    made_s = time.perf_counter() - started
    found = []
    for step in steps:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as worker:
            found.append(worker.submit(carry_out_step, spec, step, scene.bytes).result())
        print(f"{found[-1]}", file=sys.stderr, flush=True)
    return {
        "shape_zyx": (scene.sections, *scene.shape_yx),
        "tile_px": scene.tile_px,
        "volume_gib": round(scene.bytes / GIB, 3),
        "times_the_budget": round(scene.bytes / GIB / memory_gib, 2),
        "making_seconds": round(made_s, 1),
        "within": all(m.peak_mib <= 1024 * memory_gib for m in found),
        "largest_peak_mib": max(m.peak_mib for m in found),
        "steps": [asdict(m) for m in found],
    }


def carry_out_step(spec: RunSpec, step: StepName, voxels: int) -> Measured:
    """One step as a worker does it, in this process."""
    from functions import segment
    from functions.runtime import execute, moved_totals, read_manifest
    from functions.stopping import Stopping
    from functions.store.limits import MIB, process_memory
    from functions.store.run import Run
    from functions.worker import Worker

    before, started = process_memory(), time.perf_counter()
    assert before is not None
    units = 1
    with Sampler() as sampler:
        if step in FAN_OUTS:
            plan = execute("plan", {"run": spec.to_json(), "step": step, "function_id": "f", "shards": 1})
            units = int(plan["units"])
            if step == "segment":
                manifest = read_manifest(Path(plan["paths"]["manifest"]))
                compute = partial(segment.compute, segmenter=Blobs())
                module = SimpleNamespace(compute=compute, abandon=segment.abandon)
                for _ in Worker(manifest, 0, module, stopping=Stopping(), run=Run(spec)).work():
                    pass
            else:
                for task in plan["tasks"]:
                    execute(step, task["kwargs"]["task"])
            figures = moved_totals(Run(spec), step)
        else:
            figures = execute(step, {"run": spec.to_json()})["figures"]
    after = process_memory()
    assert after is not None
    return Measured(
        step=step,
        peak_mib=ceil(max(figures.get("peak_mib", 0.0), sampler.peak / MIB, after.peak / MIB)),
        started_with_mib=before.resident // MIB,
        seconds=round(time.perf_counter() - started, 1),
        read_bytes_per_voxel=round(figures.get("read_bytes", 0.0) / voxels, 4),
        written_bytes_per_voxel=round(figures.get("written_bytes", 0.0) / voxels, 4),
        units=units,
    )


class Sampler:
    """The largest resident set of this process that a second thread saw: a check on what marks tell."""

    def __init__(self) -> None:
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        from functions.store.limits import process_memory

        while not self._stop.wait(0.02):
            now = process_memory()
            self.peak = max(self.peak, now.resident if now else 0)


def scenes(memory_gib: float, times: float, side: int) -> dict[str, Scene]:
    """Both acquisitions, each so many times the budget."""
    sections = max(2, ceil(memory_gib * GIB * times / side**2))
    return {
        "stack": Scene(sections=sections, shape_yx=(side, side)),
        "tiles": Scene(sections=sections, shape_yx=(side, side), tile_px=TILE_PX),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--memory-gib", type=float, default=0.6)
    parser.add_argument("--times", type=float, default=4.0, help="volume over budget")
    parser.add_argument("--side", type=int, default=SIDE, help="of a section, px")
    parser.add_argument("--folder", type=Path, help="where to write meanwhile; default: a temporary folder")
    parser.add_argument("--only", choices=("stack", "tiles"))
    asked = parser.parse_args()
    document: dict[str, object] = {"memory_gib": asked.memory_gib}
    for name, scene in scenes(asked.memory_gib, asked.times, asked.side).items():
        if asked.only in (None, name):
            folder = Path(tempfile.mkdtemp(prefix=f"memory-{name}-", dir=asked.folder))
            try:
                steps = STEPS if name == "stack" else REGISTRATION
                document[name] = measure(scene, folder, memory_gib=asked.memory_gib, steps=steps)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
