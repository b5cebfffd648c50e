"""Sections of a stack come to lie on each other: damaged ones are bridged, aligned ones left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from functions import align_pairs, align_render, align_solve, stitch
from functions.model.acquisition import Section
from functions.model.errors import UpstreamError
from functions.model.parameters import AlignParameters, Parameters
from functions.model.transform import Sheet, Warp
from functions.registration import blocks, match_rows
from functions.registration.warp import dense_coordinates, sample
from functions.store.images import write_tile
from functions.store.run import Run
from functions.store.transforms import aligned_volume_ref, load_transform, read_arrays
from functions.store.volumes import Volume
from tests.functions.registration_scenes import scene, start, tile

SIZE = 260


def write_stack(
    folder: Path, zs: list[int], *, foreign: int | None = None
) -> tuple[list[Section], dict[int, Warp]]:
    """Sections of one scene, each turned, moved and bent; and the true maps from section px to scene px."""
    plane = scene((SIZE + 80, SIZE + 80), 4)
    sections, truth = [], {}
    for z in zs:
        rng = np.random.default_rng(100 + z)
        angle = np.deg2rad(rng.uniform(-3, 3))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        middle = np.full(2, (SIZE - 1) / 2)
        move = middle + 40 - turn @ middle + rng.uniform(-8, 8, 2)
        sheet = Sheet(spacing_px=90.0, coefficients=rng.normal(0, 1.5, (2, 6, 6)))
        truth[z] = Warp(affine=np.concatenate([turn, move[:, None]], axis=1), sheet=sheet)
        source = scene(plane.shape, 900) if z == foreign else plane
        pixels = sample(source, dense_coordinates(truth[z].apply, (0, 0), (SIZE, SIZE)))
        pixels = np.clip(np.rint(pixels * rng.uniform(0.9, 1.1) + rng.normal(0, 4, pixels.shape)), 1, 255)
        path = f"s{z:04d}.tif"
        write_tile(folder / path, pixels.astype(np.uint8))
        sections.append(Section(z=z, tiles=(tile(0, 0, path, (0, 0), pixels.shape),)))
    return sections, truth


def align(run: Run) -> list[str]:
    """Run the steps up to align_render; the codes of all problems."""
    problems = []
    for step, module in (("stitch", stitch), ("align_pairs", align_pairs)):
        for unit in module.units(run):
            mark, _ = run.cell(step, unit).run_unit(unit, lambda m=module, u=unit: m.compute(run, u))
            problems += [p["code"] for p in mark.problems]
    problems += [p.code for p in align_solve.perform(run).problems]
    for unit in align_render.units(run):
        run.cell("align_render", unit).run_unit(unit, lambda u=unit: align_render.compute(run, u))
    return problems


def neighbour_errors(run: Run, truth: dict[int, Warp], zs: list[int]) -> NDArray[np.float64]:
    """Distances between where sections that follow each other put the same scene points."""
    axis = np.linspace(75, SIZE + 5, 12)
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    placed = [load_transform(run, f"z{z:05d}").apply(truth[z].inverse(points)) for z in zs]
    return np.linalg.norm(np.diff(placed, axis=0), axis=2)


def planes(run: Run) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image and mask of the aligned volume."""
    volumes = [Volume.open(run.work, aligned_volume_ref(run.aligned, kind)) for kind in ("image", "mask")]
    image, mask = (v.read(v.ref.box) for v in volumes)
    return image.astype(np.uint8), mask.astype(np.uint8)


def test_a_stack_with_a_missing_section(tmp_path: Path) -> None:
    zs = [2, 3, 5, 6]
    sections, truth = write_stack(tmp_path / "acq", zs)
    run = start(tmp_path / "work", tmp_path / "acq", sections)
    assert align(run) == []
    errors = neighbour_errors(run, truth, zs)
    assert np.percentile(errors, 95) < 1.0
    assert run.aligned.sections == (2, 3, 4, 5, 6)
    image, mask = planes(run)
    assert not image[2].any()
    assert not mask[2].any(), "a missing section has a row without data"
    both = (mask[1] > 0) & (mask[3] > 0)
    assert np.corrcoef(image[1][both], image[3][both])[0, 1] > 0.9
    turns = [load_transform(run, f"z{z:05d}").warp.affine for z in zs]
    assert np.mean([np.arctan2(a[1, 0], a[0, 0]) for a in turns]) == pytest.approx(0, abs=0.01)
    grid, moved = load_transform(run, "z00003").displacement_grid(50.0)
    assert grid.shape == moved.shape == (6, 6, 2)


def test_a_foreign_section_is_placed_between_its_neighbours_and_reported(tmp_path: Path) -> None:
    sections, truth = write_stack(tmp_path / "acq", [0, 1, 2, 3], foreign=1)
    run = start(tmp_path / "work", tmp_path / "acq", sections)
    problems = align(run)
    assert problems.count("pair_unmatched") == 3
    assert "section_unmatched" in problems
    assert load_transform(run, "z00001").placed == "interpolated"
    errors = neighbour_errors(run, truth, [0, 2, 3])
    assert np.percentile(errors, 95) < 1.0


def test_aligned_stacks_are_copied_byte_for_byte(tmp_path: Path) -> None:
    stack = np.rint(np.stack([scene((70, 90), z) for z in range(3)])).astype(np.uint8)
    sections = []
    for z, pixels in enumerate(stack):
        write_tile(tmp_path / "acq" / f"{z}.tif", pixels)
        sections.append(Section(z=z, tiles=(tile(0, 0, f"{z}.tif", (0, 0), pixels.shape),)))
    run = start(tmp_path / "work", tmp_path / "acq", sections, aligned=True)
    assert align_pairs.units(run) == []
    assert align(run) == []
    image, mask = planes(run)
    np.testing.assert_array_equal(image, stack)
    assert mask.all()
    assert load_transform(run, "z00001").placed == "identity"


def test_one_section_is_a_stack(tmp_path: Path) -> None:
    sections, _ = write_stack(tmp_path / "acq", [7])
    run = start(tmp_path / "work", tmp_path / "acq", sections)
    assert align(run) == []
    assert run.aligned.volume.shape_zyx == (1, SIZE, SIZE)
    image, _ = planes(run)
    assert image.any()


def test_order_of_units_and_reruns_do_not_matter(tmp_path: Path) -> None:
    sections, _ = write_stack(tmp_path / "acq", [0, 1])
    files = []
    for name, order in (("one", 1), ("two", -1)):
        run = start(tmp_path / name, tmp_path / "acq", sections)
        for unit in stitch.units(run)[::order]:
            run.cell("stitch", unit).run_unit(unit, lambda u=unit, r=run: stitch.compute(r, u))
        align(run)
        cells = [run.cell(step).path for step in ("align_solve", "align_render")]
        files.append(
            {
                p.relative_to(run.work): p.read_bytes()
                for cell in cells
                for p in sorted(cell.rglob("*"))
                if p.is_file() and "ledger" not in p.parts
            }
        )
    assert files[0] == files[1]
    assert align_solve.perform(run).reused == 1


def test_transforms_do_not_depend_on_what_is_held_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And matches are read a few times, however many pieces they are worked on in."""
    sections, _ = write_stack(tmp_path / "acq", [0, 1, 2])
    monkeypatch.setattr(match_rows, "PIECE_MATCHES", 50)
    transforms, reads = [], list[int]()
    for held in (True, False):
        run = start(tmp_path / str(held), tmp_path / "acq", sections)
        monkeypatch.setattr(align_solve, "holds_equations", lambda run, held=held: held)
        with monkeypatch.context() as patch:
            patch.setattr(align_solve, "read_arrays", lambda *a: reads.append(1) or read_arrays(*a))
            align(run)
        cell = run.cell("align_solve").path
        transforms.append({p.name: p.read_bytes() for p in (cell / "transforms").iterdir()})
        assert not (cell / "scratch").exists()
    assert transforms[0] == transforms[1]
    assert len(transforms[0]) >= 3
    assert len(reads) <= 8 * len(run.pairs)


def test_a_solve_that_was_ended_early_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sections, _ = write_stack(tmp_path / "acq", [0, 1, 2])
    run = start(tmp_path / "work", tmp_path / "acq", sections)
    monkeypatch.setattr(blocks, "DIRECT_LIMIT", 0)
    monkeypatch.setattr(blocks, "MAX_ITERATIONS", 2)
    assert align(run).count("solve_unsettled") == 1


def test_solving_needs_all_pairs(tmp_path: Path) -> None:
    sections, _ = write_stack(tmp_path / "acq", [0, 1])
    run = start(tmp_path / "work", tmp_path / "acq", sections)
    with pytest.raises(UpstreamError, match="stitch"):
        align_solve.perform(run)


def test_new_sections_are_placed_against_a_locked_solution(tmp_path: Path) -> None:
    sections, truth = write_stack(tmp_path / "acq", [0, 1, 2, 3])
    first = start(tmp_path / "work", tmp_path / "acq", sections[:2])
    assert align(first) == []
    cell = first.cell("align_solve").path
    before = {p.name: p.read_bytes() for p in (cell / "transforms").iterdir()}
    name = cell.relative_to(first.work).as_posix()

    locking = Parameters(align=AlignParameters(locked_solution=name))
    grown = start(tmp_path / "work", tmp_path / "acq", sections, parameters=locking)
    assert grown.cell("align_pairs", "z00000-z00001") == first.cell("align_pairs", "z00000-z00001")
    assert align(grown) == []
    after = grown.cell("align_solve").path / "transforms"
    for file, content in before.items():
        assert (after / file).read_bytes() == content
    assert np.percentile(neighbour_errors(grown, truth, [0, 1, 2, 3]), 95) < 1.0
    old, new = first.aligned, grown.aligned
    assert new.sections == (0, 1, 2, 3)
    assert all(n >= o for n, o in zip(new.volume.shape_zyx, old.volume.shape_zyx, strict=True))
    image, _ = planes(grown)
    rows = image[:2, : old.volume.shape_zyx[1], : old.volume.shape_zyx[2]]
    np.testing.assert_array_equal(rows, planes(first)[0])


def test_sections_at_the_end_of_a_locked_solution_may_stay_free(tmp_path: Path) -> None:
    sections, _ = write_stack(tmp_path / "acq", [0, 1, 2, 3])
    first = start(tmp_path / "work", tmp_path / "acq", sections[:3])
    assert align(first) == []
    cell = first.cell("align_solve").path
    name = cell.relative_to(first.work).as_posix()
    same = {}
    for free in (1, 3):
        locking = Parameters(align=AlignParameters(locked_solution=name, unlocked_sections=free))
        grown = start(tmp_path / "work", tmp_path / "acq", sections, parameters=locking)
        assert align(grown) == []
        after = grown.cell("align_solve").path / "transforms"
        same[free] = [
            (after / file.name).read_bytes() == file.read_bytes()
            for file in sorted((cell / "transforms").glob("*.npz"))
        ]
    assert same == {1: [True, True, False], 3: [False, False, False]}


@pytest.mark.parametrize(
    ("name", "fault"), [("../elsewhere", "not under the work root"), ("align_solve/none", "no solution.json")]
)
def test_what_is_locked_must_be_a_solution_of_the_work_root(tmp_path: Path, name: str, fault: str) -> None:
    sections, _ = write_stack(tmp_path / "acq", [0])
    parameters = Parameters(align=AlignParameters(locked_solution=name))
    run = start(tmp_path / "work", tmp_path / "acq", sections, parameters=parameters)
    with pytest.raises(UpstreamError, match=fault):
        assert run.solve_key


def test_a_locked_solution_must_belong_to_the_run(tmp_path: Path) -> None:
    sections, _ = write_stack(tmp_path / "acq", [4, 5, 6])
    first = start(tmp_path / "work", tmp_path / "acq", sections[1:2])
    align(first)
    name = first.cell("align_solve").path.relative_to(first.work).as_posix()
    locking = Parameters(align=AlignParameters(locked_solution=name))
    for chosen, fault in ((sections[:2], "z00004 lies before"), (sections[2:], "none of the sections")):
        run = start(tmp_path / "work", tmp_path / "acq", chosen, parameters=locking)
        with pytest.raises(UpstreamError, match=fault):
            align(run)
