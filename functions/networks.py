"""The network of a run: loaded once a process, with its settings, on the device that the parameters name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, TypeVar

from functions.model.errors import ModelError
from functions.model.geometry import ZYX
from functions.model.parameters import SeedOrder, SegmentParameters
from functions.model.workers import worker_number

if TYPE_CHECKING:
    import torch

    from ffn.checkpoint import Model
    from ffn.config import InferenceConfig
    from ffn.engine import Precision
    from ffn.joint import JointEngine, Seat

AT_ONCE = 32
"""Subvolumes that a worker floods at once on an accelerator."""
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


def count_at_once(parameters: SegmentParameters) -> int:
    """How many subvolumes a worker process floods at once.

    Raises:
        ModelError: there is no such device.
    """
    if parameters.at_once is not None:
        return parameters.at_once
    return 1 if choose(parameters.device).type == "cpu" else AT_ONCE


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
        with _SHARED:
            return _load(path, path.stat().st_mtime_ns)
    except (FileNotFoundError, CheckpointError) as error:
        raise ModelError(f"segment.model: {error}", remedy="give `demo` or the path of a model") from None


def fov_of(path: Path) -> ZYX:
    """The field of view of a file's network (see `shape_of`)."""
    return shape_of(path)[1]


def shape_of(path: Path) -> tuple[int, ZYX]:
    """Features and field of view of a file's network, from its header alone: planning does not load torch.

    Raises:
        ModelError: the file is missing or not a model.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            network = json.loads(file.metadata()["model"])["network"]  # ffn.checkpoint.METADATA
            features, (z, y, x) = network["features"], network["fov_zyx"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"segment.model: {path}: no header of a model ({error})",
            remedy="give `demo` or the path of a model",
        ) from None
    return int(features), (int(z), int(y), int(x))


@lru_cache(maxsize=1)
def _load(path: Path, _changed: int) -> Model:
    from ffn.checkpoint import load_model

    return load_model(path)


_SHARED = RLock()
"""Held while the process's model or network is looked up, so that threads do not each load one."""


@dataclass(slots=True, eq=False)
class _Table:
    """A network at which threads meet, and how many of them are there."""

    key: tuple[Path, int, torch.device, Precision, int]
    engine: JointEngine
    seats: int = 0


_table: _Table | None = None
"""The process's network: the one that was asked for last."""


@contextmanager
def seat_shared(path: Path, device: torch.device, precision: Precision, batch: int) -> Iterator[Seat]:
    """A seat at the network at which the threads of this process meet.

    The network stays for the next, until another one is asked for: then its thread and its memory go, once
    the last seat at it is left.

    Raises:
        ModelError: the file is missing or not a model.
    """
    with _SHARED:
        table = _table_of(path, device, precision, batch)
        table.seats += 1
    try:
        yield table.engine.seat()
    finally:
        with _SHARED:
            table.seats -= 1
            _close_unless_wanted(table)


def _table_of(path: Path, device: torch.device, precision: Precision, batch: int) -> _Table:
    from ffn.joint import JointEngine

    global _table
    model = load(path)
    key = (path, path.stat().st_mtime_ns, device, precision, batch)
    if _table is not None and _table.key != key:
        old, _table = _table, None
        _close_unless_wanted(old)  # first, so that both need not fit the device
    if _table is None:
        engine = JointEngine(
            model.network, model.normalisation, device=device, batch=batch, precision=precision
        )
        _table = _Table(key=key, engine=engine.start())
    return _table


def _close_unless_wanted(table: _Table) -> None:
    if table is not _table and not table.seats:
        table.engine.stop()
