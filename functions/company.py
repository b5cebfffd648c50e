"""How many units a process has in progress at a time, and which of them may be beside each other.

A unit that ends its process takes its neighbours with it, and nobody can tell which of them it was. So all of
them are suspects, and next time only half as many may be in progress beside each: at last one is alone, and
it is known (`functions.store.lots.Standing`). Where an accelerator had no memory left, all go on in half the
company.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Condition

LOOK_SECONDS = 1.0
"""So often a unit that waits for others to go asks whether its worker has to go."""


class Company:
    """What the seats of a process share: how many units are in progress, and which failed last.

    Who may have few beside it goes last: it waits until no more than those are in progress, while others that
    fit still come and go. There are finitely many of them.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        """At most so many units at a time."""
        self.failed: set[str] = set()
        """Units that failed one after the other: when a device is sick, no seat alone would see so many."""
        self._inside: list[int] = []
        self._changed = Condition()

    def enter(self, at_most: int | None, *, stop: Callable[[], bool]) -> int:
        """Wait until a unit can be in progress that has at most `at_most` beside it, itself counted; `leave`
        ends it.

        Returns how many there will be at most until then; 0: it was not begun, since `stop` said so.
        """
        with self._changed:
            while not stop():
                company = self.size if at_most is None else min(at_most, self.size)
                if len(self._inside) < min([company, *self._inside]):
                    self._inside.append(company)
                    return company
                self._changed.wait(LOOK_SECONDS)
        return 0

    def leave(self, company: int) -> None:
        """A unit that came in `company` is not in progress any more."""
        with self._changed:
            self._inside.remove(company)
            self._changed.notify_all()

    def halve(self, company: int) -> None:
        """Units that came in `company` were too many: from now on half of them, whoever says so first."""
        with self._changed:
            self.size = min(self.size, max(1, company // 2))
