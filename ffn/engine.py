"""One call of the network: arrays of several fields of view in, their new logits out.

The only place of inference that knows tensors. What happens between calls (gather, move, scatter) is host
work on the canvas; keeping them apart lets one call serve several moves, objects or subvolumes.
"""

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from numpy.typing import NDArray

from ffn.config import Normalisation
from ffn.network import IMAGE, SEED, FloodFillingNetwork

# torch leaves oneDNN for a single sample whose channels x depth x height is not above this
# (`use_mkldnn` in aten/src/ATen/native/Convolution.cpp); its fallback is some 8 times slower.
_ONEDNN_SINGLE_SAMPLE = 20480


def _exact_cudnn() -> AbstractContextManager[None]:
    """On NVIDIA: full float32 (TF32 moves logits past thresholds), and the same bytes in every run."""
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, deterministic=True, allow_tf32=False
    )
    return flags


class Engine:
    """Runs a network on one device. Its arrays are (B, Z, Y, X) with Z, Y, X the field of view."""

    def __init__(
        self, network: FloodFillingNetwork, normalisation: Normalisation, *, device: torch.device
    ) -> None:
        self._network = copy.deepcopy(network).eval().to(device)
        for weights in self._network.parameters():  # the layout in which oneDNN is twice as fast
            if weights.ndim == 5:
                weights.data = weights.data.contiguous(memory_format=torch.channels_last_3d)
        self._normalisation = normalisation
        self._device = device
        config = network.config
        small = config.features * config.fov_zyx[0] * config.fov_zyx[1] <= _ONEDNN_SINGLE_SAMPLE
        self.least_batch = 2 if small and device.type == "cpu" else 1

    def normalise(self, image: NDArray[np.generic]) -> NDArray[np.float32]:
        """Grey values as the network sees them."""
        n = self._normalisation
        return (image.astype(np.float32) - np.float32(n.mean)) / np.float32(n.std)

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
        x = torch.from_numpy(batch).to(self._device).permute(0, 4, 1, 2, 3)
        with torch.inference_mode(), _exact_cudnn():
            logits: NDArray[np.float32] = self._network(x)[:count, 0].float().cpu().numpy()
        return logits
