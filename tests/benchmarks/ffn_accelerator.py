"""FFN inference on an accelerator: the network's pace, MVoxel/h, and what reduced precision changes.

    python -m tests.benchmarks.ffn_accelerator --data ../shared/data --box 0:173,0:250,0:250 --device cuda \\
        --precisions fp32,tf32,bf16 --batches 32,64 --processes 1,4

Five parts, each printed to stderr as it is measured, in one JSON document at the end:

network     ms and TFLOP/s of a call, per field of view, for every precision and batch; error against float64
google      the box 77:173 in google/ffn's order, fp32: is it what google/ffn computed, voxel for voxel?
box         the box of FIB-25 in fast mode with a mirrored border, for every precision, batch and number of
            objects at once: MVoxel/h of one process; twice the same bytes; VOI against truth (D) and fp32
together    the box in 2 x 2 x 2 pieces, flooded at once in one process: MVoxel/h where batches are full
processes   the same box in several processes that share the device: MVoxel/h of all together

Voxels are those of the box, without the mirrored border; seconds are of the wall clock and hold seeds, host
and network, and not the loading of libraries. With `--device cpu` the logic can be tried on a small box.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ffn.checkpoint import Model
from ffn.config import InferenceConfig, fast
from ffn.engine import Engine, Precision
from ffn.importing import import_google_ffn
from ffn.inference import Segmentation, segment_many
from ffn.metrics import variation_of_information
from tests.benchmarks.ffn import GOOGLE_BOX, is_google
from tests.benchmarks.fib25_block import RIM_PX, Block, parse_box, read_block

REPEATS, WARM_UP = 10, 3
PUBLISHED_RATE = {
    "mvoxel_per_hour": 80,
    "what": "FFN on one A100 today, as the field states it; not measured here",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One way to flood the box."""

    precision: Precision
    batch: int
    objects: int


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


def flood(
    image: NDArray[np.uint8], model: Model, config: InferenceConfig, device: torch.device, setting: Setting
) -> tuple[Segmentation, float]:
    """The image with a mirrored border of one radius; labels of the image alone, and seconds."""
    radius = [n // 2 for n in model.network.config.fov_zyx]
    padded = np.pad(image, [(r, r) for r in radius], mode="reflect")
    started = time.perf_counter()
    (found,) = segment_many(
        [padded],
        model=model,
        config=config,
        batch=setting.batch,
        objects=setting.objects,
        device=device,
        precision=setting.precision,
    )
    return found, time.perf_counter() - started


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


def together(
    block: Block, model: Model, device: torch.device, settings: list[Setting]
) -> list[dict[str, Any]]:
    """Eight pieces of the box, each with a mirrored border, in one call."""
    config = fast(model.inference, model.network.config)
    radius = [n // 2 for n in model.network.config.fov_zyx]
    halves = [[slice(0, n // 2), slice(n // 2, n)] for n in block.raw.shape]
    pieces = [
        np.pad(block.raw[z, y, x], [(r, r) for r in radius], mode="reflect")
        for z in halves[0]
        for y in halves[1]
        for x in halves[2]
    ]
    rows = []
    for setting in settings:
        started = time.perf_counter()
        found = segment_many(
            pieces,
            model=model,
            config=config,
            batch=setting.batch,
            objects=setting.objects,
            device=device,
            precision=setting.precision,
        )
        seconds = time.perf_counter() - started
        rows.append(
            {
                "pieces": len(pieces),
                "precision": setting.precision,
                "batch": setting.batch,
                "objects": setting.objects,
                "seconds": round(seconds, 3),
                "seconds_network": round(sum(one.counters.seconds_network for one in found), 3),
                "mvoxel_per_hour": round(block.raw.size / seconds * 3600 / 1e6, 1),
                "fovs": sum(one.counters.fovs for one in found),
                "discarded_fovs": sum(one.counters.discarded_fovs for one in found),
            }
        )
        tell(rows[-1])
    return rows


def one_of_several(data: Path, where: str, device: str, setting: Setting, gate: Any, answers: Any) -> None:
    """A process that shares the device: floods a corner to warm up, waits for the others, floods the box."""
    torch.set_num_threads(1)
    model, block = import_google_ffn(data / "fib25" / "fib25_weights.npz"), read_block(data, parse_box(where))
    config = fast(model.inference, model.network.config)
    flood(block.raw[:40, :80, :80], model, config, torch.device(device), setting)
    gate.wait()
    started = time.time()
    found, _ = flood(block.raw, model, config, torch.device(device), setting)
    answers.put((started, time.time(), int(found.labels.astype(np.int64).sum())))


def processes(data: Path, where: str, device: str, setting: Setting, count: int) -> dict[str, Any]:
    """`count` processes at once on one device, each with the whole box."""
    context = multiprocessing.get_context("spawn")
    gate, answers = context.Barrier(count), context.Queue()
    workers = [
        context.Process(target=one_of_several, args=(data, where, device, setting, gate, answers))
        for _ in range(count)
    ]
    for worker in workers:
        worker.start()
    found = [answers.get(timeout=300) for _ in workers]
    for worker in workers:
        worker.join()
    seconds = max(end for _, end, _ in found) - min(start for start, _, _ in found)
    voxels = count * int(np.prod(parse_box(where).shape_zyx))
    row = {
        "processes": count,
        "precision": setting.precision,
        "batch": setting.batch,
        "objects": setting.objects,
        "seconds": round(seconds, 3),
        "mvoxel_per_hour": round(voxels / seconds * 3600 / 1e6, 1),
        "all_the_same": len({total for _, _, total in found}) == 1,
    }
    tell(row)
    return row


def google(data: Path, model: Model, device: torch.device, batch: int) -> dict[str, Any]:
    """google/ffn's box in its order of moves."""
    block = read_block(data, parse_box(GOOGLE_BOX))
    started = time.perf_counter()
    (found,) = segment_many([block.raw], model=model, batch=batch, objects=batch, device=device)
    seconds = time.perf_counter() - started
    row = {"identical": is_google(found, data), "fovs": found.counters.fovs, "seconds": round(seconds, 2)}
    tell(row)
    return row


def tell(row: dict[str, Any]) -> None:
    """Progress."""
    print(json.dumps(row), file=sys.stderr, flush=True)


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
    parser.add_argument("--labels", type=Path, help="keep the labels of each precision in this folder")
    parser.add_argument("--parts", type=words, default=["network", "google", "box", "together", "processes"])
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
    if "processes" in a.parts:
        shared = Setting(precision=a.precisions[-1], batch=a.batches[0], objects=a.objects[0])
        document["processes"] = [processes(a.data, a.box, a.device, shared, n) for n in a.processes]
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
