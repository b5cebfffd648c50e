"""Which complete sections are started together: runs of neighbours, without anything unfinished between
them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

OPEN, COMPLETE = "seen", "complete"


def ready(states: Mapping[int, str], *, every: int, closing: bool) -> list[tuple[int, ...]]:
    """The batches to start now, ascending in z. `states` says of each known section whether it is `seen`,
    `complete`, or something later.

    A stretch of complete sections is cut into batches of `every`. What is left over waits for more, unless no
    more can come: its neighbours on both sides are started already, or the acquisition is over. The newest
    section always has a neighbour to come.
    """
    batches: list[tuple[int, ...]] = []
    order = sorted(states)
    for first, last in _stretches([states[z] for z in order]):
        stretch = order[first : last + 1]
        whole = len(stretch) - len(stretch) % every
        batches += [tuple(stretch[i : i + every]) for i in range(0, whole, every)]
        below_open = first > 0 and states[order[first - 1]] == OPEN
        above_open = last + 1 == len(order) or states[order[last + 1]] == OPEN
        if stretch[whole:] and (closing or not (below_open or above_open)):
            batches.append(tuple(stretch[whole:]))
    return batches


def _stretches(states: Sequence[str]) -> list[tuple[int, int]]:
    """First and last index of each stretch of complete sections."""
    found: list[tuple[int, int]] = []
    for index, state in enumerate(states):
        if state != COMPLETE:
            continue
        if found and found[-1][1] == index - 1:
            found[-1] = (found[-1][0], index)
        else:
            found.append((index, index))
    return found
