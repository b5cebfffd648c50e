"""What shares an accelerator, for `tests.benchmarks.ffn_accelerator`: pieces, threads and processes."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ffn.checkpoint import Model
from ffn.config import InferenceConfig, fast
from ffn.engine import Precision
from ffn.importing import import_google_ffn
from ffn.inference import Segmentation, segment, segment_many
from ffn.joint import JointEngine
from tests.benchmarks.fib25_block import Block, parse_box, read_block

JOINT_BOX = "0:80,0:100,0:100"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One way to flood the box."""

    precision: Precision
    batch: int
    objects: int


def mirrored(image: NDArray[np.uint8], model: Model) -> NDArray[np.uint8]:
    """An image with a border of half a field of view, so that all of it can be visited."""
    return np.pad(image, [(n // 2, n // 2) for n in model.network.config.fov_zyx], mode="reflect")


def flood(
    image: NDArray[np.uint8], model: Model, config: InferenceConfig, device: torch.device, setting: Setting
) -> tuple[Segmentation, float]:
    """The image with a mirrored border of one radius; labels of the image alone, and seconds."""
    padded = mirrored(image, model)
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


def together(
    block: Block, model: Model, device: torch.device, settings: list[Setting]
) -> list[dict[str, Any]]:
    """Eight pieces of the box, each with a mirrored border, in one call."""
    config = fast(model.inference, model.network.config)
    halves = [[slice(0, n // 2), slice(n // 2, n)] for n in block.raw.shape]
    pieces = [mirrored(block.raw[z, y, x], model) for z in halves[0] for y in halves[1] for x in halves[2]]
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


def joint(
    data: Path, model: Model, device: torch.device, settings: list[tuple[Precision, int, int]]
) -> list[dict[str, Any]]:
    """The small box, flipped along all choices of axes, by precision, batch and number of threads."""
    config = fast(model.inference, model.network.config)
    raw = read_block(data, parse_box(JOINT_BOX)).raw
    flips = list(itertools.product((1, -1), repeat=3))
    turned = [np.ascontiguousarray(raw[::z, ::y, ::x]) for z, y, x in flips]
    rows = []
    for precision, batch, threads in settings:
        with (
            JointEngine(
                model.network, model.normalisation, device=device, batch=batch, precision=precision
            ) as engine,
            ThreadPoolExecutor(threads) as pool,
        ):
            images = [turned[number % len(turned)] for number in range(threads)]
            flooded = partial(segment, model=model, config=config, max_fovs=8)  # captures the graphs
            list(pool.map(lambda image: flooded(image, engine=engine.seat()), images))  # noqa: B023
            calls, asked = engine.calls, engine.rows
            started = time.perf_counter()
            flooded = partial(segment, model=model, config=config)
            found = list(pool.map(lambda image: flooded(image, engine=engine.seat()), images))  # noqa: B023
            seconds = time.perf_counter() - started
        same = all(
            np.array_equal(one.labels, found[number % len(turned)].labels) for number, one in enumerate(found)
        )
        rows.append(
            {
                "precision": precision,
                "batch": batch,
                "threads": threads,
                "seconds": round(seconds, 3),
                "mvoxel_per_hour": round(raw.size * threads / seconds * 3600 / 1e6, 1),
                "fovs_per_second": round((engine.rows - asked) / seconds, 1),
                "rows_per_call": round((engine.rows - asked) / (engine.calls - calls), 2),
                "copies_the_same": same,
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


def tell(row: dict[str, Any]) -> None:
    """Progress."""
    print(json.dumps(row), file=sys.stderr, flush=True)
