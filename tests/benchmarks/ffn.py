"""One box of FIB-25 flooded with google/ffn's published network: seconds and quality of every mode.

    python -m tests.benchmarks.ffn --data ../shared/data --box 77:173 --modes exact,fast --threads 1

The reference, timed in the same run, is the same network in plain torch: channels_last_3d, one field of view
at a time, google/ffn's moves. "exact" makes them with the kernel that Petavoxel chooses here, "fast"
takes fewer (`ffn.config.fast`). On the box 77:173 reference and exact are compared with what google/ffn
computed, move by move and voxel by voxel. Seconds are of the wall clock; the CPU seconds beside them hold on
a busy machine too. One JSON document goes to stdout, progress to stderr.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ffn.checkpoint import Model
from ffn.config import InferenceConfig, fast
from ffn.engine import Kernel, choose_kernel
from ffn.importing import import_google_ffn
from ffn.inference import Progress, Segmentation, segment
from functions.evaluation import evaluate
from functions.model.geometry import Box
from tests.benchmarks.fib25_block import VOXEL_SIZE_NM, Block, parse_box, read_block

GOOGLE_BOX = "77:173,77:173,77:173"
GOOGLE = "google_ffn_box_z077-173_y077-173_x077-173.npz"
INNER_RIM_PX = 8
"""Nearer to the box's faces hardly any voxel is reached; figures without it say more about the network."""


def measure(data: Path, box: Box, modes: list[str], *, reference: bool = True) -> dict[str, Any]:
    """Flood the box in every mode; the document that the command prints."""
    model = import_google_ffn(data / "fib25" / "fib25_weights.npz")
    block = read_block(data, box)
    configs = {
        "reference": model.inference,
        "exact": model.inference,
        "fast": fast(model.inference, model.network.config),
    }
    document: dict[str, Any] = {"box": [list(box.offset_zyx), list(box.shape_zyx)], "machine": machine(model)}
    for mode in ["reference"] * reference + modes:
        kernel: Kernel = "torch" if mode == "reference" else "auto"
        print(f"{mode} ({kernel})", file=sys.stderr, flush=True)
        found, seconds, cpu_seconds = timed(block, model, configs[mode], kernel)
        document[mode] = {**figures(found, block, seconds), "cpu_seconds": round(cpu_seconds, 2)}
        if mode != "fast" and box == parse_box(GOOGLE_BOX):
            document[mode]["identical_to_google"] = is_google(found, data)
        if reference:
            document[mode]["ratio"] = round(document["reference"]["seconds"] / seconds, 3)
            document[mode]["cpu_ratio"] = round(document["reference"]["cpu_seconds"] / cpu_seconds, 3)
    return document


def timed(
    block: Block, model: Model, config: InferenceConfig, kernel: Kernel
) -> tuple[Segmentation, float, float]:
    """The segmentation, and the wall and CPU seconds of the whole call, seeds and host included."""
    started, started_cpu = time.perf_counter(), time.process_time()
    found = segment(
        block.raw, model=model, config=config, kernel=kernel, device=torch.device("cpu"), progress=_tell
    )
    return found, time.perf_counter() - started, time.process_time() - started_cpu


def figures(found: Segmentation, block: Block, seconds: float) -> dict[str, Any]:
    """What it cost, and how good it is: whole box, and without `INNER_RIM_PX`."""
    truth = block.truth.astype(np.uint32)
    whole = evaluate(found.labels, truth, voxel_size_zyx_nm=VOXEL_SIZE_NM, min_skeleton_voxels=None)
    rim = (INNER_RIM_PX,) * 3
    inner = evaluate(
        found.labels, truth, voxel_size_zyx_nm=VOXEL_SIZE_NM, rim_zyx_px=rim, min_skeleton_voxels=None
    )
    counters = found.counters
    return {
        "seconds": round(seconds, 2),
        "seconds_network": round(counters.seconds_network, 2),
        "seconds_host": round(counters.seconds_host, 2),
        "fovs": counters.fovs,
        "rejected_fovs": counters.rejected_fovs,
        "objects": counters.objects,
        "voxels_per_second": round(block.raw.size / seconds, 1),
        "labelled_fraction": round(whole.labelled_fraction, 4),
        "voi_d_sum": round(whole.voi_sum_fill, 4),
        "are": round(whole.rand_error_fill, 4),
        "voi_a": [round(whole.voi_split_keep, 4), round(whole.voi_merge_keep, 4)],
        "voi_b": [round(whole.voi_split_labelled, 4), round(whole.voi_merge_labelled, 4)],
        "voi_d": [round(whole.voi_split_fill, 4), round(whole.voi_merge_fill, 4)],
        "inner_voi_d_sum": round(inner.voi_sum_fill, 4),
        "inner_are": round(inner.rand_error_fill, 4),
    }


def is_google(found: Segmentation, data: Path) -> bool:
    """Whether every move and every voxel is what google/ffn computed."""
    with np.load(data / "fib25" / GOOGLE, allow_pickle=False) as archive:
        moves, labels = archive["moves_zyx"], archive["segmentation"]
    return bool(np.array_equal(found.moves_zyx, moves) and np.array_equal(found.labels, labels))


def machine(model: Model) -> dict[str, Any]:
    """Where this was measured."""
    kernel, reason = choose_kernel(model.network, device=torch.device("cpu"))
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": cpu or platform.processor(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "kernel": kernel,
        "kernel_reason": reason,
    }


def _tell(progress: Progress) -> None:
    print(
        f"\r{progress.seeds_done}/{progress.seeds} seeds, {progress.fovs} fields of view",
        end="\n" if progress.seeds_done == progress.seeds else "",
        file=sys.stderr,
        flush=True,
    )


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description="Seconds and quality of FFN inference on one box of FIB-25")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--box", type=parse_box, default=parse_box("77:173"))
    parser.add_argument("--modes", type=lambda text: text.split(","), default=["exact", "fast"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--no-reference", action="store_true", help="leave out the slow reference, and ratios"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.modes) - {"exact", "fast"}:
        parser.error(f"--modes: {', '.join(sorted(unknown))}: give exact, fast or both")
    torch.set_num_threads(arguments.threads)
    document = measure(arguments.data, arguments.box, arguments.modes, reference=not arguments.no_reference)
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
