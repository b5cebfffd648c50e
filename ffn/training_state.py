"""The state of a training run in one safetensors file, from which it goes on exactly.

Weights, averaged weights, Adam's moments, and per slot of the batch the logits and the move it stands at; the
examples themselves follow from their numbers.
"""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ffn.config import to_json

if TYPE_CHECKING:
    from ffn.training import Trainer


class TrainingStateError(ValueError):
    """The saved state does not belong to this recipe, or is damaged."""


def save_state(path: Path, trainer: "Trainer") -> None:
    """Writes the state; the file appears complete or not at all."""
    names = [name for name, _ in trainer.network.named_parameters()]
    moments = trainer.adam.state_dict()["state"]
    tensors = {f"network.{k}": v.detach().contiguous() for k, v in trainer.network.state_dict().items()}
    tensors |= {f"average.{k}": v.contiguous() for k, v in trainer.average.items()}
    for i, name in enumerate(names):
        for moment in ("exp_avg", "exp_avg_sq", "step"):
            tensors[f"adam.{moment}.{name}"] = torch.as_tensor(moments[i][moment]).contiguous()
    for i, slot in enumerate(trainer.slots):
        tensors[f"slot.{i}"] = torch.from_numpy(slot.logits)
    progress = {
        "done_steps": trainer.done_steps,
        "next_example": trainer.next_example,
        "slots": [[slot.number, slot.next_move] for slot in trainer.slots],
    }
    metadata = {
        "recipe": json.dumps(to_json(trainer.recipe), sort_keys=True),
        "progress": json.dumps(progress),
    }
    partial = path.with_name(f".{path.name}.partial")
    save_file(tensors, partial, metadata=metadata)
    os.replace(partial, path)


def load_state(path: Path, trainer: "Trainer") -> None:
    """Brings a fresh trainer of the same recipe and volumes to the saved state. Raises TrainingStateError."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise TrainingStateError(f"{path}: damaged ({error}); remove it to start again") from None
    if metadata.get("recipe") != json.dumps(to_json(trainer.recipe), sort_keys=True):
        raise TrainingStateError(f"{path}: recipe: belongs to another recipe; train in another folder")
    progress = json.loads(metadata["progress"])
    trainer.network.load_state_dict(_part(tensors, "network."))
    trainer.average = _part(tensors, "average.")
    names = [name for name, _ in trainer.network.named_parameters()]
    adam = trainer.adam.state_dict()
    adam["state"] = {
        i: {moment: tensors[f"adam.{moment}.{name}"] for moment in ("exp_avg", "exp_avg_sq", "step")}
        for i, name in enumerate(names)
    }
    trainer.adam.load_state_dict(adam)
    trainer.done_steps, trainer.next_example = progress["done_steps"], progress["next_example"]
    for i, (number, next_move) in enumerate(progress["slots"]):
        slot = trainer.slot(number)
        slot.logits, slot.next_move = tensors[f"slot.{i}"].numpy().copy(), next_move
        trainer.slots[i] = slot


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
