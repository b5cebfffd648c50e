"""What is exported comes back to the bit."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ffn.checkpoint import Model, load_model
from ffn.config import InferenceConfig, NetworkConfig, Normalisation
from ffn.exporting import export_model, to_tensorflow
from ffn.importing import import_google_ffn
from ffn.network import FloodFillingNetwork
from tests.ffn.test_importing import FIB25, save, variables


def model() -> Model:
    torch.manual_seed(3)
    return Model(
        network=FloodFillingNetwork(
            NetworkConfig(modules=3, features=5, fov_zyx=(5, 7, 9), deltas_zyx=(1, 2, 3))
        ).eval(),
        normalisation=Normalisation(mean=100, std=20),
        voxel_size_zyx_nm=(20.0, 10.0, 10.0),
        inference=InferenceConfig(),
        provenance={"global_step": "12"},
    )


def test_there_and_back_to_the_bit(tmp_path: Path) -> None:
    export_model(model(), tmp_path / "deep" / "w.npz", to="npz-tensorflow")
    back = import_google_ffn(tmp_path / "deep" / "w.npz", fov_zyx=(5, 7, 9), deltas_zyx=(1, 2, 3))
    assert back.sha256 == model().sha256
    assert back.network.config == model().network.config
    assert back.provenance["global_step"] == "12"
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["w.npz"]


def test_the_variables_are_those_that_were_imported(tmp_path: Path) -> None:
    arrays = variables(modules=4)
    again = to_tensorflow(import_google_ffn(save(tmp_path / "w.npz", arrays)).network)
    assert {*again, "global_step"} == set(arrays)
    for name, array in again.items():
        assert array.dtype == np.float32
        assert np.array_equal(array, arrays[name])


def test_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        export_model(model(), tmp_path / name, to="npz-tensorflow")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_model_file_keeps_everything(tmp_path: Path) -> None:
    export_model(model(), tmp_path / "m.safetensors", to="safetensors")
    back = load_model(tmp_path / "m.safetensors")
    assert (back.sha256, back.voxel_size_zyx_nm) == (model().sha256, (20.0, 10.0, 10.0))


def test_a_torch_program_gives_the_same_logits_for_any_batch(tmp_path: Path) -> None:
    original = model()
    export_model(original, tmp_path / "m.pt2", to="torch-export")
    program = torch.export.load(tmp_path / "m.pt2").module()
    for batch in (1, 3):
        x = torch.randn(batch, 2, 5, 7, 9, generator=torch.Generator().manual_seed(batch))
        with torch.inference_mode():
            assert torch.allclose(program(x), original.network(x), atol=1e-6)


@pytest.mark.skipif(not FIB25.is_dir(), reason="the FIB-25 data are not here")
def test_the_published_network_goes_there_and_back(tmp_path: Path) -> None:
    published = import_google_ffn(FIB25 / "fib25_weights.npz")
    export_model(published, tmp_path / "w.npz", to="npz-tensorflow")
    with np.load(FIB25 / "fib25_weights.npz") as original, np.load(tmp_path / "w.npz") as exported:
        assert set(exported.files) == set(original.files)
        assert all(np.array_equal(exported[name], original[name]) for name in original.files)
