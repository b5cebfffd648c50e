"""What came out of a simulation: where the GPUs' time went, and how full the shared resources were."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

Dispatch = Literal["claiming", "static"]


class Spent(IntEnum):
    """What a GPU's second went into; the order is that of the report."""

    COMPUTE = 0
    QUEUE = 1
    START = 2
    CLAIM = 3
    READ = 4
    WRITE = 5
    LOST = 6
    DOWN = 7
    IDLE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came out: `spent[s]` GPU-seconds; they add up to GPUs * `seconds`. `steady_s`: until the last
    subvolume was handed out, the time over which `ledger` and `files` (shares in use) are counted."""

    dispatch: Dispatch
    gpus: int
    subvolumes: int
    seconds: float
    spent: tuple[float, ...]
    steady_s: float
    ledger: float
    files: float
    failures: int
    blocks_ended: int

    def share(self, what: Spent) -> float:
        """Share of all GPU-time from the first submission to the last label."""
        return self.spent[what] / (self.gpus * self.seconds)

    @property
    def shares(self) -> dict[str, float]:
        """All shares by name; their sum is 1."""
        return {what.name.lower(): self.share(what) for what in Spent}

    @property
    def waits_for(self) -> str:
        """What takes most of the time that is not computing."""
        others = [what for what in Spent if what is not Spent.COMPUTE]
        return max(others, key=self.share).name.lower()

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return {
            "dispatch": self.dispatch,
            "gpus": self.gpus,
            "subvolumes": self.subvolumes,
            "wall_hours": self.seconds / 3600,
            "shares": self.shares,
            "waits_for": self.waits_for,
            "ledger_use": self.ledger,
            "file_system_use": self.files,
            "failures": self.failures,
            "blocks_ended": self.blocks_ended,
        }
