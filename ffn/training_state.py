"""The state of a training run in one safetensors file, from which it goes on exactly, and its best network.

Weights, averaged weights, Adam's moments, and per slot of the global batch the logits and the move it stands
at; the examples themselves follow from their numbers. Rank 0 writes for all, and every process reads its own
slots, so a state saved by N processes is taken up by any M that divide the batch.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ffn.config import NetworkConfig, from_json, to_json
from ffn.network import FloodFillingNetwork

if TYPE_CHECKING:
    from ffn.training import Trainer

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")
_METADATA = "training"  # the only key: safetensors writes several in random order


class TrainingStateError(ValueError):
    """The saved state does not belong to this recipe, or is damaged."""


def save_state(path: Path, trainer: "Trainer") -> None:
    """Writes the state of all processes; every one must call this, rank 0 writes.

    The file appears complete or not at all.
    """
    slots, progress = _gather_slots(trainer)
    if not trainer.world.writes:
        return
    names = [name for name, _ in trainer.network.named_parameters()]
    moments = trainer.adam.state_dict()["state"]
    tensors = {f"network.{k}": v for k, v in trainer.network.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in trainer.average.items()}
    for i, name in enumerate(names):
        tensors |= {f"adam.{m}.{name}": torch.as_tensor(moments[i][m]) for m in _MOMENTS}
    tensors |= {f"slot.{i}": logits for i, logits in slots.items()}
    about = {
        "recipe": to_json(trainer.recipe),
        "done_steps": trainer.done_steps,
        "slots": [progress[i] for i in sorted(progress)],
        "scaler": trainer.scaler.state_dict(),
    }
    _write(path, tensors, about)


def load_state(path: Path, trainer: "Trainer") -> None:
    """Brings a fresh trainer of the same recipe and volumes to the saved state. Raises TrainingStateError."""
    try:
        with safe_open(path, framework="pt") as file:
            about = _about(path, file.metadata())
            if about.get("recipe") != json.loads(json.dumps(to_json(trainer.recipe))):
                raise TrainingStateError(
                    f"{path}: recipe: belongs to another recipe; train in another folder"
                )
            wanted = [n for n in file.keys() if not n.startswith("slot.")]  # noqa: SIM118
            tensors = {name: file.get_tensor(name) for name in wanted}
            slots = {i: file.get_tensor(f"slot.{i}") for i in trainer.slots.indices}
    except SafetensorError as error:
        raise TrainingStateError(f"{path}: damaged ({error}); remove it to start again") from None
    trainer.network.load_state_dict(_part(tensors, "network."))
    for name, value in _part(tensors, "average.").items():
        trainer.average[name].copy_(value)
    adam = trainer.adam.state_dict()
    adam["state"] = {
        i: {moment: tensors[f"adam.{moment}.{name}"] for moment in _MOMENTS}
        for i, (name, _) in enumerate(trainer.network.named_parameters())
    }
    trainer.adam.load_state_dict(adam)
    if about["scaler"]:
        trainer.scaler.load_state_dict(about["scaler"])
    trainer.done_steps = about["done_steps"]
    progress = {i: (number, move) for i, (number, move) in enumerate(about["slots"])}
    trainer.slots.restore(progress, {i: logits.numpy() for i, logits in slots.items()})


def _gather_slots(trainer: "Trainer") -> tuple[dict[int, Tensor], dict[int, list[int]]]:
    """On rank 0 the logits and the progress of every slot of the global batch."""
    held, size = trainer.slots.held, trainer.world.size
    logits = torch.from_numpy(np.stack([slot.logits.ravel() for slot in held.values()]))
    progress = torch.tensor([trainer.slots.progress()[i] for i in held])
    all_logits, all_progress = trainer.world.gathered(logits), trainer.world.gathered(progress)
    tensors, moves = dict[int, Tensor](), dict[int, list[int]]()
    for rank, (part, steps) in enumerate(zip(all_logits, all_progress, strict=True)):
        for row in range(len(part)):
            tensors[rank + row * size], moves[rank + row * size] = part[row], steps[row].tolist()
    return tensors, moves


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The averaged network that validated best, when that was, and what validation said."""

    network: FloodFillingNetwork
    step: int
    figures: Mapping[str, float]


class BestKept:
    """The network with the least "voi_sum", in a file that outlives the process."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def offer(self, network: FloodFillingNetwork, *, step: int, figures: Mapping[str, float]) -> bool:
        """Keeps the network if it is better than what is kept; True when it was.

        Raises TrainingStateError when the figures have no "voi_sum".
        """
        if "voi_sum" not in figures:
            raise TrainingStateError("validate: no voi_sum among its figures; return at least that")
        value = figures["voi_sum"]
        if math.isnan(value) or (self._path.is_file() and not value < self._least()):
            return False
        about = {"network": to_json(network.config), "step": step, "figures": dict(figures)}
        _write(self._path, network.state_dict(), about)
        return True

    def _least(self) -> float:
        return load_best(self._path).figures["voi_sum"]


def load_best(path: Path) -> Best:
    """The best network that a training run with validation left (`best.safetensors`).

    Raises TrainingStateError when the file is not such a network.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = _about(path, file.metadata())
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        network = FloodFillingNetwork(from_json(NetworkConfig, about["network"], where="network"))
        network.load_state_dict(tensors)
        network.eval()
        return Best(network=network, step=int(about["step"]), figures=about["figures"])
    except (SafetensorError, KeyError, RuntimeError, FileNotFoundError) as error:
        raise TrainingStateError(f"{path}: no best network ({error}); train with validation") from None


def _about(path: Path, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    try:
        about = json.loads((metadata or {}).get(_METADATA, "null"))
    except json.JSONDecodeError:
        about = None
    if not isinstance(about, dict):
        raise TrainingStateError(f"{path}: damaged (not of a training run); remove it to start again")
    return about


def _write(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Complete and on disk, or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    save_file(kept, partial, metadata={_METADATA: json.dumps(about, sort_keys=True)})
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
