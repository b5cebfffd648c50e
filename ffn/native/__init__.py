"""The network on one CPU thread in C: Winograd convolutions, bias, ReLU and residual in one pass.

Two to four times faster than any library here, for any field of view and number of features; see `network.c`
for the method and `build` for how it is compiled. Its sums are ordered unlike torch's, so logits agree to
about 1e-5, not to the bit.
"""

import ctypes
from collections.abc import Iterable
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ffn.config import NetworkConfig
from ffn.native.build import BuildError, channels, library
from ffn.network import IMAGE, SEED, FloodFillingNetwork

# G of F(3, 3) with the points 0, 1, -1, 2, infinity: three weights into five points
_INTO_POINTS = np.array(
    [[1 / 2, 0, 0], [-1 / 2, -1 / 2, -1 / 2], [-1 / 6, 1 / 6, -1 / 6], [1 / 6, 1 / 3, 2 / 3], [0, 0, 1]]
)
_ALIGNMENT = 64

Scalar = TypeVar("Scalar", bound=np.generic)


def why_not(config: NetworkConfig) -> str:
    """Why the native network cannot run here ("finds no C compiler"), or "" when it can. Compiles it."""
    try:
        library(config)
    except BuildError as error:
        return str(error)
    return ""


def transformed(weights: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Kernels (out, in, 3, 3, 3) at the 5x5x5 points: (125, in, out), both padded to `width`."""
    g, w = _INTO_POINTS, weights.astype(np.float64)
    points = np.einsum("az,by,cx,oizyx->abcio", g, g, g, w, optimize=True)
    padded = np.zeros((125, width, width), np.float32)
    padded[:, : weights.shape[1], : weights.shape[0]] = points.reshape(125, weights.shape[1], -1)
    return padded


class NativeNetwork:
    """(B, 2, Z, Y, X) image and seed logits to new logits (B, Z, Y, X), both float32 on the CPU.

    Not for two threads at once: it has one workspace. The C code runs without the interpreter's lock.
    """

    def __init__(self, network: FloodFillingNetwork) -> None:
        self._fov = network.config.fov_zyx
        width = channels(network.config)
        self._library = library(network.config)
        self._library.workspace_bytes.restype = ctypes.c_size_t
        first = _array(network.conv0_a.weight)  # (F, 2, 3, 3, 3)
        convolutions = list(_convolutions(network))
        self._layers = len(convolutions)
        self._first = _padded(first.transpose(2, 3, 4, 1, 0).reshape(27, 2, -1), width)
        self._first_bias = _padded(_array(network.conv0_a.bias), width)
        self._kernels = _aligned(np.stack([transformed(_array(c.weight), width) for c in convolutions]))
        self._biases = _padded(np.stack([_array(c.bias) for c in convolutions]), width)
        self._last = _padded(_array(network.conv_lom.weight).reshape(-1), width)
        self._last_bias = float(_array(network.conv_lom.bias)[0])
        self._workspace = _aligned(np.zeros(int(self._library.workspace_bytes()), np.uint8))

    def __call__(self, x: Tensor) -> Tensor:
        """The network's answer; raises ValueError for another field of view than it was made for."""
        if tuple(x.shape[1:]) != (2, *self._fov):
            raise ValueError(f"x: expected (B, 2, {self._fov}), found {tuple(x.shape)}")
        seen = x.float().contiguous(memory_format=torch.contiguous_format).numpy()
        logits = np.empty((len(seen), *self._fov), np.float32)
        for sample, answer in zip(seen, logits, strict=True):
            self._library.run(
                _pointer(sample[IMAGE]),
                _pointer(sample[SEED]),
                _pointer(self._first),
                _pointer(self._first_bias),
                _pointer(self._kernels),
                _pointer(self._biases),
                ctypes.c_int(self._layers),
                _pointer(self._last),
                ctypes.c_float(self._last_bias),
                _pointer(self._workspace),
                _pointer(answer),
            )
        return torch.from_numpy(logits)


def _convolutions(network: FloodFillingNetwork) -> Iterable[nn.Conv3d]:
    """Every 3x3x3 layer but the first, in order."""
    yield network.conv0_b
    for module in network.residual:
        yield module.conv_a  # type: ignore[misc]
        yield module.conv_b  # type: ignore[misc]


def _array(tensor: Tensor | None) -> NDArray[np.float32]:
    assert tensor is not None
    values: NDArray[np.float32] = tensor.detach().cpu().float().numpy()
    return values


def _padded(values: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """`values` with zeros up to `width` on the last axis."""
    margins = [(0, 0)] * (values.ndim - 1) + [(0, width - values.shape[-1])]
    return _aligned(np.pad(values, margins))


def _aligned(values: NDArray[Scalar]) -> NDArray[Scalar]:
    """A contiguous copy that starts at a whole vector."""
    room = np.empty(values.nbytes + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    copy: NDArray[Scalar] = room[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


def _pointer(values: NDArray[np.generic]) -> ctypes.c_void_p:
    return ctypes.c_void_p(values.ctypes.data)
