"""What decides a training run: the recipe, and the learning rate that follows from it.

The rate of large batches: Dong et al. 2019 (synchronous training of flood-filling networks) scale it with the
square root of the batch; Goyal et al. 2017 linearly.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

from ffn.augment import AugmentConfig
from ffn.config import InferenceConfig, NetworkConfig, Normalisation, require
from ffn.examples import ExampleConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimiserConfig:
    """Adam with warm-up, then a schedule; averaged weights are what is kept.

    `batch` is the global batch, whatever the number of processes. `rate` and `final_rate` are meant for
    `reference_batch` (None: for `batch` itself); `scale_rate` says how they grow with the batch: "sqrt",
    "linear" or "none". `schedule` after the warm-up: half a "cosine" down to the final rate, or "constant".

    `precision` of forward and backward pass, weights stay fp32: "fp32"; "bf16" by autocast; "fp16" on CUDA
    only, with scaled gradients.
    """

    steps: int = 20_000
    batch: int = 8
    rate: float = 1e-3
    final_rate: float = 1e-5
    schedule: Literal["cosine", "constant"] = "cosine"
    scale_rate: Literal["none", "sqrt", "linear"] = "none"
    reference_batch: int | None = None
    warmup_steps: int = 200
    gradient_clip: float = 1.0
    average_decay: float = 0.999
    soft_label: float = 0.05
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"

    def __post_init__(self) -> None:
        require(self.steps >= 1, "steps", "must be at least 1")
        require(self.batch >= 1, "batch", "must be at least 1")
        require(0 < self.final_rate <= self.rate, "rate", "must be positive and not below final_rate")
        require(self.warmup_steps >= 0, "warmup_steps", "must be at least 0")
        require(self.gradient_clip > 0, "gradient_clip", "must be positive")
        require(0 <= self.average_decay < 1, "average_decay", "must be at least 0 and below 1")
        require(0 <= self.soft_label < 0.5, "soft_label", "must be at least 0 and below 0.5")
        reference = self.reference_batch
        require(reference is None or reference >= 1, "reference_batch", "must be at least 1")
        require(
            self.scale_rate == "none" or reference is not None,
            "reference_batch",
            "is missing; scale_rate needs the batch that rate was found for",
        )

    @property
    def rate_factor(self) -> float:
        """By how much `batch` raises the rates over those of `reference_batch`."""
        ratio = self.batch / (self.reference_batch or self.batch)
        return {"none": 1.0, "sqrt": math.sqrt(ratio), "linear": ratio}[self.scale_rate]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecipe:
    """Everything that decides a training run but the volumes."""

    seed: int = 0
    voxel_size_zyx_nm: tuple[float, float, float]
    network: NetworkConfig = field(default_factory=NetworkConfig)
    normalisation: Normalisation = field(default_factory=Normalisation)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    examples: ExampleConfig = field(default_factory=ExampleConfig)
    augmentation: AugmentConfig = field(default_factory=AugmentConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)

    def __post_init__(self) -> None:
        fits = all(n >= f for n, f in zip(self.examples.shape_zyx, self.network.fov_zyx, strict=True))
        require(fits, "examples.shape_zyx", "must not be smaller than network.fov_zyx")


def learning_rate(config: OptimiserConfig, step: int) -> float:
    """The rate of step 0, 1, ...: linear warm-up, then the schedule."""
    top, end = config.rate * config.rate_factor, config.final_rate * config.rate_factor
    if step < config.warmup_steps:
        return top * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return top
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return end + (top - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
