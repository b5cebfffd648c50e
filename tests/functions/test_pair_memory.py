"""Agglomeration's steps take what is said of them, and work in smaller pieces with the same results."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ffn.checkpoint import save_model
from functions import agglomerate, candidates, resegment
from functions.budget import edges_at_once, reflooding_pieces, require_room, search_planes
from functions.model.errors import MemoryBudgetError, ModelError
from functions.needs import BASE_MIB, geometry_of, needs
from functions.pair_memory import LEAST_EDGES, LEAST_PLANES, MOST_EDGES, deciding_mib
from functions.store.cells import UnitReport
from functions.store.edges import (
    EVIDENCE,
    MAPPED,
    POINT,
    SIZE,
    batches_of,
    count_mapped,
    evidence_path,
    pack_evidence,
    points_path,
    read_mapping,
    sizes_path,
)
from functions.store.equalities import RECONCILE_UNIT, read_records, write_records
from functions.store.labels import labels_ref
from functions.store.limits import MIB, process_memory, within
from functions.store.run import Run
from functions.store.transforms import aligned_volume_ref
from functions.store.volumes import Volume
from tests.benchmarks.memory_data import bright_model
from tests.functions.aligned_runs import make_run
from tests.functions.test_budget import (
    blocks,
    in_fresh_process,
    linux,
    need_of,
    require_near,
    taken_mib,
    with_memory,
)
from tests.functions.test_decisions import evidence

ON = {"sources": ["contact"], "contact_share": 0.0, "min_voxels": 100}
FOV = 33


def labelled(root: Path, labels: np.ndarray, image: np.ndarray, *, fov: int = FOV, **groups: object) -> Run:
    """A run whose global labels are these, behind relabel."""
    save_model(root / "bright.safetensors", bright_model((fov, fov, fov)))
    segment = {"model": str(root / "bright.safetensors"), "device": "cpu", **groups.pop("segment", {})}  # type: ignore[dict-item]
    candidates_group = {"block_zyx_px": labels.shape, **ON, **groups.pop("candidates", {})}  # type: ignore[dict-item]
    run = make_run(root, image, segment=segment, candidates=candidates_group, **groups)  # type: ignore[arg-type]
    ref = labels_ref(run)
    Volume.create(run.work, ref).write(ref.box, labels.astype(np.uint32))
    return run


def cut_neurite(root: Path, shape: tuple[int, int, int], pairs: int, **groups: object) -> tuple[Run, str]:
    """A bright neurite along x that is cut in its middle, and so many times the pair of its halves."""
    truth = np.zeros(shape, bool)
    truth[:, 10:-10] = True
    labels = np.where(truth, 1, 0)
    labels[:, :, shape[2] // 2 :][truth[:, :, shape[2] // 2 :]] = 2
    run = labelled(root, labels, np.where(truth, 192, 64).astype(np.uint8), **groups)
    points = np.zeros(pairs, POINT)
    points["first"], points["second"] = 1, 2
    points["z"], points["y"], points["x"] = (n // 2 for n in shape)
    (block,) = candidates.units(run)
    write_records(points_path(run, block), points)
    (unit,) = resegment.units(run)
    return run, unit


@linux
def test_searching_takes_what_is_said_of_it_with_all_planes_and_with_few(tmp_path: Path) -> None:
    """Touching objects of 16 voxels a side: more contacts than tissue has."""
    shape = (72, 128, 128)
    run = labelled(tmp_path, blocks(shape), blocks(shape))
    (block,) = candidates.units(run)
    few = with_memory(run, BASE_MIB / 1024)
    assert (search_planes(run), search_planes(few)) == (None, LEAST_PLANES)
    need = need_of(geometry_of(run), "candidates")
    require_near(need, taken_mib(partial(candidates.compute, few, block)))
    everything = taken_mib(partial(candidates.compute, run, block))
    assert everything > 1.2 * need
    room = search_planes(with_memory(run, (BASE_MIB + everything) / 1024))
    assert LEAST_PLANES < room <= shape[0]  # type: ignore[operator]


def test_planes_change_no_candidate(tmp_path: Path) -> None:
    shape = (40, 48, 48)
    run = labelled(tmp_path, blocks(shape), blocks(shape))
    (block,) = candidates.units(run)
    found = []
    for memory in (None, BASE_MIB / 1024):
        candidates.compute(with_memory(run, memory), block)
        found.append([read_records(path(run, block), kind).tobytes() for path, kind in FILES])
    assert found[0] == found[1]
    assert len(found[0][0]) > 100 * POINT.itemsize


FILES = ((points_path, POINT), (sizes_path, SIZE))


@linux
def test_a_pair_takes_what_is_said_of_it(tmp_path: Path) -> None:
    run, unit = cut_neurite(tmp_path, (101, 101, 101), 1)
    require_near(need_of(geometry_of(run), "resegment"), taken_mib(partial(resegment.compute, run, unit)))


@linux
def test_pairs_are_flooded_at_once_as_far_as_there_is_room(tmp_path: Path) -> None:
    run, unit = cut_neurite(tmp_path, (77, 77, 77), 4, fov=25, segment={"batch": 4})
    need = need_of(geometry_of(run), "resegment")
    alone, two = (with_memory(run, (BASE_MIB + need + more) / 1024) for more in (1.0, 32.0))
    assert [reflooding_pieces(r, (25, 25, 25))[0] for r in (run, two, alone)] == [None, 2, 1]
    taken = [taken_mib(partial(resegment.compute, r, unit)) for r in (run, two, alone)]
    assert taken[0] > taken[1] > taken[2]
    assert taken[1] <= need + 32
    assert taken[2] <= need


def test_what_a_pair_is_shown_does_not_depend_on_those_read_with_it(tmp_path: Path) -> None:
    """Gaps, an artefact, an empty corner and faces of the volume lie in and beside the cubes."""
    shape = (40, 64, 96)
    random = np.random.default_rng(0)
    truth = (np.indices(shape)[1] // 8 % 2).astype(np.uint32)
    labels = np.where(truth, 1 + np.indices(shape)[1] // 16 * 8 + np.indices(shape)[2] // 24, 0)
    image = (np.where(truth, 180, 70) + random.integers(-20, 20, shape)).astype(np.uint8)
    mask = np.ones(shape, np.uint8)
    mask[14:20], mask[5], mask[:, :12, :12] = 0, 0, 0
    image[mask == 0] = 0
    run = labelled(
        tmp_path, labels, image, fov=9,
        segment={"fill_gap_sections": 8}, resegment={"pairs_per_unit": 100},
    )  # fmt: skip
    codes = np.where(mask, 1, 0).astype(np.uint8)
    codes[30:32, 20:50] = 3
    for kind, values in (("mask", mask), ("artefacts", codes)):
        ref = aligned_volume_ref(run.aligned, kind)
        Volume.open(run.work, ref).write(ref.box, values)
    (block,) = candidates.units(run)
    candidates.compute(run, block)
    points = read_records(points_path(run, block), POINT)
    points["z"] = np.arange(len(points)) * 7 % shape[0]  # gaps at all places of a cube, at its faces too
    write_records(points_path(run, block), points)
    (unit,) = resegment.units(run)
    found = {}
    for memory in (None, BASE_MIB / 1024):
        figures = resegment.compute(with_memory(run, memory), unit).figures
        found[memory] = read_records(evidence_path(run, unit), EVIDENCE).tobytes()
        assert figures["pairs"] > 10
        assert figures["fovs"] > 50
    assert len(set(found.values())) == 1
    most = reflooding_pieces(with_memory(run, BASE_MIB / 1024), (9, 9, 9))[1]
    groups = list(resegment.groups(points, (14, 14, 14), most_voxels=most))
    assert len(groups) > 3
    assert sorted(row for group in groups for row in group) == list(range(len(points)))


def decided(root: Path, pairs: int, objects: int) -> Run:
    """A run whose pairs are flooded, all of it made up."""
    save_model(root / "model.safetensors", bright_model((9, 9, 9)))
    run = make_run(root, np.zeros((8, 8, 8), np.uint8), candidates=ON, resegment={"pairs_per_unit": 1000})
    run.cell("reconcile").run_unit(RECONCILE_UNIT, lambda: UnitReport(figures={"objects": float(objects)}))
    (block,) = candidates.units(run)
    random = np.random.default_rng(0)
    points = np.zeros(pairs, POINT)
    points["first"] = random.integers(1, objects, pairs)
    points["second"] = points["first"] + 1
    points["y"], points["x"] = np.divmod(np.arange(pairs), 4096)
    sizes = np.zeros(min(objects, 5000), SIZE)  # of those that a block has
    sizes["id"], sizes["voxels"] = np.arange(1, sizes.size + 1), 5000
    write_records(points_path(run, block), points)
    write_records(sizes_path(run, block), sizes)
    run.cell("candidates").run_unit(block, UnitReport)
    for unit, batch in batches_of(run):
        records = np.repeat(pack_evidence([evidence(1, 2)]), batch.size)
        for name in ("first", "second", "z", "y", "x"):
            records[name] = batch[name]
        for side in ("from_first", "from_second"):
            for name in ("recovered_first", "recovered_second", "foreign_fraction", "max_edt_nm"):
                records[side][name] = random.random(batch.size)
        write_records(evidence_path(run, unit), records)
        run.cell("resegment").run_unit(unit, UnitReport)
    return run


def deciding_gib(objects: int, edges: int) -> float:
    """Memory of a worker in which so many edges are held at a time."""
    return (BASE_MIB + deciding_mib(objects, edges)) / 1024


def _taken_by_deciding(root: Path, pairs: int, objects: int, held: int) -> float:
    agglomerate.compute(decided(root / "few", 9, 9))  # what is loaded on first need
    run = with_memory(decided(root / "many", pairs, objects), deciding_gib(objects, held))
    with within(None, subject="measured") as use:
        before = process_memory()
        agglomerate.compute(run)
    assert before is not None
    return use.peak_mib - before.resident / MIB


@linux
@pytest.mark.parametrize(
    ("pairs", "objects", "held"),
    [(20_000, 1_000, LEAST_EDGES), (40_000, 1_000, 150_000), (1_000, 4_000_000, LEAST_EDGES)],
)
def test_deciding_takes_what_is_said_of_it(tmp_path: Path, pairs: int, objects: int, held: int) -> None:
    taken = in_fresh_process(_taken_by_deciding, tmp_path, pairs, objects, held)
    require_near(deciding_mib(objects, min(held, pairs)), taken)


def test_as_many_edges_are_held_as_there_is_room_for(tmp_path: Path) -> None:
    run = decided(tmp_path, 50, 300)
    assert edges_at_once(run, 300) == MOST_EDGES
    assert edges_at_once(with_memory(run, deciding_gib(300, 9000)), 300) == pytest.approx(9000, rel=1e-3)
    assert edges_at_once(with_memory(run, deciding_gib(300, 0)), 300) == LEAST_EDGES


def test_deciding_is_refused_by_the_objects_that_there_are(tmp_path: Path) -> None:
    objects = 50_000_000
    run = decided(tmp_path, 50, 300)
    require_room(with_memory(run, deciding_gib(300, LEAST_EDGES) + 1e-3), "agglomerate")
    run.cell("reconcile").forget(RECONCILE_UNIT)
    run.cell("reconcile").run_unit(RECONCILE_UNIT, lambda: UnitReport(figures={"objects": float(objects)}))
    gib = deciding_gib(objects, LEAST_EDGES)
    require_room(with_memory(run, gib + 1e-3), "agglomerate")
    told = r"agglomerate: a table of 50,000,000 objects takes about 0\.\d+ GiB.*reconcile.min_object_voxels"
    with pytest.raises(MemoryBudgetError, match=told):
        require_room(with_memory(run, gib - 1e-3), "agglomerate")


def test_finish_needs_room_for_the_objects_of_all_ids(tmp_path: Path) -> None:
    run = decided(tmp_path, 50, 300)
    assert count_mapped(run) == 0  # not agglomerated
    alone = need_of(geometry_of(run), "finish")
    figures = {"objects_before": 5e6, "objects": 1e6}
    run.cell("agglomerate").run_unit("all", lambda: UnitReport(figures=figures))
    assert count_mapped(run) == 4_000_000
    mib = BASE_MIB + alone + 16 * 4_000_000 / MIB
    require_room(with_memory(run, (mib + 1) / 1024), "finish")
    with pytest.raises(MemoryBudgetError, match="finish: a shard of"):
        require_room(with_memory(run, (mib - 1) / 1024), "finish")
    records = np.zeros(4_000_000, MAPPED)
    write_records(run.cell("agglomerate").file("mapping.npy"), records)
    del records
    require_near(16 * 4_000_000 / MIB, taken_mib(partial(read_mapping, run)))


def test_needs_of_pairs_are_told_where_they_are_looked_at(tmp_path: Path) -> None:
    run, _ = cut_neurite(tmp_path, (40, 40, 40), 1)
    geometry = geometry_of(run)
    assert geometry.fov_zyx == (FOV, FOV, FOV)
    steps = [need.step for need in needs(replace(geometry, objects=10.0))]
    assert [s for s in steps if s in ("candidates", "resegment", "agglomerate")] == [
        "candidates",
        "resegment",
        "agglomerate",
    ]
    assert steps[-1] == "finish"
    off = geometry.parameters.model_copy(update={"candidates": type(geometry.parameters.candidates)()})
    told = {need.step for need in needs(replace(geometry, parameters=off))}
    assert not told & {"candidates", "resegment", "agglomerate"}
    with pytest.raises(MemoryBudgetError, match="resegment: a pair in its cube of 1,030,301 voxels"):
        require_room(with_memory(run, 0.35), "resegment")


def test_a_model_without_a_header_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path, np.zeros((8, 8, 8), np.uint8), candidates=ON)
    with pytest.raises(ModelError, match=r"segment\.model: .*model\.safetensors: no header of a model"):
        require_room(with_memory(run, 1.0), "resegment")
