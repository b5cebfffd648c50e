"""What cannot be segmented is said, or gives a correct empty result."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from ffn.checkpoint import CheckpointError, load_model, save_model
from ffn.config import ConfigError, InferenceConfig, NetworkConfig, SeedConfig
from ffn.inference import InferenceError, Masks, Segmentation, segment
from ffn.network import FloodFillingNetwork
from tests.ffn.test_inference import CONFIG, SEEDS, brightness_model, two_slabs


def assert_empty(found: Segmentation, shape: tuple[int, ...]) -> None:
    assert found.labels.shape == shape
    assert found.labels.dtype == np.uint32
    assert not found.labels.any()
    assert found.attempts == ()
    assert found.moves_zyx.shape == (0, 3)
    assert (found.counters.fovs, found.counters.attempts, found.counters.objects) == (0, 0, 0)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    model = brightness_model()
    save_model(tmp_path / "m.safetensors", model)
    content = (tmp_path / "m.safetensors").read_bytes()
    wider = content.replace(rb"\"features\": 2", rb"\"features\": 3")
    assert wider != content
    (tmp_path / "m.safetensors").write_bytes(wider)
    with pytest.raises(CheckpointError, match=r"tensor conv0_a\.bias: expected shape \(3,\), found \(2,\)"):
        load_model(tmp_path / "m.safetensors")


@pytest.mark.parametrize("keep", [0, 7, 200, -1])
def test_a_truncated_model_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, brightness_model())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_model(path)


def test_a_changed_weight_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, brightness_model())
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="sha256: the weights differ"):
        load_model(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_voxel_that_is_no_number_is_said(value: float) -> None:
    image = two_slabs()[0].astype(np.float32)
    image[3, 4, 5] = value
    with pytest.raises(InferenceError, match="NaN or infinite voxels; fill them and exclude them"):
        segment(image, model=brightness_model())


@pytest.mark.parametrize("grey", [0, 64, 128, 192, 255])
@pytest.mark.parametrize("policy", ["peaks", "distance"])
def test_a_constant_image_has_no_seeds(grey: int, policy: str) -> None:
    config = dataclasses.replace(CONFIG, seeds=SeedConfig(policy=policy))  # type: ignore[arg-type]
    image = np.full((20, 21, 22), grey, np.uint8)
    assert_empty(segment(image, model=brightness_model(), config=config), image.shape)


def test_sixteen_bits_of_the_same_grey_values_give_the_same_objects() -> None:
    image, _ = two_slabs()
    narrow = segment(image, model=brightness_model())
    wide = segment(image.astype(np.uint16), model=brightness_model())
    assert np.array_equal(narrow.labels, wide.labels)
    assert np.array_equal(narrow.moves_zyx, wide.moves_zyx)


def test_sixteen_bits_of_other_grey_values_are_refused() -> None:
    image = two_slabs()[0].astype(np.uint16) * 257
    with pytest.raises(
        InferenceError,
        match=r"its uint16 values lie around [0-9.]+, the network was trained on 128 ± 64; bring",
    ):
        segment(image, model=brightness_model())


def test_an_empty_mask_and_no_seeds_give_nothing() -> None:
    image, _ = two_slabs()
    model = brightness_model()
    assert_empty(segment(image, model=model, mask=np.zeros(image.shape, bool)), image.shape)
    assert_empty(
        segment(image, model=model, mask=Masks.combine(resin=np.ones(image.shape, bool))), image.shape
    )
    deep = dataclasses.replace(CONFIG, seeds=dataclasses.replace(SEEDS, min_depth=50.0, fill_rounds=2))
    found = segment(image, model=model, config=deep)
    assert found.counters.seeds == 0
    assert_empty(found, image.shape)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_axis_below_the_field_of_view_is_enough(axis: int) -> None:
    shape = [20, 20, 20]
    shape[axis] = 8
    image = np.random.default_rng(0).integers(60, 200, shape).astype(np.uint8)
    assert_empty(segment(image, model=brightness_model()), image.shape)


def test_a_volume_of_exactly_the_field_of_view_has_one_place() -> None:
    image = np.full((9, 9, 9), 192, np.uint8)
    image[:, :, 0] = 10
    found = segment(image, model=brightness_model(), config=dataclasses.replace(CONFIG, min_segment_size=1))
    assert {tuple(move) for move in found.moves_zyx.tolist()} <= {(4, 4, 4)}


def test_weights_that_are_not_finite_find_nothing() -> None:
    model = brightness_model()
    broken = FloodFillingNetwork(
        NetworkConfig(modules=1, features=2, fov_zyx=(9, 9, 9), deltas_zyx=(3, 3, 3))
    )
    with torch.no_grad():
        for parameter in broken.parameters():
            parameter.fill_(float("nan"))
    image, _ = two_slabs()
    found = segment(image, model=dataclasses.replace(model, network=broken), kernel="torch")
    assert not found.labels.any()
    assert {a.outcome for a in found.attempts} == {"weak"}


def test_no_seed_could_move_below_the_threshold() -> None:
    with pytest.raises(ConfigError, match="move_threshold: must not be above init_activation"):
        InferenceConfig(move_threshold=0.97)
