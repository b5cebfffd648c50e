"""One step on tensors does what `Canvas` and `face_maxima` do field of view by field of view."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from ffn.canvas import Canvas, Thresholds
from ffn.config import InferenceConfig, Triple
from ffn.device_canvas import AHEAD, DeviceCanvas, Slot
from ffn.faces import face_places, least_count
from ffn.movement import Frontier, face_maxima
from ffn.network import IMAGE, SEED

FOV: Triple = (5, 7, 9)
DELTAS: Triple = (1, 3, 2)
SHAPES: tuple[Triple, ...] = ((14, 20, 22), (11, 24, 18))
BATCH = 5
CENTRES: tuple[Triple, ...] = ((6, 9, 10), (5, 12, 8), (6, 11, 12))  # the last overlaps the first


def host(number: int, disco: float | None) -> Canvas:
    image = np.random.default_rng(number).integers(0, 255, SHAPES[number]).astype(np.uint8)
    thresholds = Thresholds.of(InferenceConfig(disco_seed_threshold=disco))
    return Canvas(image, fov_zyx=FOV, thresholds=thresholds)


def on_device(canvases: list[Canvas], *, in_c: bool, channels_last: bool = False) -> DeviceCanvas:
    device = DeviceCanvas(
        [canvas.image.astype(np.float32) for canvas in canvases],
        [canvas.find_closed() for canvas in canvases],
        fov_zyx=FOV,
        deltas_zyx=DELTAS,
        thresholds=canvases[0].thresholds,
        lanes=2,
        batch=BATCH,
        least=1,
        device=torch.device("cpu"),
        memory_format=torch.channels_last_3d if channels_last else torch.contiguous_format,
    )
    if not in_c:
        device.native = None
    return device


def asked(device: DeviceCanvas, rows: list[tuple[int, Triple]], ahead: list[Triple]) -> Slot:
    """A step with these centres (lane = subvolume), idle rows behind them; the seed is the first centre."""
    slot = Slot(BATCH, device.faces, torch.device("cpu"))
    table = [device.idle_row] * BATCH
    for row, (lane, centre) in enumerate(rows):
        corner = [c - n // 2 for c, n in zip(centre, FOV, strict=True)]
        cell = Frontier(CENTRES[lane], deltas_zyx=DELTAS).cell_corner(centre)
        queued = [device.voxel(lane, position) for position in ahead]
        table[row] = [
            device.voxel(lane, corner),
            device.voxel(lane, corner),
            device.voxel(lane, cell),
            device.voxel(lane, CENTRES[lane]),
            *queued,
            *device.idle_row[1 : 1 + AHEAD - len(queued)],
        ]
    slot.asked.copy_(torch.tensor(table))
    return slot


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("in_c", [False, True])
@pytest.mark.parametrize("disco", [0.0, 0.5, None])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_step_is_what_two_canvases_do(
    in_c: bool, channels_last: bool, disco: float | None, seed: int
) -> None:
    """Two steps of moves in two lanes; in the second, two moves of one lane overlap."""
    random = np.random.default_rng(seed)
    canvases = [host(0, disco), host(1, disco)]
    device = on_device(canvases, in_c=in_c, channels_last=channels_last)
    for lane, canvas in enumerate(canvases):
        canvas.begin(CENTRES[lane])
        device.begin(lane, CENTRES[lane])
    for rows, ranks in (
        ([(0, CENTRES[0]), (1, CENTRES[1])], [slice(0, 2)]),
        ([(1, CENTRES[1]), (0, CENTRES[2]), (0, CENTRES[0])], [slice(0, 2), slice(2, 3)]),
    ):
        answers = random.normal(1.0, 2.0, (BATCH, *FOV)).round(1).astype(np.float32)
        seen: list[NDArray[np.float32]] = []

        def network(x: Tensor, answers: NDArray[np.float32] = answers, seen: list = seen) -> Tensor:  # type: ignore[type-arg]
            seen.append(x.clone().numpy())
            return torch.from_numpy(answers)

        gathered = [canvases[lane].gather(centre) for lane, centre in rows]
        slot = asked(device, rows, [CENTRES[2], CENTRES[0]])
        device.step(slot, ranks, network)
        for (image, belief), x in zip(gathered, seen[0], strict=False):
            assert np.array_equal(x[IMAGE], image)
            assert np.array_equal(x[SEED], belief)
        found = device.collect(slot)
        written = [
            canvases[lane].scatter(centre, answer)
            for (lane, centre), answer in zip(rows, answers, strict=False)
        ]
        for (lane, centre), logits, row in zip(rows, written, found, strict=False):
            whole = tuple(slice(0, n) for n in SHAPES[lane])
            belief = device.download(lane, (whole[0], whole[1], whole[2]))
            assert np.array_equal(belief, canvases[lane].belief, equal_nan=True)
            check_row(device, canvases[lane], lane, centre, logits, row)


def check_row(
    device: DeviceCanvas,
    canvas: Canvas,
    lane: int,
    centre: Triple,
    logits: NDArray[np.float32],
    row: list[float],
) -> None:
    """The answers of one row: candidates, what is believed there, at the seed and ahead."""
    k, move = device.faces, canvas.thresholds.move
    places = [device.offsets[face][int(row[k + face])] for face in range(k)]
    frontier = Frontier(CENTRES[lane], deltas_zyx=DELTAS)
    corner = frontier.cell_corner(centre)
    closed = canvas.find_closed()

    def is_open(offset: Triple) -> bool:
        position = tuple(c + o for c, o in zip(centre, offset, strict=True))
        return not closed[position] and frontier.cell_corner(position) != corner  # type: ignore[arg-type]

    expected = face_maxima(logits, deltas_zyx=DELTAS, threshold=move)
    kept = {(score, place) for score, place in zip(row[:k], places, strict=True) if not score < move}
    assert kept <= set(expected)
    assert {(score, place) for score, place in expected if is_open(place)} >= kept
    for score, place in set(expected) - kept:
        position = tuple(c + o for c, o in zip(centre, place, strict=True))
        in_lane = device._visited_boxes[(lane, *position)] | device._closed_boxes[(lane, *position)]
        assert in_lane > 0, (score, place)
    for place, belief in zip(places, row[2 * k : 3 * k], strict=True):
        assert belief == canvas.belief[tuple(c + o for c, o in zip(centre, place, strict=True))]
    assert row[3 * k] == canvas.belief[CENTRES[lane]]
    for value, position in zip(row[3 * k + 1 :], (CENTRES[2], CENTRES[0]), strict=False):
        assert value == canvas.belief[position] or (math.isnan(value) and np.isnan(canvas.belief[position]))


@pytest.mark.parametrize("deltas", [(2, 3, 4), (0, 3, 3), (1, 0, 0), (3, 3, 3)])
@given(seed=st.integers(0, 2**32 - 1), levels=st.integers(1, 9))
def test_the_first_maximum_of_each_face_is_that_of_face_maxima(
    deltas: Triple, seed: int, levels: int
) -> None:
    """Few levels, so that many voxels tie."""
    shape: Triple = (7, 9, 11)
    logits = np.random.default_rng(seed).integers(-levels, levels, shape).astype(np.float32)
    places, offsets = face_places(shape, deltas)
    assert len(places) == 2 * np.count_nonzero(deltas)
    scores, best = torch.from_numpy(logits.reshape(-1))[torch.from_numpy(places)].max(1)
    found = {
        (score, offsets[face][place])
        for face, (score, place) in enumerate(zip(scores.tolist(), best.tolist(), strict=True))
        if score >= 1.0
    }
    assert sorted(found, reverse=True) == face_maxima(logits, deltas_zyx=deltas, threshold=1.0)


@given(st.floats(-1, 1.5), st.integers(1, 40000))
def test_the_count_for_the_disco_rule_is_the_least_above_the_fraction(fraction: float, voxels: int) -> None:
    count = least_count(fraction, voxels)
    assert count is not None
    assert count / voxels > fraction
    assert count == 0 or (count - 1) / voxels <= fraction
    assert least_count(0.0, voxels) == 1
    assert least_count(None, voxels) is None


def test_a_lane_is_cleared_for_the_next_object() -> None:
    device = on_device([host(0, 0.0), host(1, 0.0)], in_c=True)
    device.begin(1, CENTRES[1])
    assert device.sample([device.voxel(1, CENTRES[1])]) == [pytest.approx(2.944439, abs=1e-6)]
    slot = asked(device, [(0, CENTRES[0]), (1, CENTRES[1])], [])
    device.step(slot, [slice(0, 2)], lambda x: x[:, IMAGE])
    assert device._visited_boxes[1].any()
    box = (slice(0, 11), slice(0, 24), slice(0, 18))
    device.clear(1, box)
    assert np.isnan(device.download(1, box)).all()
    assert not device._visited_boxes[1].any()
    assert not np.isnan(device.download(0, box)).all()


def test_labels_close_the_way_to_candidates() -> None:
    canvases = [host(0, None), host(1, None)]
    device = on_device(canvases, in_c=True)
    device.begin(0, CENTRES[0])
    taken = np.zeros(SHAPES[0], bool)
    taken[:, :, 11:] = True
    device.close(0, (slice(0, 14), slice(0, 20), slice(0, 22)), taken)
    answers = torch.full((BATCH, *FOV), 1.0)
    answers[0, 2, 3, 4 + 2], answers[0, 2, 3, 4 - 2] = 9.0, 8.0  # on the faces +x and -x
    slot = asked(device, [(0, CENTRES[0])], [])
    device.step(slot, [slice(0, BATCH)], lambda _: answers)
    scores = device.collect(slot)[0][: device.faces]
    assert 8.0 in scores
    assert 9.0 not in scores
