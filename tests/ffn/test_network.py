"""The network is the published one: shapes, size, nesting, and what it says about real tissue."""

import pathlib

import numpy as np
import pytest
import torch

from ffn.checkpoint import CheckpointError, network_from_tensorflow
from ffn.config import NetworkConfig
from ffn.network import FloodFillingNetwork, parameter_count

FIB25 = pathlib.Path(__file__).resolve().parents[2].parent / "shared" / "data" / "fib25"
SMALL = NetworkConfig(modules=3, features=4, fov_zyx=(7, 9, 9), deltas_zyx=(2, 3, 3))


def test_published_size() -> None:
    assert parameter_count(FloodFillingNetwork(NetworkConfig())) == 638_433


def test_shapes_and_seed_passes_through() -> None:
    network = FloodFillingNetwork(SMALL)
    for parameter in network.conv_lom.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.randn(2, 2, 7, 9, 9)
    assert torch.equal(network(x), x[:, 1:2])


def test_nesting_is_the_documented_one() -> None:
    torch.manual_seed(0)
    network = FloodFillingNetwork(SMALL)
    x = torch.randn(1, 2, 7, 9, 9)
    before = x.clone()
    n = network.conv0_b(torch.relu(network.conv0_a(x)))
    for module in network.residual:
        n = n + module.conv_b(torch.relu(module.conv_a(torch.relu(n))))
    expected = x[:, 1:2] + network.conv_lom(torch.relu(n))
    torch.testing.assert_close(network(x), expected)
    assert torch.equal(x, before)


def tensorflow_arrays(features: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {"global_step": np.int32(1)}
    for i in range(3):
        for part in "ab":
            inputs = 2 if (i, part) == (0, "a") else features
            arrays[f"conv{i}_{part}.weights"] = rng.normal(size=(3, 3, 3, inputs, features)).astype("f4")
            arrays[f"conv{i}_{part}.biases"] = rng.normal(size=features).astype("f4")
    arrays["conv_lom.weights"] = rng.normal(size=(1, 1, 1, features, 1)).astype("f4")
    arrays["conv_lom.biases"] = rng.normal(size=1).astype("f4")
    return arrays


def test_import_finds_size_and_transposes() -> None:
    arrays = tensorflow_arrays()
    network = network_from_tensorflow(arrays, fov_zyx=(7, 7, 7), deltas_zyx=(2, 2, 2))
    assert (network.config.modules, network.config.features) == (3, 4)
    kernel = network.residual[1].conv_a.weight.detach().numpy()
    np.testing.assert_array_equal(kernel[3, 1, 0, 1, 2], arrays["conv2_a.weights"][0, 1, 2, 1, 3])


def test_import_names_what_is_missing() -> None:
    arrays = tensorflow_arrays()
    del arrays["conv1_b.biases"]
    with pytest.raises(CheckpointError, match=r"conv1_b\.biases is missing"):
        network_from_tensorflow(arrays, fov_zyx=(7, 7, 7), deltas_zyx=(2, 2, 2))
    arrays["conv1_b.biases"] = np.zeros(5, np.float32)
    with pytest.raises(CheckpointError, match=r"conv1_b\.biases: expected \(4,\), found \(5,\)"):
        network_from_tensorflow(arrays, fov_zyx=(7, 7, 7), deltas_zyx=(2, 2, 2))


@pytest.mark.skipif(not FIB25.is_dir(), reason="shared/data/fib25 is absent")
def test_published_weights_know_a_neurite() -> None:
    with np.load(FIB25 / "fib25_weights.npz", allow_pickle=False) as file:
        network = network_from_tensorflow(dict(file), fov_zyx=(33, 33, 33), deltas_zyx=(8, 8, 8))
    with np.load(FIB25 / "training_sample2_z000-173.npz", allow_pickle=False) as file:
        box = (slice(100, 133),) * 3
        image, truth = (file["raw"][box].astype(np.float32) - 128) / 33, file["gt"][box]
    seed = np.full(image.shape, -2.9444, np.float32)
    seed[16, 16, 16] = 2.9444
    with torch.inference_mode():
        logits = network(torch.from_numpy(np.stack([image, seed]))[None])[0, 0].numpy()
    found, wanted = logits >= 0.405, truth == truth[16, 16, 16]
    assert (found & wanted).sum() / (found | wanted).sum() > 0.97
