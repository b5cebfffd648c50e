"""The network's convolutions in C, for CPUs (placeholder while it is being written)."""

from ffn.config import NetworkConfig
from ffn.network import FloodFillingNetwork
from torch import Tensor


def why_not(config: NetworkConfig) -> str:
    return "is not here yet"


class NativeNetwork:
    def __init__(self, network: FloodFillingNetwork) -> None:
        raise NotImplementedError

    def __call__(self, x: Tensor) -> Tensor:
        raise NotImplementedError
