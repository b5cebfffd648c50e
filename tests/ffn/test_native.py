"""The native convolutions against torch's, for any shape, and what happens where they cannot be built."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ffn.config import ConfigError, InferenceConfig, NetworkConfig, Normalisation
from ffn.engine import Engine, choose_kernel
from ffn.native import NativeNetwork, build, transformed, why_not
from ffn.network import FloodFillingNetwork

CPU = torch.device("cpu")
SMALL = NetworkConfig(modules=2, features=5, fov_zyx=(7, 9, 11), deltas_zyx=(2, 2, 2))

needs_compiler = pytest.mark.skipif(build.compiler() is None, reason="no C compiler here")


def network(config: NetworkConfig, seed: int = 0) -> FloodFillingNetwork:
    torch.manual_seed(seed)
    made = FloodFillingNetwork(config)
    made.eval()
    return made


def answers(net: FloodFillingNetwork, batch: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Native and torch's, in float64 for the truth, on one random input."""
    torch.manual_seed(seed)
    x = 2 * torch.randn(batch, 2, *net.config.fov_zyx)
    with torch.inference_mode():
        return NativeNetwork(net)(x), net.double()(x.double())[:, 0]


@needs_compiler
@settings(deadline=None, max_examples=12)
@given(
    fov=st.tuples(*[st.sampled_from((3, 5, 7, 9, 13, 15))] * 3),
    features=st.sampled_from((1, 8, 16, 17, 33)),
    modules=st.integers(1, 3),
    batch=st.integers(1, 2),
)
def test_any_shape_agrees_with_float64(
    fov: tuple[int, int, int], features: int, modules: int, batch: int
) -> None:
    config = NetworkConfig(modules=modules, features=features, fov_zyx=fov, deltas_zyx=(1, 1, 1))
    found, wanted = answers(network(config), batch)
    assert found.shape == (batch, *fov)
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), atol=2e-5)


@needs_compiler
def test_a_wide_row_of_tiles_and_the_published_depth() -> None:
    config = NetworkConfig(modules=12, features=32, fov_zyx=(9, 9, 45), deltas_zyx=(2, 2, 8))
    found, wanted = answers(network(config), 1)
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), atol=2e-5)


@needs_compiler
def test_one_call_leaves_nothing_behind_for_the_next() -> None:
    native = NativeNetwork(network(SMALL))
    x = torch.randn(1, 2, *SMALL.fov_zyx)
    before = native(x)
    native(1e6 * torch.ones_like(x))
    assert torch.equal(native(x), before)


@needs_compiler
def test_a_nan_stays_visible() -> None:
    x = torch.zeros(1, 2, *SMALL.fov_zyx)
    x[0, 1, 3, 4, 5] = float("nan")
    assert NativeNetwork(network(SMALL))(x)[0, 3, 4, 5].isnan()


@needs_compiler
def test_another_field_of_view_is_refused() -> None:
    with pytest.raises(ValueError, match=r"x: expected \(B, 2, \(7, 9, 11\)\)"):
        NativeNetwork(network(SMALL))(torch.zeros(1, 2, 7, 9, 9))


def test_transformed_kernels_are_padded_with_zeros() -> None:
    weights = np.ones((2, 3, 3, 3, 3), np.float32)
    points = transformed(weights, 4)
    assert points.shape == (125, 4, 4)
    assert (points[:, 3:] == 0).all()
    assert (points[:, :, 2:] == 0).all()
    assert points[124, 0, 0] == 1.0  # the point at infinity on every axis is the last weight


@needs_compiler
def test_engine_takes_the_native_kernel_and_torch_is_near() -> None:
    net = network(SMALL)
    native, plain = (Engine(net, Normalisation(), device=CPU, kernel=k) for k in ("auto", "torch"))
    assert (native.kernel, plain.kernel) == ("native", "torch")
    image = np.random.default_rng(0).integers(0, 255, SMALL.fov_zyx).astype(np.uint8)
    belief = np.full(SMALL.fov_zyx, -2.9, np.float32)
    np.testing.assert_allclose(native.predict([image], [belief]), plain.predict([image], [belief]), atol=1e-5)


def test_without_a_compiler_torch_is_taken_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    build.library.cache_clear()
    assert why_not(SMALL) == "finds no C compiler"
    net = network(SMALL)
    assert choose_kernel(net, device=CPU) == ("torch", "the native convolution finds no C compiler")
    with pytest.raises(ConfigError, match="kernel: the native convolution finds no C compiler; take auto"):
        choose_kernel(net, device=CPU, wanted="native")


@pytest.mark.parametrize(("status", "says"), [(1, "does not compile"), (0, "cannot be compiled")])
def test_a_compiler_that_fails_is_no_disaster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, says: str
) -> None:
    fake = tmp_path / "cc"
    fake.write_text(f"#!/bin/sh\necho broken >&2\nexit {status}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("CC", str(fake))
    monkeypatch.setenv("PETAVOXEL_KERNELS", str(tmp_path / "kernels"))
    build.library.cache_clear()
    assert says in why_not(SMALL)
    assert list((tmp_path / "kernels").iterdir()) == []


@needs_compiler
def test_a_damaged_library_in_the_cache_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETAVOXEL_KERNELS", str(tmp_path))
    build.library.cache_clear()
    monkeypatch.setattr(build, "_fingerprint", lambda *_: "damaged")
    (tmp_path / "damaged.so").write_bytes(b"not a library")
    config = replace(SMALL, fov_zyx=(5, 5, 5))
    found, wanted = answers(network(config), 1)
    build.library.cache_clear()
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), atol=2e-5)


def test_precisions_below_fp32_run_in_torch() -> None:
    net = network(SMALL)
    assert choose_kernel(net, device=CPU, precision="bf16")[0] == "torch"
    x = torch.randn(2, 2, *SMALL.fov_zyx)
    exact = Engine(net, Normalisation(), device=CPU, kernel="torch").forward(x)
    rough = Engine(net, Normalisation(), device=CPU, precision="bf16").forward(x)
    assert rough.dtype == torch.float32
    assert 0 < float((rough - exact).abs().max()) < 0.1


@needs_compiler
def test_two_threads_with_an_engine_each() -> None:
    net = network(SMALL)
    x = torch.randn(4, 2, *SMALL.fov_zyx)
    wanted = NativeNetwork(net)(x)
    found: list[torch.Tensor] = []
    threads = [threading.Thread(target=lambda: found.append(NativeNetwork(net)(x))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(answer, wanted) for answer in found)
    assert len(found) == 2


def test_a_seed_that_could_never_move_is_refused() -> None:
    with pytest.raises(ConfigError, match="move_threshold: must not be above init_activation"):
        InferenceConfig(init_activation=0.9, move_threshold=0.95)
