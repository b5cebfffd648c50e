"""What is known of a stack before and after it is solved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from functions.model.regions import Regions
from functions.model.transform import Warp
from functions.registration.overlaps import Matches

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class StackSection:
    """A section to place: its index along z, shape, stage position of pixel (0, 0) in px, and the regions
    that its folds and cracks part."""

    z: int
    shape_yx: tuple[int, int]
    stage_origin_yx_px: tuple[float, float] = (0.0, 0.0)
    regions: Regions | None = None

    @property
    def centre_yx(self) -> Floats:
        """Middle of the image."""
        return (np.array(self.shape_yx, dtype=np.float64) - 1.0) / 2.0

    def grid(self, count: int) -> Floats:
        """Points (count * count, 2) spread evenly over the image, its border included."""
        axes = [np.linspace(0.0, n - 1.0, count) for n in self.shape_yx]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class StackPair:
    """Matches between sections `a` and `b` (indices into the stack)."""

    a: int
    b: int
    matches: Matches


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPair:
    """The same where not all matches fit into memory: they are read whenever they are asked for."""

    a: int
    b: int
    read: Callable[[], Matches]

    @property
    def matches(self) -> Matches:
        """Read now."""
        return self.read()


Pair = StackPair | StoredPair


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Solved warps, section px to a common frame; which sections hang on matches; residuals of each
    pair's matches.

    `bent`: sections whose map is so uneven, even after stiffening, that tissue may overlap itself.
    `refused`: pairs that contradict all others, and were left out.
    `settled`: whether the iteration came to its end, or was ended where it was.
    """

    warps: tuple[Warp, ...]
    held: tuple[bool, ...]
    residuals_px: tuple[Floats, ...]
    bent: tuple[int, ...] = ()
    refused: tuple[int, ...] = ()
    settled: bool = True
