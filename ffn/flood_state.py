"""What the flooding of a subvolume has come to: counts, the round of seeds, the object in progress."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ffn.config import Triple
from ffn.movement import Frontier
from ffn.segmentation import Attempt


@dataclass(slots=True)
class Tally:
    moves: list[Triple] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    calls: int = 0
    seconds_network: float = 0.0
    seconds_before: float = 0.0
    seeds: int = 0
    seeds_done: int = 0
    objects: int = 0
    labelled: int = 0
    skipped_moves: int = 0


@dataclass(slots=True)
class Round:
    """The seeds of one fill round; `next` is the next to be tried."""

    number: int
    peaks: NDArray[np.int32]
    labelled_before: int
    next: int = 0


@dataclass(slots=True)
class CurrentObject:
    """The object in progress; it began after `moves_before` moves."""

    seed: Triple
    frontier: Frontier
    moves_before: int
