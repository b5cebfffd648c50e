"""A subvolume that is put away and taken up again ends as if it had never stopped."""

import dataclasses
import io
import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ffn.config import InferenceConfig
from ffn.inference import Progress, Segmentation, Snapshot, SnapshotError, segment
from tests.ffn.test_inference import CONFIG, SEEDS, brightness_model, two_slabs

FILLED = dataclasses.replace(
    CONFIG, frontier_batch=3, seeds=dataclasses.replace(SEEDS, min_distance=12, fill_rounds=3)
)
SKIPPING = dataclasses.replace(CONFIG, min_move_distance=3)


class KilledError(Exception):
    """Stands for whatever ends a process."""


def flood(config: InferenceConfig, **more: object) -> Segmentation:
    image, _ = two_slabs()
    return segment(
        image,
        model=brightness_model(),
        config=config,
        keep_probabilities=True,
        kernel="torch",
        **more,  # type: ignore[arg-type]
    )


def snapshots(config: InferenceConfig) -> list[Snapshot]:
    """One from every place where there may be one."""
    found: list[Snapshot] = []
    flood(config, on_checkpoint=found.append, checkpoint_seconds=0.0)
    return found


def assert_same(found: Segmentation, expected: Segmentation) -> None:
    assert np.array_equal(found.labels, expected.labels)
    assert found.probabilities is not None
    assert expected.probabilities is not None
    assert np.array_equal(found.probabilities, expected.probabilities)
    assert found.attempts == expected.attempts
    assert np.array_equal(found.moves_zyx, expected.moves_zyx)
    without_clock = {"seconds_network": 0.0, "seconds_host": 0.0}
    assert dataclasses.replace(found.counters, **without_clock) == dataclasses.replace(
        expected.counters, **without_clock
    )


def through_a_file(snapshot: Snapshot) -> Snapshot:
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **snapshot.to_arrays())
    file.seek(0)
    with np.load(file, allow_pickle=False) as archive:
        return Snapshot.from_arrays({name: archive[name] for name in archive.files})


@pytest.mark.parametrize("config", [CONFIG, FILLED, SKIPPING], ids=["plain", "fill rounds", "skipping"])
def test_every_snapshot_leads_to_the_same_result(config: InferenceConfig) -> None:
    whole = flood(config)
    parts = snapshots(config)
    inside = [p for p in parts if len(p.seed)]
    between = [p for p in parts if not len(p.seed)]
    assert len(between) == len(whole.attempts)
    assert len(inside) == whole.counters.calls
    chosen = [*inside[:: max(len(inside) // 4, 1)], *between]
    for part in chosen:
        assert_same(flood(config, resume=through_a_file(part)), whole)


def test_the_three_cases_are_what_they_are_called() -> None:
    assert flood(SKIPPING).counters.skipped_moves > 0
    assert flood(CONFIG).counters.skipped_moves == 0
    assert snapshots(FILLED)[-1].fill_round > 0


def test_raised_in_the_middle_and_gone_on_twice() -> None:
    whole = flood(CONFIG)
    kept: list[Snapshot] = []

    def killer(after: int) -> Callable[[Snapshot], None]:
        calls = 0

        def keep(snapshot: Snapshot) -> None:
            nonlocal calls
            kept.append(through_a_file(snapshot))
            calls += 1
            if calls == after:
                raise KilledError

        return keep

    with pytest.raises(KilledError):
        flood(CONFIG, on_checkpoint=killer(3), checkpoint_seconds=0.0)
    with pytest.raises(KilledError):
        flood(CONFIG, resume=kept[-1], on_checkpoint=killer(4), checkpoint_seconds=0.0)
    assert len(kept[-1].moves_zyx) == 7
    assert_same(flood(CONFIG, resume=kept[-1]), whole)


def test_an_error_in_progress_leaves_the_last_snapshot_usable() -> None:
    kept: list[Snapshot] = []

    def fail(_: Progress) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        flood(CONFIG, progress=fail, on_checkpoint=kept.append, checkpoint_seconds=0.0)
    assert_same(flood(CONFIG, resume=kept[-1]), flood(CONFIG))


def test_snapshots_come_by_the_clock() -> None:
    seen: list[Snapshot] = []
    ticks = iter(range(10_000_000))
    flood(
        CONFIG, on_checkpoint=seen.append, checkpoint_seconds=50.0, clock=lambda: float(next(ticks))
    )  # the clock is looked at a few times a move
    totals = [s.seconds_total for s in seen]
    assert len(seen) >= 2
    assert all(50 <= later - earlier <= 60 for earlier, later in itertools.pairwise(totals))
    never: list[Snapshot] = []
    flood(CONFIG, on_checkpoint=never.append, checkpoint_seconds=1e9)
    assert never == []


def test_seconds_of_all_parts_add_up() -> None:
    ticks = iter(range(10_000_000))
    kept: list[Snapshot] = []
    flood(CONFIG, on_checkpoint=kept.append, checkpoint_seconds=0.0, clock=lambda: float(next(ticks)))
    counters = flood(CONFIG, resume=kept[len(kept) // 2], clock=lambda: float(next(ticks))).counters
    assert counters.seconds_network == counters.calls  # each call takes one tick
    assert counters.seconds_host > kept[len(kept) // 2].seconds_total - counters.seconds_network


@pytest.mark.parametrize(
    "change",
    [
        {"image": lambda image: image + np.uint8(1)},
        {"image": lambda image: image.astype(np.uint16)},
        {"mask": np.ones((26, 24, 28), bool)},
        {"config": dataclasses.replace(CONFIG, min_segment_size=401)},
        {"precision": "bf16"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_foreign_snapshot_is_refused(change: dict[str, object]) -> None:
    part = snapshots(CONFIG)[3]
    image, _ = two_slabs()
    make = change.pop("image", None)
    arguments: dict[str, object] = {
        "model": brightness_model(),
        "config": CONFIG,
        "kernel": "torch",
        **change,
    }
    with pytest.raises(SnapshotError, match="belongs to another image"):
        segment(
            make(image) if callable(make) else image,
            keep_probabilities=True,
            resume=part,
            **arguments,  # type: ignore[arg-type]
        )


def test_other_weights_are_another_network() -> None:
    part = snapshots(CONFIG)[3]
    model = brightness_model()
    with torch.no_grad():
        model.network.conv_lom.bias += 1e-3
    with pytest.raises(SnapshotError, match="begin anew"):
        segment(two_slabs()[0], model=model, keep_probabilities=True, kernel="torch", resume=part)


def test_probabilities_must_be_kept_or_not_by_both() -> None:
    with pytest.raises(SnapshotError, match="keep_probabilities"):
        segment(two_slabs()[0], model=brightness_model(), kernel="torch", resume=snapshots(CONFIG)[0])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("format", np.array("other/1"), "format: not"),
        ("labels", np.zeros((4, 4), np.int32), "labels: unexpected int32"),
        ("labels", np.zeros((4, 4, 4), np.int64), "labels: unexpected int64"),
        ("probabilities", np.zeros((4, 4, 4), np.uint8), "probabilities: unexpected"),
        ("attempts", np.full((1, 7), 9), "attempts: unknown outcome"),
        ("attempts", np.array([[0, 0, 0, 0, 1, 1, 10**6]]), "more moves than moves_zyx"),
        ("moves_zyx", np.array([[0, 0, 999]], np.int32), "moves_zyx: leaves the subvolume"),
        ("pending", np.array([[-1, 0, 0]], np.int32), "pending: leaves the subvolume"),
        ("corner", np.array([20, 20, 20], np.int32), "belief: leaves labels"),
        ("counts", np.array([0, 10**6, 0, 0, 0, 0, 0]), "next_seed: outside peaks"),
        ("counts", np.array([0, 0, 0, -1, 0, 0, 0]), "counts: negative"),
        ("seed", np.zeros((0, 3), np.int32), "seed: missing"),
        ("seed", np.zeros((2, 3), np.int32), "seed: more than one"),
        ("belief", None, "belief: is missing"),
        ("fingerprint", None, "fingerprint: is missing"),
    ],
)
def test_a_damaged_snapshot_is_refused(name: str, value: np.ndarray | None, message: str) -> None:
    arrays = snapshots(CONFIG)[1].to_arrays()
    if value is None:
        del arrays[name]
    else:
        arrays[name] = value
    with pytest.raises(SnapshotError, match=message):
        Snapshot.from_arrays(arrays)


@settings(max_examples=25, deadline=None)
@given(cut=st.integers(0, 10**9), batch=st.sampled_from([1, 2, 5]), distance=st.sampled_from([0, 2]))
def test_any_cut_of_a_random_flood_is_healed(cut: int, batch: int, distance: int) -> None:
    config = dataclasses.replace(FILLED, frontier_batch=batch, min_move_distance=distance)
    image = np.random.default_rng(cut % 7).integers(100, 200, (14, 16, 15)).astype(np.uint8)
    arguments = {"model": brightness_model(), "config": config, "kernel": "torch", "keep_probabilities": True}
    parts: list[Snapshot] = []
    whole = segment(image, on_checkpoint=parts.append, checkpoint_seconds=0.0, **arguments)  # type: ignore[arg-type]
    assert parts or not whole.attempts
    if parts:
        part = through_a_file(parts[cut % len(parts)])
        assert_same(segment(image, resume=part, **arguments), whole)  # type: ignore[arg-type]
