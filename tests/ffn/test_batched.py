"""The batched engine gives the results of the serial one, whatever the batch and the objects at once."""

import dataclasses
import io
import time

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from ffn import batching
from ffn.batching import Batcher
from ffn.canvas import Canvas, Thresholds
from ffn.checkpoint import Model
from ffn.config import ConfigError, InferenceConfig, NetworkConfig, Normalisation, SeedConfig
from ffn.engine import Engine
from ffn.inference import InferenceError, Masks, Progress, Segmentation, Snapshot, segment, segment_many
from ffn.native.windows import NativeWindows
from ffn.network import IMAGE, FloodFillingNetwork
from tests.ffn.test_inference import CONFIG, SEEDS, brightness_model, two_slabs

Image = NDArray[np.uint8]


def random_model() -> Model:
    """Random weights about a core that believes in what is bright; answers depend on image and belief."""
    torch.manual_seed(3)
    config = NetworkConfig(modules=2, features=4, fov_zyx=(9, 9, 11), deltas_zyx=(3, 2, 3))
    network = FloodFillingNetwork(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.4)
        centre = (1, 1, 1)
        network.conv0_a.weight[0, IMAGE][centre] += 1
        network.conv0_a.weight[1, IMAGE][centre] -= 1
        network.conv0_b.weight[0, 0][centre] += 1
        network.conv0_b.weight[1, 1][centre] += 1
        network.conv_lom.weight[0, :2, 0, 0, 0] = torch.tensor([3.0, -3.0])
    return Model(
        network=network,
        normalisation=Normalisation(mean=128, std=64),
        voxel_size_zyx_nm=(10, 10, 10),
        inference=InferenceConfig(
            min_segment_size=60, seeds=dataclasses.replace(SEEDS, min_distance=2, smooth_zyx=(1, 1, 1))
        ),
    )


def tissue(shape: tuple[int, int, int], number: int) -> Image:
    """Bright blobs of every size on dark ground, some touching, and grain."""
    random = np.random.default_rng(number)
    field = ndimage.gaussian_filter(random.normal(size=shape), 1.8)
    bright = 128 + 70 * np.tanh(1.5 * (field / field.std() - 1.0))
    return np.clip(bright + random.integers(-15, 15, shape), 0, 255).astype(np.uint8)


SHAPES = ((28, 30, 34), (20, 36, 28), (16, 24, 40))
IMAGES = [tissue(shape, number) for number, shape in enumerate(SHAPES)]


def assert_same(found: Segmentation, expected: Segmentation) -> None:
    assert found.attempts == expected.attempts
    assert np.array_equal(found.moves_zyx, expected.moves_zyx)
    assert np.array_equal(found.labels, expected.labels)
    assert (found.probabilities is None) == (expected.probabilities is None)
    if found.probabilities is not None and expected.probabilities is not None:
        assert np.array_equal(found.probabilities, expected.probabilities)
    free = {"seconds_network": 0.0, "seconds_host": 0.0, "discarded_fovs": 0}
    assert dataclasses.replace(found.counters, **free) == dataclasses.replace(expected.counters, **free)


def alone(images: list[Image], config: InferenceConfig, model: Model, **more: object) -> list[Segmentation]:
    """Each by the serial engine; one network call like the other, so that answers agree to the bit."""
    return [
        segment(image, model=model, config=config, keep_probabilities=True, **more)  # type: ignore[arg-type]
        for image in images
    ]


VARIANTS = {
    "google's order": {},
    "frontier 4": {"frontier_batch": 4},
    "skipping": {"min_move_distance": 3},
    "frontier 4, skipping": {"frontier_batch": 4, "min_move_distance": 2},
    "no disco rule": {"disco_seed_threshold": None},
    "half of it": {"disco_seed_threshold": 0.5, "frontier_batch": 3},
}


@pytest.mark.parametrize("objects", [1, 6])
@pytest.mark.parametrize("variant", VARIANTS)
def test_three_subvolumes_come_out_as_from_the_serial_engine(variant: str, objects: int) -> None:
    model = random_model()
    config = dataclasses.replace(model.inference, **VARIANTS[variant])  # type: ignore[arg-type]
    expected = alone(IMAGES, config, model)
    found = segment_many(
        IMAGES, model=model, config=config, batch=8, objects=objects, keep_probabilities=True
    )
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)
    assert sum(e.counters.objects for e in expected) >= 3
    if "skipping" in variant:
        assert sum(e.counters.skipped_moves for e in expected) > 0


@pytest.mark.parametrize("variant", ["google's order", "frontier 4, skipping", "half of it"])
def test_the_tensors_of_an_accelerator_do_the_same(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As without a C compiler: nothing goes by way of `NativeWindows`."""
    monkeypatch.setattr("ffn.device_canvas.NativeWindows.where_possible", lambda *_, **__: None)
    model = random_model()
    config = dataclasses.replace(model.inference, **VARIANTS[variant])  # type: ignore[arg-type]
    found = segment_many(IMAGES, model=model, config=config, batch=8, objects=6, keep_probabilities=True)
    for one, other in zip(found, alone(IMAGES, config, model), strict=True):
        assert_same(one, other)


def test_the_scenes_put_the_rule_and_the_order_to_the_test() -> None:
    """What the variants change shows in the serial results, else the comparison would prove little."""
    model = random_model()
    plain = alone(IMAGES, model.inference, model)
    assert {a.outcome for one in plain for a in one.attempts} == {"object", "weak", "small"}
    moves = []
    for changes in VARIANTS.values():
        config = dataclasses.replace(model.inference, **changes)  # type: ignore[arg-type]
        moves.append(alone(IMAGES[:1], config, model)[0].moves_zyx.tobytes())
    assert len(set(moves)) == len(VARIANTS)


@pytest.mark.parametrize("batch", [1, 2, 5, 32])
def test_the_size_of_the_batch_changes_nothing(batch: int) -> None:
    image, _ = two_slabs()
    (expected,) = alone([image], CONFIG, brightness_model())
    (found,) = segment_many(
        [image], model=brightness_model(), batch=batch, objects=3, keep_probabilities=True
    )
    assert_same(found, expected)


def test_objects_flooded_ahead_in_vain_are_counted_and_change_nothing() -> None:
    model = random_model()
    (expected,) = alone(IMAGES[:1], model.inference, model)
    (found,) = segment_many(IMAGES[:1], model=model, batch=8, objects=8, keep_probabilities=True)
    assert_same(found, expected)
    assert found.counters.discarded_fovs > 0
    (one,) = segment_many(IMAGES[:1], model=model, batch=8, objects=1)
    assert one.counters.discarded_fovs == 0


def test_masks_of_each_kind_confine_the_same() -> None:
    model = random_model()
    masks = []
    for number, image in enumerate(IMAGES):
        tissue_mask = np.ones(image.shape, bool)
        tissue_mask[:, :, -9:] = False
        artefact = np.zeros(image.shape, bool)
        artefact[:, 8:11, :12] = True
        masks.append(Masks.combine(tissue=tissue_mask, artefact=artefact) if number else tissue_mask)
    expected = [
        segment(image, model=model, mask=mask, keep_probabilities=True)  # type: ignore[arg-type]
        for image, mask in zip(IMAGES, masks, strict=True)
    ]
    found = segment_many(
        IMAGES,
        model=model,
        masks=masks,
        batch=6,
        objects=4,
        keep_probabilities=True,  # type: ignore[arg-type]
    )
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)
        assert not one.labels[:, :, -9:].any()
    assert sum(len(one.moves_zyx) for one in found) > 0


def test_fill_rounds_and_seed_orders_are_the_same() -> None:
    image, _ = two_slabs()
    for order in ("raster", "reversed", "depth"):
        seeds = dataclasses.replace(SEEDS, min_distance=12, fill_rounds=5, order=order)  # type: ignore[arg-type]
        config = dataclasses.replace(CONFIG, seeds=seeds)
        (expected,) = alone([image], config, brightness_model())
        (found,) = segment_many(
            [image], model=brightness_model(), config=config, batch=4, objects=3, keep_probabilities=True
        )
        assert_same(found, expected)
        assert expected.counters.objects == 2


@pytest.mark.parametrize("budget", [0, 1, 5, 40])
def test_the_budget_stops_at_the_same_move(budget: int) -> None:
    model = random_model()
    config = dataclasses.replace(model.inference, frontier_batch=2)
    expected = alone(IMAGES, config, model, max_fovs=budget)
    found = segment_many(
        IMAGES, model=model, config=config, batch=8, objects=4, max_fovs=budget, keep_probabilities=True
    )
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)


def test_well_separated_cells_are_found_at_once_and_none_twice() -> None:
    truth = np.zeros((24, 70, 70), np.uint32)
    for number, (y, x) in enumerate(((y, x) for y in (6, 28, 50) for x in (6, 28, 50)), start=1):
        truth[5:19, y : y + 14, x : x + 14] = number
    grain = np.random.default_rng(0).integers(-20, 20, truth.shape)
    image = (np.where(truth > 0, 192, 64) + grain).astype(np.uint8)
    model = brightness_model()
    runs = [segment_many([image], model=model, batch=16, objects=9)[0] for _ in range(2)]
    assert_same(runs[0], runs[1])
    found = runs[0]
    assert found.counters.objects == 9
    for label in range(1, 10):
        owners = truth[found.labels == label]
        assert (owners == owners[0]).all()
        assert len(owners) > 0.8 * (truth == owners[0]).sum()
    assert sum(a.voxels for a in found.attempts) == np.count_nonzero(found.labels)
    assert_same(found, segment(image, model=model))


@pytest.mark.parametrize("in_c", [True, False])
def test_the_network_sees_few_shapes_at_one_address(in_c: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that an accelerator may capture each once; rows without a move are fewer than those with one."""
    seen: list[tuple[int, ...]] = []

    class Watched(Engine):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append((*x.shape, x.data_ptr()))
            return super().forward(x)

    monkeypatch.setattr("ffn.engine.Engine", Watched)
    if not in_c:
        monkeypatch.setattr(NativeWindows, "where_possible", lambda *_, **__: None)
    model = random_model()
    for frontier in (1, 3):
        seen.clear()
        config = dataclasses.replace(model.inference, frontier_batch=frontier)
        found = segment_many(IMAGES, model=model, config=config, batch=7, objects=2)
        rows = {shape[0] for shape in seen}
        assert rows <= (set(range(1, 8)) if in_c else {1, 2, 4, 7})
        assert len(rows) > 2
        assert {shape[1:5] for shape in seen} == {(2, 9, 9, 11)}
        assert len({shape[5] for shape in seen}) == 1
        assert len(seen) < sum(one.counters.calls for one in found)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_steps_under_way_at_once_change_nothing(depth: int) -> None:
    """As on an accelerator: objects end and are dropped while other moves are out."""
    model = random_model()
    network, config = model.network.config, dataclasses.replace(model.inference, frontier_batch=2)
    engine = Engine(model.network, model.normalisation, device=torch.device("cpu"))
    thresholds = Thresholds.of(config)
    batcher = Batcher(
        [
            Canvas(image, fov_zyx=network.fov_zyx, thresholds=thresholds, keep_probabilities=True)
            for image in IMAGES
        ],
        engine,
        config=config,
        deltas_zyx=network.deltas_zyx,
        batch=4,
        objects=5,
        max_fovs=None,
        clock=time.perf_counter,
        depth=depth,
    )
    batcher.run()
    expected = alone(IMAGES, config, model)
    for flood, other in zip(batcher.floods, expected, strict=True):
        assert_same(flood.result(seconds=0.0), other)
    assert sum(flood.result(seconds=0.0).counters.discarded_fovs for flood in batcher.floods) > 0
    assert batcher.rows >= sum(other.counters.fovs for other in expected)
    assert batcher.steps * 4 >= batcher.rows


def test_snapshots_go_from_one_engine_to_the_other() -> None:
    model = random_model()
    config = dataclasses.replace(model.inference, frontier_batch=2, min_move_distance=2)
    image = IMAGES[0]
    (expected,) = alone([image], config, model)
    by_batch: list[Snapshot] = []
    (whole,) = segment_many(
        [image],
        model=model,
        config=config,
        batch=8,
        objects=4,
        keep_probabilities=True,
        on_checkpoint=lambda _, snapshot: by_batch.append(snapshot),
        checkpoint_seconds=0.0,
    )
    assert_same(whole, expected)
    by_one: list[Snapshot] = []
    segment(
        image,
        model=model,
        config=config,
        keep_probabilities=True,
        on_checkpoint=by_one.append,
        checkpoint_seconds=0.0,
    )
    middle = [s for s in by_batch if len(s.seed) and s.object_moves > 2][:2] + by_batch[-2:]
    for snapshot in middle:
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, **snapshot.to_arrays())
        file.seek(0)
        with np.load(file, allow_pickle=False) as archive:
            taken = Snapshot.from_arrays({name: archive[name] for name in archive.files})
        assert_same(alone([image], config, model, resume=taken)[0], expected)
    for snapshot in [s for s in by_one if len(s.seed) and s.object_moves > 2][:3]:
        (found,) = segment_many(
            [image],
            model=model,
            config=config,
            batch=8,
            objects=4,
            keep_probabilities=True,
            resume=[snapshot],
        )
        assert_same(found, expected)


def test_progress_tells_which_subvolume() -> None:
    seen: list[tuple[int, Progress]] = []
    model = random_model()
    found = segment_many(
        IMAGES, model=model, batch=4, objects=2, progress=lambda number, p: seen.append((number, p))
    )
    for number, one in enumerate(found):
        mine = [p for n, p in seen if n == number]
        assert len(mine) == len(one.attempts)
        assert mine[-1].labelled_voxels == np.count_nonzero(one.labels)


def test_the_seconds_of_all_subvolumes_add_up() -> None:
    ticks = iter(range(10_000_000))
    found = segment_many(IMAGES, model=random_model(), batch=8, clock=lambda: float(next(ticks)))
    total = sum(one.counters.seconds_network + one.counters.seconds_host for one in found)
    assert total == pytest.approx(next(ticks) - 1, abs=2)


def test_what_cannot_be_flooded_gives_nothing_or_is_said() -> None:
    model = brightness_model()
    image, _ = two_slabs()
    small = np.full((8, 30, 12), 190, np.uint8)
    none = np.zeros((0, 9, 9), np.uint8)
    dark = np.full((20, 20, 20), 100, np.uint8)
    masks = [None, None, None, None, np.zeros(image.shape, bool)]
    found = segment_many([image, small, none, dark, image], model=model, masks=masks, batch=4, objects=2)
    assert found[0].counters.objects == 2
    for one, shape in zip(found[1:], (small.shape, none.shape, dark.shape, image.shape), strict=True):
        assert one.labels.shape == shape
        assert not one.labels.any()
        assert (one.attempts, one.counters.fovs) == ((), 0)
    assert segment_many([], model=model, batch=4) == []
    with pytest.raises(InferenceError, match="image: has NaN"):
        segment_many([image, np.full((20, 20, 20), np.nan, np.float32)], model=model, batch=4)
    with pytest.raises(InferenceError, match="mask: expected bool"):
        segment_many([image], model=model, batch=4, masks=[np.ones((3, 3, 3), bool)])
    with pytest.raises(ConfigError, match="batch: must not be below frontier_batch"):
        segment_many([image], model=model, batch=4, config=dataclasses.replace(CONFIG, frontier_batch=5))
    with pytest.raises(ConfigError, match="objects: must be at least 1"):
        segment_many([image], model=model, batch=4, objects=0)


def test_weights_that_are_not_finite_find_nothing() -> None:
    model = brightness_model()
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.fill_(float("nan"))
    image, _ = two_slabs()
    (found,) = segment_many([image], model=model, batch=4, objects=2, kernel="torch")
    assert not found.labels.any()
    assert {a.outcome for a in found.attempts} == {"weak"}


def test_few_lookups_wait_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly all that the host wants to know of the belief comes with the answers of the step before."""
    waits = 0
    sample = batching.DeviceCanvas.sample

    def counted(self: batching.DeviceCanvas, voxels: list[int]) -> list[float]:
        nonlocal waits
        waits += 1
        return sample(self, voxels)

    monkeypatch.setattr(batching.DeviceCanvas, "sample", counted)
    (found,) = segment_many([two_slabs()[0]], model=brightness_model(), batch=4)
    assert waits <= 0.1 * found.counters.fovs


def test_seeds_in_nothing_but_noise_are_no_trouble() -> None:
    image = np.random.default_rng(0).integers(0, 255, (22, 22, 22)).astype(np.uint8)
    config = dataclasses.replace(CONFIG, min_segment_size=1, seeds=SeedConfig(min_distance=1))
    (expected,) = alone([image], config, brightness_model())
    (found,) = segment_many(
        [image], model=brightness_model(), config=config, batch=8, objects=8, keep_probabilities=True
    )
    assert_same(found, expected)
