"""What a long computation puts aside while it works: arrays under names, in memory or in files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]


class Scratch(Protocol):
    """Where arrays are kept meanwhile, by name. Names have at most one slash."""

    def write(self, name: str, arrays: Mapping[str, Array]) -> None:
        """Keep arrays under a name, in place of any that it had."""

    def read(self, name: str, names: tuple[str, ...]) -> dict[str, Array]:
        """Some arrays of those kept under a name. They are not to be changed."""

    def remove(self, name: str) -> None:
        """Keep nothing under a name any more."""


class Held:
    """Keeps arrays in memory, where there is enough."""

    def __init__(self) -> None:
        self._kept: dict[str, Mapping[str, Array]] = {}

    def write(self, name: str, arrays: Mapping[str, Array]) -> None:
        """Keep arrays under a name."""
        self._kept[name] = {key: array.view() for key, array in arrays.items()}
        for array in self._kept[name].values():
            array.flags.writeable = False

    def read(self, name: str, names: tuple[str, ...]) -> dict[str, Array]:
        """Some arrays of those kept under a name."""
        kept = self._kept[name]
        return {wanted: kept[wanted] for wanted in names}

    def remove(self, name: str) -> None:
        """Forget what is kept under a name."""
        del self._kept[name]
