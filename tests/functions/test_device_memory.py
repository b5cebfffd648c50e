"""What is said of an accelerator's memory is what the tensors take, here on a CPU."""

from __future__ import annotations

import weakref
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ffn.canvas import Thresholds
from ffn.config import InferenceConfig, NetworkConfig
from ffn.device_canvas import DeviceCanvas
from ffn.network import FloodFillingNetwork
from functions.device_memory import GIB, MAPS, RESERVED_GIB, WINDOW_BYTES, OnDevice

FOV = (9, 9, 9)


def device(gib: float = 40.0, **changed: Any) -> OnDevice:
    given = {"fov_zyx": (33, 33, 33), "features": 32, "batch": 32, "objects": 32, **changed}
    return OnDevice(device_gib=gib, **given)


def test_canvases_and_windows_are_as_large_as_their_tensors() -> None:
    shape, objects, batch = (20, 24, 28), 3, 4
    canvas = DeviceCanvas(
        [np.zeros(shape, np.float32)],
        [np.zeros(shape, bool)],
        fov_zyx=FOV,
        deltas_zyx=(2, 2, 2),
        thresholds=Thresholds.of(InferenceConfig()),
        lanes=objects,
        batch=batch,
        least=1,
        device=torch.device("cpu"),
        memory_format=torch.contiguous_format,
    )
    scratch = FOV[0] * shape[1] * shape[2]  # behind each tensor, for rows without a move
    held = sum(
        t.nbytes - scratch * t.itemsize
        for t in (canvas._image, canvas._closed, canvas._belief, canvas._visited)
    )
    assert held == device(objects=objects).bytes_per_voxel * prod(shape)
    windows = canvas.seen.nbytes + canvas._old.nbytes + canvas._bound.nbytes
    assert windows == WINDOW_BYTES * batch * prod(FOV)


class Alive(TorchDispatchMode):
    """The most bytes that tensors made inside take at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, list[int]] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor):
            place = found.untyped_storage().data_ptr()
            self.held.setdefault(place, [found.untyped_storage().nbytes(), 0])[1] += 1
            weakref.finalize(found, self._let_go, place)
            self.most = max(self.most, sum(size for size, _ in self.held.values()))
        return found

    def _let_go(self, place: int) -> None:
        self.held[place][1] -= 1
        if not self.held[place][1]:
            del self.held[place]


def test_so_many_maps_of_features_are_alive_at_once() -> None:
    network = FloodFillingNetwork(NetworkConfig(modules=4, features=16, fov_zyx=FOV, deltas_zyx=(2, 2, 2)))
    with torch.inference_mode(), Alive() as alive:
        network(torch.zeros(2, 2, *FOV))
    one = 2 * 16 * prod(FOV) * 4
    assert (MAPS - 1) * one < alive.most <= (MAPS + 0.2) * one


def test_the_largest_subvolume_fits_and_a_larger_one_does_not() -> None:
    found = device()
    side = found.largest_side
    assert found.holds(side**3)
    assert not found.holds((side + 8) ** 3)
    assert side % 8 == 0
    batch = 32 * 33**3 * (16 + 3 * 32 * 4)
    assert found.most_voxels == pytest.approx(((40 - RESERVED_GIB) * GIB - batch) / (5 + 5 * 32))
    figures = {figure.name: figure for figure in found.figures()}
    assert figures["device_batch"].value == batch
    assert figures["device_subvolume_side"].value == side
    assert device(precision="fp16").batch_bytes < 0.6 * batch
    assert device(80.0).largest_side > side > device(objects=64).largest_side
    assert device(1.0).most_voxels == device(1.0).largest_side == 0
