"""Resegmentation with a network made by hand: it floods what is bright, and knows no borders."""

import dataclasses

import numpy as np
import pytest
import torch

from ffn.candidates import DecisionPoint, find_contacts
from ffn.checkpoint import Model
from ffn.config import ConfigError, InferenceConfig, NetworkConfig, Normalisation
from ffn.evidence import PairEvidence, jaccard, max_edt_nm, recovered_fraction
from ffn.inference import InferenceError
from ffn.network import FloodFillingNetwork
from ffn.resegmentation import ResegmentationConfig, resegment

SETTINGS = ResegmentationConfig(
    radius_zyx=(12, 12, 24), analysis_radius_zyx=(8, 8, 14), exclusion_radius_zyx=(3, 3, 3)
)


def brightness_model(bias: float = 0.0) -> Model:
    """Logits rise by 6 x (grey - 128) / 64 where it is bright and fall where it is dark; plus a bias."""
    network = FloodFillingNetwork(
        NetworkConfig(modules=1, features=2, fov_zyx=(9, 9, 9), deltas_zyx=(3, 3, 3))
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        centre = (1, 1, 1)
        network.conv0_a.weight[0, 0][centre] = 1
        network.conv0_a.weight[1, 0][centre] = -1
        network.conv0_b.weight[0, 0][centre] = network.conv0_b.weight[1, 1][centre] = 1
        network.conv_lom.weight[0, :, 0, 0, 0] = torch.tensor([6.0, -6.0])
        network.conv_lom.bias[0] = bias
    return Model(
        network=network,
        normalisation=Normalisation(mean=128, std=64),
        voxel_size_zyx_nm=(10, 10, 10),
        inference=InferenceConfig(),
    )


def grey(truth: np.ndarray) -> np.ndarray:
    grain = np.random.default_rng(0).integers(-20, 20, truth.shape)
    return (np.where(truth > 0, 192, 64) + grain).astype(np.uint8)


def neurites() -> tuple[np.ndarray, np.ndarray]:
    """Two neurites along x, 6 dark voxels apart, and labels that cut the first at x = 30."""
    truth = np.zeros((26, 40, 60), np.uint32)
    truth[4:22, 4:16, :] = 1
    truth[4:22, 22:36, :] = 2
    labels = truth.astype(np.uint64)
    labels[truth == 1] = 2**40
    labels[:, :, 30:][truth[:, :, 30:] == 1] = 2**40 + 1
    return grey(truth), labels


def evidence_of(
    image: np.ndarray, labels: np.ndarray, point: DecisionPoint, settings: ResegmentationConfig = SETTINGS
) -> PairEvidence:
    (evidence,) = resegment(
        image, labels, [point], model=brightness_model(), settings=settings, kernel="torch"
    )
    return evidence


def point(first: int, second: int, *zyx: int) -> DecisionPoint:
    return DecisionPoint(first=first, second=second, point_zyx=(zyx[0], zyx[1], zyx[2]), distance_nm=0.0)


def test_halves_of_one_neurite_give_the_same_object_from_both_sides() -> None:
    image, labels = neurites()
    contacts = find_contacts(labels, voxel_size_zyx_nm=(10, 10, 10), max_distance_nm=10)
    points = [contact.point for contact in contacts]
    halves = [p for p in points if p.second == 2**40 + 1 and p.first == 2**40]
    assert len(halves) == 1
    found = evidence_of(image, labels, halves[0])
    assert found.iou > 0.95
    assert found.from_first is not None
    assert found.from_second is not None
    for side in (found.from_first, found.from_second):
        assert side.attempts == 1
        assert min(side.recovered_first, side.recovered_second) > 0.9
        assert side.foreign_fraction == side.deletion_fraction == 0.0
    assert labels[found.from_first.seed_zyx] == 2**40
    assert labels[found.from_second.seed_zyx] == 2**40 + 1
    box = labels[
        tuple(slice(max(c - r, 0), c + r + 1) for c, r in zip(found.point_zyx, (8, 8, 14), strict=True))
    ]
    assert found.voxels_first == (box == 2**40).sum()
    assert found.voxels_second == (box == 2**40 + 1).sum()
    assert found.max_edt_first_nm == max_edt_nm(box == 2**40, (10, 10, 10))
    assert found.moves == found.from_first.moves + found.from_second.moves > 10


def test_neighbours_give_different_objects() -> None:
    image, labels = neurites()
    found = evidence_of(image, labels, point(2, 2**40, 12, 19, 20))
    assert found.iou == 0.0
    assert found.from_first is not None
    assert found.from_second is not None
    assert found.from_first.recovered_first > 0.9
    assert found.from_first.recovered_second == 0.0
    assert found.from_second.recovered_first == 0.0
    assert found.from_second.recovered_second > 0.8


def test_other_segments_are_no_place_to_go() -> None:
    """A third segment lies across the neurite between the two: it is seen from beside, but not entered."""
    image, labels = neurites()
    labels[labels == 2**40 + 1] = 2**40
    labels[:, :, 34:][labels[:, :, 34:] == 2**40] = 2**40 + 1
    labels[:, :16, 24:34][labels[:, :16, 24:34] > 0] = 5
    found = evidence_of(image, labels, point(2**40, 2**40 + 1, 12, 10, 29))
    assert found.from_first is not None
    assert found.from_first.recovered_second == 0.0
    assert 0.0 < found.from_first.foreign_fraction < 0.5
    assert found.iou < 0.2


def test_stopping_early_saves_the_second_flooding_of_a_lost_pair_only() -> None:
    image, labels = neurites()
    early = dataclasses.replace(SETTINGS, stop_early=True)
    lost = evidence_of(image, labels, point(2, 2**40, 12, 19, 20), early)
    assert lost.voxels_first > lost.voxels_second
    assert lost.from_second is not None  # the smaller one is flooded first
    assert (lost.from_first, lost.iou) == (None, 0.0)
    far = evidence_of(image, labels, point(2, 2**40, 12, 15, 20), early)
    assert far.voxels_first < far.voxels_second
    assert far.from_first is not None
    assert far.from_second is None
    assert evidence_of(image, labels, point(2**40, 2**40 + 1, 12, 10, 30), early).iou > 0.95


def test_seeds_are_tried_until_enough_is_recovered() -> None:
    """A dark scar where the segment is deepest: seeds there fail, one beyond succeeds; the best is kept."""
    image, labels = neurites()
    wide = image.copy()
    wide[:, :18, 11:21] = 40
    found = evidence_of(
        wide,
        labels,
        point(2**40, 2**40 + 1, 12, 10, 24),
        dataclasses.replace(SETTINGS, radius_zyx=(12, 12, 20)),
    )
    assert found.from_first is not None
    assert found.from_first.attempts > 1
    assert image.shape[2] > found.from_first.seed_zyx[2] >= 21
    once = dataclasses.replace(SETTINGS, radius_zyx=(12, 12, 20), max_attempts=1)
    assert evidence_of(wide, labels, point(2**40, 2**40 + 1, 12, 10, 24), once).from_first.attempts == 1  # type: ignore[union-attr]


def test_voxels_taken_back_are_counted() -> None:
    """A network that always answers "outside" first believes its seed, then deletes that one voxel."""
    image, labels = neurites()
    (found,) = resegment(
        image,
        labels,
        [point(2**40, 2**40 + 1, 12, 10, 30)],
        model=brightness_model(bias=-30.0),
        settings=dataclasses.replace(SETTINGS, analysis_radius_zyx=(12, 12, 24), max_attempts=1),
        kernel="torch",
    )
    assert found.from_first is not None
    assert (found.from_first.voxels, found.from_first.deleted_voxels, found.from_first.moves) == (0, 1, 1)
    assert found.from_first.deletion_fraction == 1.0
    assert found.iou == 0.0


def test_a_cube_without_room_for_a_seed_gives_no_objects() -> None:
    image, labels = neurites()
    found = evidence_of(
        image,
        labels,
        point(2**40, 2**40 + 1, 12, 10, 30),
        dataclasses.replace(SETTINGS, radius_zyx=(3, 3, 3), analysis_radius_zyx=(3, 3, 3)),
    )
    assert (found.from_first, found.from_second, found.iou) == (None, None, 0.0)
    assert found.voxels_first > 0
    absent = evidence_of(image, labels, point(77, 2**40, 12, 10, 30))
    assert (absent.from_first, absent.voxels_first) == (None, 0)


def test_the_mask_confines_seeds_and_moves() -> None:
    image, labels = neurites()
    mask = np.ones(image.shape, bool)
    mask[:, :, 30:] = False
    (found,) = resegment(
        image,
        labels,
        [point(2**40, 2**40 + 1, 12, 10, 30)],
        model=brightness_model(),
        settings=SETTINGS,
        mask=mask,
        kernel="torch",
    )
    assert found.from_second is None
    assert found.from_first is not None
    assert found.from_first.recovered_second < 0.5


def test_the_settings_suit_the_network() -> None:
    assert ResegmentationConfig.suiting(NetworkConfig()) == ResegmentationConfig()
    small = ResegmentationConfig.suiting(NetworkConfig(fov_zyx=(9, 17, 17), deltas_zyx=(2, 4, 4)))
    assert small.radius_zyx == (14, 26, 26)
    assert small.analysis_radius_zyx == (10, 18, 18)
    assert small.exclusion_radius_zyx == (2, 4, 4)
    with pytest.raises(ConfigError, match="analysis_radius_zyx: must not exceed"):
        ResegmentationConfig(radius_zyx=(20, 20, 20))
    with pytest.raises(ConfigError, match="recovery_fraction"):
        ResegmentationConfig(recovery_fraction=0.0)


@pytest.mark.parametrize("batch", [2, 3, 16])
def test_many_pairs_at_once_give_the_same_evidence_in_the_same_order(batch: int) -> None:
    """Pairs of different length, one of them over at once: none waits for another, none mixes with it."""
    image, labels = neurites()
    a, b = 2**40, 2**40 + 1
    points = [
        point(a, b, 12, 10, 30),
        point(77, a, 12, 10, 30),
        point(2, a, 12, 19, 20),
        point(2, b, 12, 19, 40),
        point(a, b, 8, 10, 28),
        point(a, b, 18, 8, 33),
    ]
    calls = []

    def found(batch: int) -> list[PairEvidence]:
        model = brightness_model()
        model.network.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
        settings = dataclasses.replace(SETTINGS, stop_early=True)
        return list(
            resegment(image, labels, points, model=model, settings=settings, kernel="torch", batch=batch)
        )

    serial = found(1)
    assert [e.point_zyx for e in serial] == [p.point_zyx for p in points]
    assert len({e.moves for e in serial}) > 3
    one_by_one = len(calls)
    assert found(batch) == serial
    assert len(calls) - one_by_one < one_by_one / min(batch, 3) * 1.5  # rows of a call are shared


def test_wrong_volumes_are_named() -> None:
    image, labels = neurites()
    with pytest.raises(ValueError, match="labels: shape"):
        evidence_of(image, labels[1:], point(1, 2, 1, 1, 1))
    with pytest.raises(ValueError, match=r"points: .* lies outside"):
        evidence_of(image, labels, point(1, 2, 1, 1, 60))
    with pytest.raises(ConfigError, match="batch"):
        resegment(image, labels, [], model=brightness_model(), batch=0)
    with pytest.raises(InferenceError, match="NaN"):
        evidence_of(np.full(image.shape, np.nan, np.float32), labels, point(2, 2**40, 12, 19, 20))


def test_measures_of_nothing_are_nothing() -> None:
    none, all_ = np.zeros((2, 3, 4), bool), np.ones((2, 3, 4), bool)
    assert (recovered_fraction(all_, none), jaccard(none, none), max_edt_nm(none, (1, 1, 1))) == (0, 0, 0)
    assert max_edt_nm(all_, (1, 1, 1)) == pytest.approx(29**0.5)
    assert jaccard(none, all_) == 0.0
    assert recovered_fraction(all_, all_) == 1.0
