"""The processes that train one network together, as torchrun starts them.

    torchrun --nproc-per-node 4 --max-restarts 3 -m typer_cli.app model train RECIPE.toml ...

    TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun --nnodes 16 --nproc-per-node 4 --max-restarts 3 \\
        --rdzv-backend c10d --rdzv-endpoint NODE0:29400 -m typer_cli.app model train RECIPE.toml ...

Synchronous data parallelism (Dong et al. 2019): every process holds its share of the global batch, gradients
are averaged while the backward pass still runs (DistributedDataParallel), and all processes make the same
update. Rank 0 alone writes files.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel

from ffn.config import require
from ffn.device import choose_device
from ffn.network import FloodFillingNetwork

CPU = torch.device("cpu")
_BACKENDS = {"cpu": "gloo", "cuda": "nccl", "xpu": "xccl"}
_BUCKET_MB = 1  # the published network's gradients are 2.4 MB: three buckets, two of them sent under way


class DistributedError(ValueError):
    """The processes cannot train together; the message says what to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """This process among `size` that train together, and the device it computes on."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    def __post_init__(self) -> None:
        require(self.size >= 1, "size", "must be at least 1")
        require(0 <= self.rank < self.size, "rank", f"must be at least 0 and below the size {self.size}")

    @property
    def writes(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def shared(self, network: FloodFillingNetwork) -> torch.nn.Module:
        """The network as one that averages its gradients over all processes during `backward`."""
        if self.size == 1:
            return network
        return DistributedDataParallel(network, bucket_cap_mb=_BUCKET_MB, gradient_as_bucket_view=True)

    def total(self, values: Tensor) -> Tensor:
        """The sum of `values` over all processes, in each of them."""
        if self.size == 1:
            return values
        total = values.to(self.device, copy=True)
        dist.all_reduce(total)
        return total

    def gathered(self, values: Tensor) -> list[Tensor]:
        """On rank 0 the `values` (of one shape) of all processes by rank; elsewhere nothing."""
        if self.size == 1:
            return [values]
        here = values.to(self.device).contiguous()
        parts = [torch.empty_like(here) for _ in range(self.size)] if self.writes else None
        dist.gather(here, parts)
        return [] if parts is None else [part.cpu() for part in parts]


ALONE = World()


@contextmanager
def joined(device: str = "auto", *, timeout_hours: float = 2.0) -> Iterator[World]:
    """The world that torchrun's environment describes, left at the end; without torchrun this process alone.

    `device` as for `choose_device`; of several accelerators every local process takes its own. A process may
    wait `timeout_hours` for the others: rank 0 validates while they do.

    Raises DistributedError when the environment is incomplete or there are fewer accelerators than processes.
    """
    chosen = choose_device(device)
    size = _number("WORLD_SIZE", default=1)
    if size == 1:
        yield World(device=chosen)
        return
    rank, local = _number("RANK"), _number("LOCAL_RANK", default=0)
    chosen = _own_device(chosen, local)
    patience = timedelta(hours=timeout_hours)
    dist.init_process_group(
        _BACKENDS[chosen.type], rank=rank, world_size=size, timeout=patience, store=_store(rank, size)
    )
    try:
        yield World(rank=rank, size=size, device=chosen)
        dist.barrier()  # gloo aborts a process whose peers are gone before it has taken the last answer
    finally:
        dist.destroy_process_group()


def _store(rank: int, size: int) -> Store:
    """Where the processes find one another.

    torchrun's agents keep one store through all restarts, in which a restarted process finds the addresses of
    those that died. On one node every attempt gets a part of its own; over several the agents count attempts
    differently, so there every attempt needs a new store.
    """
    host, port = os.environ.get("MASTER_ADDR", ""), _number("MASTER_PORT")
    served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    one_node = _number("LOCAL_WORLD_SIZE", default=size) == size
    if served and not one_node and _number("TORCHELASTIC_MAX_RESTARTS", default=0) > 0:
        raise DistributedError(
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE: is not 1; on several nodes restarts need it, "
            "set it for every torchrun"
        )
    attempt = _number("TORCHELASTIC_RESTART_COUNT", default=0) if one_node else 0
    store = TCPStore(host, port, size, is_master=rank == 0 and not served, multi_tenant=True)
    return PrefixStore(f"attempt_{attempt}", store)


def _own_device(device: torch.device, local_rank: int) -> torch.device:
    """The accelerator of one of this node's processes."""
    if device.type == "cpu":
        return device
    here = torch.cuda if device.type == "cuda" else torch.xpu
    if device.index is not None:
        raise DistributedError(f"device: {device}: every process takes its own; say {device.type} or auto")
    if local_rank >= here.device_count():
        raise DistributedError(
            f"LOCAL_RANK: {local_rank}, but there are {here.device_count()} devices; "
            "lower --nproc-per-node to that"
        )
    here.set_device(local_rank)
    return torch.device(device.type, local_rank)


def _number(name: str, *, default: int | None = None) -> int:
    text = os.environ.get(name, "" if default is None else str(default))
    if not text.isdigit():
        raise DistributedError(f"{name}: {text!r} is not a number; start the processes with torchrun")
    return int(text)
