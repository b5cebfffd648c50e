"""Segment: gaps, masks, names, figures, and a network that fits."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ffn.checkpoint import Model, save_model
from ffn.config import InferenceConfig, NetworkConfig, Normalisation
from ffn.masks import Masks
from ffn.network import FloodFillingNetwork
from functions import segment
from functions.model.artefacts import CHARGING, CRACK, FOLD, RESIN
from functions.model.errors import ModelError, VolumeError
from functions.runtime import segment_totals
from functions.segment import Flooded
from functions.store.files import write_json
from functions.store.labels import grid_of, local_path, read_local, read_owned
from functions.store.run import Run
from tests.functions.aligned_runs import VOXEL_NM, ScrambledTruth, make_run, segment_all, voronoi

SMALL = {"subvolume_zyx_px": (8, 16, 16), "overlap_zyx_px": (4, 4, 4)}


def test_a_missing_section_does_not_cut_an_object(tmp_path: Path) -> None:
    image = np.full((8, 8, 8), 5, np.uint8)
    image[3] = 0
    run = make_run(tmp_path, image, tissue=image > 0)
    segment_all(run, ScrambledTruth())
    labels = read_local(run, next(iter(grid_of(run))))
    assert (labels == 1).all()


def test_local_labels_are_dense_and_counted_and_stay_in_tissue(tmp_path: Path) -> None:
    image = voronoi((10, 30, 30), 12, seed=3)
    tissue = np.ones(image.shape, bool)
    tissue[:, :, 20:] = False
    run = make_run(tmp_path, image, tissue=tissue, segment=SMALL)
    segment_all(run, ScrambledTruth())
    owned = 0
    for subvolume in grid_of(run):
        labels = read_local(run, subvolume)
        assert labels.shape == subvolume.read.shape_zyx
        assert sorted(set(labels.ravel().tolist()) - {0}) == list(range(1, labels.max() + 1))
        assert ((labels > 0) == tissue[subvolume.read.slices]).all()
        write = labels[subvolume.write.relative_to(subvolume.read).slices]
        counts = np.bincount(write.ravel(), minlength=int(labels.max()) + 1)
        assert read_owned(run, subvolume).tolist() == counts[1:].tolist()
        owned += int(read_owned(run, subvolume).sum())
    assert owned == tissue.sum()
    mark = run.cell("segment").mark("z00000_y00000_x00000")
    assert mark.figures["fovs"] == 1
    assert mark.figures["labelled_fraction"] == 1.0
    assert mark.figures["voxels_per_second"] == round(8 * 16 * 16 / 0.75, 1)


def test_a_subvolume_without_tissue_costs_nothing(tmp_path: Path) -> None:
    image = np.ones((4, 8, 8), np.uint8)
    run = make_run(tmp_path, image, tissue=np.zeros(image.shape, bool))
    report = segment.compute(run, segment.units(run)[0], segmenter=ScrambledTruth())
    assert report.figures["fovs"] == 0
    assert report.figures["segments"] == 0


def test_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    image = voronoi((8, 16, 16), 6, seed=1)
    contents = []
    for name in ("a", "b"):
        run = make_run(tmp_path / name, image)
        segment_all(run, ScrambledTruth())
        contents.append(local_path(run, next(iter(grid_of(run)))).read_bytes())
    assert contents[0] == contents[1]


def test_the_border_is_mirrored_only_at_the_volumes_faces(tmp_path: Path) -> None:
    seen: list[tuple[int, ...]] = []

    class Watcher(ScrambledTruth):
        radius_zyx = (2, 3, 3)

        def __call__(self, image: np.ndarray, masks: Masks) -> Flooded:
            seen.append(image.shape)
            return super().__call__(image, masks)

    image = voronoi((8, 16, 28), 6, seed=1)
    run = make_run(tmp_path, image, segment={**SMALL, "mirror_border": True})
    segment_all(run, Watcher())
    assert seen == [(8 + 4, 16 + 6, 16 + 3)] * 2
    labels = read_local(run, next(iter(grid_of(run))))
    assert len({(a, b) for a, b in zip(image[:, :, :16].flat, labels.flat, strict=True)}) == labels.max()


def network(root: Path, *, voxel_nm: tuple[float, float, float] = VOXEL_NM) -> Path:
    torch.manual_seed(0)
    path = root / "tiny.safetensors"
    model = Model(
        network=FloodFillingNetwork(
            NetworkConfig(modules=2, features=4, fov_zyx=(5, 7, 7), deltas_zyx=(1, 2, 2))
        ),
        normalisation=Normalisation(),
        voxel_size_zyx_nm=voxel_nm,
        inference=InferenceConfig(min_segment_size=10),
    )
    save_model(path, model)
    return path


def flooded_run(
    tmp_path: Path,
    *,
    voxel_nm: tuple[float, float, float] = VOXEL_NM,
    codes: np.ndarray | None = None,
    **more: object,
) -> Run:
    image = np.full((8, 16, 16), 190, np.uint8)
    image[:, :, ::8] = 20
    path = network(tmp_path, voxel_nm=voxel_nm)
    group = {"model": str(path), "device": "cpu", "labelled_to_look": 0.0, **more}
    return make_run(tmp_path, image, codes=codes, segment=group)


def test_a_real_network_counts_its_fields_of_view(tmp_path: Path) -> None:
    run = flooded_run(tmp_path)
    report = segment.compute(run, segment.units(run)[0])
    assert report.status == "ok"
    assert report.figures["seeds"] > 0
    assert report.figures["fovs"] >= 1
    assert report.figures["network_seconds"] > 0
    assert report.figures["host_seconds"] > 0
    assert report.figures["calls"] <= report.figures["fovs"]
    assert report.figures["weak"] + report.figures["small"] <= report.figures["attempts"]


@pytest.mark.parametrize("code", [RESIN, FOLD, CRACK, CHARGING])
def test_a_real_network_starts_in_no_artefact(tmp_path: Path, code: int) -> None:
    run = flooded_run(tmp_path, codes=np.full((8, 16, 16), code, np.uint8))
    report = segment.compute(run, segment.units(run)[0])
    assert report.figures["seeds"] == report.figures["fovs"] == report.figures["segments"] == 0
    assert report.figures["avoided_voxels"] == 8 * 16 * 16
    assert report.figures["tissue_voxels"] == (0 if code == RESIN else 8 * 16 * 16)
    (tmp_path / "all").mkdir()
    codes = np.full((8, 16, 16), code, np.uint8)
    trusting = flooded_run(tmp_path / "all", codes=codes, avoid=[])
    plain = flooded_run(tmp_path)
    figures = [segment.compute(r, segment.units(r)[0]).figures for r in (trusting, plain)]
    assert [f["avoided_voxels"] for f in figures] == [0, 0]
    assert figures[0]["fovs"] == figures[1]["fovs"] > 0


def test_an_image_of_more_than_8_bits_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, np.ones((4, 8, 8), np.uint8))
    wide = run.aligned.model_copy(
        update={"volume": run.aligned.volume.model_copy(update={"dtype": "uint16"})}
    )
    write_json(run.cell("align_solve").file("solution.json"), wide.to_json())
    again = Run(run.spec)
    with pytest.raises(VolumeError, match=r"image\.zarr: uint16, the network reads uint8"):
        segment.compute(again, segment.units(again)[0], segmenter=ScrambledTruth())


def test_totals_of_a_run_count_every_finished_subvolume(tmp_path: Path) -> None:
    image = voronoi((8, 16, 28), 6, seed=1)
    tissue = np.ones(image.shape, bool)
    tissue[:, 8:] = False
    run = make_run(tmp_path, image, tissue=tissue, segment=SMALL)
    assert segment_totals(run) == {}
    segment_all(run, ScrambledTruth())
    totals = segment_totals(run)
    assert totals["fovs"] == len(segment.units(run)) == 2
    assert totals["seeds"] == 4
    assert totals["voxels"] == 2 * 8 * 16 * 16
    assert totals["tissue_voxels"] == totals["labelled_voxels"] == totals["voxels"] / 2
    assert totals["labelled_fraction"] == 1.0
    assert (totals["network_seconds"], totals["host_seconds"]) == (1.0, 0.5)
    assert totals["voxels_per_second"] == pytest.approx(totals["voxels"] / 1.5, abs=0.1)
    assert totals["rejected_fovs"] == totals["skipped_moves"] == 0


def test_another_voxel_size_asks_for_a_look(tmp_path: Path) -> None:
    run = flooded_run(tmp_path, voxel_nm=(10.0, 10.0, 10.0))
    report = segment.compute(run, segment.units(run)[0])
    assert report.status == "look"
    assert [p["code"] for p in report.problems] == ["voxel_size"]


def test_a_small_overlap_asks_for_a_look(tmp_path: Path) -> None:
    run = flooded_run(tmp_path, subvolume_zyx_px=(8, 16, 9), overlap_zyx_px=(4, 6, 2))
    report = segment.compute(run, segment.units(run)[0])
    assert [p["code"] for p in report.problems] == ["overlap_small"]


def test_a_field_of_view_larger_than_the_volume_is_refused(tmp_path: Path) -> None:
    run = flooded_run(tmp_path, subvolume_zyx_px=(4, 16, 16), overlap_zyx_px=(2, 4, 4))
    with pytest.raises(ModelError, match=r"field of view \(5, 7, 7\).*mirror_border"):
        segment.compute(run, segment.units(run)[0])


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, np.ones((4, 8, 8), np.uint8))
    with pytest.raises(ModelError, match=r"segment\.model: .*not a safetensors file"):
        segment.compute(run, segment.units(run)[0])


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path, np.ones((4, 8, 8), np.uint8))
    run.model_path.unlink()
    with pytest.raises(ModelError, match=r"segment\.model: .*model\.safetensors: no such file"):
        run.cell("segment")


def test_tissue_in_which_nothing_is_found_asks_for_a_look(tmp_path: Path) -> None:
    class Blind(ScrambledTruth):
        def __call__(self, image: np.ndarray, masks: Masks) -> Flooded:
            return Flooded(labels=np.zeros(image.shape, np.uint32))

    run = make_run(tmp_path, np.ones((4, 8, 8), np.uint8))
    report = segment.compute(run, segment.units(run)[0], segmenter=Blind())
    assert report.status == "look"
    assert report.problems[0]["code"] == "labelled_low"
    assert "0.0% of the tissue" in report.problems[0]["subject"]
