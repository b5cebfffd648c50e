"""The phantom: tissue that looks and measures like tissue, tiles cut from it, and its exact truth."""

import csv
import hashlib
import json
import pathlib
from dataclasses import fields, replace

import numpy as np
import pytest
import tifffile
from skimage.measure import label

from ffn.checkpoint import load_model
from functions.microscopes import plain
from functions.testing.acquisition import AcquisitionConfig, phantom_shape_zyx, write_acquisition
from functions.testing.phantom import Phantom, make_phantom
from functions.testing.phantom_render import PhantomConfig, smooth_noise
from functions.testing.phantom_training import PhantomVolumes, as_rendered
from functions.testing.scoring import align_residual_px, map_truth_labels, stitch_residual_px
from functions.testing.truth import Points, Truth, load_truth
from functions.training.recipe import load_recipe

TESTING = pathlib.Path(__file__).resolve().parents[2] / "functions" / "testing"
SMALL = AcquisitionConfig(seed=3, tile_shape_yx=(72, 64), grid=(2, 2), overlap_px=20)
SECTIONS = 16


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return make_phantom(PhantomConfig(seed=5, shape_zyx=phantom_shape_zyx(SMALL, SECTIONS)))


@pytest.fixture(scope="module")
def acquired(phantom: Phantom, tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, Truth]:
    folder = tmp_path_factory.mktemp("phantom") / "acquisition"
    return folder, write_acquisition(folder, phantom, SMALL)


def test_the_seed_decides_every_voxel(phantom: Phantom) -> None:
    again = make_phantom(phantom.config)
    np.testing.assert_array_equal(again.image, phantom.image)
    np.testing.assert_array_equal(again.labels, phantom.labels)
    other = make_phantom(replace(phantom.config, seed=6))
    assert (other.labels != phantom.labels).mean() > 0.5


def test_bodies_fill_the_volume_and_each_is_one_piece(phantom: Phantom) -> None:
    labels = phantom.labels
    assert (phantom.image.dtype, labels.dtype) == (np.uint8, np.uint32)
    assert 0.65 < (labels > 0).mean() < 0.92
    sizes = np.bincount(labels.ravel())[1:]
    assert sizes.min() >= phantom.config.min_body_voxels
    assert len(sizes) >= 15
    assert len(np.unique(label(labels, connectivity=1))) == len(sizes) + 1


def test_touching_bodies_are_parted_by_a_dark_membrane(phantom: Phantom) -> None:
    labels, image = phantom.labels, phantom.image.astype(float)
    a, b = labels[:, :, :-1], labels[:, :, 1:]
    assert not ((a != b) & (a > 0) & (b > 0)).any()
    inside = np.median(image[labels > 0])
    gap = (labels[:, :, :-4] > 0) & (labels[:, :, 4:] > 0) & (labels[:, :, :-4] != labels[:, :, 4:])
    darkest = np.min([image[:, :, i : image.shape[2] - 4 + i] for i in range(5)], axis=0)[gap]
    assert gap.sum() > 500
    assert np.percentile(darkest, 90) < inside - 35


def test_smooth_noise_has_unit_deviation_and_its_scale() -> None:
    noise = smooth_noise((64, 256, 256), scale=8.0, rng=np.random.default_rng(0))
    assert noise.std() == pytest.approx(1.0, abs=0.1)
    assert np.abs(np.diff(noise, axis=2)).mean() < 0.2


def test_the_folder_is_a_plain_acquisition(acquired: tuple[pathlib.Path, Truth]) -> None:
    folder, truth = acquired
    assert sorted(p.name for p in folder.iterdir()) == ["acquisition.json", "tiles", "tiles.csv"]
    header = json.loads((folder / "acquisition.json").read_text())
    assert header["sections"] == [0, SECTIONS]
    with (folder / "tiles.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == SECTIONS * 4
    for row in rows[::7]:
        tile = tifffile.imread(folder / row["path"])
        assert tile.shape == (int(row["height_px"]), int(row["width_px"])) == SMALL.tile_shape_yx
        assert hashlib.sha256((folder / row["path"]).read_bytes()).hexdigest() == row["sha256"]
        where = int(row["section"]), int(row["row"]), int(row["column"])
        stage = float(row["stage_y_nm"]), float(row["stage_x_nm"])
        np.testing.assert_allclose(stage, truth.nominal_yx[where] * 16.0)
    acquisition = plain.read(folder).acquisition
    assert (len(acquisition.sections), len(acquisition.sections[0].tiles)) == (SECTIONS, 4)
    assert acquisition.missing_sections == ()


def test_tiles_show_the_tissue_that_the_truth_says(
    phantom: Phantom, acquired: tuple[pathlib.Path, Truth]
) -> None:
    folder, truth = acquired
    height, width = SMALL.tile_shape_yx
    points = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), -1).reshape(-1, 2)
    for section, row, column in ((0, 0, 0), (7, 1, 0), (15, 1, 1)):
        tile = tifffile.imread(folder / "tiles" / f"s{section:04d}" / f"r{row}_c{column}.tif")
        y, x = np.rint(truth.tile_to_phantom(section, row, column, points.astype(float))).astype(int).T
        true = np.corrcoef(tile.ravel(), phantom.image[section, y, x])[0, 1]
        wrong = np.corrcoef(tile.ravel(), phantom.image[section, y - 5, x])[0, 1]
        assert true > 0.85 > wrong + 0.2


def test_truth_is_invertible_and_survives_the_file(acquired: tuple[pathlib.Path, Truth]) -> None:
    folder, truth = acquired
    loaded = load_truth(folder.parent / "truth")
    for field in fields(truth):
        np.testing.assert_array_equal(getattr(loaded, field.name), getattr(truth, field.name))
    points = np.random.default_rng(0).uniform(0, 110, (200, 2))
    there = loaded.section_to_phantom(4, points)
    np.testing.assert_allclose(loaded.phantom_to_section(4, there), points, atol=1e-9)
    assert np.abs(there - points).max() > 5


def test_scores_are_zero_for_the_truth_and_see_errors(acquired: tuple[pathlib.Path, Truth]) -> None:
    truth = acquired[1]

    def nominal(section: int, row: int, column: int, points: Points) -> Points:
        return np.asarray(points + truth.nominal_yx[section, row, column])

    def shifted(section: int, row: int, column: int, points: Points) -> Points:
        return truth.tile_to_phantom(section, row, column, points) + np.array([0.0, 3.0 * (section % 2)])

    assert stitch_residual_px(truth, truth.tile_to_section).p95 == pytest.approx(0, abs=1e-9)
    assert align_residual_px(truth, truth.tile_to_phantom).p95 == pytest.approx(0, abs=1e-6)
    assert stitch_residual_px(truth, nominal).p95 > 4
    assert align_residual_px(truth, shifted).median == pytest.approx(3.0, abs=1e-6)


def test_truth_labels_follow_the_placement(phantom: Phantom, acquired: tuple[pathlib.Path, Truth]) -> None:
    truth = acquired[1]
    corner = np.array([30.0, 35.0])

    def place(section: int, row: int, column: int, points: Points) -> Points:
        return np.asarray(truth.tile_to_phantom(section, row, column, points) - corner)

    found = map_truth_labels(truth, place, (SECTIONS, 90, 80))
    expected = phantom.labels[:, 30:120, 35:115]
    seen = found > 0
    assert seen[:, 20:70, 20:60].mean() > 0.6
    assert ((expected > 0) == seen)[:, 20:70, 20:60].mean() > 0.97
    for body in np.unique(found[seen])[:20]:
        true, counts = np.unique(expected[found == body], return_counts=True)
        assert counts.max() / counts.sum() > 0.9
        assert true[counts.argmax()] > 0


def test_a_phantom_too_small_is_refused(phantom: Phantom, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="is smaller than"):
        write_acquisition(tmp_path / "a", phantom, replace(SMALL, grid=(3, 3)))
    assert not (tmp_path / "a").exists()


def test_rendered_volumes_have_the_grey_values_of_a_section(phantom: Phantom) -> None:
    volume = as_rendered(phantom, PhantomVolumes(seeds=(5,)))
    np.testing.assert_allclose(volume.image.mean(axis=(1, 2)), 128, atol=1.5)
    np.testing.assert_allclose(volume.image.std(axis=(1, 2)), 33, atol=1.5)
    assert (volume.labels == phantom.labels).mean() > 0.85


def test_the_recipe_and_its_network_belong_together() -> None:
    recipe = load_recipe(TESTING / "demo_network.toml").training
    path = TESTING / "demo_network.safetensors"
    model = load_model(path)
    assert path.stat().st_size <= 1_000_000
    assert model.network.config == recipe.network
    assert model.normalisation == recipe.normalisation
    assert model.inference == recipe.inference
    assert model.voxel_size_zyx_nm == recipe.voxel_size_zyx_nm
