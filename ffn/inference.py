"""Flood one subvolume: from each seed, move the field of view over one object until it has no more to say.

    seed -> canvas.begin -> [ frontier.pop -> gather -> engine.predict -> scatter -> face_maxima ]* -> commit

A port of google/ffn (Apache-2.0; Januszewski et al. 2018, doi 10.1038/s41592-018-0049-4): with the
default settings it makes the same moves in the same order. A rim of half a field of view is never visited as
a centre, only flooded from inside; overlapping subvolumes cover each other's rims.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from ffn.batching import Batcher
from ffn.canvas import Canvas, Thresholds
from ffn.checkpoint import Model
from ffn.config import InferenceConfig, Normalisation, Triple, reach
from ffn.engine import Engine, Kernel, Precision, engine_of
from ffn.flood import Flood
from ffn.joint import Seat
from ffn.masks import MaskError, Masks
from ffn.segmentation import Attempt, Counters, InferenceError, Outcome, Progress, Segmentation
from ffn.snapshot import Snapshot, SnapshotError, fingerprint

__all__ = [
    "Attempt",
    "Counters",
    "InferenceError",
    "Masks",
    "Outcome",
    "Progress",
    "Segmentation",
    "Snapshot",
    "SnapshotError",
    "check_image",
    "segment",
    "segment_many",
]

_FAR = 20.0  # standard deviations: no image that a network was trained for has its mean so far from there


def segment(
    image: NDArray[np.generic],
    *,
    model: Model,
    config: InferenceConfig | None = None,
    mask: Masks | NDArray[np.bool_] | None = None,
    progress: Callable[[Progress], None] | None = None,
    device: torch.device | None = None,
    kernel: Kernel = "auto",
    precision: Precision = "fp32",
    engine: Engine | Seat | None = None,
    keep_probabilities: bool = False,
    max_fovs: int | None = None,
    resume: Snapshot | None = None,
    on_checkpoint: Callable[[Snapshot], None] | None = None,
    checkpoint_seconds: float = 300.0,
    checkpoint_now: Callable[[], bool] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Segmentation:
    """Segments `image` (Z, Y, X; grey values as the model's normalisation expects them).

    `mask` (Z, Y, X), True = tissue: centres, seeds and labels stay inside it; `Masks` has one for each.
    `config` defaults to the model's; `ffn.config.fast` makes one that takes fewer moves. `kernel`: whose
    convolutions, `precision`: of what numbers, see `ffn.engine`; they and `device` do not count with an
    `engine`, or a seat at one that several floods share (`ffn.joint`). `max_fovs` stops after that many
    fields of view, in the middle of an object if need be, which is then left out: for tests and trials.

    `on_checkpoint` is given a snapshot whenever `checkpoint_seconds` have passed since the last one, or
    `checkpoint_now` says so, between two calls of the network; what it raises ends the flood. `resume` goes
    on from one and ends with the same result.

    A subvolume smaller than the field of view, without any seed or with an empty mask gives no objects.
    Raises InferenceError for NaN, a wrong dimension, grey values far from those of the network, or a mask of
    another shape; SnapshotError when `resume` belongs to something else.
    """
    started = clock()
    config = config or model.inference
    masks = Masks.of(mask)
    check_image(image, masks, model.normalisation)
    network = model.network.config
    engine = engine or engine_of(model, device=device, precision=precision, kernel=kernel)
    canvas = Canvas(
        image,
        fov_zyx=network.fov_zyx,
        thresholds=Thresholds.of(config),
        allowed=masks,
        keep_probabilities=keep_probabilities,
    )
    flood = Flood(
        canvas, engine, config=config, deltas_zyx=reach(config, network), max_fovs=max_fovs, clock=clock
    )
    _prepare(flood, resume=resume, fingerprinted=on_checkpoint is not None, model=model)
    flood.report_to(progress, on_checkpoint, checkpoint_seconds, checkpoint_now)
    flood.run()
    return flood.result(seconds=clock() - started)


def segment_many(
    images: Sequence[NDArray[np.generic]],
    *,
    model: Model,
    batch: int,
    objects: int = 1,
    config: InferenceConfig | None = None,
    masks: Sequence[Masks | NDArray[np.bool_] | None] | None = None,
    progress: Callable[[int, Progress], None] | None = None,
    device: torch.device | None = None,
    kernel: Kernel = "auto",
    precision: Precision = "fp32",
    keep_probabilities: bool = False,
    max_fovs: int | None = None,
    resume: Sequence[Snapshot | None] | None = None,
    on_checkpoint: Callable[[int, Snapshot], None] | None = None,
    checkpoint_seconds: float = 300.0,
    checkpoint_now: Callable[[], bool] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Segmentation]:
    """Segments several subvolumes with canvases on the device, `batch` fields of view per network call.

    Each comes out as from `segment`, provided that the network answers a field of view alike whatever else is
    in the batch: the native kernel does, others may differ in the last bits. `objects` of a subvolume are in
    progress at once (see `ffn.ahead`), which takes 5 bytes of device memory per voxel and object; with
    `max_fovs` (of each subvolume) it is one. `masks` and `resume` go with the
    images; `progress` and `on_checkpoint` are told the image's number. A snapshot of `segment` serves here,
    and the other way round. The host's seconds are shared equally among the subvolumes' counters.

    Raises InferenceError and SnapshotError as `segment` does, ConfigError for a batch below `frontier_batch`.
    """
    started = clock()
    config = config or model.inference
    permissions = [Masks.of(mask) for mask in masks or [None] * len(images)]
    for image, allowed in zip(images, permissions, strict=True):
        check_image(image, allowed, model.normalisation)
    if not images:
        return []
    network = model.network.config
    engine = engine_of(model, device=device, precision=precision, kernel=kernel)
    thresholds = Thresholds.of(config)
    batcher = Batcher(
        [
            Canvas(
                image,
                fov_zyx=network.fov_zyx,
                thresholds=thresholds,
                allowed=allowed,
                keep_probabilities=keep_probabilities,
            )
            for image, allowed in zip(images, permissions, strict=True)
        ],
        engine,
        config=config,
        deltas_zyx=reach(config, network),
        batch=batch,
        objects=objects,
        max_fovs=max_fovs,
        clock=clock,
    )
    for number, snapshot in enumerate(resume or [None] * len(images)):
        flood = batcher.floods[number]
        _prepare(flood, resume=snapshot, fingerprinted=on_checkpoint is not None, model=model)
        flood.report_to(
            None if progress is None else partial(progress, number),
            None if on_checkpoint is None else partial(on_checkpoint, number),
            checkpoint_seconds,
            checkpoint_now,
        )
    spent = batcher.run()
    host = (clock() - started - sum(spent)) / len(images)
    return [
        flood.result(seconds=host + network) for flood, network in zip(batcher.floods, spent, strict=True)
    ]


def _prepare(flood: Flood, *, resume: Snapshot | None, fingerprinted: bool, model: Model) -> None:
    """Takes up a snapshot, and gives the flood its fingerprint where one is needed (it takes a while)."""
    if resume is not None or fingerprinted:
        canvas, engine = flood.canvas, flood.engine
        about = {"device": engine.device.type, "precision": engine.precision, "kernel": engine.kernel}
        flood.fingerprint = fingerprint(
            canvas.image, model=model, config=flood.config, masks=canvas.masks, engine=about
        )
    if resume is not None:
        flood.take_up(resume)


def check_image(image: NDArray[np.generic], masks: Masks, normalisation: Normalisation) -> Triple:
    """The shape of an image that can be flooded within these masks; raises InferenceError for any other."""
    if image.ndim != 3:
        raise InferenceError(f"image: expected three axes z, y, x, found shape {image.shape}")
    shape_zyx = image.shape[0], image.shape[1], image.shape[2]
    if image.dtype.kind not in "uif":
        raise InferenceError(f"image: expected integers or floats, found {image.dtype}; convert it first")
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise InferenceError("image: has NaN or infinite voxels; fill them and exclude them by the mask")
    n = normalisation
    mean = float(image[::4, ::4, ::4].astype(np.float64).mean()) if image.size else n.mean
    if abs(mean - n.mean) > _FAR * n.std:
        raise InferenceError(
            f"image: its {image.dtype} values lie around {mean:.6g}, the network was trained on "
            f"{n.mean:.4g} ± {n.std:.4g}; bring it to the same grey values"
        )
    try:
        masks.check(shape_zyx)
    except MaskError as error:
        raise InferenceError(str(error)) from None
    return shape_zyx
