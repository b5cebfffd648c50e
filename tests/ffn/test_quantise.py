"""8-bit arithmetic, emulated to the bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ffn.config import NetworkConfig, Normalisation
from ffn.engine import Engine
from ffn.network import FloodFillingNetwork
from ffn.quantise import QuantisedConv3d, quantise, quantise_network


def by_integers(convolution: nn.Conv3d, x: np.ndarray) -> np.ndarray:
    """The same in int64, tap by tap; x (C, Z, Y, X)."""
    weight = convolution.weight.detach().numpy()
    scale_w = np.abs(weight).max(axis=(1, 2, 3, 4)).astype(np.float32) / np.float32(127)
    whole_w = np.round(weight / scale_w[:, None, None, None, None]).astype(np.int64)
    scale_x = np.abs(x).max().astype(np.float32) / np.float32(127)
    whole_x = np.pad(np.round(x / scale_x).astype(np.int64), [(0, 0)] + [(1, 1)] * 3)
    sums = np.zeros((len(weight), *x.shape[1:]), np.int64)
    for tap in np.ndindex(3, 3, 3):
        window = tuple(slice(t, t + n) for t, n in zip(tap, x.shape[1:], strict=True))
        sums += np.einsum("fc,czyx->fzyx", whole_w[(..., *tap)], whole_x[(slice(None), *window)])
    assert convolution.bias is not None
    bias = convolution.bias.detach().numpy()
    factor = (scale_x * scale_w)[:, None, None, None]
    return sums.astype(np.float32) * factor + bias[:, None, None, None]


@pytest.mark.parametrize("channels", [3, 40], ids=["sums fit float32", "sums need float64"])
def test_sums_are_those_of_integers(channels: int) -> None:
    torch.manual_seed(channels)
    convolution = nn.Conv3d(channels, 5, 3, padding=1)
    x = torch.randn(2, channels, 4, 5, 6) * torch.tensor([1.0, 50.0])[:, None, None, None, None]
    found = QuantisedConv3d(convolution)(x).numpy()
    for sample, answer in zip(x.numpy(), found, strict=True):
        assert np.allclose(answer, by_integers(convolution, sample), rtol=1e-6, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20))
def test_whole_numbers_are_within_half_a_step(values: list[float]) -> None:
    x = torch.tensor([values])
    whole, scale = quantise(x)
    assert torch.equal(whole, torch.round(whole))
    assert whole.abs().max() <= 127
    assert ((whole * scale - x).abs() <= 0.501 * scale).all()


def test_an_answer_does_not_depend_on_the_rest_of_the_batch() -> None:
    torch.manual_seed(0)
    network = quantise_network(FloodFillingNetwork(NetworkConfig(modules=2, features=4)).eval())
    x = torch.randn(3, 2, 5, 5, 5)
    x[1] *= 100
    with torch.inference_mode():
        assert torch.equal(network(x)[:1], network(x[:1]))


def test_the_engine_runs_in_8_bits_and_says_so() -> None:
    torch.manual_seed(0)
    config = NetworkConfig(modules=2, features=4, fov_zyx=(9, 9, 9), deltas_zyx=(3, 3, 3))
    network = FloodFillingNetwork(config)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    engine = Engine(network, Normalisation(), device=torch.device("cpu"), precision="int8")
    assert (engine.precision, engine.kernel) == ("int8", "torch")
    images = [np.random.default_rng(0).integers(0, 255, (9, 9, 9)).astype(np.uint8)]
    beliefs = [np.full((9, 9, 9), -3, np.float32)]
    full = Engine(network, Normalisation(), device=torch.device("cpu"), kernel="torch")
    difference = engine.predict(images, beliefs) - full.predict(images, beliefs)
    assert 0 < np.abs(difference).max() < 0.05
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
