"""One call of the network: several fields of view in, their new logits out.

Two seams on one network. `forward` maps tensors on the device, for a host that keeps its canvases there;
`predict` maps numpy arrays, for a host that keeps them in memory. What happens between calls (gather, move,
scatter) is the host's work; keeping them apart lets one call serve several moves, objects or subvolumes.

Shape letters: B batch, Z Y X field of view.
"""

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ffn.checkpoint import Model
from ffn.config import ConfigError, Normalisation
from ffn.fused import FusedNetwork
from ffn.graphs import Graphs
from ffn.native import NativeNetwork, why_not
from ffn.network import IMAGE, SEED, FloodFillingNetwork
from ffn.quantise import quantise_network

Precision = Literal["fp32", "tf32", "bf16", "fp16", "int8"]
Kernel = Literal["auto", "native", "torch"]

# torch leaves oneDNN for a single sample whose channels x depth x height is not above this
# (`use_mkldnn` in aten/src/ATen/native/Convolution.cpp); its fallback is some 8 times slower.
_ONEDNN_SINGLE_SAMPLE = 20480

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_FUSED = {"tf32": torch.float32, **_AUTOCAST}
"""Precisions that `FusedNetwork` is for. fp32 stays with the plain network: it is the reference."""


def _cudnn(*, tf32: bool) -> AbstractContextManager[None]:
    """On NVIDIA: TF32 only where wanted (it moves logits past thresholds); the same bytes in every run."""
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, deterministic=True, allow_tf32=tf32
    )
    return flags


def choose_kernel(
    network: FloodFillingNetwork,
    *,
    device: torch.device,
    precision: Precision = "fp32",
    wanted: Kernel = "auto",
) -> tuple[Literal["native", "torch"], str]:
    """Which code carries out the convolutions, and why: the native one where it can.

    Raises ConfigError when "native" is wanted and cannot be had.
    """
    if wanted == "torch":
        return "torch", "asked for"
    reason = "runs on the CPU only" if device.type != "cpu" else ""
    reason = reason or ("computes in fp32 only" if precision != "fp32" else "") or why_not(network.config)
    if not reason:
        return "native", "Winograd F(3x3x3, 3x3x3), compiled for this CPU"
    if wanted == "native":
        raise ConfigError(f"kernel: the native convolution {reason}; take auto or torch")
    return "torch", f"the native convolution {reason}"


def next_power_of_two(rows: int) -> int:
    """The least power of two that is not below `rows`: rounded so, batches have few shapes."""
    return 1 << (rows - 1).bit_length()


class Engine:
    """Runs a network on one device. Its arrays are (B, Z, Y, X) with Z, Y, X the field of view.

    `kernel` "auto" takes the native convolutions on a CPU that has a compiler, else torch's. `precision`
    below fp32 moves logits past thresholds: see `ffn.gate` before it is trusted; tf32 is float32 with short
    mantissas in the products, on NVIDIA only.
    """

    def __init__(
        self,
        network: FloodFillingNetwork,
        normalisation: Normalisation,
        *,
        device: torch.device,
        precision: Precision = "fp32",
        kernel: Kernel = "auto",
    ) -> None:
        if precision == "tf32" and device.type != "cuda":
            raise ConfigError(f"precision: tf32 is for NVIDIA only, not for {device.type}; take fp32 or bf16")
        self.device = device
        self.precision: Precision = precision
        self.kernel, self.kernel_reason = choose_kernel(
            network, device=device, precision=precision, wanted=kernel
        )
        self._normalisation = normalisation
        self._network = copy.deepcopy(network).eval()
        if precision == "int8":
            quantise_network(self._network)
        self._network.to(device)
        self._native = NativeNetwork(network) if self.kernel == "native" else None
        for weights in self._network.parameters():  # the layout in which oneDNN is twice as fast
            if weights.ndim == 5:
                weights.data = weights.data.contiguous(memory_format=torch.channels_last_3d)
        config = network.config
        small = config.features * config.fov_zyx[0] * config.fov_zyx[1] <= _ONEDNN_SINGLE_SAMPLE
        self.memory_format = torch.contiguous_format if self._native else torch.channels_last_3d
        """The layout in which `forward` takes its input without a copy."""
        self._run: Callable[[Tensor], Tensor] = self._network
        if device.type == "cuda" and precision in _FUSED:
            self._run = FusedNetwork(network, device=device, dtype=_FUSED[precision])
        self._graphs = Graphs(self.forward)
        self.least_batch = 2 if small and device.type == "cpu" and self._native is None else 1

    def normalise(self, image: NDArray[np.generic]) -> NDArray[np.float32]:
        """Grey values as the network sees them."""
        n = self._normalisation
        return (image.astype(np.float32) - np.float32(n.mean)) / np.float32(n.std)

    def forward(self, x: Tensor) -> Tensor:
        """New logits float32 (B, Z, Y, X) for `x` (B, 2, Z, Y, X): normalised image and logits so far.

        On the device, without waiting for it.
        """
        if self._native is not None:
            return self._native(x)
        with torch.inference_mode(), _cudnn(tf32=self.precision == "tf32"), self._autocast():
            logits: Tensor = self._run(x)[:, 0]
        return logits.float()

    def replay(self, x: Tensor) -> Tensor:
        """As `forward`, for inputs at addresses that stay; the answer is good until the next call.

        On NVIDIA the some eighty kernels of a call become one launch: with few rows they take less than that.
        """
        if self.device.type != "cuda":
            return self.forward(x)
        return self._graphs.run(x)

    def predict(
        self, images: Sequence[NDArray[np.generic]], beliefs: Sequence[NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """New logits (B, Z, Y, X) for B fields of view: grey values and the logits so far.

        A batch below `least_batch` is padded with zeros (their answers are dropped).
        """
        count = len(images)
        fov = beliefs[0].shape
        batch = np.zeros((max(count, self.least_batch), *fov, 2), np.float32)  # channels last
        for sample, image, belief in zip(batch, images, beliefs, strict=False):
            sample[..., IMAGE] = self.normalise(image)
            sample[..., SEED] = belief
        x = torch.from_numpy(batch).to(self.device).permute(0, 4, 1, 2, 3)
        logits: NDArray[np.float32] = self.forward(x)[:count].cpu().numpy()
        return logits

    def _autocast(self) -> AbstractContextManager[None]:
        dtype = _AUTOCAST.get(self.precision)
        context: AbstractContextManager[None] = torch.autocast(
            self.device.type, dtype=dtype, enabled=dtype is not None
        )
        return context


def engine_of(
    model: Model,
    *,
    device: torch.device | None = None,
    precision: Precision = "fp32",
    kernel: Kernel = "auto",
) -> Engine:
    """A model's engine, on the CPU unless another device is given."""
    return Engine(
        model.network,
        model.normalisation,
        device=device or torch.device("cpu"),
        precision=precision,
        kernel=kernel,
    )
