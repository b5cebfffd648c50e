"""How training scales over GPUs: a model in which every assumption is a figure that can be changed.

Synchronous data parallelism: all GPUs show their share of the global batch, sum the gradients, and make the
same update. One step takes

    compute    |== host ==|==== forward ====|======== backward ========|
    gradients                                  |= bucket =|= bucket =|..|= last =|
                                                                        |<-exposed->|
    step = compute * (1 + spread * sqrt(2 ln GPUs)) + exposed

Buckets are sent while the backward pass still runs; only the last has nothing left to hide behind, and all of
them where the network is slower than the backward pass. The slowest of many GPUs is waited for: the expected
largest of N normal times lies sqrt(2 ln N) standard deviations above their mean.

A larger batch needs more examples for the same loss: (1 + batch / critical batch) times as many as a batch
near 0 would (McCandlish et al. 2018); up to the critical batch the rate grows with the batch's square root.

Nothing here was measured on GPUs: the figures are for comparing choices, not for promising times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ffn.config import NetworkConfig
from functions.model.quantities import Figure

FORWARD_AND_BACKWARD = 3
"""Backward computes the gradients of activations and of weights, each as dear as forward."""
GRADIENT_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What is assumed of the GPUs and the network between their nodes.

    `flops`: FLOP/s of one GPU in use, not at peak. `host_s`: seconds per example in which the GPU waits for
    its host. `spread`: standard deviation of a GPU's step over its mean. `latency_s`: of one message between
    nodes; bandwidths in bytes/s, of a node and of a GPU to its neighbours inside it.

    Raises:
        ValueError: a field is not in its range; the message names it.
    """

    flops: float = 20e12
    gpus_per_node: int = 4
    node_bandwidth: float = 25e9
    gpu_bandwidth: float = 100e9
    latency_s: float = 10e-6
    host_s: float = 1e-3
    spread: float = 0.02
    buckets: int = 3

    def __post_init__(self) -> None:
        for name in ("flops", "gpus_per_node", "node_bandwidth", "gpu_bandwidth", "buckets"):
            _require(getattr(self, name) > 0, name, "must be positive")
        for name in ("latency_s", "host_s", "spread"):
            _require(getattr(self, name) >= 0, name, "must be at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """What is assumed of the network's learning.

    `examples`: fields of view that a small batch needs. `rate` was found for `reference_batch`; beyond
    `critical_batch` a larger batch hardly saves steps.

    Raises:
        ValueError: a field is not positive; the message names it.
    """

    examples: float = 1.5e8
    batch_per_gpu: int = 4
    reference_batch: int = 4
    rate: float = 1e-3
    critical_batch: float = 512.0

    def __post_init__(self) -> None:
        for name in ("examples", "batch_per_gpu", "reference_batch", "rate", "critical_batch"):
            _require(getattr(self, name) > 0, name, "must be positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """What a number of GPUs reaches."""

    gpus: int
    nodes: int
    batch: int
    allreduce_s: float
    exposed_s: float
    step_s: float
    examples_per_s: float
    efficiency: float
    rate: float
    examples: float
    hours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """A request to plan the training of one network on one kind of machine."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    machine: Machine = field(default_factory=Machine)
    learning: Learning = field(default_factory=Learning)

    @property
    def weights(self) -> int:
        """Numbers that the network learns."""
        n, f = 2 * self.network.modules - 1, self.network.features
        return 27 * (2 * f + n * f * f) + (n + 1) * f + f + 1

    @property
    def flop(self) -> float:
        """Operations of one field of view, forward."""
        n, f = 2 * self.network.modules - 1, self.network.features
        return 2 * (27 * (2 * f + n * f * f) + f) * math.prod(self.network.fov_zyx)

    @property
    def compute_s(self) -> float:
        """Seconds that one GPU computes per step."""
        batch = self.learning.batch_per_gpu
        return batch * (FORWARD_AND_BACKWARD * self.flop / self.machine.flops + self.machine.host_s)

    def allreduce_s(self, gpus: int) -> float:
        """Seconds to sum all gradients: a ring inside the node, between nodes the faster of ring and tree."""
        m, size = self.machine, GRADIENT_BYTES * self.weights
        inside, nodes = min(gpus, m.gpus_per_node), self._nodes(gpus)
        within = 2 * (inside - 1) / inside * size / m.gpu_bandwidth
        if nodes == 1:
            return within
        ring = 2 * (nodes - 1) * (size / nodes / m.node_bandwidth + m.buckets * m.latency_s)
        tree = 2 * (size / m.node_bandwidth + m.buckets * math.ceil(math.log2(nodes)) * m.latency_s)
        return within + min(ring, tree)

    def scaling(self, gpus: int) -> Scaling:
        """What `gpus` reach.

        Raises:
            ValueError: not at least one GPU.
        """
        _require(gpus >= 1, "gpus", "must be at least 1")
        m, learning = self.machine, self.learning
        total = self.allreduce_s(gpus)
        backward = learning.batch_per_gpu * self.flop * (FORWARD_AND_BACKWARD - 1) / m.flops
        exposed = max(total / m.buckets, total - backward)
        step = self.compute_s * (1 + m.spread * math.sqrt(2 * math.log(gpus))) + exposed
        batch = gpus * learning.batch_per_gpu
        examples = learning.examples * (1 + batch / learning.critical_batch)
        return Scaling(
            gpus=gpus,
            nodes=self._nodes(gpus),
            batch=batch,
            allreduce_s=total,
            exposed_s=exposed,
            step_s=step,
            examples_per_s=batch / step,
            efficiency=self.compute_s / step,
            rate=learning.rate * math.sqrt(min(batch, learning.critical_batch) / learning.reference_batch),
            examples=examples,
            hours=examples / (batch / step) / 3600,
        )

    def figures(self) -> tuple[Figure, ...]:
        """What does not depend on the number of GPUs, the assumptions included."""
        c, m, learn = self.network, self.machine, self.learning
        fov = "x".join(map(str, c.fov_zyx))
        known = [
            ("weights", self.weights, "", f"{c.modules} modules of {c.features} features"),
            ("flop_forward", self.flop, "FLOP", f"2 * multiplications of one field of view of {fov}"),
            ("flop_per_example", FORWARD_AND_BACKWARD * self.flop, "FLOP", "3 * forward (backward is twice)"),
            ("gradients", GRADIENT_BYTES * self.weights, "bytes", "weights * 4 byte (fp32)"),
        ]
        assumed = [
            ("flops_in_use", m.flops, "FLOP/s", "of one GPU, not its peak"),
            ("host", m.host_s, "s", "per example: making it and moving it, not hidden behind the GPU"),
            ("gpus_per_node", m.gpus_per_node, "", "sum their gradients before the nodes do"),
            ("gpu_bandwidth", m.gpu_bandwidth, "bytes/s", "between GPUs of a node"),
            ("node_bandwidth", m.node_bandwidth, "bytes/s", "of a node to the others"),
            ("latency", m.latency_s, "s", "of a message between nodes"),
            ("buckets", m.buckets, "", "of gradients; all but the last overlap with backward"),
            ("spread", m.spread, "x", "standard deviation of a GPU's step / its mean"),
            ("examples", learn.examples, "examples", "for a small batch; google/ffn: 37.5 M steps of 4"),
            ("critical_batch", learn.critical_batch, "examples", "at it, twice the examples are needed"),
            ("rate", learn.rate, "", f"of Adam, found for a batch of {learn.reference_batch}"),
        ]
        step = ("compute", self.compute_s, "s", "batch per GPU * (FLOP per example / FLOP/s + host)")
        return tuple(
            Figure(name=name, value=float(value), unit=unit, formula=formula)
            for name, value, unit, formula in [
                *known,
                *((name, value, unit, f"assumed; {why}") for name, value, unit, why in assumed),
                step,
            ]
        )

    def _nodes(self, gpus: int) -> int:
        return -(-gpus // self.machine.gpus_per_node)


FORMULAS = (
    ("batch", "GPUs * batch per GPU"),
    ("allreduce_s", "in the node 2 (g - 1)/g * gradients / GPU bandwidth, then ring or tree over the nodes"),
    ("exposed_s", "max(allreduce / buckets, allreduce - backward)"),
    ("step_s", "compute * (1 + spread * sqrt(2 ln GPUs)) + exposed"),
    ("examples_per_s", "batch / step"),
    ("efficiency", "compute / step: examples/s over GPUs times those of one GPU that waits for nothing"),
    ("rate", "rate * sqrt(min(batch, critical batch) / its batch)"),
    ("examples", "examples * (1 + batch / critical batch)"),
    ("hours", "examples needed / (examples/s) / 3600"),
)
"""How each field of `Scaling` follows."""


def _require(condition: bool, name: str, remedy: str) -> None:
    if not condition:
        raise ValueError(f"{name}: {remedy}")
