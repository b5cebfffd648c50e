"""Floods that share a network come out as if each had it for itself."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from ffn.config import ConfigError
from ffn.device import choose_device
from ffn.inference import Segmentation, segment
from ffn.joint import JointEngine
from tests.ffn.test_batched import IMAGES, Image, random_model

CPU = torch.device("cpu")
needs_accelerator = pytest.mark.skipif(choose_device("auto") == CPU, reason="no accelerator")


def flood_together(
    images: Sequence[Image], *, batch: int, threads: int, device: torch.device = CPU
) -> tuple[list[Segmentation], JointEngine]:
    model = random_model()
    with (
        JointEngine(model.network, model.normalisation, device=device, batch=batch) as engine,
        ThreadPoolExecutor(threads) as pool,
    ):
        found = list(pool.map(lambda image: segment(image, model=model, engine=engine.seat()), images))
    return found, engine


@pytest.mark.parametrize(("batch", "threads"), [(1, 1), (1, 3), (3, 6), (8, 6)])
def test_each_is_segmented_as_if_alone(batch: int, threads: int) -> None:
    images = [*IMAGES, *(image[::-1].copy() for image in IMAGES)]
    found, engine = flood_together(images, batch=batch, threads=threads)
    for image, one in zip(images, found, strict=True):
        alone = segment(image, model=random_model())
        assert np.array_equal(one.labels, alone.labels)
        assert np.array_equal(one.moves_zyx, alone.moves_zyx)
    assert engine.rows == sum(one.counters.fovs for one in found)
    assert engine.calls <= engine.rows


def test_those_that_wait_go_together() -> None:
    """Six questions are asked before the network's thread begins: two calls for a batch of four."""
    model = random_model()
    fov = model.network.config.fov_zyx
    engine = JointEngine(model.network, model.normalisation, device=CPU, batch=4)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, fov).astype(np.uint8) for _ in range(6)]
    beliefs = [rng.normal(size=fov).astype(np.float32) for _ in range(6)]
    answers: list[np.ndarray | None] = [None] * 6

    def ask(number: int) -> None:
        answers[number] = engine.seat().predict([images[number]], [beliefs[number]])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    while engine._asking.qsize() < 6:
        pass
    with engine:
        for thread in threads:
            thread.join()
    assert (engine.calls, engine.rows) == (2, 6)
    for image, belief, answer in zip(images, beliefs, answers, strict=True):
        assert answer is not None
        assert np.allclose(answer, engine.predict([image], [belief]), atol=1e-5)


def test_an_error_of_the_network_reaches_every_flood(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: JointEngine, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(JointEngine, "replay", fail)
    model = random_model()
    with (
        JointEngine(model.network, model.normalisation, device=CPU, batch=4) as engine,
        ThreadPoolExecutor(3) as pool,
    ):
        floods = [pool.submit(segment, image, model=model, engine=engine.seat()) for image in IMAGES]
        for flood in floods:
            with pytest.raises(RuntimeError, match="out of memory"):
                flood.result(timeout=60)


def test_a_batch_holds_something() -> None:
    model = random_model()
    with pytest.raises(ConfigError, match="batch: must be at least 1"):
        JointEngine(model.network, model.normalisation, device=CPU, batch=0)


@needs_accelerator
def test_objects_are_those_of_the_cpu() -> None:
    found, _ = flood_together(IMAGES * 4, batch=8, threads=12, device=choose_device("auto"))
    for image, one in zip(IMAGES * 4, found, strict=True):
        assert np.array_equal(one.labels, segment(image, model=random_model(), device=CPU).labels)
