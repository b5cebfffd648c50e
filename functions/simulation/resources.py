"""What workers wait for: a ledger that serves one operation at a time, and bandwidth that all share.

Both are told the time and keep no clock. `SharedBandwidth` is processor sharing, in virtual time: all active
transfers move at the same rate r(t) = min(cap, capacity / active), so the one that has least left of
V(t) = integral of r ends first; an arrival or a departure changes r but never that order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from heapq import heappop, heappush


@dataclass(slots=True, kw_only=True)
class Ledger:
    """First come, first served; `rate` operations a second, less those of `background`."""

    rate: float
    background: float = 0.0
    """Operations a second that are served besides, e.g. heartbeats."""
    _asked: float = 0.0
    _free_at: float = 0.0
    _beats: float = 0.0
    _beats_until: float = 0.0

    def submit(self, now: float, operations: float) -> float:
        """When these operations, asked for at `now`, are done. Calls must come in the order of time.

        Heartbeats take their part of each second; a ledger that they fill still serves 1 % of its rate.
        """
        seconds = operations / max(self.rate - self.background, 0.01 * self.rate)
        self._asked += operations
        self._free_at = max(self._free_at, now) + seconds
        return self._free_at

    def add_background(self, now: float, rate: float) -> None:
        """From `now` on so many operations a second more (or fewer) besides."""
        self._beats += self.background * (now - self._beats_until)
        self._beats_until = now
        self.background += rate

    def operations(self, now: float) -> float:
        """All that were asked for so far, those besides included."""
        return self._asked + self._beats + self.background * (now - self._beats_until)


@dataclass(slots=True, kw_only=True)
class SharedBandwidth:
    """`capacity` bytes a second for all transfers together, at most `cap` for each."""

    capacity: float
    cap: float
    moved: float = 0.0
    """Bytes that were moved so far, those of transfers in progress included."""
    active: int = 0
    _virtual: float = 0.0
    _now: float = 0.0
    _ends: list[tuple[float, int, int]] = field(default_factory=list)
    _gone: set[int] = field(default_factory=set)
    _tickets: int = 0

    @property
    def rate(self) -> float:
        """Bytes a second of one transfer now."""
        return min(self.cap, self.capacity / self.active) if self.active else self.cap

    def start(self, now: float, size: float, who: int) -> int:
        """Begin a transfer of `size` bytes; returns its ticket."""
        self._advance(now)
        self.active += 1
        self._tickets += 1
        heappush(self._ends, (self._virtual + size, self._tickets, who))
        return self._tickets

    def stop(self, now: float, ticket: int) -> None:
        """Give up a transfer that has not ended."""
        self._advance(now)
        self.active -= 1
        self._gone.add(ticket)

    def next_end(self) -> float:
        """When the next transfer ends if nothing else begins or ends; infinite without any."""
        while self._gone and self._ends and self._ends[0][1] in self._gone:
            self._gone.remove(heappop(self._ends)[1])
        if not self._ends:
            return math.inf
        return self._now + max(0.0, self._ends[0][0] - self._virtual) / self.rate

    def end(self, now: float) -> int:
        """End the transfer that `next_end` spoke of, at that time; returns whose it is."""
        self._advance(now)
        self._virtual, _, who = heappop(self._ends)
        self.active -= 1
        return who

    def _advance(self, now: float) -> None:
        if self.active:
            passed = (now - self._now) * self.rate
            self._virtual += passed
            self.moved += passed * self.active
        self._now = now
