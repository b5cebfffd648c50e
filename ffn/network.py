"""The flood-filling network: a stack of residual 3-d convolutions that updates its own output.

Januszewski et al. 2018 (doi 10.1038/s41592-018-0049-4; google/ffn `convstack_3d`). The input is what is seen
(the image) and what is believed so far (the logits of "this voxel belongs to the object"); the output is
the new belief.

Shape letters: B batch, C channels, F features, Z Y X field of view.

    image, seed  (B, 2, Z, Y, X)
        | conv0_a 3x3x3, ReLU, conv0_b 3x3x3                     2 -> F -> F
        | n += conv_b(ReLU(conv_a(ReLU(n))))                     modules - 1 times
        | ReLU, conv_lom 1x1x1                                   F -> 1
        + seed = new logits  (B, 1, Z, Y, X)

All convolutions pad with zeros to the same size.
"""

import torch
from torch import Tensor, nn

from ffn.config import NetworkConfig

IMAGE, SEED = 0, 1  # input channels


class ResidualModule(nn.Module):
    """`n + conv_b(ReLU(conv_a(ReLU(n))))`; shapes (B, F, Z, Y, X) -> the same."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv_a = nn.Conv3d(features, features, 3, padding=1)
        self.conv_b = nn.Conv3d(features, features, 3, padding=1)

    def forward(self, n: Tensor) -> Tensor:
        update: Tensor = self.conv_b(torch.relu_(self.conv_a(torch.relu(n))))
        return n + update


class FloodFillingNetwork(nn.Module):
    """Image and seed logits (B, 2, Z, Y, X) to new logits (B, 1, Z, Y, X).

    The network is convolutional, so it accepts any Z, Y, X; it was trained for `config.fov_zyx`.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.conv0_a = nn.Conv3d(2, config.features, 3, padding=1)
        self.conv0_b = nn.Conv3d(config.features, config.features, 3, padding=1)
        self.residual = nn.ModuleList(ResidualModule(config.features) for _ in range(config.modules - 1))
        self.conv_lom = nn.Conv3d(config.features, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        n = self.conv0_b(torch.relu_(self.conv0_a(x)))
        for module in self.residual:
            n = module(n)
        update: Tensor = self.conv_lom(torch.relu(n))
        return x[:, SEED : SEED + 1] + update


def parameter_count(network: nn.Module) -> int:
    """How many numbers the network has learned."""
    return sum(p.numel() for p in network.parameters())
