"""FFN inference on an accelerator: the network's pace, MVoxel/h, and what reduced precision changes.

    python -m tests.benchmarks.ffn_accelerator --data ../shared/data --box 0:173,0:250,0:250 --device cuda \\
        --precisions fp32,tf32,bf16 --batches 32,64 --processes 1,4

Six parts, each printed to stderr as it is measured, in one JSON document at the end:

network     ms and TFLOP/s of a call, per field of view, for every precision and batch; error against float64
google      the box 77:173 in google/ffn's order, fp32: is it what google/ffn computed, voxel for voxel?
box         the box of FIB-25 in fast mode with a mirrored border, for every precision, batch and number of
            objects at once: MVoxel/h of one process; twice the same bytes; VOI against truth (D) and fp32
together    the box in 2 x 2 x 2 pieces, flooded at once in one process: MVoxel/h where batches are full
joint       a smaller box, turned in eight ways, in several threads that share the network (`ffn.joint`)
processes   the same box in several processes that share the device: MVoxel/h of all together

Voxels are those of the box, without the mirrored border; seconds are of the wall clock and hold seeds, host
and network, and not the loading of libraries. With `--device cpu` the logic can be tried on a small box.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ffn.checkpoint import Model
from ffn.config import fast
from ffn.engine import Engine, Precision
from ffn.importing import import_google_ffn
from ffn.inference import Segmentation, segment_many
from ffn.metrics import variation_of_information
from tests.benchmarks.ffn import GOOGLE_BOX, is_google
from tests.benchmarks.ffn_sharing import Setting, flood, joint, processes, tell, together
from tests.benchmarks.fib25_block import RIM_PX, Block, parse_box, read_block

REPEATS, WARM_UP = 10, 3
PUBLISHED_RATE = {
    "mvoxel_per_hour": 80,
    "what": "FFN on one A100 today, as the field states it; not measured here",
}


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type != "cpu":
        torch.accelerator.synchronize()


def network(
    model: Model, device: torch.device, settings: list[tuple[Precision, int]]
) -> list[dict[str, Any]]:
    """The pace of the network alone, by precision and batch."""
    c = model.network.config
    flop = 2 * 27 * float(np.prod(c.fov_zyx)) * (2 * c.features + (2 * c.modules - 1) * c.features**2)
    random = np.random.default_rng(1)
    rows = []
    for precision, batch in settings:
        engine = Engine(model.network, model.normalisation, device=device, precision=precision)
        x = torch.from_numpy(random.normal(size=(batch, 2, *c.fov_zyx)).astype(np.float32)).to(device)
        x = x.contiguous(memory_format=engine.memory_format)
        with torch.inference_mode():
            exact = copy.deepcopy(model.network).to(device).double()(x[:2].double())[:, 0]
        seconds = []
        for _ in range(WARM_UP + REPEATS):
            synchronise(device)
            started = time.perf_counter()
            answer = engine.forward(x)
            synchronise(device)
            seconds.append(time.perf_counter() - started)
        each = float(np.median(seconds[WARM_UP:])) / batch
        off = (answer[:2].double() - exact).norm() / exact.norm()
        rows.append(
            {
                "precision": precision,
                "batch": batch,
                "ms_per_fov": round(1000 * each, 4),
                "tflop_per_s": round(flop / each / 1e12, 2),
                "relative_error": float(f"{off.item():.2g}"),
            }
        )
        tell(rows[-1])
    return rows


def inside(found: Segmentation, model: Model) -> NDArray[np.uint32]:
    """The labels without the mirrored border."""
    inner = tuple(slice(n // 2, -(n // 2)) for n in model.network.config.fov_zyx)
    return np.ascontiguousarray(found.labels[inner].astype(np.uint32))


def truth_voi(labels: NDArray[np.uint32], block: Block) -> dict[str, float]:
    """Split and merge entropy against the truth, unlabelled voxels filled (D), without the outer rim."""
    rim = tuple(slice(RIM_PX, n - RIM_PX) for n in labels.shape)
    found = variation_of_information(labels[rim], block.truth[rim].astype(np.uint32), treatment="fill")
    return {"split": round(found.split, 4), "merge": round(found.merge, 4), "sum": round(found.sum, 4)}


def box(
    block: Block, model: Model, device: torch.device, settings: list[Setting]
) -> tuple[list[dict[str, Any]], dict[Precision, NDArray[np.uint32]]]:
    """The box by every setting, the last one twice; the first labels of each precision besides."""
    config = fast(model.inference, model.network.config)
    rows: list[dict[str, Any]] = []
    labels: dict[Precision, NDArray[np.uint32]] = {}
    for setting in settings:
        found, seconds = flood(block.raw, model, config, device, setting)
        mine = inside(found, model)
        labels.setdefault(setting.precision, mine)
        reference = labels.get("fp32")
        between = (
            None if reference is None else variation_of_information(mine, reference, treatment="labelled")
        )
        c = found.counters
        rows.append(
            {
                "precision": setting.precision,
                "batch": setting.batch,
                "objects": setting.objects,
                "seconds": round(seconds, 3),
                "seconds_network": round(c.seconds_network, 3),
                "seconds_host": round(c.seconds_host, 3),
                "mvoxel_per_hour": round(block.raw.size / seconds * 3600 / 1e6, 1),
                "fovs": c.fovs,
                "discarded_fovs": c.discarded_fovs,
                "calls": c.calls,
                "fovs_per_second": round((c.fovs + c.discarded_fovs) / seconds, 1),
                "voi_d": truth_voi(mine, block),
                "voi_fp32": None if between is None else abs(round(between.sum, 4)),
            }
        )
        tell(rows[-1])
    again, _ = flood(block.raw, model, config, device, settings[-1])
    rows[-1]["twice_the_same"] = bool(np.array_equal(again.labels, found.labels))
    return rows, labels


def google(data: Path, model: Model, device: torch.device, batch: int) -> dict[str, Any]:
    """google/ffn's box in its order of moves."""
    block = read_block(data, parse_box(GOOGLE_BOX))
    started = time.perf_counter()
    (found,) = segment_many([block.raw], model=model, batch=batch, objects=batch, device=device)
    seconds = time.perf_counter() - started
    row = {"identical": is_google(found, data), "fovs": found.counters.fovs, "seconds": round(seconds, 2)}
    tell(row)
    return row


def words(text: str) -> list[str]:
    """A list with commas."""
    return text.split(",")


def numbers(text: str) -> list[int]:
    """A list of whole numbers."""
    return [int(word) for word in words(text)]


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description="FFN inference on an accelerator")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--box", default="0:173,0:250,0:250")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precisions", type=words, default=["fp32", "tf32", "bf16"])
    parser.add_argument("--batches", type=numbers, default=[32, 64])
    parser.add_argument("--objects", type=numbers, default=[32])
    parser.add_argument("--processes", type=numbers, default=[1, 4])
    parser.add_argument("--threads", type=numbers, default=[8, 32])
    parser.add_argument("--labels", type=Path, help="keep the labels of each precision in this folder")
    parser.add_argument(
        "--parts", type=words, default=["network", "google", "box", "together", "joint", "processes"]
    )
    a = parser.parse_args()
    device = torch.device(a.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else a.device
    model, block = (
        import_google_ffn(a.data / "fib25" / "fib25_weights.npz"),
        read_block(a.data, parse_box(a.box)),
    )
    document: dict[str, Any] = {
        "device": name,
        "torch": torch.__version__,
        "where": a.box,
        "published_rate": PUBLISHED_RATE,
    }
    if "network" in a.parts:
        document["network"] = network(model, device, [(p, b) for p in a.precisions for b in a.batches])
    if "google" in a.parts:
        document["google"] = google(a.data, model, device, a.batches[0])
    if "box" in a.parts:
        settings = [
            Setting(precision=p, batch=b, objects=o)
            for p in a.precisions
            for b in a.batches
            for o in a.objects
        ]
        document["box"], labels = box(block, model, device, settings)
        for precision, found in labels.items() if a.labels else ():
            np.savez_compressed(a.labels / f"labels_{precision}.npz", labels=found)
    if "together" in a.parts:
        eight = [Setting(precision=p, batch=a.batches[-1], objects=a.objects[0]) for p in a.precisions]
        document["together"] = together(block, model, device, eight)
    if "joint" in a.parts:
        document["joint"] = joint(
            a.data, model, device, [(p, a.batches[-1], n) for p in a.precisions for n in a.threads]
        )
    if "processes" in a.parts:
        shared = Setting(precision=a.precisions[-1], batch=a.batches[0], objects=a.objects[0])
        document["processes"] = [processes(a.data, a.box, a.device, shared, n) for n in a.processes]
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
