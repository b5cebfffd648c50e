"""Petavoxel on one set, in a process of its own: from files to drawn files, and where points went.

    python -m tests.benchmarks.registration_ours SET POINTS OUT [--artefacts ARTEFACTS] [--profile]

Runs the steps themselves with the parameters that a user gets who gives none: `stitch` for a set of tiles;
for a stack `stitch` (one tile a section), `align_pairs`, `align_solve` and `align_render`. Writes into OUT
`mapped.npz` (answers to the questions in POINTS, and the pairs that were kept) and `figures.json`.
ARTEFACTS (N, Y, X; 1 fold, 2 crack) replace what stitching found out about folds and cracks.
"""

from __future__ import annotations

import argparse
import cProfile
import csv
import json
import pstats
import re
import resource
import shutil
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from functions.loading import uncollected

with uncollected():  # as a worker loads its steps
    import numpy as np
    import torch

    from functions import align_pairs, align_render, align_solve, stitch
    from functions.model.acquisition import Acquisition, Section, Tile
    from functions.model.artefacts import CRACK, FOLD, TISSUE
    from functions.model.parameters import AlignParameters, Parameters
    from functions.registration.masks import CELL_PX, reduce_mean
    from functions.store.artefacts import load_artefacts, save_artefacts
    from functions.store.images import tile_shape
    from functions.store.run import Run
    from functions.store.tiles import TileReader
    from functions.store.transforms import load_layout, load_transform, read_arrays, section_volume
    from functions.store.volumes import Volume
    from functions.tasks import StepName
    from tests.functions.registration_scenes import start, tile

STAGES: tuple[tuple[Any, str, str], ...] = (
    (TileReader, "image", "reading"),
    (stitch, "measure_tiles", "correlation"),
    (stitch, "solve_tiles", "solve"),
    (stitch, "_draw", "render"),
)
"""Functions of the stitching step whose time is taken apart; what they call is taken off them."""


class Watch:
    """Seconds and CPU seconds by stage; a stage inside another interrupts it."""

    def __init__(self, started: float) -> None:
        self.seconds = {"start": time.time() - started}
        self.cpu = {"start": time.process_time()}
        self._open: list[str] = []
        self._since = time.perf_counter(), time.process_time()

    def _tick(self) -> None:
        now = time.perf_counter(), time.process_time()
        if self._open:
            stage = self._open[-1]
            self.seconds[stage] = self.seconds.get(stage, 0.0) + now[0] - self._since[0]
            self.cpu[stage] = self.cpu.get(stage, 0.0) + now[1] - self._since[1]
        self._since = now

    def run(self, stage: str, call: Callable[..., Any], *args: Any, **named: Any) -> Any:
        """What `call` returns; its time counts for `stage`."""
        self._tick()
        self._open.append(stage)
        try:
            return call(*args, **named)
        finally:
            self._tick()
            self._open.pop()

    def wrap(self, owner: Any, name: str, stage: str) -> None:
        """Time a function wherever it is called as `owner.name`."""
        inner = getattr(owner, name)

        @wraps(inner)
        def timed(*args: Any, **named: Any) -> Any:
            return self.run(stage, inner, *args, **named)

        setattr(owner, name, timed)


def stitch_set(folder: Path, work: Path, watch: Watch) -> Run:
    """Stitch the tiles of a set; positions are good to the default of the manifest."""
    with open(folder / "positions.csv", newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    for owner, name, stage in STAGES:
        watch.wrap(owner, name, stage)
    tiles = [_tile(folder, f"tiles/{row['file']}", (row["y"], row["x"])) for row in rows]
    run = _start(work, folder, [Section(z=0, tiles=tuple(tiles))])
    watch.run("other", do_step, run, "stitch", stitch)
    return run


def align_set(
    folder: Path, work: Path, watch: Watch, artefacts: np.ndarray | None, *, trust_stage: bool = False
) -> Run:
    """Align the sections of a set in the order of their files."""
    parameters = Parameters(align=AlignParameters(trust_stage=trust_stage))
    run = start_stack(folder, work, parameters=parameters)
    watch.run("reading", do_step, run, "stitch", stitch)
    if artefacts is not None:
        for section, given in zip(run.sections, artefacts, strict=True):
            give_artefacts(run, section.section.id, given)
    watch.run("correlation", do_step, run, "align_pairs", align_pairs)
    watch.run("solve", align_solve.perform, run)
    watch.run("render", do_step, run, "align_render", align_render)
    return run


def start_stack(
    folder: Path, work: Path, *, count: int | None = None, parameters: Parameters | None = None
) -> Run:
    """A run over the first sections of a set, all of them by default."""
    names = sorted(path.name for path in (folder / "sections").glob("*.png"))[:count]
    sections = [Section(z=z, tiles=(_tile(folder, f"sections/{n}"),)) for z, n in enumerate(names)]
    return _start(work, folder, sections, parameters)


def do_step(run: Run, name: StepName, step: Any) -> None:
    """Do all units of a step that are not done."""
    for unit in step.units(run):
        run.cell(name, unit).run_unit(unit, lambda unit=unit: step.compute(run, unit))


def give_artefacts(run: Run, section: str, given: np.ndarray) -> None:
    """Put a given fold (1) and crack (2) into what stitching found out about a section, pixels (Y, X)."""
    volume = Volume.open(run.work, section_volume(run, section, "mask", load_layout(run, section).shape_yx))
    volume.write(volume.ref.box, (volume.read(volume.ref.box) * (given == 0)[None]).astype(np.uint8))
    codes = load_artefacts(run, section)
    codes[np.isin(codes, (FOLD, CRACK))] = TISSUE
    for value, code in ((1, FOLD), (2, CRACK)):
        codes[reduce_mean(given == value, CELL_PX) >= 0.5] = code
    save_artefacts(run, section, codes)


def _tile(folder: Path, path: str, stage_yx_px: tuple[str, str] = ("0", "0")) -> Tile:
    """A tile of a set; row and column are in its name, if it has any."""
    place = re.search(r"_r(\d+)_c(\d+)", path)
    row, column = (int(place[1]), int(place[2])) if place else (0, 0)
    return tile(row, column, path, [float(v) for v in stage_yx_px], tile_shape(folder / path))


def _start(work: Path, folder: Path, sections: list[Section], parameters: Parameters | None = None) -> Run:
    default = float(Acquisition.model_fields["stage_uncertainty_px"].default)
    return start(work, folder, sections, uncertainty_px=default, parameters=parameters)


def answers(run: Run, asked: dict[str, np.ndarray], *, stack: bool) -> np.ndarray:
    """Where the asked points went, x, y; NaN for a tile or section that was not registered."""
    out, first = [], 0
    layout = None if stack else load_layout(run, "z00000")
    for index, length in zip(asked["index"], asked["length"], strict=True):
        yx = asked["points_xy"][first : first + length, ::-1]
        first += int(length)
        if layout is not None:
            out.append(layout.tiles[int(index)].warp.apply(yx))
            continue
        section = run.sections[int(index)].section.id
        inside = load_layout(run, section).tiles[0].warp.apply(yx)
        out.append(load_transform(run, section).apply(inside))
    return np.concatenate(out)[:, ::-1]


def kept(run: Run, *, stack: bool) -> dict[str, np.ndarray]:
    """Pairs that may pull: of tiles their numbers, of sections their matches (N, 4: x, y in a, x, y in b)."""
    if not stack:
        layout = load_layout(run, "z00000")
        number = {t.tile_id: k for k, t in enumerate(layout.tiles)}
        good = [(number[s.a], number[s.b]) for s in layout.seams if s.verdict in ("ok", "look")]
        return {"kept": np.array(good, dtype=np.int64).reshape(-1, 2)}
    place = {s.section.id: k for k, s in enumerate(run.sections)}
    out = {}
    for unit, (a, b) in run.pairs.items():
        a_yx, b_yx = read_arrays(run.cell("align_pairs", unit).file("match.npz"), "a_yx", "b_yx")
        if len(a_yx):
            name = f"pair {place[a.section.id]}-{place[b.section.id]}"
            out[name] = np.concatenate([a_yx[:, ::-1], b_yx[:, ::-1]], axis=1).astype(np.float64)
    return out


def refused(run: Run, *, stack: bool) -> list[str]:
    """Tiles or sections that the result itself says are not registered."""
    if not stack:
        return [t.tile_id for t in load_layout(run, "z00000").tiles if t.placed == "stage"]
    ids = [s.section.id for s in run.sections]
    return [i for i in ids if load_transform(run, i).placed == "interpolated"]


def measure(
    folder: Path,
    points: Path,
    out: Path,
    *,
    artefacts: Path | None,
    trust_stage: bool = False,
    started: float,
) -> None:
    """Run the set and write `mapped.npz` and `figures.json` into `out`."""
    watch = Watch(started)
    shutil.rmtree(out / "work", ignore_errors=True)  # a run done before would be resumed: nothing to time
    stack = (folder / "sections").is_dir()
    given = np.load(artefacts)["artefacts"] if artefacts else None
    if stack:
        run = align_set(folder, out / "work", watch, given, trust_stage=trust_stage)
    else:
        run = stitch_set(folder, out / "work", watch)
    cpu, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with np.load(points) as archive:
        mapped = answers(run, dict(archive), stack=stack)
    np.savez(out / "mapped.npz", mapped_xy=mapped, **kept(run, stack=stack))
    figures = {
        "seconds": {stage: round(s, 2) for stage, s in sorted(watch.seconds.items())},
        "cpu": {stage: round(s, 2) for stage, s in sorted(watch.cpu.items())},
        "total": round(sum(watch.seconds.values()), 2),
        "cpu_seconds": round(cpu, 2),
        "peak_mb": round(peak),
        "refused": refused(run, stack=stack),
    }
    (out / "figures.json").write_text(json.dumps(figures), encoding="utf-8")


def main() -> None:
    """Parse and run."""
    started = time.time() - time.process_time()
    parser = argparse.ArgumentParser(description="Petavoxel on one set of the registration benchmark")
    parser.add_argument("folder", type=Path)
    parser.add_argument("points", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--artefacts", type=Path)
    parser.add_argument("--trust-stage", action="store_true", help="with align.trust_stage")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--started", type=float, default=started, help="when the process was started")
    parser.add_argument("--profile", action="store_true", help="where CPU seconds went, on stderr")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    profile = cProfile.Profile(time.process_time) if arguments.profile else None
    if profile:
        profile.enable()
    measure(
        arguments.folder.resolve(),
        arguments.points,
        arguments.out.resolve(),
        artefacts=arguments.artefacts,
        trust_stage=arguments.trust_stage,
        started=arguments.started,
    )
    if profile:
        profile.disable()
        pstats.Stats(profile, stream=sys.stderr).strip_dirs().sort_stats("tottime").print_stats(15)


if __name__ == "__main__":
    main()
