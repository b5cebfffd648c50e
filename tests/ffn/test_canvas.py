import numpy as np
import pytest

from ffn.canvas import Canvas, Thresholds, quantise_probability
from ffn.config import InferenceConfig

FIB25 = Thresholds.of(InferenceConfig())


def make(*, allowed: np.ndarray | None = None, keep: bool = False) -> Canvas:
    image = np.arange(20**3, dtype=np.uint16).reshape(20, 20, 20)
    return Canvas(image, fov_zyx=(5, 7, 9), thresholds=FIB25, allowed=allowed, keep_probabilities=keep)


def test_thresholds_are_the_logits_of_the_probabilities() -> None:
    assert (FIB25.init, FIB25.pad) == pytest.approx((2.944439, -2.944439), abs=1e-6)
    assert (FIB25.move, FIB25.segment) == pytest.approx((2.197225, 0.405465), abs=1e-6)
    assert FIB25.disco == 0.0


def test_unseen_voxels_are_padded_only_in_what_the_network_sees() -> None:
    canvas = make()
    canvas.begin((10, 10, 10))
    image, belief = canvas.gather((10, 10, 10))
    assert image.shape == belief.shape == (5, 7, 9)
    assert belief[2, 3, 4] == np.float32(FIB25.init)
    assert (belief == np.float32(FIB25.pad)).sum() == belief.size - 1
    assert np.isnan(canvas.belief).sum() == canvas.belief.size - 1


def test_the_field_of_view_must_lie_inside() -> None:
    canvas = make()
    assert canvas.may_start((2, 3, 4))
    assert canvas.may_start((17, 16, 15))
    assert not canvas.may_start((1, 3, 4))
    assert not canvas.may_start((17, 16, 16))


def test_what_was_outside_may_not_rise_once_there_is_an_object() -> None:
    canvas = make()
    canvas.begin((10, 10, 10))
    low = np.full((5, 7, 9), -1, np.float32)
    canvas.scatter((10, 10, 10), low)
    answer = np.full((5, 7, 9), 1, np.float32)
    assert (canvas.scatter((10, 10, 10), answer) == 1).all()  # no object here: may rise
    canvas.scatter((10, 10, 10), low)
    answer[0, 0, 0] = 3
    assert (canvas.scatter((10, 10, 10), answer) == -1).all()
    moved = canvas.scatter((10, 10, 13), answer)
    assert (moved[:, :, :6] == -1).all()  # seen before
    assert (moved[:, :, 6:] == 1).all()  # unseen: exempt


def test_the_rule_can_be_turned_off() -> None:
    canvas = make()
    canvas.thresholds = Thresholds.of(InferenceConfig(disco_seed_threshold=None))
    canvas.begin((10, 10, 10))
    canvas.scatter((10, 10, 10), np.full((5, 7, 9), -1, np.float32))
    assert (canvas.scatter((10, 10, 10), np.full((5, 7, 9), 3, np.float32)) == 3).all()


def test_an_object_takes_only_what_is_free() -> None:
    canvas = make(keep=True)
    canvas.begin((10, 10, 10))
    canvas.scatter((10, 10, 10), np.full((5, 7, 9), 4, np.float32))
    assert canvas.commit(1, min_size=316) == 0
    assert canvas.commit(1, min_size=315) == 315
    assert not canvas.may_start((10, 10, 10))
    assert canvas.touches_object((10, 10, 15), distance_zyx=(1, 1, 1))
    assert not canvas.touches_object((10, 10, 16), distance_zyx=(1, 1, 1))
    canvas.begin((10, 10, 15))
    assert np.isnan(canvas.belief).sum() == canvas.belief.size - 1  # the last object is forgotten
    canvas.scatter((10, 10, 15), np.full((5, 7, 9), 4, np.float32))
    assert canvas.commit(2, min_size=1) == 5 * 7 * 5
    assert np.bincount(canvas.labels.ravel())[1:].tolist() == [315, 175]
    assert canvas.probabilities is not None
    assert np.array_equal(canvas.probabilities > 0, canvas.labels > 0)


def test_labels_keep_to_the_mask() -> None:
    allowed = np.zeros((20, 20, 20), bool)
    allowed[:, :, :11] = True
    canvas = make(allowed=allowed)
    assert not canvas.may_start((10, 10, 11))
    canvas.begin((10, 10, 10))
    canvas.scatter((10, 10, 10), np.full((5, 7, 9), 4, np.float32))
    assert canvas.commit(1, min_size=1) == 5 * 7 * 5


def test_the_rim_and_what_the_mask_forbids_are_closed_to_centres() -> None:
    allowed = np.ones((20, 20, 20), bool)
    allowed[:, :, 12:] = False
    canvas = make(allowed=allowed)
    closed = canvas.find_closed()
    everywhere = np.argwhere(np.ones(closed.shape, bool)).tolist()
    opened = [position for position in everywhere if canvas.is_open(tuple(position))]
    assert np.argwhere(~closed).tolist() == opened
    assert np.count_nonzero(~closed) == 16 * 14 * 8
    tiny = Canvas(np.zeros((4, 9, 9), np.uint8), fov_zyx=(5, 7, 9), thresholds=FIB25)
    assert tiny.find_closed().all()


def test_a_failed_seed_is_no_obstacle_but_leaves_its_mark() -> None:
    canvas = make()
    canvas.fail((10, 10, 10))
    assert canvas.labels[10, 10, 10] == -1
    assert canvas.may_start((10, 10, 10))


def test_probabilities_are_quantised_as_by_google_ffn() -> None:
    logits = np.linspace(-12, 18, 999).astype(np.float32)
    probability = 1 / (1 + np.exp(-logits.astype(np.float64)))
    assert np.array_equal(quantise_probability(logits), np.digitize(probability, np.linspace(0, 1, 255)))
