"""The network of a run: loaded once a process, with its settings, on the device that the parameters name."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from functions.model.errors import ModelError
from functions.model.parameters import SeedOrder, SegmentParameters
from functions.model.workers import worker_number

if TYPE_CHECKING:
    import torch

    from ffn.checkpoint import Model
    from ffn.config import InferenceConfig

Number = TypeVar("Number", int, float)


def config_of(
    model: Model, parameters: SegmentParameters, *, seed_order: SeedOrder | None = None
) -> InferenceConfig:
    """The model's own settings, changed where the run's parameters or `seed_order` say so."""
    from ffn.config import fast

    own, p = model.inference, parameters
    if p.mode == "fast":
        own = fast(own, model.network.config)
    return replace(
        own,
        min_segment_size=_either(p.min_segment_voxels, own.min_segment_size),
        frontier_batch=_either(p.frontier_batch, own.frontier_batch),
        min_move_distance=_either(p.min_move_distance_px, own.min_move_distance),
        seeds=replace(own.seeds, order=seed_order or own.seeds.order),
    )


def _either(wanted: Number | None, default: Number) -> Number:
    return default if wanted is None else wanted


def choose(name: str) -> torch.device:
    """The device of a name.

    Raises:
        ModelError: it is not there.
    """
    from ffn.device import choose_device

    try:
        return choose_device(name)
    except ValueError as error:
        raise ModelError(f"segment.{error}", remedy="set segment.device") from None


def place(device: torch.device, parameters: SegmentParameters) -> torch.device:
    """The one of several accelerators that this worker process takes."""
    from ffn.device import count_devices, share_devices

    return share_devices(
        device,
        worker=worker_number(),
        processes_per_device=parameters.processes_per_device,
        count=count_devices(device.type),
    )


def load(path: Path) -> Model:
    """The model of a file; one is kept per process.

    Raises:
        ModelError: the file is missing or not a model.
    """
    from ffn.checkpoint import CheckpointError

    try:
        return _load(path, path.stat().st_mtime_ns)
    except (FileNotFoundError, CheckpointError) as error:
        raise ModelError(f"segment.model: {error}", remedy="give `demo` or the path of a model") from None


@lru_cache(maxsize=1)
def _load(path: Path, _changed: int) -> Model:
    from ffn.checkpoint import load_model

    return load_model(path)
