"""FIB-25 in pieces: a box segmented in overlapping subvolumes and joined, beside google/ffn's own result.

    python -m tests.benchmarks.fib25 --data ../shared/data --box 46:174,61:189,61:189 --workers 2

The box goes through the real steps: imported as an aligned stack, ingested, stitched, aligned (both keep it),
segmented with the imported FIB-25 network, matched, reconciled, relabelled. Both segmentations are evaluated
on the same voxels, without the box's rim, with the same treatment of unlabelled voxels; google/ffn's saw the
whole block. One JSON document goes to stdout, progress to stderr; what `--work` holds is not done again.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from ffn.checkpoint import save_model
from ffn.importing import import_google_ffn
from functions.evaluation import Evaluation, evaluate
from functions.microscopes.importing import import_stack
from functions.model.geometry import Box
from functions.model.parameters import Parameters
from functions.relabel import opened
from functions.runtime import execute
from functions.store.labels import grid_of
from functions.store.run import Run
from functions.store.volumes import Volume
from functions.tasks import STEPS, PlanTask, RunSpec

VOXEL_SIZE_NM = (10.0, 10.0, 10.0)
RIM_PX = 16
BLOCK = "training_sample2_z000-173.npz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The box of the block: image, truth, and what google/ffn published; all (Z, Y, X)."""

    raw: np.ndarray
    truth: np.ndarray
    published: np.ndarray


def read_block(data: Path, box: Box) -> Block:
    """Cut the box out of the block."""
    with np.load(data / "fib25" / BLOCK, allow_pickle=False) as archive:
        return Block(
            raw=archive["raw"][box.slices],
            truth=archive["gt"][box.slices],
            published=archive["google_ffn_segmentation"][box.slices],
        )


def run_steps(run: Run, workers: int) -> dict[str, float]:
    """All steps up to relabel through the wire contract; seconds of each."""
    seconds: dict[str, float] = {}
    with ProcessPoolExecutor(workers, get_context("spawn"), _one_thread) as pool:
        for step in STEPS[: STEPS.index("relabel") + 1]:
            started = time.perf_counter()
            if step in ("ingest", "align_solve", "reconcile"):
                results = [execute(step, {"run": run.spec.to_json()})]
            else:
                task = PlanTask(run=run.spec, step=step, function_id="benchmark")
                planned = execute("plan", task.to_json())["tasks"]
                results = list(
                    pool.map(execute, [step] * len(planned), [t["kwargs"]["task"] for t in planned])
                )
            seconds[step] = round(time.perf_counter() - started, 1)
            done = sum(r["units"] for r in results)
            problems = [p for r in results for p in r["problems"]]
            print(
                f"{step}: {done} units computed, {seconds[step]} s {problems[:2]}",
                file=sys.stderr,
                flush=True,
            )
    return seconds


def report(run: Run, block: Block, seconds: dict[str, float]) -> dict[str, Any]:
    """Our figures and the published ones, by the same code on the same voxels."""
    ref, image = opened(run), run.aligned.volume
    ours = figures(Volume.open(run.work, ref).read(ref.box), block.truth)
    theirs = figures(block.published, block.truth)
    marks = [run.cell("segment").mark(s.id).figures for s in grid_of(run)]
    matched = [run.cell("match").mark(p.id).figures for p in grid_of(run).neighbours()]
    return {
        "ours": ours.to_json(),
        "google_ffn_published": theirs.to_json(),
        "voi_sum_fill_ratio": round(ours.voi_sum_fill / theirs.voi_sum_fill, 4),
        "image_kept": bool((Volume.open(run.work, image).read(image.box) == block.raw).all()),
        "subvolumes": len(marks),
        "fovs": sum(m["fovs"] for m in marks),
        "network_seconds": round(sum(m["network_seconds"] for m in marks), 1),
        "overlap_factor": round(grid_of(run).overlap_factor(), 3),
        "agreement_of_overlaps": [round(min(m["agreement"] for m in matched), 4),
                                  round(float(np.mean([m["agreement"] for m in matched])), 4)],
        "reconcile": run.cell("reconcile").mark("all").figures,
        "seconds": seconds,
        "peak_gib": round(max(_peak_gib(resource.RUSAGE_SELF), _peak_gib(resource.RUSAGE_CHILDREN)), 2),
        "labels": str(run.work / ref.path),
    }  # fmt: skip


def figures(labels: np.ndarray, truth: np.ndarray) -> Evaluation:
    """Evaluated without the rim that no field of view can be centred in."""
    return evaluate(labels, truth, voxel_size_zyx_nm=VOXEL_SIZE_NM, rim_zyx_px=(RIM_PX,) * 3)


def parse_box(text: str) -> Box:
    """`z0:z1,y0:y1,x0:x1` in voxels of the block."""
    (z0, z1), (y0, y1), (x0, x1) = (map(int, axis.split(":")) for axis in text.split(","))
    return Box(offset_zyx=(z0, y0, x0), shape_zyx=(z1 - z0, y1 - y0, x1 - x0))


def parse_triple(text: str) -> tuple[int, int, int]:
    """`64,96,96`, or one number for all axes."""
    values = [int(part) for part in text.split(",")]
    z, y, x = values * 3 if len(values) == 1 else values
    return z, y, x


def _peak_gib(who: int) -> float:
    return resource.getrusage(who).ru_maxrss / 2**20


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def measure(
    data: Path, work: Path, box: Box, *, segment: dict[str, Any], reconcile: dict[str, Any], workers: int
) -> dict[str, Any]:
    """Run every step on `box` and compare; `segment` and `reconcile` are parameters."""
    work = work.resolve()
    model = work / "fib25.safetensors"
    if not model.exists():
        save_model(model, import_google_ffn(data / "fib25" / "fib25_weights.npz"))
    stack = work / "-".join(map(str, box.offset_zyx + box.shape_zyx)) / "stack"
    if not stack.exists():
        import_stack(data / "fib25" / BLOCK, stack, voxel_size_zyx_nm=VOXEL_SIZE_NM, box=box)
    groups = {"segment": {"model": str(model), "device": "cpu", **segment}, "reconcile": reconcile}
    parameters = Parameters.model_validate(groups)
    run = Run(RunSpec(work=str(stack.parent / "work"), acquisition=str(stack), parameters=parameters))
    seconds = run_steps(run, workers)
    return report(run, read_block(data, box), seconds)


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(
        description="FIB-25 in overlapping subvolumes, beside google/ffn's result"
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--box", type=parse_box, default=parse_box("46:174,61:189,61:189"))
    parser.add_argument("--subvolume", type=parse_triple, default=(96, 96, 96))
    parser.add_argument("--overlap", type=parse_triple, default=(64, 64, 64))
    parser.add_argument("--min-move-distance", type=int, default=0, help="6 saves 40 % of the fields of view")
    parser.add_argument("--reconcile", type=json.loads, default={}, help='e.g. {"combine": "owner"}')
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("fib25-benchmark"))
    arguments = parser.parse_args()
    document = measure(
        arguments.data,
        arguments.work,
        arguments.box,
        segment={
            "subvolume_zyx_px": arguments.subvolume,
            "overlap_zyx_px": arguments.overlap,
            "min_move_distance_px": arguments.min_move_distance,
        },
        reconcile=arguments.reconcile,
        workers=arguments.workers,
    )
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
