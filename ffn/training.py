"""Training a flood-filling network, with moves inside every example (Januszewski et al. 2018).

A batch has one slot per example. Every step each slot shows the network one field of view: image
and logits so far. The answer is compared with the object's mask and written back, and the slot moves to the
next place that the network itself has come to believe in. A slot with no move left takes the next example.

Shape letters: B batch, Z Y X field of view.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from torch import Tensor

from ffn.augment import AugmentConfig
from ffn.config import InferenceConfig, NetworkConfig, Normalisation, Triple, require
from ffn.examples import Example, ExampleConfig, ExampleSource, TrainingVolume
from ffn.network import FloodFillingNetwork
from ffn.training_state import load_state, save_state

Validate = Callable[[FloodFillingNetwork], Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimiserConfig:
    """Adam with warm-up, then a half cosine down to `final_rate`; averaged weights are what is kept."""

    steps: int = 20_000
    batch: int = 8
    rate: float = 1e-3
    final_rate: float = 1e-5
    warmup_steps: int = 200
    gradient_clip: float = 1.0
    average_decay: float = 0.999
    soft_label: float = 0.05

    def __post_init__(self) -> None:
        require(self.steps >= 1, "steps", "must be at least 1")
        require(self.batch >= 1, "batch", "must be at least 1")
        require(0 < self.final_rate <= self.rate, "rate", "must be positive and not below final_rate")
        require(0 <= self.average_decay < 1, "average_decay", "must be at least 0 and below 1")
        require(0 <= self.soft_label < 0.5, "soft_label", "must be at least 0 and below 0.5")


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
    """The rate of step 0, 1, ...: linear warm-up, then half a cosine."""
    if step < config.warmup_steps:
        return config.rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.final_rate + (config.rate - config.final_rate) * 0.5 * (
        1 + math.cos(math.pi * min(1.0, progress))
    )


class Slot:
    """One example in the batch: its logits so far and the moves still to be tried."""

    def __init__(self, number: int, example: Example, recipe: TrainingRecipe) -> None:
        self.number, self.example = number, example
        config = recipe.inference
        self.logits = np.full(example.image.shape, _logit(config.pad_value), np.float32)
        self.logits[tuple(n // 2 for n in example.image.shape)] = _logit(config.init_activation)
        self.moves = training_moves(recipe, number)
        self.next_move = 0
        self._fov, self._threshold = recipe.network.fov_zyx, _logit(config.move_threshold)

    def advance(self) -> bool:
        """Goes to the next move whose voxel the network believes in; False when none is left."""
        while self.next_move < len(self.moves):
            self.next_move += 1
            if self.next_move == 1 or self.logits[self._centre()] >= self._threshold:
                return True
        return False

    @property
    def where(self) -> tuple[slice, ...]:
        """The field of view of the current move."""
        corner = (c - f // 2 for c, f in zip(self._centre(), self._fov, strict=True))
        return tuple(slice(c, c + f) for c, f in zip(corner, self._fov, strict=True))

    def _centre(self) -> Triple:
        z, y, x = self.moves[self.next_move - 1]
        depth, height, width = self.example.image.shape
        return depth // 2 + z, height // 2 + y, width // 2 + x


def training_moves(recipe: TrainingRecipe, number: int) -> list[Triple]:
    """The centre, then outward in random order the lattice of the deltas that fits the example."""
    reach = [(n - f) // 2 for n, f in zip(recipe.examples.shape_zyx, recipe.network.fov_zyx, strict=True)]
    per_axis = [
        range(-(r // d) * d, r + 1, d) if d > 0 else (0,)
        for r, d in zip(reach, recipe.network.deltas_zyx, strict=True)
    ]
    offsets: list[Triple] = [(z, y, x) for z in per_axis[0] for y in per_axis[1] for x in per_axis[2]]
    rng = np.random.default_rng([recipe.seed, 2, number])
    order = {o: float(rng.random()) for o in offsets}
    steps = [max(1, d) for d in recipe.network.deltas_zyx]
    return sorted(offsets, key=lambda o: (sum(abs(v) // s for v, s in zip(o, steps, strict=True)), order[o]))


class Trainer:
    """The state of a training run; `step()` does one update, which follows from recipe, volumes and state."""

    def __init__(
        self,
        recipe: TrainingRecipe,
        volumes: Sequence[TrainingVolume],
        *,
        initial: FloodFillingNetwork | None = None,
    ) -> None:
        self.recipe = recipe
        torch.manual_seed(recipe.seed)
        self.network = FloodFillingNetwork(recipe.network)
        self.network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        for parameter in self.network.conv_lom.parameters():
            torch.nn.init.zeros_(parameter)  # the first answer is the seed unchanged
        if initial is not None:
            self.network.load_state_dict(initial.state_dict())
        self.average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        self.adam = torch.optim.Adam(self.network.parameters(), lr=recipe.optimiser.rate)
        self.done_steps = 0
        self._source = ExampleSource(
            volumes,
            config=recipe.examples,
            augmentation=recipe.augmentation,
            normalisation=recipe.normalisation,
            seed=recipe.seed,
        )
        self.next_example = 0
        self.slots = [self._next_slot() for _ in range(recipe.optimiser.batch)]

    def _next_slot(self) -> Slot:
        self.next_example += 1
        return self.slot(self.next_example - 1)

    def slot(self, number: int) -> Slot:
        """A fresh slot for one example."""
        return Slot(number, self._source[number], self.recipe)

    def step(self) -> dict[str, float]:
        """One update of the weights; returns what a log line tells."""
        config = self.recipe.optimiser
        for i, slot in enumerate(self.slots):
            if not slot.advance():
                self.slots[i] = self._next_slot()
                self.slots[i].advance()
        x, target = self._batch()
        for group in self.adam.param_groups:
            group["lr"] = learning_rate(config, self.done_steps)
        logits = self.network(x)[:, 0]
        soft = target * (1 - 2 * config.soft_label) + config.soft_label
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, soft)
        self.adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.gradient_clip)
        self.adam.step()
        self.done_steps += 1
        self._average()
        self._write_back(logits.detach())
        return {**_agreement(logits.detach(), target), "loss": float(loss.detach()), "gradient": float(norm)}

    def _batch(self) -> tuple[Tensor, Tensor]:
        """Network input (B, 2, Z, Y, X) and target (B, Z, Y, X)."""
        seen = np.stack([np.stack([s.example.image[s.where], s.logits[s.where]]) for s in self.slots])
        target = np.stack([s.example.target[s.where] for s in self.slots])
        x = torch.from_numpy(seen).to(memory_format=torch.channels_last_3d)
        return x, torch.from_numpy(target).float()

    def _write_back(self, logits: Tensor) -> None:
        for slot, answer in zip(self.slots, logits.numpy(), strict=True):
            slot.logits[slot.where] = answer

    def _average(self) -> None:
        decay = min(self.recipe.optimiser.average_decay, (1 + self.done_steps) / (10 + self.done_steps))
        for name, value in self.network.state_dict().items():
            self.average[name].lerp_(value, 1 - decay)

    def averaged_network(self) -> FloodFillingNetwork:
        """A copy of the network with the averaged weights, in evaluation mode."""
        network = FloodFillingNetwork(self.recipe.network)
        network.load_state_dict(self.average)
        network.eval()
        return network


def train(
    recipe: TrainingRecipe,
    volumes: Sequence[TrainingVolume],
    *,
    folder: Path,
    log_every: int = 100,
    save_every: int = 1000,
    validate: Validate | None = None,
    initial: FloodFillingNetwork | None = None,
) -> FloodFillingNetwork:
    """Trains to the recipe's last step and returns the averaged network.

    `folder` receives `log.jsonl` and `state.safetensors`; called again with the same recipe and folder,
    training goes on from the last saved state to the weights it would have had anyway. `validate` is called
    with the averaged network whenever the state is saved, and its figures are logged. `initial` gives
    the first weights, to go on from a trained network.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(recipe, volumes, initial=initial)
    state = folder / "state.safetensors"
    if state.is_file():
        load_state(state, trainer)
    with (folder / "log.jsonl").open("a", encoding="utf-8") as log:
        for line in _run(trainer, log_every):
            saved = trainer.done_steps % save_every == 0 or trainer.done_steps == recipe.optimiser.steps
            if saved:
                save_state(state, trainer)
            if saved and validate is not None:
                line = {**line, **validate(trainer.averaged_network())}
            _write(log, line)
    return trainer.averaged_network()


def _run(trainer: Trainer, log_every: int) -> Iterator[dict[str, float]]:
    """Steps to the end; yields the mean of the figures every `log_every` steps."""
    start, sums, count = time.monotonic(), dict[str, float](), 0
    while trainer.done_steps < trainer.recipe.optimiser.steps:
        for name, value in trainer.step().items():
            sums[name] = sums.get(name, 0.0) + value
        count += 1
        if trainer.done_steps % log_every == 0 or trainer.done_steps == trainer.recipe.optimiser.steps:
            means = {name: round(value / count, 5) for name, value in sums.items()}
            yield {
                "step": trainer.done_steps,
                "examples": trainer.next_example,
                **means,
                "rate": learning_rate(trainer.recipe.optimiser, trainer.done_steps),
                "seconds": round(time.monotonic() - start, 1),
            }
            sums, count = {}, 0


def _write(log: TextIO, line: Mapping[str, float]) -> None:
    log.write(json.dumps(line) + "\n")
    log.flush()


def _agreement(logits: Tensor, target: Tensor) -> dict[str, float]:
    """Precision and recall of `logit >= 0` over the batch."""
    predicted, wanted = logits >= 0, target > 0.5
    hits = float((predicted & wanted).sum())
    return {
        "precision": hits / max(1.0, float(predicted.sum())),
        "recall": hits / max(1.0, float(wanted.sum())),
    }


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))
