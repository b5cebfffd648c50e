"""Stacks that grow while they are imaged, and stacks that are long.

    python -m tests.benchmarks.registration_stack --data ../shared

Incremental: 20 sections of a set are aligned at once, and again as they arrive, four by four, each time with
the solution so far locked (`align.locked_solution`), but for the sections at its end whose far neighbours
were missing (`align.unlocked_sections`). What is locked must be the same to the bit. What came about is
compared with the stack that was solved at once: the difference that all sections share is left out, because
it is a choice and not an error: no pair can see a map of the whole stack, and the one that was fixed with the
first sections differs from that of all twenty (`rigid_px`: with only a rigid motion left out). Of the rest,
each section must be within 0.5 px on average. Long range: 200 synthetic sections whose pairs are off by 1 px,
at random, paired as a run pairs them; fibres that are straight in truth must be so within 3 px over the whole
stack.
One JSON document goes to stdout, progress to stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from functions import align_pairs, align_solve, stitch
from functions.model.parameters import AlignParameters, Parameters
from functions.registration.relax import solve_stack
from functions.store.run import Run
from functions.store.transforms import load_layout, load_transform
from tests.benchmarks.registration import Bench
from tests.benchmarks.registration_ours import do_step, start_stack
from tests.benchmarks.registration_peers import CACHE, environment
from tests.benchmarks.registration_synthetic import SHAPE_YX, fibre_figures, synthetic_stack

SECTIONS, STEP = 20, 4
NEAR_PX, STRAIGHT_PX = 0.5, 3.0
FIBRES_YX = ((256.0, 256.0), (80.0, 80.0), (80.0, 430.0), (430.0, 80.0), (430.0, 430.0))


def solved(folder: Path, work: Path, count: int, locked: str | None) -> Run:
    """The first `count` sections of a set, aligned; with `locked`, against an earlier solution."""
    align = AlignParameters(locked_solution=locked)
    if locked is not None:
        align = align.model_copy(update={"unlocked_sections": max(align.far_neighbours)})
    parameters = Parameters(align=align)
    run = start_stack(folder, work, count=count, parameters=parameters)
    do_step(run, "stitch", stitch)
    do_step(run, "align_pairs", align_pairs)
    align_solve.perform(run)
    return run


def files(run: Run) -> dict[str, bytes]:
    """What the solution says about each section, by file."""
    folder = run.cell("align_solve").file("transforms")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def placed(found: Run, wanted: Run) -> tuple[np.ndarray, np.ndarray]:
    """Where each section of one solution puts (N, P, 2) what another puts on a grid (P, 2); and the grid."""
    names = [s.section.id for s in wanted.sections]
    shape = np.array(load_layout(wanted, names[0]).shape_yx)
    middle = load_transform(wanted, names[0]).apply((shape[None] - 1) / 2.0)
    axes = [np.linspace(-0.35, 0.35, 9) * n for n in shape]
    grid = middle + np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    there = [load_transform(found, n).apply(load_transform(wanted, n).inverse(grid)) for n in names]
    return np.stack(there), grid


def compare(off: np.ndarray) -> dict[str, Any]:
    """Differences (N, P, 2) without what all sections share."""
    own = np.linalg.norm(off - np.median(off, axis=0), axis=2)
    return {
        "px_mean": round(float(own.mean()), 3),
        "px_p95": round(float(np.percentile(own, 95)), 3),
        "section_px": np.round(own.mean(axis=1), 3).tolist(),
        "section_px_max": round(float(own.mean(axis=1).max()), 3),
    }


def after_rigid(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Distances (N, P) of points (N, P, 2) after the best rigid motion of all of them."""
    a, b = found.reshape(-1, 2), wanted.reshape(-1, 2)
    u, _, vt = np.linalg.svd((a - a.mean(axis=0)).T @ (b - b.mean(axis=0)))
    rotation = u @ np.diag([1.0, np.linalg.det(u @ vt)]) @ vt
    moved = (a - a.mean(axis=0)) @ rotation + b.mean(axis=0)
    return np.linalg.norm(moved - b, axis=1).reshape(found.shape[:2])


def incremental(folder: Path, work: Path) -> dict[str, Any]:
    """As they arrive against all at once."""
    whole = solved(folder, work, SECTIONS, None)
    before: dict[str, bytes] = {}
    locked, unchanged, reach = None, True, max(AlignParameters().far_neighbours)
    for count in range(STEP, SECTIONS + 1, STEP):
        run = solved(folder, work, count, locked)
        now = files(run)
        settled = {s.section.id for s in run.sections[: max(0, count - STEP - reach)]}
        unchanged &= all(
            now[name] == content for name, content in before.items() if name.split(".")[0] in settled
        )
        locked = run.cell("align_solve").path.relative_to(run.work).as_posix()
        before = now
        _tell(f"{count} sections, unchanged {unchanged}")
    there, grid = placed(run, whole)
    rigid = after_rigid(there, np.broadcast_to(grid, there.shape))
    return {"unchanged": unchanged, **compare(there - grid), "rigid_px": round(float(rigid.mean()), 3)}


def long_range(count: int, *, seed: int, pair_error_px: float, match_error_px: float) -> dict[str, Any]:
    """How straight fibres come out of a stack with random errors; the worst of some."""
    stack = synthetic_stack(count, seed=seed, pair_error_px=pair_error_px, match_error_px=match_error_px)
    started = time.process_time()
    parameters = AlignParameters()
    spacing = float(parameters.mesh_spacing_px)
    found = solve_stack(stack.sections, stack.pairs, spacing_px=spacing, stiffness=parameters.stiffness)
    cpu = time.process_time() - started
    paths = [
        np.concatenate([w.apply(p) for w, p in zip(found.warps, stack.fibre(at), strict=True)])
        for at in FIBRES_YX
    ]
    worst = [fibre_figures(path) for path in paths]
    return {name: max(w[name] for w in worst) for name in worst[0]} | {"cpu_seconds": round(cpu, 2)}


def measure(bench: Bench, name: str, seed: int, sections: int) -> dict[str, Any]:
    """Both; the document that the command prints."""
    work = bench.work / "incremental" / f"{name}-{seed}-{time.time_ns()}"
    grown = incremental(bench.make_set(name, seed), work)
    straight = {}
    for kind, pair, match in (("pairs_off_by_1px", 1.0, 0.3), ("matches_off_by_1px", 0.0, 1.0)):
        straight[kind] = long_range(sections, seed=seed, pair_error_px=pair, match_error_px=match)
        _tell(f"{kind}: {straight[kind]}")
    strayed = straight["pairs_off_by_1px"]["from_mean_px_max"]
    return {
        "incremental": grown,
        "long_range": {"sections": sections, "shape_yx": SHAPE_YX, **straight},
        "bars": [
            {"name": "incremental.unchanged", "value": grown["unchanged"], "limit": True,
             "met": grown["unchanged"]},
            {"name": "incremental.section_px_max", "value": grown["section_px_max"], "limit": NEAR_PX,
             "met": grown["section_px_max"] <= NEAR_PX},
            {"name": "long_range.pairs_off_by_1px.from_mean_px_max", "value": strayed, "limit": STRAIGHT_PX,
             "met": strayed <= STRAIGHT_PX},
        ],
    }  # fmt: skip


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description="Stacks that grow, and long ones")
    parser.add_argument("--data", type=Path, default=Path("../shared"), help="holds data/ and tools/")
    parser.add_argument("--set", default="A3")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sections", type=int, default=200, help="of the long stack")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=CACHE.parent / "registration")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where the peers' environment is made")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    bench = Bench(
        shared=arguments.data.resolve(),
        work=arguments.work.resolve(),
        python=environment((), arguments.cache),
        threads=arguments.threads,
    )
    print(json.dumps(measure(bench, arguments.set, arguments.seed, arguments.sections), indent=1))


if __name__ == "__main__":
    main()
