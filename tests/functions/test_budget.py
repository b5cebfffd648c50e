"""What steps are said to need is near what they take, and pieces are chosen so that they fit."""

import multiprocessing
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ffn.config import SeedConfig
from ffn.seeds import find_interior, find_peaks
from functions import match, relabel, segment, stitch
from functions.budget import (
    has_room_for_two,
    holds_equations,
    joining_mib,
    relabel_voxels,
    require_room,
    tile_cache_bytes,
    window_px,
)
from functions.model.acquisition import Section
from functions.model.errors import MemoryBudgetError
from functions.model.parameters import AlignParameters, Parameters
from functions.model.scratch import Held
from functions.needs import BASE_MIB, FINISH_MIB, WINDOW_BYTES, WINDOW_MIB, Geometry, geometry_of, needs
from functions.registration.overlaps import Matches
from functions.registration.relax import solve_stack
from functions.registration.sections import register_sections
from functions.registration.stack import StackPair, StackSection
from functions.runtime import StepFailed, execute
from functions.solve_memory import Solved
from functions.store.images import write_tile
from functions.store.limits import MIB, process_memory, within
from functions.store.pyramid import plan_levels, write_levels
from functions.store.run import Run
from functions.store.scratch import Scratch
from functions.store.tiles import CACHE_BYTES
from functions.tasks import STEPS
from tests.benchmarks.memory_data import texture
from tests.functions.aligned_runs import ScrambledTruth, make_run
from tests.functions.registration_scenes import start, tile
from tests.functions.worlds import ingested

FACTOR = 2.5
SLACK_MIB = 24
"""Estimates are above what is measured, and at most so many times as large, and this much more."""


def taken_mib(compute: Callable[[], object]) -> float:
    """The most that a computation took beyond what its process had: of three, since pages that another test
    has freed may be taken again unseen."""
    compute()  # what is loaded on first need is no part of a unit
    taken = []
    for _ in range(3):
        with within(None, subject="measured") as use:
            before = process_memory()
            compute()
        assert before is not None
        taken.append(use.peak_mib - before.resident / MIB)
    return max(taken)


def in_fresh_process(measure: Callable[..., float], *given: object) -> float:
    """What a function of a test's module finds where no other test has left its memory."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, given)


def need_of(geometry: Geometry, step: str) -> float:
    return next(need.mib for need in needs(geometry) if need.step == step)


def require_near(estimate: float, taken: float) -> None:
    assert taken <= estimate + 4, (taken, estimate)
    assert estimate <= FACTOR * taken + SLACK_MIB, (taken, estimate)


def blocks(shape: tuple[int, int, int]) -> np.ndarray:
    """A volume of cubes of many grey values."""
    z, y, x = np.indices(shape, sparse=True)
    return (1 + (z // 16 * 31 + y // 16 * 7 + x // 16) % 250).astype(np.uint8)


def of(shape: tuple[int, int, int], **groups: object) -> Geometry:
    return Geometry(shape_zyx=shape, parameters=Parameters.model_validate(groups))


linux = pytest.mark.skipif(sys.platform != "linux", reason="peaks need Linux")


@linux
def test_seeds_take_what_is_said_of_a_subvolume() -> None:
    """Canvas and masks (12 bytes a voxel) are held meanwhile; the network's own work is the constant part."""
    shape = (64, 160, 160)
    image = blocks(shape).astype(np.float32)
    voxels = image.size

    def seeds() -> None:
        held = np.ones((12, voxels), np.uint8)
        config = SeedConfig()
        find_peaks(find_interior(image, config=config), config=config)
        assert held.any()

    geometry = of(shape, segment={"subvolume_zyx_px": shape})
    require_near(need_of(geometry, "segment") - 48, taken_mib(seeds))


@linux
def test_segment_match_and_relabel_take_what_is_said_of_them(tmp_path: Path) -> None:
    size, overlap = (64, 192, 192), (16, 48, 48)
    image = blocks((96, 288, 288))
    groups = {
        "segment": {"subvolume_zyx_px": size, "overlap_zyx_px": overlap},
        "reconcile": {"chunk_zyx_px": (64, 192, 192)},
    }
    run = make_run(tmp_path, image, **groups)
    geometry = of(image.shape, **groups)
    units = segment.units(run)
    taken = taken_mib(partial(segment.compute, run, units[0], segmenter=ScrambledTruth()))
    assert taken <= need_of(geometry, "segment")  # the rest is the network's
    for unit in units[1:]:
        segment.compute(run, unit, segmenter=ScrambledTruth())
    pair = match.units(run)[0]
    require_near(need_of(geometry, "match"), taken_mib(partial(match.compute, run, pair)))
    for unit in match.units(run):
        run.cell("match").run_unit(unit, partial(match.compute, run, unit))
    execute("reconcile", {"run": run.spec.to_json()})
    taken = taken_mib(partial(relabel.compute, run, relabel.units(run)[0]))
    require_near(need_of(geometry, "relabel"), taken)


@linux
def test_a_shard_takes_what_is_said_of_it(tmp_path: Path) -> None:
    shape = (64, 448, 448)
    ids = blocks(shape).astype(np.uint32)
    count = iter(range(9))

    def write() -> None:
        write_levels(
            tmp_path / str(next(count)),
            plan_levels(shape, (1.0, 1.0, 1.0)),
            read=lambda box: ids[box.slices].copy(),
            dtype="uint32",
            pooling="mode",
            chunk_zyx=(32, 64, 64),
            shard_zyx=shape,
        )

    geometry = of(shape, finish={"shard_zyx_px": shape})
    require_near(need_of(geometry, "finish") - FINISH_MIB, taken_mib(write))  # this process has its threads


@linux
def test_a_section_of_an_aligned_stack_takes_what_is_said_of_it(tmp_path: Path) -> None:
    shape = (3000, 3000)
    write_tile(tmp_path / "s0.tif", np.tile(blocks((1, 600, 600))[0], (5, 5)))
    section = Section(z=0, tiles=(tile(0, 0, "s0.tif", (0, 0), shape),))
    run = start(tmp_path / "work", tmp_path, [section], aligned=True)
    require_near(need_of(geometry_of(run), "stitch"), taken_mib(partial(stitch.compute, run, section.id)))


@linux
@pytest.mark.parametrize(
    ("sections", "side", "stride", "held", "far"),
    [(8, 1536, 64, True, (3, 5)), (12, 2400, 120, False, (6,))],
)
def test_solving_takes_what_is_said_of_it(
    tmp_path: Path, sections: int, side: int, stride: int, held: bool, far: tuple[int, ...]
) -> None:
    """Without the comparison of sections that the gate makes afterwards."""
    random = np.random.default_rng(0)
    axis = np.arange(32.0, side - 32.0, stride)
    patches = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    pairs = [
        StackPair(
            a=k,
            b=k + apart,
            matches=Matches(
                a_yx=patches,
                b_yx=patches + random.normal(0.0, 0.3, patches.shape),
                peak=np.full(len(patches), 0.6),
                ratio=np.full(len(patches), 0.5),
            ),
        )
        for apart in (1, *far)
        for k in range(sections - apart)
    ]
    stack = [
        StackSection(z=k, shape_yx=(side, side), stage_origin_yx_px=(0.0, 0.0), regions=None)
        for k in range(sections)
    ]

    def solve() -> None:
        with Scratch(tmp_path / "scratch") as scratch:
            solve_stack(stack, pairs, spacing_px=80.0, scratch=Held() if held else scratch)

    geometry = of((sections, side, side), align={"neighbours": 1, "far_neighbours": far, "stride_px": stride})
    solved = Solved.of(geometry.shape_zyx, geometry.parameters.align)
    require_near(solved.mib(held=held), taken_mib(solve))
    assert need_of(geometry, "align_solve") >= solved.mib()


@linux
def test_comparing_two_sections_takes_what_is_said_of_a_window() -> None:
    """Sections of two windows on each axis, of which one level is held: as much as there is at a time."""
    window = 768
    field = texture((2 * window + 16, 2 * window + 16))
    a, b = field[: 2 * window, : 2 * window], field[16:, 16:]
    usable = np.ones(a.shape, np.bool_)
    usable[:64] = False  # a mask with gaps takes more
    parameters = AlignParameters(window_px=window, stride_px=128)
    assert register_sections(a, usable, b, usable, parameters).good
    taken = taken_mib(partial(register_sections, a, usable, b, usable, parameters))
    require_near(WINDOW_MIB + WINDOW_BYTES * window**2 / MIB, taken)


def with_memory(run: Run, gib: float | None) -> Run:
    return Run(run.spec.model_copy(update={"memory_gib": gib}))


def test_pieces_follow_the_room_and_keys_do_not(tmp_path: Path) -> None:
    run = ingested(tmp_path, (0, 1, 2))
    small, large = with_memory(run, 0.5), with_memory(run, 64.0)
    assert [window_px(r) for r in (run, large, small)] == [2048, 2048, 256]
    assert [window_px(with_memory(run, gib)) for gib in (0.6, 0.75, 1.0)] == [1024, 1664, 2048]
    assert [tile_cache_bytes(r) for r in (run, large)] == [CACHE_BYTES, CACHE_BYTES]
    assert tile_cache_bytes(small) == int(0.25 * (512 - BASE_MIB) * MIB)
    assert [holds_equations(r) for r in (run, large, small)] == [True, True, True]
    assert [joining_mib(r) for r in (run, large, small)] == [3072, 3072, int(0.8 * (512 - BASE_MIB))]
    assert relabel_voxels(small) < relabel_voxels(large) < relabel_voxels(run) == float("inf")
    for name in ("solve_key", "segment_key", "reconcile_key", "finish_key", "gate_key"):
        assert getattr(small, name) == getattr(run, name), name


def test_two_subvolumes_at_once_only_where_both_fit(tmp_path: Path) -> None:
    run = make_run(tmp_path, blocks((16, 32, 32)), segment={"subvolume_zyx_px": (256, 512, 512)})
    assert has_room_for_two(run)
    assert has_room_for_two(with_memory(run, 8.0))
    assert not has_room_for_two(with_memory(run, BASE_MIB / 1024 + 0.01))


def test_a_step_that_cannot_fit_is_refused_before_it_starts_with_numbers_and_a_remedy(tmp_path: Path) -> None:
    run = make_run(tmp_path, blocks((64, 300, 300)), segment={"subvolume_zyx_px": (64, 256, 256)})
    require_room(run, "segment")
    require_room(with_memory(run, 1.0), "segment")
    small = with_memory(run, 0.4)
    told = r"segment: a subvolume of 64 x 256 x 256 takes about 0\.\d+ GiB of a worker"
    with pytest.raises(MemoryBudgetError, match=told):
        require_room(small, "segment")
    remedy = r"0\.4 GiB are given; --memory-gib 0\.\d or more; or smaller segment\."
    with pytest.raises(StepFailed, match=remedy):
        execute("plan", {"run": small.spec.to_json(), "step": "segment", "function_id": "f"})


NOT_ESTIMATED = ("reconcile", "candidates", "resegment", "agglomerate", "publish")
"""Reconcile takes what there is; publish next to nothing; of pairs: `test_pair_memory.py`."""


def test_needs_grow_with_what_they_are_of() -> None:
    first = Geometry(shape_zyx=(100, 4000, 4000), parameters=Parameters(), tile_yx_px=(2000, 2000))
    wider = replace(first, shape_zyx=(100, 8000, 8000))
    deeper = replace(first, shape_zyx=(1000, 4000, 4000))
    steps = [need.step for need in needs(first)]
    assert steps == [step for step in STEPS if step not in NOT_ESTIMATED]
    grown = {
        name: {n.step for n, m in zip(needs(g), needs(first), strict=True) if n.mib > m.mib}
        for name, g in (("wider", wider), ("deeper", deeper))
    }
    assert grown == {"wider": {"stitch", "align_solve", "align_render"}, "deeper": {"align_solve"}}
