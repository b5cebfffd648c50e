"""Which lot a worker takes next: what nobody has begun, then what was handed on, then what the vanished left.

Each worker begins at its own place of the order, so that neighbours stay with one worker and few meet. When
all lots are taken it watches those that others hold, for one lease: it takes over what a vanished worker
left, and goes when all that is left is in the hands of the living.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from functions.store.ledger import Ledger, Listed
from functions.store.lots import Claim, Owner
from functions.store.presence import BEATS_A_LEASE, Watch

WATCHED = 4096
"""So many held lots all idle workers of a step look at together, each at its share."""
LEAST_WATCHED = 8
FIRST_PAUSE_SECONDS = 0.05


class Claims:
    """The lots of a ledger that one of several workers may take, one after the other."""

    def __init__(
        self,
        ledger: Ledger,
        owner: Owner,
        watch: Watch,
        *,
        worker: int,
        workers: int,
        lease_seconds: float,
        stop: Callable[[], bool],
        wait: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger, self._owner, self._watch = ledger, owner, watch
        self._stop, self._wait, self._clock = stop, wait, clock
        self._lease = lease_seconds
        self._share = max(LEAST_WATCHED, WATCHED // workers)
        self._folders = _rotated(ledger.folders(), worker, workers)
        self.refused: set[int] = set()
        """Lots that this worker does not take again."""

    def __iter__(self) -> Iterator[tuple[int, Claim]]:
        """Claims, each to be ended before the next is asked for."""
        idle_since = self._clock()
        while not self._stop():
            held: list[tuple[int, Listed]] = []
            for number, claim in self._free(held):
                yield number, claim
                idle_since = self._clock()
                if self._stop():
                    return
            if not held or self._clock() - idle_since > self._lease * (1 + 2 / BEATS_A_LEASE):
                return
            for number, claim in self._left_behind(held):
                yield number, claim
                idle_since = self._clock()
                if self._stop():
                    return
            self._pause(self._clock() - idle_since)

    def _free(self, held: list[tuple[int, Listed]]) -> Iterator[tuple[int, Claim]]:
        """Claims of lots that nobody holds; `held` is filled with those that somebody does."""
        for folder in list(self._folders):
            while True:
                listing = self._ledger.look(folder)
                free = [n for state in ("fresh", "free") for n, lot in listing.items() if lot.state == state]
                open_lots = [n for n in free if n not in self.refused]
                for number in open_lots:
                    claim = self._ledger.lot(number).take(listing[number].epoch, self._owner)
                    if claim is None:
                        break  # somebody is at work here: look again
                    yield number, claim
                if not open_lots:
                    break
            if all(lot.state == "done" for lot in listing.values()):
                self._folders.remove(folder)
            held += [(n, lot) for n, lot in listing.items() if lot.state == "held"]

    def _left_behind(self, held: list[tuple[int, Listed]]) -> Iterator[tuple[int, Claim]]:
        """Claims of lots whose owners have vanished."""
        for number, listed in held[: self._share]:
            lot = self._ledger.lot(number)
            owner = lot.owner(listed.epoch - 1)
            if self._watch.vanished(owner, claim=f"{number}.{listed.epoch - 1}"):
                claim = lot.take(listed.epoch, self._owner)
                if claim is not None:
                    yield number, claim

    def _pause(self, idle: float) -> None:
        """Between two looks at what others hold: the longer, the longer it is idle, up to their time between
        two signs of life."""
        end = self._clock() + min(max(idle, FIRST_PAUSE_SECONDS), self._lease / BEATS_A_LEASE)
        while (left := end - self._clock()) > 0 and not self._stop():
            self._wait(min(left, 1.0))


def _rotated(folders: list[range], worker: int, workers: int) -> list[range]:
    """The lots from a worker's own place on and round to it, in pieces that lie in one folder each."""
    start = worker * (folders[-1].stop if folders else 0) // workers
    behind = [range(max(f.start, start), f.stop) for f in folders if f.stop > start]
    before = [range(f.start, min(f.stop, start)) for f in folders if f.start < start]
    return [*behind, *before]


def dealt_claims(
    ledger: Ledger, owner: Owner, lots: tuple[int, ...], *, stop: Callable[[], bool]
) -> Iterator[tuple[int, Claim]]:
    """Claims of the lots that were dealt to a worker: nobody else computes them now, so it asks nobody."""
    for number in lots:
        if stop():
            return
        yield number, ledger.lot(number).take_next(owner)
