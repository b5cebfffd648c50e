"""candidates -> resegment -> agglomerate: two halves of a neurite become one object, its neighbour stays."""

from __future__ import annotations

import csv
import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest

from ffn.checkpoint import save_model
from ffn.evidence import PairEvidence
from ffn.masks import Masks
from flows.scratch import reusable
from functions import agglomerate, candidates, resegment, segment
from functions.agglomerate import decision_parameters
from functions.agglomeration import decisions
from functions.agglomeration.decisions import DecisionParameters
from functions.model.errors import ModelError, TaskError, UpstreamError, VolumeError
from functions.model.parameters import Parameters
from functions.runtime import execute, moved_totals
from functions.segment import Flooded, Segmenter
from functions.store.edge_list import read_edges
from functions.store.edges import (
    EVIDENCE,
    MAPPED,
    POINT,
    SIZE,
    Mapping,
    batches_of,
    edges_path,
    evidence_path,
    pack_evidence,
    points_path,
    read_evidence,
    read_mapping,
    sizes_path,
    unpack_evidence,
)
from functions.store.equalities import read_records, write_records
from functions.store.files import sha256_file
from functions.store.labels import labels_ref
from functions.store.run import Run
from functions.store.thresholds import Thresholds, write_thresholds
from functions.store.volumes import Volume
from tests.ffn.test_resegmentation import brightness_model, neurites
from tests.functions.aligned_runs import make_run, segment_all
from tests.functions.test_decisions import GOOD, evidence
from tests.functions.test_relabel import fan_out, label_all

ON = {
    "sources": ["contact"],
    "contact_share": 0.3,
    "near_px": 4.0,
    "min_voxels": 100,
    "block_zyx_px": (26, 40, 40),
}


class Halves:
    """Sees both neurites, the first as two objects: it is cut at x = 30."""

    radius_zyx = (4, 4, 4)

    def __call__(self, image: np.ndarray, masks: Masks) -> Flooded:
        labels = np.zeros(image.shape, np.uint32)
        labels[4:22, 4:16, :30], labels[4:22, 4:16, 30:] = 1, 2
        labels[4:22, 22:36] = 3
        return Flooded(labels=labels)


def labelled(root: Path, *, segmenter: Segmenter | None = None, **groups: dict[str, object]) -> Run:
    """A run up to relabel, with a network that floods what is bright."""
    image, _ = neurites()
    root.mkdir(parents=True, exist_ok=True)
    save_model(root / "bright.safetensors", brightness_model())
    segment = {"model": str(root / "bright.safetensors"), "device": "cpu"}
    run = make_run(root, image, segment=segment, candidates=groups.pop("candidates", ON), **groups)
    segment_all(run, segmenter or Halves())
    label_all(run)
    return run


def changed(run: Run, **limits: object) -> Run:
    """The same run with other limits."""
    p = run.parameters
    group = p.agglomerate.model_copy(update=limits)
    return Run(run.spec.model_copy(update={"parameters": p.model_copy(update={"agglomerate": group})}))


def agglomerated(run: Run) -> dict[str, object]:
    """The three steps through the wire contract; the answer of the last."""
    order = random.Random(1)
    for step in ("candidates", "resegment"):
        fan_out(run, step, shards=2, order=order)
    return execute("agglomerate", {"run": run.spec.to_json()})


def test_two_halves_are_one_object_and_a_neighbour_stays(tmp_path: Path) -> None:
    run = labelled(tmp_path, resegment={"pairs_per_unit": 1})
    answer = agglomerated(run)
    assert answer["figures"]["objects_before"] == 3  # type: ignore[index]
    assert answer["figures"]["objects"] == 2  # type: ignore[index]
    labels = np.array([[0, 1, 2, 3]], np.uint32)
    assert read_mapping(run).apply(labels).tolist() == [[0, 1, 1, 3]]
    rows = read_edges(edges_path(run))
    halves = [row for row in rows if (row.first_id, row.second_id) == (1, 2)]
    assert [row.verdict for row in halves] == ["merge"]
    assert halves[0].score == halves[0].speculative > 0.9
    assert halves[0].agreement > 0.9
    assert halves[0].contact_share > 0.5  # of a half's faces to others: the rest is with its neighbour
    assert abs(halves[0].x - 30) <= 1
    with open(edges_path(run), newline="") as handle:
        header = next(csv.reader(handle))
    assert header[:6] == ["first_id", "second_id", "z", "y", "x", "verdict"]


def test_a_decision_point_in_the_rim_is_flooded_by_the_mirror_image(tmp_path: Path) -> None:
    """The cut lies 2 voxels from the face: without the mirror no field of view fits in there."""
    image, _ = neurites()
    run = labelled(tmp_path)
    points = np.zeros(1, POINT)
    points[0] = (1, 2, 12, 10, 59, 0.0, 9, 1.0, 0.0, 0.0)

    class Thin(Halves):
        def __call__(self, image: np.ndarray, masks: Masks) -> Flooded:
            found = super().__call__(image, masks)
            found.labels[found.labels == 2] = 1
            found.labels[4:22, 4:16, 58:] = 2
            return found

    thin = make_run(
        tmp_path / "thin",
        image,
        segment=run.parameters.segment.model_dump(mode="json"),
        candidates=ON | {"min_voxels": 0},
        agglomerate={"min_voxels": 10},
    )
    segment_all(thin, Thin())
    label_all(thin)
    agglomerated(thin)
    (row,) = [r for r in read_edges(edges_path(thin)) if (r.first_id, r.second_id) == (1, 2)]
    assert row.verdict == "merge"
    assert row.x >= 57
    unit = resegment.units(thin)[0]
    stored = list(unpack_evidence(read_records(evidence_path(thin, unit), EVIDENCE)))
    assert all(0 <= c < n for e in stored for c, n in zip(e.point_zyx, image.shape, strict=True))


def test_evidence_of_other_candidates_is_refused(tmp_path: Path) -> None:
    run = labelled(tmp_path)
    agglomerated(run)
    unit = next(u for u in resegment.units(run) if read_records(evidence_path(run, u), EVIDENCE).size)
    whole = read_records(evidence_path(run, unit), EVIDENCE)
    moved = whole.copy()
    moved["x"][0] += 1
    for other in (whole[:-1], moved):
        write_records(evidence_path(run, unit), other)
        with pytest.raises(VolumeError, match=r"evidence of other candidates"):
            agglomerate.compute(run)


def test_another_threshold_floods_nothing_again(tmp_path: Path) -> None:
    run = labelled(tmp_path)
    agglomerated(run)
    strict = changed(run, min_score=1.0)
    assert strict.resegment_key == run.resegment_key
    assert strict.agglomerate_key != run.agglomerate_key
    assert strict.finish_key != run.finish_key
    result = agglomerate.perform(strict)
    assert result.figures["objects"] == 3
    assert run.cell("resegment").attempts() == dict.fromkeys(resegment.units(run), 1)
    assert agglomerate.perform(strict).reused == 1


def test_edges_and_objects_are_those_of_all_pairs_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = labelled(tmp_path, candidates=ON | {"min_voxels": 0}, resegment={"pairs_per_unit": 1})
    agglomerated(run)
    found = [e for unit, points in batches_of(run) for e in read_evidence(run, unit, points)]
    ids, voxels = np.unique(
        Volume.open(run.work, labels_ref(run)).read(labels_ref(run).box), return_counts=True
    )
    expected = decisions.agglomerate(
        found, segments=ids[1:].astype(np.uint64), voxels=voxels[1:], parameters=decision_parameters(run)
    )
    names = [(e.first_id, e.second_id, e.verdict) for e in read_edges(edges_path(run))]
    assert names == [(*d.pair, d.verdict) for d in expected.decisions]
    assert len(names) > 2
    assert read_mapping(run).apply(ids.astype(np.uint32)[None])[0, 1:].tolist() == (
        expected.representative.tolist()
    )
    files = [edges_path(run), edges_path(run).with_name("mapping.npy")]
    before = [path.read_bytes() for path in files]
    monkeypatch.setattr(agglomerate, "edges_at_once", lambda *_: 1)
    agglomerate.compute(run)
    assert [path.read_bytes() for path in files] == before


def test_sizes_of_other_labels_are_refused(tmp_path: Path) -> None:
    run = labelled(tmp_path)
    agglomerated(run)
    block = candidates.units(run)[0]
    sizes = read_records(sizes_path(run, block), SIZE)
    sizes["id"][-1] = 4000
    write_records(sizes_path(run, block), sizes)
    with pytest.raises(VolumeError, match=r"sizes.*: objects of other labels; start the run at candidates"):
        agglomerate.compute(run)


def test_blocks_share_the_search_and_a_batch_holds_so_many_pairs(tmp_path: Path) -> None:
    run = labelled(tmp_path, candidates=ON | {"contact_share": 0.0}, resegment={"pairs_per_unit": 1})
    fan_out(run, "candidates", shards=3, order=random.Random(0))
    assert candidates.units(run) == ["z00000_y00000_x00000", "z00000_y00000_x00040"]
    found = [read_records(points_path(run, unit), POINT) for unit in candidates.units(run)]
    assert {(int(r["first"]), int(r["second"])) for r in found[0]} == {(1, 2), (1, 3), (2, 3)}
    assert {(int(r["first"]), int(r["second"])) for r in found[1]} == {(2, 3)}
    assert (found[1]["x"] >= 40).all()
    assert len(resegment.units(run)) == 4


def test_a_unit_reads_the_candidates_of_its_own_block_and_no_others(tmp_path: Path) -> None:
    run = labelled(tmp_path, resegment={"pairs_per_unit": 1})
    fan_out(run, "candidates", shards=1, order=random.Random(0))
    last = resegment.units(run)[-1]
    for path in run.cell("candidates").file("points").rglob("*.npy"):
        if path.stem != last.rpartition("-")[0]:
            path.unlink()
    assert resegment.compute(run, last).figures["pairs"] == 1
    for name in (f"{last[:-5]}99999", "z00001_y00000_x00000-00000", "no"):
        with pytest.raises(KeyError):
            resegment.compute(run, name)


def test_dark_contacts_of_large_objects_are_none(tmp_path: Path) -> None:
    """Both neurites are large, with a dark gap between; the halves share a bright face."""
    large = {"contact_share": 1.0, "large_voxels": 1000, "bright_grey": -6.0}
    run = labelled(tmp_path, candidates=ON | large | {"block_zyx_px": (26, 40, 60)})
    fan_out(run, "candidates", shards=1, order=random.Random(0))
    (records,) = [read_records(points_path(run, unit), POINT) for unit in candidates.units(run)]
    assert [(int(r["first"]), int(r["second"])) for r in records] == [(1, 2)]
    assert records[0]["grey"] > -6.0
    everything = labelled(
        tmp_path / "all", candidates=run.parameters.candidates.model_dump() | {"bright_grey": -99.0}
    )
    fan_out(everything, "candidates", shards=1, order=random.Random(0))
    (records,) = [read_records(points_path(everything, unit), POINT) for unit in candidates.units(everything)]
    assert {(int(r["first"]), int(r["second"])) for r in records} == {(1, 2), (1, 3), (2, 3)}
    assert sorted(records["grey"])[1] < -8.0 < records["grey"].max()


def test_refused_overlaps_are_candidates(tmp_path: Path) -> None:
    """One subvolume sees a neurite whole, the next in two, and reconcile joins one of both only."""
    image = np.zeros((20, 30, 60), np.uint8)
    image[4:16, 4:26] = 1

    class Doubtful(Halves):
        def __call__(self, image: np.ndarray, masks: Masks) -> Flooded:
            labels = np.where(image == 1, 1, 0).astype(np.uint32)
            if image[0, 0, 0] == 7:
                labels[:, 15:][labels[:, 15:] > 0] = 2
            return Flooded(labels=labels)

    image[0, 0, 20] = 7  # the corner of the second
    run = make_run(
        tmp_path,
        image,
        segment={"subvolume_zyx_px": (20, 30, 40), "overlap_zyx_px": (0, 0, 20)},
        candidates=ON | {"sources": ["refused"], "block_zyx_px": (20, 30, 60)},
    )
    segment_all(run, Doubtful())
    label_all(run)
    report = candidates.compute(run, candidates.units(run)[0])
    assert report.figures["refused"] == report.figures["candidates"] == 1
    (record,) = read_records(points_path(run, candidates.units(run)[0]), POINT)
    assert record["overlap"] == 1.0  # the smaller label lies wholly in the other subvolume's one


def test_when_a_subvolume_changes_other_batches_are_flooded_whoever_asks(tmp_path: Path) -> None:
    """The cut is noticed later: a run of other limits, too, has batches that it did not have before."""

    class Whole(Halves):
        def __call__(self, image: np.ndarray, masks: Masks) -> Flooded:
            found = super().__call__(image, masks)
            found.labels[found.labels > 0] = 1
            return found

    wanted = agglomerated(labelled(tmp_path / "fresh"))["figures"]["pairs"]  # type: ignore[index]
    first = labelled(tmp_path / "run", segmenter=Whole(), resegment={"pairs_per_unit": 1})
    p = first.parameters
    others = p.candidates.model_copy(update={"min_voxels": 101})
    other = Run(first.spec.model_copy(update={"parameters": p.model_copy(update={"candidates": others})}))
    for run in (first, other):
        assert agglomerated(run)["figures"]["pairs"] == 0  # type: ignore[index]
    (unit,) = segment.units(first)
    first.cell("segment").forget(unit)
    segment_all(first, Halves())
    label_all(first)
    for run in (first, other):
        assert agglomerated(run)["figures"]["pairs"] == wanted > 1  # type: ignore[index]


def test_off_by_default_and_then_nothing_is_looked_for(tmp_path: Path) -> None:
    run = labelled(tmp_path, candidates={})
    assert candidates.units(run) == resegment.units(run) == []
    assert agglomerate.perform(run).units == 0
    assert read_mapping(run).apply(np.array([[5]], np.uint32)).tolist() == [[5]]
    assert not (run.work / "candidates").exists()
    for step in ("candidates", "resegment", "agglomerate"):
        assert (reusable(run, step).units, reusable(run, step).reusable) == (0, 0)


def test_while_it_is_off_nobody_asks_for_its_thresholds(tmp_path: Path) -> None:
    run = changed(labelled(tmp_path, candidates={}), thresholds=str(tmp_path / "missing.json"))
    assert agglomerate.perform(run).units == 0
    assert moved_totals(run, "agglomerate") == {}
    assert not run.cell("agglomerate").path.exists()


def test_a_rule_beside_a_file_that_has_one_is_refused() -> None:
    with pytest.raises(TaskError, match=r"agglomerate: .*seeds: both is given beside thresholds"):
        Parameters.parse({"agglomerate": {"seeds": "both", "thresholds": "t.json"}}, source="parameters")
    alone = Parameters.parse({"agglomerate": {"min_score": 0.7, "thresholds": "t.json"}}, source="parameters")
    assert alone.agglomerate.seeds is None


def test_what_is_missing_is_named_with_the_step_to_start_at(tmp_path: Path) -> None:
    run = labelled(tmp_path)
    with pytest.raises(UpstreamError, match="start the run at candidates"):
        agglomerate.perform(run)
    with pytest.raises(UpstreamError, match="start the run at candidates"):
        read_mapping(run)
    fan_out(run, "candidates", shards=1, order=random.Random(0))
    with pytest.raises(UpstreamError, match="start the run at resegment"):
        agglomerate.perform(run)


def test_thresholds_of_a_file_hold_for_their_network_only(tmp_path: Path) -> None:
    path = tmp_path / "thresholds.json"
    run = changed(labelled(tmp_path), thresholds=str(path))
    with pytest.raises(TaskError, match="no such file"):
        _ = run.agglomerate_key
    chosen = Thresholds(
        model_sha256=sha256_file(run.model_path),
        seeds="either",
        min_score=0.35,
        truth="truth.npz",
        voi_split=0.5,
        voi_merge=0.4,
        voi_split_before=0.8,
        voi_merge_before=0.4,
    )
    write_thresholds(path, chosen)
    assert decision_parameters(run) == DecisionParameters(seeds="either", min_recovered=0.35)
    assert decision_parameters(changed(run, thresholds=None)) == DecisionParameters(seeds="either")
    assert decision_parameters(
        changed(run, thresholds=None, seeds="both", min_score=0.7)
    ) == DecisionParameters(min_iou=0.7)
    assert decision_parameters(changed(run, min_score=0.7)).min_recovered == 0.7
    write_thresholds(path, chosen.model_copy(update={"model_sha256": "0" * 64}))
    with pytest.raises(ModelError, match="chosen for another network"):
        decision_parameters(run)
    key = Run(run.spec).agglomerate_key
    write_thresholds(path, chosen)
    assert Run(run.spec).agglomerate_key != key  # by content


def test_evidence_survives_its_file() -> None:
    one_sided = evidence(3, 2**32 - 1, from_second=None, iou=0.0)
    odd = evidence(1, 2, iou=1 / 3, from_first=dataclasses.replace(GOOD, seed_zyx=(-3, 4, 5)))
    found: list[PairEvidence] = [one_sided, odd, evidence(4, 5, from_first=None, from_second=None)]
    assert list(unpack_evidence(pack_evidence(found))) == found


def test_an_edge_list_that_does_not_parse_is_named(tmp_path: Path) -> None:
    path = tmp_path / "edges.csv"
    with pytest.raises(VolumeError, match="no edge list"):
        read_edges(path)
    path.write_text("first_id,second_id\n1,x\n")
    with pytest.raises(VolumeError, match=r"edges.csv: line 2: second_id"):
        read_edges(path)


def test_a_mapping_leaves_other_ids_alone() -> None:
    records = np.array([(5, 2), (9, 2)], MAPPED)
    labels = np.array([[0, 2, 5], [9, 10, 2**32 - 1]], np.uint32)
    assert Mapping.of(records).apply(labels).tolist() == [[0, 2, 2], [2, 10, 2**32 - 1]]
    many = np.resize(np.array([5, 9, 2, 0, 7], np.uint32), (3, 50, 60))[:, :, ::-1]
    wanted = np.where(np.isin(many, (5, 9)), 2, many)
    assert np.array_equal(Mapping.of(records).apply(many), wanted)
