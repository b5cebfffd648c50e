"""A model file comes back whole or is refused."""

import json
import pathlib
import pickle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ffn.checkpoint import CheckpointError, Model, load_model, save_model
from ffn.config import InferenceConfig, NetworkConfig, Normalisation
from ffn.network import FloodFillingNetwork

CONFIG = NetworkConfig(modules=2, features=3, fov_zyx=(5, 5, 5), deltas_zyx=(1, 1, 1))


@pytest.fixture
def model() -> Model:
    torch.manual_seed(1)
    return Model(
        network=FloodFillingNetwork(CONFIG),
        normalisation=Normalisation(mean=100.0, std=20.0),
        voxel_size_zyx_nm=(16.0, 8.0, 8.0),
        inference=InferenceConfig(min_segment_size=77),
        provenance={"recipe": "test"},
    )


def tampered(path: pathlib.Path, changes: dict[str, object] | str) -> pathlib.Path:
    """A copy of the model whose header differs; None takes a field away."""
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["model"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if isinstance(changes, dict):
        changes = json.dumps({k: v for k, v in (about | changes).items() if v is not None})
    copy = path.with_name("tampered.safetensors")
    save_file(tensors, copy, metadata={"model": changes})
    return copy


def test_round_trip(tmp_path: pathlib.Path, model: Model) -> None:
    path = tmp_path / "deep" / "model.safetensors"
    save_model(path, model)
    found = load_model(path)
    assert found.sha256 == model.sha256
    assert (found.normalisation, found.voxel_size_zyx_nm) == (model.normalisation, model.voxel_size_zyx_nm)
    assert (found.inference, dict(found.provenance)) == (model.inference, {"recipe": "test"})
    assert found.network.config == CONFIG
    assert not found.network.training
    x = torch.randn(2, 2, 5, 5, 5)
    assert torch.equal(found.network(x), model.network(x))
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]


def test_saving_twice_gives_the_same_bytes(tmp_path: pathlib.Path, model: Model) -> None:
    for name in ("a", "b"):
        save_model(tmp_path / name, model)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_pickle_is_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps({"weights": [1.0]}))
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_model(path)
    torch.save({"a": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_model(path)


def test_a_missing_file_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.safetensors: no such file"):
        load_model(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "0" * 64}, "sha256: the weights differ"),
        ({"schema": "other/1"}, "schema: expected 'petavoxel.ffn/1'"),
        ({"normalisation": None}, "normalisation: is missing"),
        ({"normalisation": {"mean": 1, "std": -1}}, "normalisation.std: must be positive"),
        ("{", "model: not JSON"),
        ("[]", "schema: expected"),
        ({"surprise": 1}, "surprise: unknown field"),
        ({"provenance": []}, "provenance: expected an object"),
        (
            {"network": {"modules": 2, "features": 4, "fov_zyx": [5] * 3, "deltas_zyx": [1] * 3}},
            "tensor conv0_a.bias: expected shape .4,., found .3,.",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: pathlib.Path, model: Model, changes: dict[str, object] | str, message: str
) -> None:
    save_model(tmp_path / "model.safetensors", model)
    with pytest.raises(CheckpointError, match=message):
        load_model(tampered(tmp_path / "model.safetensors", changes))
