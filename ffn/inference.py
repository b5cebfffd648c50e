"""Flood one subvolume: from each seed, move the field of view over one object until it has no more to say.

    seed -> canvas.begin -> [ frontier.pop -> gather -> engine.predict -> scatter -> face_maxima ]* -> commit

A port of google/ffn (Apache-2.0; Januszewski et al. 2018, doi 10.1038/s41592-018-0049-4): with the
default settings it makes the same moves in the same order. A rim of half a field of view is never visited as
a centre, only flooded from inside; overlapping subvolumes cover each other's rims.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ffn.canvas import FAILED_SEED, Canvas, Thresholds
from ffn.checkpoint import Model
from ffn.config import InferenceConfig, Triple
from ffn.device import choose_device
from ffn.engine import Engine, Kernel
from ffn.movement import Frontier, face_maxima
from ffn.seeds import find_interior, find_peaks

Outcome = Literal["object", "weak", "small"]


class InferenceError(ValueError):
    """The subvolume cannot be flooded as given; the message names the argument and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What became of one seed: an object (its label, voxels), or none ("weak" belief, "small" object)."""

    seed_zyx: Triple
    outcome: Outcome
    label: int
    voxels: int
    moves: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What the flooding cost. `rejected_fovs` went into attempts that gave no object."""

    fovs: int
    rejected_fovs: int
    calls: int
    seeds: int
    attempts: int
    objects: int
    seconds_network: float
    seconds_host: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmentation:
    """The objects of one subvolume.

    `labels` uint32 (Z, Y, X), 0 = none, 1..n in the order of discovery; `probabilities` uint8 (Z, Y, X) or
    None: 0 = none, else floor(254 p) + 1; `moves_zyx` int32 (fovs, 3), all attempts in order, `Attempt.moves`
    of each.
    """

    labels: NDArray[np.uint32]
    probabilities: NDArray[np.uint8] | None
    attempts: tuple[Attempt, ...]
    moves_zyx: NDArray[np.int32]
    counters: Counters


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where the flooding stands, after each attempt. `seeds` grows when another fill round begins."""

    seeds_done: int
    seeds: int
    fovs: int
    objects: int
    labelled_voxels: int


@dataclass(slots=True)
class _Tally:
    moves: list[Triple] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    calls: int = 0
    seconds_network: float = 0.0
    seeds: int = 0
    seeds_done: int = 0
    objects: int = 0
    labelled: int = 0


def segment(
    image: NDArray[np.generic],
    *,
    model: Model,
    config: InferenceConfig | None = None,
    mask: NDArray[np.bool_] | None = None,
    progress: Callable[[Progress], None] | None = None,
    device: torch.device | None = None,
    kernel: Kernel = "auto",
    keep_probabilities: bool = False,
    max_fovs: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Segmentation:
    """Segments `image` (Z, Y, X; grey values as the model's normalisation expects them).

    `mask` (Z, Y, X), True = tissue: centres, seeds and labels stay inside it. `config` defaults to the
    model's; `ffn.config.fast` makes one that takes fewer moves. `kernel`: whose convolutions, see
    `ffn.engine`. `max_fovs` stops after that many fields of view, in the middle of an object if need be,
    which is then left out: for tests and trials. A subvolume smaller than the field of view, or without any
    seed, gives no objects. Raises InferenceError for NaN, a wrong dimension or a mask of another shape.
    """
    started = clock()
    _check(image, mask)
    config = config or model.inference
    flood = _Flood(
        image,
        model=model,
        config=config,
        allowed=mask,
        device=device or choose_device("cpu"),
        kernel=kernel,
        keep_probabilities=keep_probabilities,
        max_fovs=max_fovs,
        clock=clock,
    )
    flood.run(progress or (lambda _: None))
    tally, canvas = flood.tally, flood.canvas
    canvas.labels[canvas.labels == FAILED_SEED] = 0
    return Segmentation(
        labels=canvas.labels.view(np.uint32),
        probabilities=canvas.probabilities,
        attempts=tuple(tally.attempts),
        moves_zyx=np.array(tally.moves, np.int32).reshape(-1, 3),
        counters=Counters(
            fovs=len(tally.moves),
            rejected_fovs=sum(a.moves for a in tally.attempts if a.outcome != "object"),
            calls=tally.calls,
            seeds=tally.seeds,
            attempts=len(tally.attempts),
            objects=tally.objects,
            seconds_network=tally.seconds_network,
            seconds_host=clock() - started - tally.seconds_network,
        ),
    )


class _BudgetSpentError(Exception):
    """The allowed number of fields of view is used up."""


class _Flood:
    """The loop over seeds and moves of one subvolume."""

    def __init__(
        self,
        image: NDArray[np.generic],
        *,
        model: Model,
        config: InferenceConfig,
        allowed: NDArray[np.bool_] | None,
        device: torch.device,
        kernel: Kernel,
        keep_probabilities: bool,
        max_fovs: int | None,
        clock: Callable[[], float],
    ) -> None:
        network = model.network.config
        self.config = config
        self.deltas_zyx = network.deltas_zyx
        self.engine = Engine(model.network, model.normalisation, device=device, kernel=kernel)
        self.canvas = Canvas(
            image,
            fov_zyx=network.fov_zyx,
            thresholds=Thresholds.of(config),
            allowed=allowed,
            keep_probabilities=keep_probabilities,
        )
        self.max_fovs = max_fovs
        self.clock = clock
        self.tally = _Tally()

    def run(self, progress: Callable[[Progress], None]) -> None:
        """Tries every seed, then those of the fill rounds."""
        tally = self.tally
        try:
            for seed in self._seeds():
                self._attempt(seed)
                progress(
                    Progress(
                        seeds_done=tally.seeds_done,
                        seeds=tally.seeds,
                        fovs=len(tally.moves),
                        objects=tally.objects,
                        labelled_voxels=tally.labelled,
                    )
                )
        except _BudgetSpentError:
            return

    def _seeds(self) -> Iterator[Triple]:
        """Seeds that may be started now; a fill round proposes its own in the interior still unlabelled."""
        canvas, seeds = self.canvas, self.config.seeds
        if any(n < f for n, f in zip(canvas.shape_zyx, canvas.fov_zyx, strict=True)):
            return
        interior = find_interior(self.engine.normalise(canvas.image), config=seeds, allowed=canvas.allowed)
        for fill_round in range(1 + seeds.fill_rounds):
            labelled_before = self.tally.labelled
            free = interior if fill_round == 0 else interior & (canvas.labels == 0)
            exact = fill_round == 0 and seeds.policy == "peaks"
            peaks = find_peaks(free, config=seeds, inside_only=not exact)
            self.tally.seeds += len(peaks)
            for z, y, x in peaks.tolist():
                self.tally.seeds_done += 1
                if not canvas.may_start((z, y, x)):
                    continue
                if canvas.touches_object((z, y, x), distance_zyx=self.config.min_boundary_distance_zyx):
                    canvas.fail((z, y, x))
                    continue
                yield z, y, x
            if fill_round > 0 and self.tally.labelled == labelled_before:
                return

    def _attempt(self, seed: Triple) -> None:
        canvas, tally = self.canvas, self.tally
        before = len(tally.moves)
        self._flood_object(seed)
        label = tally.objects + 1
        outcome: Outcome = "object"
        voxels = 0
        if not canvas.holds(seed):
            outcome = "weak"
        else:
            voxels = canvas.commit(label, min_size=self.config.min_segment_size)
            outcome = "object" if voxels else "small"
        if not voxels:
            canvas.fail(seed)
        tally.objects += bool(voxels)
        tally.labelled += voxels
        tally.attempts.append(
            Attempt(
                seed_zyx=seed,
                outcome=outcome,
                label=label if voxels else 0,
                voxels=voxels,
                moves=len(tally.moves) - before,
            )
        )

    def _flood_object(self, seed: Triple) -> None:
        """Moves until the frontier is empty or the seed's own voxel is no longer believed in."""
        canvas = self.canvas
        canvas.begin(seed)
        frontier = Frontier(seed, deltas_zyx=self.deltas_zyx, min_distance=self.config.min_move_distance)
        while positions := self._next_moves(frontier):
            if not canvas.holds(seed):
                return
            answers = self._predict(positions)
            for position, answer in zip(positions, answers, strict=True):
                written = canvas.scatter(position, answer)
                candidates = face_maxima(
                    written, deltas_zyx=self.deltas_zyx, threshold=canvas.thresholds.move
                )
                frontier.extend(position, candidates)

    def _next_moves(self, frontier: Frontier) -> list[Triple]:
        positions: list[Triple] = []
        while len(positions) < self.config.frontier_batch:
            position = frontier.pop(self.canvas.may_move)
            if position is None:
                break
            frontier.visit(position)
            positions.append(position)
        return positions

    def _predict(self, positions: list[Triple]) -> NDArray[np.float32]:
        tally = self.tally
        if self.max_fovs is not None and len(tally.moves) + len(positions) > self.max_fovs:
            raise _BudgetSpentError
        views = [self.canvas.gather(position) for position in positions]
        started = self.clock()
        answers = self.engine.predict([image for image, _ in views], [belief for _, belief in views])
        tally.seconds_network += self.clock() - started
        tally.calls += 1
        tally.moves.extend(positions)
        return answers


def _check(image: NDArray[np.generic], mask: NDArray[np.bool_] | None) -> None:
    if image.ndim != 3:
        raise InferenceError(f"image: expected three axes z, y, x, found shape {image.shape}")
    if image.dtype.kind not in "uif":
        raise InferenceError(f"image: expected integers or floats, found {image.dtype}; convert it first")
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise InferenceError("image: has NaN or infinite voxels; fill them and exclude them by the mask")
    if mask is not None and (mask.shape != image.shape or mask.dtype != np.bool_):
        raise InferenceError(
            f"mask: expected bool {image.shape}, found {mask.dtype} {mask.shape}; crop it with the image"
        )
