"""The network in 8-bit integers: weights per output channel, activations per field of view, sums in full.

    q(x) = round(x / s), s = max|x| / 127;  conv(x, w) ~ s_x s_w conv(q(x), q(w))

s_w is found once for every output channel, s_x anew for every field of view, so an answer does not depend on
what else is in the batch. First and last layer (0.3 % of the work, and the ones that see logits) and the
residual sums stay in float32, as is usual (Jacob et al. 2018, arXiv 1712.05877).

torch has no 3-d convolution of integers that is dynamic and runs on every device: the arithmetic is emulated,
integers are held in floats wide enough that every partial sum is exact. The results are those of int8
hardware with int32 accumulators; the speed is not.
"""

import torch
from torch import Tensor, nn

from ffn.network import FloodFillingNetwork

EMULATED = True
MOST = 127


class QuantisedConv3d(nn.Module):
    """Stands in for a 3-d convolution with stride 1. (B, C, Z, Y, X) float32 -> (B, F, Z, Y, X) float32."""

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor

    def __init__(self, convolution: nn.Conv3d) -> None:
        super().__init__()
        weight = convolution.weight.detach()
        bias = convolution.bias
        assert bias is not None
        scale = weight.abs().amax(dim=(1, 2, 3, 4)).clamp_min(torch.finfo(torch.float32).tiny) / MOST  # (F,)
        whole = torch.round(weight / scale[:, None, None, None, None]).clamp(-MOST, MOST)
        largest_sum = weight[0].numel() * MOST * MOST
        self._exact = torch.float32 if largest_sum < 2**24 else torch.float64
        self._padding = convolution.padding
        self.register_buffer(
            "weight", whole.to(self._exact).contiguous(memory_format=torch.channels_last_3d), persistent=False
        )
        self.register_buffer("weight_scale", scale, persistent=False)
        self.register_buffer("bias", bias.detach().clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        whole, scale = quantise(x)
        sums = nn.functional.conv3d(whole.to(self._exact), self.weight, padding=self._padding)
        factor = scale[:, None] * self.weight_scale  # (B, F)
        return sums.float() * factor[:, :, None, None, None] + self.bias[:, None, None, None]


def quantise(x: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers -127..127 (as floats) of each sample of `x` (B, ...), and their scales (B,)."""
    scale = x.abs().flatten(1).amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / MOST
    spread = scale.reshape(-1, *([1] * (x.ndim - 1)))
    return torch.round(x / spread).clamp(-MOST, MOST), scale


def quantise_network(network: FloodFillingNetwork) -> FloodFillingNetwork:
    """Replaces, in place, every convolution between the first and the last by its 8-bit form."""
    network.conv0_b = QuantisedConv3d(network.conv0_b)  # type: ignore[assignment]
    for module in network.residual:
        module.conv_a = QuantisedConv3d(module.conv_a)  # type: ignore[arg-type]
        module.conv_b = QuantisedConv3d(module.conv_b)  # type: ignore[arg-type]
    return network
