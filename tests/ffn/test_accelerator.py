"""On an NVIDIA or Intel accelerator: the CPU's objects, and the same bytes again."""

import numpy as np
import pytest
import torch

from ffn.checkpoint import Model
from ffn.config import ConfigError, Normalisation
from ffn.device import choose_device
from ffn.engine import Engine
from ffn.inference import Segmentation, segment, segment_many
from ffn.network import FloodFillingNetwork
from tests.ffn.test_batched import IMAGES, random_model
from tests.ffn.test_inference import brightness_model, two_slabs

CPU = torch.device("cpu")
needs_accelerator = pytest.mark.skipif(choose_device("auto") == CPU, reason="no accelerator")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def accelerator() -> torch.device:
    return choose_device("auto")


def flood(model: Model, *, batch: int, objects: int) -> list[Segmentation]:
    return segment_many(IMAGES, model=model, batch=batch, objects=objects, device=accelerator())


@needs_accelerator
def test_the_network_answers_as_on_the_cpu() -> None:
    model = random_model()
    fov = model.network.config.fov_zyx
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 2, *fov)).astype(np.float32))
    there = Engine(model.network, model.normalisation, device=accelerator()).forward(x.to(accelerator()))
    here = Engine(model.network, model.normalisation, device=CPU, kernel="torch").forward(x)
    assert torch.allclose(there.cpu(), here, atol=1e-4, rtol=1e-4)


@needs_accelerator
@pytest.mark.parametrize(("batch", "objects"), [(1, 1), (8, 4), (32, 16)])
def test_objects_are_those_of_the_cpu(batch: int, objects: int) -> None:
    model = random_model()
    for image, found in zip(IMAGES, flood(model, batch=batch, objects=objects), strict=True):
        expected = segment(image, model=model, device=CPU)
        assert len(expected.moves_zyx) > 20
        assert np.array_equal(found.labels, expected.labels)
        assert np.array_equal(found.moves_zyx, expected.moves_zyx)


@needs_accelerator
def test_twice_is_the_same() -> None:
    first, second = (flood(random_model(), batch=16, objects=8) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.labels, other.labels)
        assert np.array_equal(one.moves_zyx, other.moves_zyx)


@needs_accelerator
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_finds_plain_objects(precision: str) -> None:
    (image, truth), model = two_slabs(), brightness_model()
    (found,) = segment_many(
        [image],
        model=model,
        batch=8,
        device=accelerator(),
        precision=precision,  # type: ignore[arg-type]
    )
    assert set(np.unique(found.labels)) == {0, 1, 2}
    for slab in (1, 2):  # rounding decides between moves that tie, so not every voxel is the CPU's
        labels, voxels = np.unique(found.labels[truth == slab], return_counts=True)
        assert voxels[labels > 0].max() > 0.9 * voxels.sum()


@needs_cuda
def test_tf32_is_near_fp32_and_not_it() -> None:
    torch.manual_seed(1)
    model = random_model()
    network = FloodFillingNetwork(model.network.config)
    x = torch.randn(16, 2, *network.config.fov_zyx, device="cuda")
    normalisation = Normalisation(mean=0, std=1)
    full, short = (
        Engine(network, normalisation, device=torch.device("cuda"), precision=p).forward(x)  # type: ignore[arg-type]
        for p in ("fp32", "tf32")
    )
    assert torch.allclose(full, short, atol=1e-2, rtol=1e-2)


def test_tf32_is_refused_elsewhere() -> None:
    model = random_model()
    with pytest.raises(ConfigError, match=r"precision: tf32 is for NVIDIA only, not for cpu"):
        Engine(model.network, model.normalisation, device=CPU, precision="tf32")
