"""What flooding one subvolume gives, by any engine: labels, what became of each seed, and the cost."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ffn.config import Triple

Outcome = Literal["object", "weak", "small"]
OUTCOMES: tuple[Outcome, ...] = ("object", "weak", "small")


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
    """What the flooding cost. `rejected_fovs` went into attempts that gave no object: `weak` or `small`.

    `skipped_moves` were left out for being near a visited centre. Of an interrupted flooding the seconds of
    all parts count, each up to its last snapshot. `discarded_fovs` come on top of `fovs`: objects flooded
    ahead of their turn in vain (`ffn.ahead`). `calls` are those that one object at a time would have needed.
    """

    fovs: int
    rejected_fovs: int
    calls: int
    seeds: int
    attempts: int
    objects: int
    seconds_network: float
    seconds_host: float
    weak: int = 0
    small: int = 0
    skipped_moves: int = 0
    discarded_fovs: int = 0


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
