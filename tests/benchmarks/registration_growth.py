"""How time and memory grow with the number of tiles and of sections; blocks beside one factorisation.

    python -m tests.benchmarks.registration_growth --tiles 4,16,64,256 --sections 10,40,160

Every size runs in a process of its own, so that its peak memory is its own: a section of so many synthetic
tiles of 192 px, stitched and drawn; a stack of so many synthetic sections of 192 px, from images to drawn
images; and the solve alone of a stack of matches, once in blocks as a run does it, once in one factorisation.
Exponents are those of the best power law through CPU seconds, and through memory beyond that of a process
that has only started. One JSON document goes to stdout, progress to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from functions import align_pairs, align_render, align_solve, stitch
from functions.model.acquisition import Section
from functions.model.parameters import AlignParameters
from functions.registration import blocks
from functions.registration.relax import solve_stack
from functions.registration.stack import Stack
from functions.registration.warp import sample
from functions.store.images import write_tile
from tests.benchmarks.registration_ours import do_step
from tests.benchmarks.registration_synthetic import synthetic_stack
from tests.functions.registration_scenes import scene, start, tile, write_montage

TILE_PX, OVERLAP_PX = 192, 40
SECTION_PX = 192
WHOLE = 1 << 62


def stitched(count: int, folder: Path) -> dict[str, Any]:
    """A section of a square number of tiles."""
    side = round(count**0.5)
    section, _ = write_montage(folder, grid=(side, side), size=TILE_PX, overlap=OVERLAP_PX)
    run = start(folder / "work", folder, [section])
    return _measured(lambda: do_step(run, "stitch", stitch))


def aligned(count: int, folder: Path) -> dict[str, Any]:
    """A stack of sections of one scene, turned and moved."""
    run = start(folder / "work", folder, write_stack(folder, count))

    def whole() -> None:
        do_step(run, "stitch", stitch)
        do_step(run, "align_pairs", align_pairs)
        align_solve.perform(run)
        do_step(run, "align_render", align_render)

    return _measured(whole)


def write_stack(folder: Path, count: int) -> list[Section]:
    """Images of one scene under the motions of a synthetic stack, each with noise of its own."""
    rng = np.random.default_rng(0)
    shape = (SECTION_PX, SECTION_PX)
    plane = scene((SECTION_PX + 128, SECTION_PX + 128), seed=0)
    grid = np.indices(shape, dtype=np.float64).reshape(2, -1).T
    sections = []
    for z in range(count):
        t = np.deg2rad(rng.uniform(-2, 2))
        turn = np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
        where = (grid - SECTION_PX / 2) @ turn.T + SECTION_PX / 2 + 64 + rng.uniform(-8, 8, 2)
        values = sample(plane, where.T.reshape(2, *shape)) + rng.normal(0, 4, shape)
        path = f"tiles/z{z:04d}.tif"
        write_tile(folder / path, np.clip(np.rint(values), 1, 255).astype(np.uint8))
        sections.append(Section(z=z, tiles=(tile(0, 0, path, (0.0, 0.0), shape),)))
    return sections


def solved(count: int, folder: Path, *, whole: bool) -> dict[str, Any]:
    """The solve alone; writes where points went, to compare."""
    stack = synthetic_stack(count, seed=0, pair_error_px=0.2, match_error_px=0.3)
    if whole:
        blocks.DIRECT_LIMIT = WHOLE
    found: list[Stack] = []
    spacing = float(AlignParameters().mesh_spacing_px)
    measured = _measured(lambda: found.append(solve_stack(stack.sections, stack.pairs, spacing_px=spacing)))
    points = stack.sections[0].grid(9)
    np.save(folder / "placed.npy", np.stack([warp.apply(points) for warp in found[0].warps]))
    return measured


def _measured(call: Callable[[], object]) -> dict[str, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return {
        "cpu_seconds": round(time.process_time() - cpu, 3),
        "seconds": round(time.perf_counter() - wall, 3),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


KINDS: dict[str, Callable[[int, Path], dict[str, Any]]] = {
    "started": lambda count, folder: _measured(lambda: None),
    "tiles": stitched,
    "sections": aligned,
    "solve_blocks": lambda count, folder: solved(count, folder, whole=False),
    "solve_whole": lambda count, folder: solved(count, folder, whole=True),
}


def in_a_process(kind: str, count: int, folder: Path, threads: int) -> dict[str, Any]:
    """What a process of its own measures."""
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", __spec__.name, "--one", kind, str(count), str(folder)]
    variables = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [*command, "--threads", str(threads)], env=variables, check=True, stdout=subprocess.PIPE
    )
    found: dict[str, Any] = json.loads(done.stdout)
    print(f"{kind} {count}: {found}", file=sys.stderr, flush=True)
    return found


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """Of the best power law through positive values, by least squares of logarithms; None below two."""
    kept = [(s, v) for s, v in zip(sizes, values, strict=True) if v > 0]
    if len({s for s, _ in kept}) < 2:
        return None
    x, y = np.log(np.array(kept)).T
    return round(float(np.polyfit(x, y, 1)[0]), 3)


def series(kind: str, sizes: Sequence[int], folder: Path, *, idle_mb: float, threads: int) -> dict[str, Any]:
    """All sizes of a kind, and how they grow."""
    found = [in_a_process(kind, n, folder / f"{kind}-{n}", threads) for n in sizes]
    beyond = [f["peak_mb"] - idle_mb for f in found]
    return {
        "sizes": dict(zip(map(str, sizes), found, strict=True)),
        "exponent_cpu_seconds": exponent(sizes, [f["cpu_seconds"] for f in found]),
        "exponent_memory": exponent(sizes, beyond),
        "mb_each": round((beyond[-1] - beyond[0]) / max(1, sizes[-1] - sizes[0]), 3),
    }


def measure(tiles: Sequence[int], sections: Sequence[int], folder: Path, threads: int) -> dict[str, Any]:
    """All series; the document that the command prints."""
    idle = in_a_process("started", 0, folder / "started", threads)["peak_mb"]
    document: dict[str, Any] = {"started_mb": idle}
    for kind, sizes in (("tiles", tiles), ("sections", sections)):
        document[kind] = series(kind, sizes, folder, idle_mb=idle, threads=threads)
    for kind in ("solve_blocks", "solve_whole"):
        document[kind] = series(kind, sections, folder, idle_mb=idle, threads=threads)
    apart = [
        np.load(folder / f"solve_blocks-{n}" / "placed.npy")
        - np.load(folder / f"solve_whole-{n}" / "placed.npy")
        for n in sections
    ]
    document["blocks_against_whole_px_max"] = {
        str(n): round(float(np.linalg.norm(a, axis=-1).max()), 5)
        for n, a in zip(sections, apart, strict=True)
    }
    return document


def numbers(text: str) -> list[int]:
    """Whole numbers between commas."""
    return [int(word) for word in text.split(",")]


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description="How stitching and alignment grow with tiles and sections")
    parser.add_argument("--tiles", type=numbers, default=[4, 16, 64, 256], help="square numbers")
    parser.add_argument("--sections", type=numbers, default=[10, 40, 160])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--one", nargs=3, metavar=("KIND", "COUNT", "FOLDER"), help="one size, in this process"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.one:
        kind, count, folder = arguments.one
        print(json.dumps(KINDS[kind](int(count), Path(folder))))
        return
    with tempfile.TemporaryDirectory() as folder:
        document = measure(arguments.tiles, arguments.sections, Path(folder), arguments.threads)
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
