from pathlib import Path

import numpy as np
import pytest
import torch

from ffn.checkpoint import CheckpointError
from ffn.importing import import_google_ffn

FIB25 = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "fib25"


def variables(*, modules: int = 2, features: int = 3) -> dict[str, np.ndarray]:
    """A google/ffn network of that size with random numbers."""
    random = np.random.default_rng(0)
    arrays = {"global_step": np.array(7, np.int32)}
    layers = [f"conv{i}_{side}" for i in range(modules) for side in "ab"]
    for layer in layers:
        inputs = 2 if layer == "conv0_a" else features
        arrays[f"{layer}.weights"] = random.normal(size=(3, 3, 3, inputs, features)).astype(np.float32)
        arrays[f"{layer}.biases"] = random.normal(size=features).astype(np.float32)
    arrays["conv_lom.weights"] = random.normal(size=(1, 1, 1, features, 1)).astype(np.float32)
    arrays["conv_lom.biases"] = random.normal(size=1).astype(np.float32)
    return arrays


def save(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_the_kernel_is_turned_from_tensorflow_to_torch(tmp_path: Path) -> None:
    arrays = variables()
    model = import_google_ffn(save(tmp_path / "w.npz", arrays), fov_zyx=(5, 5, 5), deltas_zyx=(1, 1, 1))
    assert (model.network.config.modules, model.network.config.features) == (2, 3)
    assert model.provenance["global_step"] == "7"
    state = model.network.state_dict()
    assert state["residual.0.conv_b.weight"][2, 1, 0, 1, 2] == arrays["conv1_b.weights"][0, 1, 2, 1, 2]
    assert torch.equal(state["conv_lom.bias"], torch.from_numpy(arrays["conv_lom.biases"]))


def test_the_network_computes_what_the_variables_say(tmp_path: Path) -> None:
    arrays = variables(modules=1)
    model = import_google_ffn(save(tmp_path / "w.npz", arrays), fov_zyx=(3, 3, 3), deltas_zyx=(1, 1, 1))
    x = np.random.default_rng(1).normal(size=(5, 5, 5, 2)).astype(np.float32)

    def convolve(values: np.ndarray, layer: str) -> np.ndarray:
        weights = arrays[f"{layer}.weights"]
        pad = weights.shape[0] // 2
        padded = np.pad(values, [(pad, pad)] * 3 + [(0, 0)])
        out = np.zeros((*values.shape[:3], weights.shape[4])) + arrays[f"{layer}.biases"]
        for step in np.ndindex(*weights.shape[:3]):
            window = tuple(slice(s, s + n) for s, n in zip(step, values.shape[:3], strict=True))
            out += padded[window] @ weights[step]
        return out

    n = convolve(np.maximum(convolve(x, "conv0_a"), 0), "conv0_b")
    expected = x[..., 1] + convolve(np.maximum(n, 0), "conv_lom")[..., 0]
    with torch.inference_mode():
        found = model.network(torch.from_numpy(x).permute(3, 0, 1, 2)[None])[0, 0].numpy()
    assert found == pytest.approx(expected, abs=1e-3, rel=1e-4)


def test_a_missing_layer_is_named(tmp_path: Path) -> None:
    arrays = variables()
    del arrays["conv1_b.biases"]
    with pytest.raises(CheckpointError, match=r"w\.npz: .*conv1_b\.biases is missing"):
        import_google_ffn(save(tmp_path / "w.npz", arrays))


def test_a_wrong_shape_is_named(tmp_path: Path) -> None:
    arrays = variables()
    arrays["conv1_a.weights"] = arrays["conv1_a.weights"][:, :, :2]
    with pytest.raises(CheckpointError, match=r"w\.npz: .*conv1_a\.weights: expected"):
        import_google_ffn(save(tmp_path / "w.npz", arrays))
    arrays["conv1_a.weights"] = arrays["conv1_a.weights"][0]
    with pytest.raises(CheckpointError, match=r"conv1_a\.weights: expected 5 axes"):
        import_google_ffn(save(tmp_path / "w.npz", arrays))


def test_broken_numbers_are_refused(tmp_path: Path) -> None:
    arrays = variables()
    arrays["conv0_a.biases"][0] = np.nan
    with pytest.raises(CheckpointError, match=r"conv0_a\.biases: .*not finite"):
        import_google_ffn(save(tmp_path / "w.npz", arrays))


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"not an \.npz"):
        import_google_ffn(tmp_path / "absent.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(CheckpointError, match=r"not an \.npz"):
        import_google_ffn(tmp_path / "text.npz")
    np.save(tmp_path / "single.npy", np.zeros(3))
    with pytest.raises(CheckpointError, match=r"not an \.npz"):
        import_google_ffn(tmp_path / "single.npy")
    np.savez(tmp_path / "pickled.npz", weights=np.array([{"a": 1}], object))
    with pytest.raises(CheckpointError, match=r"not an \.npz"):
        import_google_ffn(tmp_path / "pickled.npz")
    with pytest.raises(CheckpointError, match="not a google/ffn network"):
        import_google_ffn(save(tmp_path / "other.npz", {"x": np.zeros(3, np.float32)}))


@pytest.mark.skipif(not FIB25.is_dir(), reason="the FIB-25 data are not here")
def test_the_published_network_is_the_published_size() -> None:
    model = import_google_ffn(FIB25 / "fib25_weights.npz")
    assert (model.network.config.modules, model.network.config.features) == (12, 32)
    assert sum(p.numel() for p in model.network.parameters()) == 638_433
    assert model.provenance["global_step"] == "27465036"


def flax_names(arrays: dict[str, np.ndarray], *, prefix: str = "") -> dict[str, np.ndarray]:
    """The same network as a flattened ResConvStack of google/ffn's JAX code."""
    renamed = {}
    for name, array in arrays.items():
        layer, _, kind = name.partition(".")
        if layer == "conv_lom":
            layer = "output"
        elif layer.startswith("conv0_"):
            layer = f"pre_{layer[-1]}"
        elif layer.startswith("conv"):
            layer = f"res{int(layer[4:-2]) - 1}{layer[-1]}"
        renamed[f"{prefix}{layer}/{'kernel' if kind == 'weights' else 'bias'}" if kind else name] = array
    return renamed


@pytest.mark.parametrize("prefix", ["", "params/"])
def test_the_jax_network_is_the_same_network(tmp_path: Path, prefix: str) -> None:
    arrays = variables(modules=12)
    flax = flax_names(arrays, prefix=prefix)
    assert f"{prefix}res10b/kernel" in flax
    expected = import_google_ffn(save(tmp_path / "tf.npz", arrays))
    found = import_google_ffn(save(tmp_path / "jax.npz", flax))
    assert found.sha256 == expected.sha256
    assert found.provenance["source"] == "google/ffn ResConvStack (JAX)"
    assert found.provenance["global_step"] == "7"


def test_layer_normalisation_is_refused(tmp_path: Path) -> None:
    arrays = flax_names(variables())
    arrays["LayerNorm_0/scale"] = np.ones(3, np.float32)
    with pytest.raises(CheckpointError, match=r"LayerNorm_0/scale: .*use_layernorm=False"):
        import_google_ffn(save(tmp_path / "w.npz", arrays))


def test_a_flax_layer_that_is_missing_is_named_as_tensorflow_does(tmp_path: Path) -> None:
    arrays = flax_names(variables())
    del arrays["res0b/bias"]
    with pytest.raises(CheckpointError, match=r"conv1_b\.biases is missing"):
        import_google_ffn(save(tmp_path / "w.npz", arrays))
