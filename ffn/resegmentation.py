"""Are two segments one? Flood again at their decision point, once from inside each, and compare.

    +-- cube ------------------+     other segments stay as they are: no move goes into them;
    |   c c c  c c c c c c     |     A and B are forgotten, and flooded from seeds deep inside each;
    |  +-- analysis box ----+  |     the two objects, within the analysis box, are the evidence
    | a|a a * a a . b b * b |b |     (`ffn.evidence`): from one neurite both seeds give the same object.
    |  +--------------------+  |
    +--------------------------+

A port of google/ffn's pair resegmentation (`process_point`, `evaluate_pair_resegmentation`; Januszewski et
al. 2018, doi 10.1038/s41592-018-0049-4). Three things differ: a cube is cut at the volume's border, not given
up; of several attempts without success the best counts, not the last; voxels that the object took from
other segments are counted.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ffn.candidates import DecisionPoint
from ffn.canvas import Thresholds
from ffn.checkpoint import Model
from ffn.config import InferenceConfig, reach, require
from ffn.engine import Kernel, Precision, engine_of
from ffn.evidence import PairEvidence
from ffn.flood import Flood
from ffn.inference import check_image
from ffn.masks import Masks
from ffn.reflooding import Answers, Pair, ResegmentationConfig, Slices, View, WatchedCanvas, box_around

__all__ = ["ResegmentationConfig", "Volume", "resegment"]

Coroutine = Generator[list[View], Answers, PairEvidence]


class Volume(Protocol):
    """Anything that is sliced like an array (Z, Y, X): numpy, memmap, zarr."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, key: Slices, /) -> NDArray[np.generic]: ...


def resegment(
    image: Volume,
    labels: Volume,
    points: Iterable[DecisionPoint],
    *,
    model: Model,
    settings: ResegmentationConfig | None = None,
    config: InferenceConfig | None = None,
    voxel_size_zyx_nm: tuple[float, float, float] | None = None,
    mask: Volume | None = None,
    device: torch.device | None = None,
    kernel: Kernel = "auto",
    precision: Precision = "fp32",
    batch: int = 1,
) -> Iterator[PairEvidence]:
    """Yields the evidence of each decision point, in their order.

    `image` and `labels` (Z, Y, X; 0 = none) show the same voxels, `mask` too (bool, True = tissue); a cube at
    a time is read of each. `settings` default to those suiting the model's network, `config` and
    `voxel_size_zyx_nm` to the model's.

    `batch` pairs are flooded at once, and one call of the network carries the next moves of all of them: an
    accelerator wants some dozens. Each takes about 15 bytes of memory per voxel of its cube. The evidence is
    the same, provided that the network answers a field of view alike whatever else is in the batch: the
    native kernel does, others may differ in the last bits.

    Raises InferenceError for cubes that cannot be flooded (see `ffn.inference.segment`), ConfigError for a
    batch below 1, ValueError for volumes of different shapes or a point outside.
    """
    require(batch >= 1, "batch", "must be at least 1 pair")
    network = model.network.config
    settings = settings or ResegmentationConfig.suiting(network)
    config = config or model.inference
    shape = tuple(image.shape)
    for name, other in (("labels", labels), ("mask", mask)):
        if other is not None and tuple(other.shape) != shape:
            raise ValueError(f"{name}: shape {tuple(other.shape)} must equal the image's {shape}")
    engine = engine_of(model, device=device, precision=precision, kernel=kernel)
    thresholds, deltas_zyx = Thresholds.of(config), reach(config, network)

    def begin(point: DecisionPoint) -> Coroutine:
        if not all(0 <= p < n for p, n in zip(point.point_zyx, shape, strict=True)):
            raise ValueError(f"points: {point.point_zyx} lies outside the volume of shape {shape}")
        cube = box_around(point.point_zyx, settings.radius_zyx, shape)
        masks = Masks.of(None if mask is None else np.asarray(mask[cube], bool))
        seen = np.ascontiguousarray(image[cube])
        check_image(seen, masks, model.normalisation)
        pair = Pair(
            point,
            np.asarray(labels[cube]),
            corner=(cube[0].start, cube[1].start, cube[2].start),
            flood=Flood(
                WatchedCanvas(seen, fov_zyx=network.fov_zyx, thresholds=thresholds, allowed=masks),
                engine,
                config=config,
                deltas_zyx=deltas_zyx,
                max_fovs=None,
                clock=time.perf_counter,
            ),
            settings=settings,
            voxel_size_zyx_nm=voxel_size_zyx_nm or model.voxel_size_zyx_nm,
        )
        return pair.evidence()

    return _drive((begin(point) for point in points), engine.predict, batch=batch)


@dataclass(slots=True, eq=False)
class _Turn:
    """A pair in progress: what it asks of the network, or the evidence that it ended with."""

    coroutine: Coroutine
    views: list[View]
    evidence: PairEvidence | None = None

    def go_on(self, answers: Answers | None) -> None:
        try:
            self.views = next(self.coroutine) if answers is None else self.coroutine.send(answers)
        except StopIteration as end:
            self.views, self.evidence = [], end.value


def _drive(
    pairs: Iterator[Coroutine],
    predict: Callable[[list[NDArray[np.generic]], list[NDArray[np.float32]]], Answers],
    *,
    batch: int,
) -> Iterator[PairEvidence]:
    """Runs up to `batch` pairs side by side; yields what they end with, in their order."""
    turns: deque[_Turn] = deque()
    while True:
        active = [turn for turn in turns if turn.evidence is None]
        while len(active) < batch and (coroutine := next(pairs, None)) is not None:
            turns.append(turn := _Turn(coroutine, []))
            turn.go_on(None)
            active += [turn] if turn.evidence is None else []
        while turns and turns[0].evidence is not None:
            yield turns.popleft().evidence  # type: ignore[misc]  # not None: mypy forgets across the call
        if not active:
            return
        views = [view for turn in active for view in turn.views]
        answers, at = predict([image for image, _ in views], [belief for _, belief in views]), 0
        for turn in active:
            turn.go_on(answers[at : (at := at + len(turn.views))])
