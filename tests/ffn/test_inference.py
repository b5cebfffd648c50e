import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from ffn.checkpoint import Model
from ffn.config import InferenceConfig, NetworkConfig, Normalisation, SeedConfig
from ffn.device import choose_device
from ffn.engine import Engine
from ffn.importing import import_google_ffn
from ffn.inference import InferenceError, Progress, segment
from ffn.network import FloodFillingNetwork

FIB25 = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "fib25"
needs_fib25 = pytest.mark.skipif(not FIB25.is_dir(), reason="the FIB-25 data are not here")

SEEDS = SeedConfig(policy="distance", sigma_zyx=(6, 6, 6), smooth_zyx=(0, 0, 0), min_distance=3)
CONFIG = InferenceConfig(min_segment_size=400, seeds=SEEDS)


def brightness_model(config: InferenceConfig = CONFIG) -> Model:
    """A network written by hand: logits rise by 6 x (grey - 128) / 64, wherever it is bright, and fall else.

    It sees no connection, so objects must lie further apart than its field of view reaches (4 voxels).
    """
    network = FloodFillingNetwork(
        NetworkConfig(modules=1, features=2, fov_zyx=(9, 9, 9), deltas_zyx=(3, 3, 3))
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        centre = (1, 1, 1)
        network.conv0_a.weight[0, 0][centre] = 1  # the bright side of the image
        network.conv0_a.weight[1, 0][centre] = -1  # the dark side
        network.conv0_b.weight[0, 0][centre] = network.conv0_b.weight[1, 1][centre] = 1
        network.conv_lom.weight[0, :, 0, 0, 0] = torch.tensor([6.0, -6.0])
    return Model(
        network=network,
        normalisation=Normalisation(mean=128, std=64),
        voxel_size_zyx_nm=(10, 10, 10),
        inference=config,
    )


def two_slabs() -> tuple[np.ndarray, np.ndarray]:
    """Two bright, grainy slabs, 5 dark voxels apart, and their labels."""
    truth = np.zeros((26, 24, 28), np.uint32)
    truth[:, 3:21, 4:11] = 1
    truth[:, 3:21, 16:24] = 2
    grain = np.random.default_rng(0).integers(-20, 20, truth.shape)  # else all moves tie, and drift one way
    return (np.where(truth > 0, 192, 64) + grain).astype(np.uint8), truth


@pytest.mark.parametrize("batch", [1, 4])
def test_two_objects_are_flooded_to_their_borders(batch: int) -> None:
    image, truth = two_slabs()
    config = dataclasses.replace(CONFIG, frontier_batch=batch)
    found = segment(image, model=brightness_model(), config=config, keep_probabilities=True)
    assert found.labels.dtype == np.uint32
    assert [a.label for a in found.attempts if a.label] == [1, 2]
    assert not found.labels[truth == 0].any()
    for label in (1, 2):
        owner = truth[found.labels == label]
        assert (owner == owner[0]).all()
        assert len(owner) > 0.8 * (truth == owner[0]).sum()
    assert found.probabilities is not None
    assert np.array_equal(found.probabilities > 0, found.labels > 0)
    assert found.probabilities.max() == 255
    assert found.counters.fovs == len(found.moves_zyx) == sum(a.moves for a in found.attempts)
    assert found.counters.objects == 2
    assert (found.counters.calls == found.counters.fovs) is (batch == 1)
    assert (found.moves_zyx.min(axis=0) >= 4).all()


def test_the_same_volume_gives_the_same_segmentation() -> None:
    image, _ = two_slabs()
    first, second = (segment(image, model=brightness_model()) for _ in range(2))
    assert np.array_equal(first.labels, second.labels)
    assert np.array_equal(first.moves_zyx, second.moves_zyx)
    assert first.attempts == second.attempts


def test_leaving_out_near_moves_saves_calls() -> None:
    image, _ = two_slabs()
    every = segment(image, model=brightness_model())
    fewer = segment(image, model=brightness_model(), config=dataclasses.replace(CONFIG, min_move_distance=3))
    assert fewer.counters.fovs < every.counters.fovs
    assert fewer.counters.objects == 2


def test_small_objects_and_weak_seeds_come_to_nothing() -> None:
    image, _ = two_slabs()
    config = dataclasses.replace(CONFIG, min_segment_size=100_000)
    found = segment(image, model=brightness_model(), config=config)
    assert not found.labels.any()
    assert {a.outcome for a in found.attempts} == {"small"}
    assert found.counters.rejected_fovs == found.counters.fovs > 0
    dark = (image // 4 + 10).astype(np.uint8)  # all of it outside, for the network
    weak = segment(dark, model=brightness_model())
    assert {a.outcome for a in weak.attempts} == {"weak"}
    assert not weak.labels.any()


def test_the_mask_confines_centres_and_labels() -> None:
    image, truth = two_slabs()
    mask = np.zeros(image.shape, bool)
    mask[:, :, :13] = True
    found = segment(image, model=brightness_model(), mask=mask)
    assert found.counters.objects == 1
    assert mask[tuple(found.moves_zyx.T)].all()
    assert not found.labels[~mask].any()
    assert (found.labels[truth == 1] == 1).mean() > 0.9


def test_fill_rounds_find_what_the_first_seeds_missed() -> None:
    image, truth = two_slabs()
    seeds = dataclasses.replace(SEEDS, min_distance=12)  # a peak in one slab hides those of the other
    once = segment(image, model=brightness_model(), config=dataclasses.replace(CONFIG, seeds=seeds))
    more = dataclasses.replace(CONFIG, seeds=dataclasses.replace(seeds, fill_rounds=5))
    filled = segment(image, model=brightness_model(), config=more)
    assert filled.attempts[: len(once.attempts)] == once.attempts
    assert once.counters.objects < filled.counters.objects == 2
    assert (filled.labels > 0)[truth > 0].mean() > 0.8


@pytest.mark.parametrize("shape", [(8, 30, 30), (0, 9, 9), (5, 5, 5)])
def test_a_volume_below_the_field_of_view_has_no_objects(shape: tuple[int, int, int]) -> None:
    found = segment(np.zeros(shape, np.uint8), model=brightness_model())
    assert found.labels.shape == shape
    assert not found.labels.any()
    assert found.counters.seeds == found.counters.fovs == 0
    assert found.moves_zyx.shape == (0, 3)


@pytest.mark.parametrize("policy", ["peaks", "distance"])
def test_a_constant_volume_has_no_objects(policy: str) -> None:
    config = InferenceConfig(seeds=SeedConfig(policy=policy))  # type: ignore[arg-type]
    found = segment(np.full((20, 20, 20), 190, np.uint8), model=brightness_model(), config=config)
    assert not found.labels.any()
    assert found.attempts == ()


def test_what_cannot_be_flooded_is_said() -> None:
    model = brightness_model()
    with pytest.raises(InferenceError, match="image: has NaN"):
        segment(np.full((20, 20, 20), np.nan, np.float32), model=model)
    with pytest.raises(InferenceError, match="image: expected three axes"):
        segment(np.zeros((20, 20), np.uint8), model=model)
    with pytest.raises(InferenceError, match="image: expected integers or floats"):
        segment(np.zeros((20, 20, 20), complex), model=model)
    with pytest.raises(InferenceError, match="mask: expected bool"):
        segment(np.zeros((20, 20, 20), np.uint8), model=model, mask=np.ones((20, 20, 19), bool))


def test_progress_counts_up() -> None:
    image, _ = two_slabs()
    seen: list[Progress] = []
    found = segment(image, model=brightness_model(), progress=seen.append)
    assert len(seen) == len(found.attempts)
    assert seen[-1].objects == 2
    assert seen[-1].fovs == found.counters.fovs
    assert seen[-1].labelled_voxels == (found.labels > 0).sum()
    assert all(a.seeds_done < b.seeds_done <= b.seeds for a, b in itertools.pairwise(seen))


def test_the_budget_stops_in_the_middle_of_an_object() -> None:
    image, _ = two_slabs()
    whole = segment(image, model=brightness_model())
    part = segment(image, model=brightness_model(), max_fovs=5)
    assert np.array_equal(part.moves_zyx, whole.moves_zyx[:5])
    assert part.attempts == ()


def test_padding_the_batch_changes_no_answer() -> None:
    torch.manual_seed(0)
    network = FloodFillingNetwork(
        NetworkConfig(modules=2, features=4, fov_zyx=(9, 9, 9), deltas_zyx=(3, 3, 3))
    )
    engine = Engine(network, Normalisation(mean=128, std=33), device=torch.device("cpu"), kernel="torch")
    assert engine.least_batch == 2
    random = np.random.default_rng(0)
    images = list(random.integers(0, 255, (3, 9, 9, 9)).astype(np.uint8))
    beliefs = list(random.normal(size=(3, 9, 9, 9)).astype(np.float32))
    together = engine.predict(images, beliefs)
    assert together.shape == (3, 9, 9, 9)
    for i in range(3):
        assert engine.predict(images[i : i + 1], beliefs[i : i + 1])[0] == pytest.approx(
            together[i], abs=1e-5
        )


def test_a_large_single_field_of_view_needs_no_padding() -> None:
    network = FloodFillingNetwork(NetworkConfig(modules=1))
    assert Engine(network, Normalisation(), device=torch.device("cpu")).least_batch == 1


def test_a_device_that_is_not_there_is_said() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="'abacus' is not available here; use auto or one of"):
        choose_device("abacus")


def google_box() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The raw box 77..173 of the block, and what google/ffn made of it: segmentation and moves."""
    with np.load(FIB25 / "training_sample2_z000-173.npz") as block:
        raw = block["raw"][77:173, 77:173, 77:173]
    with np.load(FIB25 / "google_ffn_box_z077-173_y077-173_x077-173.npz") as box:
        return raw, box["segmentation"], box["moves_zyx"]


@needs_fib25
def test_the_first_moves_are_those_of_google_ffn() -> None:
    torch.set_num_threads(1)
    raw, _, moves = google_box()
    model = import_google_ffn(FIB25 / "fib25_weights.npz")
    found = segment(raw, model=model, max_fovs=8)
    assert np.array_equal(found.moves_zyx, moves[:8])
    assert [(a.moves, a.voxels) for a in found.attempts] == [(1, 28546)]


@needs_fib25
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_box_is_segmented_as_by_google_ffn_voxel_for_voxel() -> None:
    torch.set_num_threads(1)
    raw, segmentation, moves = google_box()
    found = segment(raw, model=import_google_ffn(FIB25 / "fib25_weights.npz"))
    assert np.array_equal(found.moves_zyx, moves)
    assert np.array_equal(found.labels, segmentation)
    assert (found.counters.attempts, found.counters.objects) == (27, 15)
