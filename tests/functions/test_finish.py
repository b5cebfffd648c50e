"""The bundle: whole, the same each time, and readable by others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import neuroglancer as client
import numpy as np
import pytest
import zarr
from ome_zarr_models.v05.image import Image

from functions import finish
from functions.model.artefacts import FOLD, NAMES, OUTSIDE, TISSUE
from functions.model.errors import TaskError, UpstreamError, VolumeError
from functions.model.gate import GateDocument
from functions.model.parameters import CandidatesParameters, FinishParameters
from functions.publication import bundle, neuroglancer
from functions.publication.sections import SectionsDocument
from functions.store.edge_list import Edge, write_edges
from functions.store.edges import MAPPED, edges_path, write_mapping
from functions.store.marks import Attempt, Quarantined
from functions.store.run import Run
from functions.thresholding import read_agglomerated
from tests.functions.finished import SECTIONS, SIZE, artefact_codes, described_run, finished_run, mark, truth


def _bundle(run: Run) -> Path:
    return run.cell("finish").file("bundle")


def test_the_bundle_holds_all_documents_and_nothing_else(finished: Run) -> None:
    assert {p.name for p in _bundle(finished).iterdir()} == {
        *bundle.DOCUMENTS,
        bundle.VOLUME,
        bundle.TRANSFORMS,
        bundle.MANIFEST,
    }
    assert set(bundle.verify(_bundle(finished))) >= {
        "volume.zarr/zarr.json",
        "volume.zarr/labels/segmentation/zarr.json",
    }
    assert {p.name for p in finished.cell("finish").path.iterdir()} == {"bundle", "ledger"}


def test_voxels_are_those_of_the_run(finished: Run) -> None:
    labels, image = truth()
    image[3], labels[3] = 0, 0
    group = zarr.open_group(str(_bundle(finished) / bundle.VOLUME), mode="r")
    np.testing.assert_array_equal(group["0"][:], image)
    np.testing.assert_array_equal(group["labels/segmentation/0"][:], labels)
    np.testing.assert_array_equal(group["labels/artefacts/0"][:], artefact_codes(image))
    labels_group = Image.from_zarr(group).labels
    assert labels_group is not None
    assert labels_group.label_paths == ["segmentation", "artefacts"]


def test_agglomerated_objects_are_published_with_what_they_are_made_of(tmp_path: Path) -> None:
    run = finished_run(tmp_path, candidates=CandidatesParameters(sources=("contact",)))
    with pytest.raises(UpstreamError, match="start the run at candidates"):
        finish.perform(run)
    labels, _ = truth()
    labels[3] = 0
    first, second = np.unique(labels[labels > 0])[:2].tolist()
    write_mapping(run, 1, [np.array([(second, first)], MAPPED)])
    row = Edge(
        first_id=first,
        second_id=second,
        z=1,
        y=2,
        x=3,
        verdict="merge",
        score=0.9,
        agreement=0.9,
        speculative=0.95,
        recovered=0.8,
        deleted=0.0,
        foreign=0.0,
        voxels_first=500,
        voxels_second=400,
        contact_faces=30,
        contact_share=0.4,
        contact_grey=-0.25,
        refused_overlap=0.0,
    )
    write_edges(edges_path(run), [row])
    mark(run, "agglomerate", "all", 60)
    mark(run, "candidates", "z00000_y00000_x00000", 51)
    mark(run, "resegment", "z00000_y00000_x00000-00000", 52)
    result = finish.perform(run)
    folder = _bundle(run)
    supervoxels, edges = read_agglomerated(folder)
    assert (edges, "edges.csv" in bundle.verify(folder)) == ([row], True)
    np.testing.assert_array_equal(supervoxels, labels)
    group = zarr.open_group(str(folder / bundle.VOLUME), mode="r")
    merged = np.where(labels == second, first, labels)
    np.testing.assert_array_equal(group["labels/segmentation/0"][:], merged)
    assert result.figures["segments"] == np.unique(merged[merged > 0]).size
    graph = json.loads((folder / "ro-crate-metadata.json").read_text())["@graph"]
    entities = {entity["@id"]: entity for entity in graph}
    assert entities["#agglomerate-action"]["result"] == [{"@id": "edges.csv"}]
    assert {"@id": "edges.csv"} in entities["./"]["hasPart"]


def test_the_codes_are_named_and_every_level_is_made_of_them(finished: Run) -> None:
    group = zarr.open_group(str(_bundle(finished) / bundle.VOLUME / "labels" / "artefacts"), mode="r")
    named = {p["label-value"]: p["name"] for p in group.attrs["ome"]["image-label"]["properties"]}
    assert named == dict(enumerate(NAMES))
    for dataset in group.attrs["ome"]["multiscales"][0]["datasets"]:
        level = group[dataset["path"]][:]
        assert level.dtype == np.uint8
        assert set(np.unique(level).tolist()) <= {OUTSIDE, TISSUE, FOLD}
        assert (level == FOLD).any()  # one section thick, and on every level


def test_every_section_has_a_row_that_says_how_good_it_is(finished: Run) -> None:
    table = SectionsDocument.parse((_bundle(finished) / bundle.SECTIONS).read_bytes(), source="table")
    assert table.missing == (3,)
    assert [(s.z, s.row) for s in table.sections] == [(z, z) for z in SECTIONS]
    gate = GateDocument.parse((_bundle(finished) / bundle.GATE).read_bytes(), source="gate")
    for row, judged in zip(table.sections, gate.sections, strict=True):
        assert row.section == judged.section
        assert (row.verdict, row.confidence, row.coverage) == (
            judged.verdict, judged.confidence, judged.coverage,
        )  # fmt: skip
        assert row.residual_px_p95 == judged.residual_px_p95
        assert list(row.reasons) == [reason.code for reason in judged.reasons]
        assert row.artefacts == {"fold": 0.128 if row.z == 5 else 0.0}
        assert row.tiles == 4


def test_a_volume_without_codes_is_not_published(tmp_path: Path) -> None:
    run = finished_run(tmp_path)
    shutil.rmtree(run.cell("align_render").file("artefacts.zarr"))
    with pytest.raises(VolumeError, match=r"artefacts\.zarr: missing; an older version") as caught:
        finish.perform(run)
    assert "align_render" in caught.value.remedy


def test_figures_count_the_labels(finished: Run) -> None:
    labels, _ = truth()
    labels[3] = 0
    again = finish.perform(finished)
    assert (again.computed, again.reused) == (0, 1)
    assert again.figures["segments"] == len(np.unique(labels)) - 1
    assert again.figures["labelled_fraction"] == pytest.approx((labels > 0).mean(), abs=1e-4)
    assert again.status == "look"  # a blank tile
    assert len(again.model_dump_json()) < 1024


def test_the_same_run_elsewhere_and_after_a_kill_gives_the_same_bytes(finished: Run, tmp_path: Path) -> None:
    other = described_run(tmp_path)
    left = other.cell("finish").file(".bundle.0123abcd.partial")
    left.mkdir(parents=True)
    (left / "report.html").write_text("half")
    finish.perform(other)
    assert not left.exists()
    # the network's path is in the key, so only what lies in the cells is compared
    ours, theirs = (bundle.read_manifest(_bundle(r)) for r in (finished, other))
    assert ours == theirs


def test_a_failure_leaves_no_bundle(tmp_path: Path) -> None:
    run = finished_run(tmp_path)
    run.cell("stitch", "z00005").file("layout.json").write_text("{}")
    with pytest.raises(TaskError, match=r"layout\.json"):
        finish.perform(run)
    assert list(run.cell("finish").path.iterdir()) == [run.cell("finish").file("ledger")]


def test_unfinished_labels_are_refused(tmp_path: Path) -> None:
    run = finished_run(tmp_path)
    mark(run, "relabel", "z00000_y00000_x00000", 50, figures={"voxels": 1000.0})
    with pytest.raises(UpstreamError, match=r"1000 of 540000 voxels.*start the run at relabel"):
        finish.perform(run)
    run.cell("relabel").file("labels.json").unlink()
    with pytest.raises(UpstreamError, match=r"there are no labels"):
        finish.perform(run)


def test_small_shards_are_honoured(tmp_path: Path) -> None:
    finer = FinishParameters(chunk_zyx_px=(4, 64, 64), shard_zyx_px=(8, 128, 128), title="Fine")
    run = finished_run(tmp_path, finish=finer)
    finish.perform(run)
    array = zarr.open_array(str(_bundle(run) / "volume.zarr" / "0"), mode="r")
    assert (array.shards, array.chunks) == ((8, 128, 128), (4, 64, 64))


def test_the_state_is_one_that_neuroglancer_parses(finished: Run) -> None:
    text = (_bundle(finished) / "neuroglancer.json").read_text()
    assert text.count("\n") == 1
    assert len(text) < 1500
    template = json.loads(text)
    state = client.ViewerState(neuroglancer.at(template, "https://host/data/run-1/"))
    assert [(layer.name, layer.type) for layer in state.layers] == [
        ("image", "image"), ("segmentation", "segmentation"), ("artefacts", "segmentation"),
    ]  # fmt: skip
    sources = [layer.source[0].url for layer in state.layers]
    assert sources[0] == "zarr3://https://host/data/run-1/volume.zarr"
    assert sources[1] == "zarr3://https://host/data/run-1/volume.zarr/labels/segmentation"
    assert state.dimensions.names == ("x", "y", "z")
    np.testing.assert_allclose(state.dimensions.scales, [8e-9, 8e-9, 30e-9])
    np.testing.assert_allclose(state.position, [SIZE[1] // 2 + 0.5, SIZE[0] // 2 + 0.5, 4.5])
    assert len(state.layers["segmentation"].segments) == finish.SHOWN_SEGMENTS
    assert "{base_url}" in text
    assert "{base_url}" not in json.dumps(state.to_json())


def test_a_base_url_is_data_not_json(finished: Run) -> None:
    template = json.loads((_bundle(finished) / "neuroglancer.json").read_text())
    odd = 'https://host/"quoted"\\'
    assert neuroglancer.at(template, odd)["layers"][0]["source"] == f"zarr3://{odd}/volume.zarr"
    with pytest.raises(TaskError, match="base_url"):
        neuroglancer.at(template, "/relative")
    link = neuroglancer.link(neuroglancer.at(template, "https://host/a"), viewer_url="https://ng.example/")
    assert link.startswith("https://ng.example/#!%7B")


def test_a_stack_that_came_aligned_is_reported_without_alignment(tmp_path: Path) -> None:
    run = finished_run(tmp_path, aligned=True)
    assert finish.perform(run).figures["segments"] == 60
    page = (_bundle(run) / "report.html").read_text()
    assert "came as a stack of aligned images" in page
    table = SectionsDocument.parse((_bundle(run) / bundle.SECTIONS).read_bytes(), source="table")
    assert {(row.verdict, row.confidence) for row in table.sections} == {(None, None)}
    assert "as the stage placed it" not in page


def test_subvolumes_that_were_left_out_are_told_where_the_volume_is_published(tmp_path: Path) -> None:
    run = finished_run(tmp_path)
    ledger = run.cell("segment").ledger
    failed = Attempt(worker="n1 7", error="ValueError: /secret/path")
    ledger.tell_quarantine(Quarantined(unit="z00000_y00000_x00000", attempts=3, failures=(failed,)))
    finish.perform(run)
    report = (_bundle(run) / "report.html").read_text()
    assert "left without labels of its own after 3 attempts" in report
    assert "/secret/path" not in report
