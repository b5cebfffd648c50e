"""FIB-25 in pieces: a box segmented in overlapping subvolumes and joined, beside google/ffn's own result.

    python -m tests.benchmarks.fib25 --data ../shared/data --box 0:173,0:250,0:250 --subvolume 173,250,149 \\
        --overlap 0,0,48 --mode fast --mirror-border --workers 2 --agglomerate '{"seeds": "either"}'

The box goes through the whole flow on the embedded site: imported as an aligned stack, stitched and aligned
(both keep it), segmented with the imported FIB-25 network, joined, published. What was published is
evaluated, beside google/ffn's segmentation of the same voxels, which saw the whole block: both without the
box's rim, with the same treatment of unlabelled voxels. One JSON document goes to stdout, progress to stderr;
what `--work` holds is not done again.

`--consensus reversed` floods each subvolume once more, seeds in reverse, and keeps together what both
do; `--agglomerate` floods candidate pairs again and joins them under these limits, and tells what every other
threshold would give on this truth: the best of them is chosen here, so it says nothing of another volume.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from ffn.checkpoint import save_model
from ffn.importing import import_google_ffn
from flows.inputs import RunRequest
from flows.records import RunEvent, RunRecord, RunStatus
from flows.run import Runs
from flows.site import local_site
from functions.evaluation import Evaluation, evaluate
from functions.microscopes.importing import import_stack
from functions.model.geometry import Box
from functions.model.parameters import Parameters
from functions.store.labels import grid_of
from functions.store.run import Run
from functions.tasks import RunSpec
from functions.thresholding import Trial, read_agglomerated, sweep
from tests.benchmarks.fib25_block import BLOCK, RIM_PX, VOXEL_SIZE_NM, Block, parse_box, read_block


def run_flow(
    stack: Path, parameters: Parameters, home: Path, workers: int
) -> tuple[RunRecord, dict[str, float]]:
    """The whole flow on the embedded site in `home`; the record and the seconds of each step."""
    runs = Runs(local_site(home, workers=workers), home=home)
    request = RunRequest(source=str(stack), parameters=parameters)
    record = runs.start(request, wait=True, on_event=_tell)
    if record.status is not RunStatus.SUCCEEDED:
        raise SystemExit(f"{record.id}: {record.status}: {record.error}")
    return record, {step.name: step.seconds for step in runs.show(record.id)[1]}


def _tell(event: RunEvent) -> None:
    if event.log is not None:
        print(f"{event.log.time} {event.log.code} {event.log.state_name}", file=sys.stderr, flush=True)


def report(record: RunRecord, block: Block, seconds: dict[str, float]) -> dict[str, Any]:
    """Our figures and the published ones, by the same code on the same voxels."""
    run = Run(RunSpec.parse(record.input["input"]["run"], source=f"run {record.id}"))
    published = Path(record.published_path or "") / "volume.zarr"
    image = zarr.open_array(str(published / "0"), mode="r")[:]
    ours = figures(zarr.open_array(str(published / "labels/segmentation/0"), mode="r")[:], block.truth)
    theirs = figures(block.published, block.truth)
    marks = [run.cell("segment").mark(s.id).figures for s in grid_of(run)]
    matched = [run.cell("match").mark(p.id).figures for p in grid_of(run).neighbours()]
    return {
        "ours": ours.to_json(),
        "google_ffn_published": theirs.to_json(),
        "voi_sum_fill_ratio": round(ours.voi_sum_fill / theirs.voi_sum_fill, 4),
        "image_kept": bool((image == block.raw).all()),
        "subvolumes": len(marks),
        "mvoxel_per_hour": round(block.raw.size * 3.6e-3 / seconds["segment"], 2),
        "fovs": sum(m["fovs"] for m in marks),
        "network_seconds": round(sum(m["network_seconds"] for m in marks), 1),
        "overlap_factor": round(grid_of(run).overlap_factor(), 3),
        "agreement_of_overlaps": [round(min(m["agreement"] for m in matched), 4),
                                  round(float(np.mean([m["agreement"] for m in matched])), 4)],
        "reconcile": run.cell("reconcile").mark("all").figures,
        "agglomeration": agglomeration(run, published, block.truth) if run.agglomerates else None,
        "seconds": seconds,
        "peak_gib": round(max(_peak_gib(resource.RUSAGE_SELF), _peak_gib(resource.RUSAGE_CHILDREN)), 2),
        "published": str(published),
    }  # fmt: skip


def agglomeration(run: Run, published: Path, truth: np.ndarray) -> dict[str, Any]:
    """Before, after and at every threshold; and the cost."""
    supervoxels, edges = read_agglomerated(published.parent)
    found = sweep(supervoxels, truth, edges, voxel_size_zyx_nm=VOXEL_SIZE_NM, rim_zyx_px=(RIM_PX,) * 3)
    flooded = [mark.seconds for mark in run.cell("resegment").marks()]
    return {
        "figures": run.cell("agglomerate").mark("all").figures,
        "resegment_seconds": round(sum(flooded), 1),
        "before": _row(found.before),
        "best": _row(found.best),
        "trials": [_row(trial) for trial in found.trials],
    }


def _row(trial: Trial) -> dict[str, Any]:
    numbers = {"voi_split": trial.voi_split, "voi_merge": trial.voi_merge, "voi_sum": trial.voi_sum}
    rounded = {name: round(value, 4) for name, value in numbers.items()}
    return {"seeds": trial.seeds, "min_score": trial.min_score, "merges": trial.merges, **rounded}


def figures(labels: np.ndarray, truth: np.ndarray) -> Evaluation:
    """Evaluated without the rim that no field of view can be centred in."""
    return evaluate(labels, truth, voxel_size_zyx_nm=VOXEL_SIZE_NM, rim_zyx_px=(RIM_PX,) * 3)


def parse_triple(text: str) -> tuple[int, int, int]:
    """`64,96,96`, or one number for all axes."""
    values = [int(part) for part in text.split(",")]
    z, y, x = values * 3 if len(values) == 1 else values
    return z, y, x


def _peak_gib(who: int) -> float:
    return resource.getrusage(who).ru_maxrss / 2**20


def measure(
    data: Path, work: Path, box: Box, *, segment: dict[str, Any], groups: dict[str, Any], workers: int
) -> dict[str, Any]:
    """Run every step on `box` and compare; `segment` and `groups` are parameters."""
    work = work.resolve()
    model = work / "fib25.safetensors"
    if not model.exists():
        save_model(model, import_google_ffn(data / "fib25" / "fib25_weights.npz"))
    stack = work / "-".join(map(str, box.offset_zyx + box.shape_zyx)) / "stack"
    if not stack.exists():
        import_stack(data / "fib25" / BLOCK, stack, voxel_size_zyx_nm=VOXEL_SIZE_NM, box=box)
    groups = {"segment": {"model": str(model), "device": "cpu", **segment}, **groups}
    parameters = Parameters.model_validate(groups)
    record, seconds = run_flow(stack, parameters, stack.parent / "home", workers)
    return report(record, read_block(data, box), seconds)


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(
        description="FIB-25 in overlapping subvolumes, beside google/ffn's result"
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--box", type=parse_box, default=parse_box("45:173,61:189,61:189"))
    parser.add_argument("--subvolume", type=parse_triple, default=(96, 96, 96))
    parser.add_argument("--overlap", type=parse_triple, default=(64, 64, 64))
    parser.add_argument("--mode", choices=["model", "fast"], default="model", help="segment.mode")
    parser.add_argument("--mirror-border", action="store_true", help="segment.mirror_border")
    parser.add_argument("--segment", type=json.loads, default={}, help='e.g. {"min_move_distance_px": 6}')
    parser.add_argument("--reconcile", type=json.loads, default={}, help='e.g. {"combine": "owner"}')
    parser.add_argument("--consensus", nargs="*", default=[], help="segment.consensus_orders")
    parser.add_argument(
        "--agglomerate", type=json.loads, help='candidates from refusals and contact; e.g. {"min_score": 0.7}'
    )
    parser.add_argument("--candidates", type=json.loads, default={}, help='e.g. {"contact_share": 0.3}')
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("fib25-benchmark"))
    arguments = parser.parse_args()
    agglomerating = {}
    if arguments.agglomerate is not None:
        sources = {"sources": ("refused", "contact"), **arguments.candidates}
        agglomerating = {"candidates": sources, "agglomerate": arguments.agglomerate}
    document = measure(
        arguments.data,
        arguments.work,
        arguments.box,
        segment={
            "subvolume_zyx_px": arguments.subvolume,
            "overlap_zyx_px": arguments.overlap,
            "mode": arguments.mode,
            "mirror_border": arguments.mirror_border,
            "consensus_orders": arguments.consensus,
            **arguments.segment,
        },
        groups={"reconcile": arguments.reconcile, **agglomerating},
        workers=arguments.workers,
    )
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
