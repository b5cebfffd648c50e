"""Training a flood-filling network, with moves inside every example (Januszewski et al. 2018).

A batch has one slot per example. Every step each slot shows the network one field of view: image
and logits so far. The answer is compared with the object's mask and written back, and the slot moves to the
next place that the network itself has come to believe in. A slot with no move left takes its next example.

Shape letters: B batch, Z Y X field of view.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor

from ffn.config import require
from ffn.distributed import ALONE, World
from ffn.examples import ExampleSource, TrainingVolume
from ffn.network import FloodFillingNetwork
from ffn.recipe import OptimiserConfig, TrainingRecipe, learning_rate
from ffn.slots import Slots
from ffn.training_log import TrainingLog
from ffn.training_state import BestKept, load_state, save_state

__all__ = ["OptimiserConfig", "Trainer", "TrainingRecipe", "TrainingStopped", "learning_rate", "train"]

Validate = Callable[[FloodFillingNetwork], Mapping[str, float]]
Progress = Callable[[Mapping[str, float]], None]

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer:
    """The state of a training run; `step()` does one update, which follows from recipe, volumes and state.

    `world` holds its share of the global batch here, and its device computes.
    """

    def __init__(
        self,
        recipe: TrainingRecipe,
        volumes: Sequence[TrainingVolume],
        *,
        initial: FloodFillingNetwork | None = None,
        world: World = ALONE,
    ) -> None:
        config = recipe.optimiser
        require(
            config.batch % world.size == 0,
            "optimiser.batch",
            f"{config.batch} must be a multiple of the {world.size} processes",
        )
        fp16 = config.precision == "fp16"
        require(not fp16 or world.device.type == "cuda", "optimiser.precision", "fp16 needs cuda; take bf16")
        self.recipe, self.world = recipe, world
        self.network = _new_network(recipe, initial).to(world.device)
        self.average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        self.adam = torch.optim.Adam(self.network.parameters(), lr=config.rate)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=fp16)
        self.done_steps = 0
        source = ExampleSource(
            volumes,
            config=recipe.examples,
            augmentation=recipe.augmentation,
            normalisation=recipe.normalisation,
            seed=recipe.seed,
        )
        self.slots = Slots(recipe, source, rank=world.rank, size=world.size)
        self._shared = world.shared(self.network)
        self._settle_buckets()

    def step(self) -> Tensor:
        """One update of the weights; returns this process's figures (see `FIGURES`), on the device."""
        config = self.recipe.optimiser
        self.slots.advance()
        seen, wanted, is_known = self.slots.batch()
        device = self.world.device
        x = torch.from_numpy(seen).to(device, memory_format=torch.channels_last_3d)
        target = torch.from_numpy(wanted).to(device)
        known = None if is_known is None else torch.from_numpy(is_known).to(device)
        for group in self.adam.param_groups:
            group["lr"] = learning_rate(config, self.done_steps)
        self.adam.zero_grad(set_to_none=True)
        with _exact_cudnn():
            with self._autocast():
                logits = self._shared(x)[:, 0].float()
            loss = masked_loss(logits, target, known, soft_label=config.soft_label)
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.adam)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.gradient_clip)
        self.scaler.step(self.adam)
        self.scaler.update()
        self.done_steps += 1
        self._average()
        logits = logits.detach()
        self.slots.write_back(logits.cpu().numpy())
        return torch.stack([loss.detach(), norm.detach(), *_agreement(logits, target, known)])

    def _settle_buckets(self) -> None:
        """One backward pass without update.

        DistributedDataParallel orders its buckets anew after the first one, which changes the order of sums:
        past that, a resumed run rounds as one that was never stopped.
        """
        if self.world.size == 1:
            return
        fov = self.recipe.network.fov_zyx
        for _ in range(2):
            self._shared(torch.zeros((1, 2, *fov), device=self.world.device)).sum().backward()
        self.adam.zero_grad(set_to_none=True)

    def _autocast(self) -> AbstractContextManager[None]:
        dtype = _AUTOCAST.get(self.recipe.optimiser.precision)
        context: AbstractContextManager[None] = torch.autocast(
            self.world.device.type, dtype=dtype, enabled=dtype is not None
        )
        return context

    def _average(self) -> None:
        decay = min(self.recipe.optimiser.average_decay, (1 + self.done_steps) / (10 + self.done_steps))
        for name, value in self.network.state_dict().items():
            self.average[name].lerp_(value, 1 - decay)

    def averaged_network(self) -> FloodFillingNetwork:
        """A copy of the network with the averaged weights, on the CPU and in evaluation mode."""
        network = FloodFillingNetwork(self.recipe.network)
        network.load_state_dict(self.average)
        network.eval()
        return network


FIGURES = ("loss", "gradient", "hits", "predicted", "wanted")
"""What a step tells: loss, norm of the gradient before clipping, and known voxels that are both, predicted
(logit >= 0) or wanted inside the object."""


def masked_loss(logits: Tensor, target: Tensor, known: Tensor | None, *, soft_label: float) -> Tensor:
    """Binary cross entropy of (B, Z, Y, X) and softened labels, averaged over all voxels; unknown ones add 0.

    The divisor does not depend on what is known, as in google/ffn: parts of a batch can be averaged.
    """
    soft = target.to(logits.dtype) * (1 - 2 * soft_label) + soft_label
    weight = None if known is None else known.to(logits.dtype)
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, soft, weight=weight)


def train(
    recipe: TrainingRecipe,
    volumes: Sequence[TrainingVolume],
    *,
    folder: Path,
    log_every: int = 100,
    save_every: int = 1000,
    validate: Validate | None = None,
    initial: FloodFillingNetwork | None = None,
    world: World = ALONE,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
) -> FloodFillingNetwork:
    """Trains to the recipe's last step and returns the averaged network of that step.

    `folder` receives `log.jsonl`, `state.safetensors` and, with `validate`, `best.safetensors`; called again
    with the same recipe and folder, by any number of processes, training goes on from the last saved state
    to the weights it would have had anyway. `validate` is called on rank 0 with the averaged network whenever
    the state is saved; its figures are logged, and the network with the least "voi_sum" is kept
    (`ffn.training_state.load_best`). `initial` gives the first weights, to go on from a trained network.
    `progress` is called on rank 0 with every line of the log. All processes of `world` must call this.

    `stop` is asked after every step: once it is true in any process, all save the state there and raise
    TrainingStopped.
    """
    trainer = Trainer(recipe, volumes, initial=initial, world=world)
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / "state.safetensors"
    if state.is_file():
        load_state(state, trainer)
    session = _Session(trainer, folder, validate, progress)
    if session.log.lacks(trainer.done_steps):  # stopped when the state was saved, but not yet validated
        session.close({"step": trainer.done_steps})
    for line in _run(trainer, log_every, save_every, started=session.log.seconds, stop=stop):
        if _saves(trainer, save_every):
            save_state(state, trainer)
            session.close(line)
        else:
            session.tell(line)
    if trainer.done_steps < recipe.optimiser.steps:
        save_state(state, trainer)
        raise TrainingStopped(trainer.done_steps)
    return trainer.averaged_network()


class TrainingStopped(Exception):  # noqa: N818 (nothing went wrong)
    """The training was asked to stop after `step` steps; called again, it goes on from there."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step}; train again with the same folder to go on")
        self.step = step


class _Session:
    """What rank 0 keeps beside the state: the log and the best network."""

    def __init__(
        self, trainer: Trainer, folder: Path, validate: Validate | None, progress: Progress | None
    ) -> None:
        self._trainer, self._validate, self._progress = trainer, validate, progress
        self._writes = trainer.world.writes
        self.log = TrainingLog(folder / "log.jsonl", done_steps=trainer.done_steps, writes=self._writes)
        self._best = BestKept(folder / "best.safetensors")

    def close(self, line: dict[str, float]) -> None:
        """Validates the saved network, keeps it when it is the best, and tells."""
        if self._validate is not None and self._writes:
            network = self._trainer.averaged_network()
            figures = dict(self._validate(network))
            self._best.offer(network, step=self._trainer.done_steps, figures=figures)
            line = {**line, **figures}
        self.tell(line)

    def tell(self, line: dict[str, float]) -> None:
        """Logs a line."""
        if self._writes:
            self.log.write(line)
            if self._progress is not None:
                self._progress(line)


def _saves(trainer: Trainer, save_every: int) -> bool:
    return trainer.done_steps % save_every == 0 or trainer.done_steps == trainer.recipe.optimiser.steps


def _run(
    trainer: Trainer,
    log_every: int,
    save_every: int,
    *,
    started: float,
    stop: Callable[[], bool] | None,
) -> Iterator[dict[str, float]]:
    """Steps to the end or a stop; yields the figures over all processes since the last line."""
    begin, sums, count = time.monotonic() - started, None, 0
    batch = trainer.recipe.optimiser.batch
    stopped = False
    while trainer.done_steps < trainer.recipe.optimiser.steps and not stopped:
        figures = trainer.step()
        sums, count = figures if sums is None else sums + figures, count + 1
        stopped = stop is not None and bool(trainer.world.total(torch.tensor([int(stop())])).item())
        if trainer.done_steps % log_every == 0 or _saves(trainer, save_every) or stopped:
            examples = torch.tensor([trainer.slots.examples_begun()], device=trainer.world.device)
            loss, gradient, hits, predicted, wanted = trainer.world.total(sums).tolist()
            yield {
                "step": trainer.done_steps,
                "examples": int(trainer.world.total(examples)),
                "fovs": trainer.done_steps * batch,
                "loss": round(loss / count / trainer.world.size, 5),
                "gradient": round(gradient / count / trainer.world.size, 5),
                "precision": round(hits / max(1.0, predicted), 5),
                "recall": round(hits / max(1.0, wanted), 5),
                "rate": learning_rate(trainer.recipe.optimiser, trainer.done_steps),
                "seconds": round(time.monotonic() - begin, 1),
            }
            sums, count = None, 0


def _new_network(recipe: TrainingRecipe, initial: FloodFillingNetwork | None) -> FloodFillingNetwork:
    """First weights, the same in every process; the first answer is the seed unchanged."""
    torch.manual_seed(recipe.seed)
    network = FloodFillingNetwork(recipe.network)
    for weights in network.parameters():  # the layout in which oneDNN is twice as fast
        if weights.ndim == 5 and weights.shape[-1] > 1:
            weights.data = weights.data.contiguous(memory_format=torch.channels_last_3d)
    for parameter in network.conv_lom.parameters():
        torch.nn.init.zeros_(parameter)
    if initial is not None:
        network.load_state_dict(initial.state_dict())
    return network


def _agreement(logits: Tensor, target: Tensor, known: Tensor | None) -> list[Tensor]:
    """Known voxels that are hits, predicted (`logit >= 0`), and wanted."""
    predicted, wanted = logits >= 0, target
    if known is not None:
        predicted, wanted = predicted & known, wanted & known
    return [part.sum().float() for part in (predicted & wanted, predicted, wanted)]


def _exact_cudnn() -> AbstractContextManager[None]:
    """On NVIDIA: full float32 and the same bytes in every run, without which no run resumes exactly."""
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, deterministic=True, allow_tf32=False
    )
    return flags
