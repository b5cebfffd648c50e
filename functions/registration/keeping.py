"""Things that are compared two by two, each kept from the first pair it is in to the last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Name = TypeVar("Name")
Thing = TypeVar("Thing")


def in_turn(
    pairs: Sequence[tuple[Name, Name]], make: Callable[[Name], Thing]
) -> Iterator[tuple[Thing, Thing]]:
    """What `make` gives of both of each pair; each is made once.

    Of tiles of a grid whose pairs come row by row, no more than two rows are held.
    """
    last = {name: k for k, pair in enumerate(pairs) for name in pair}
    held: dict[Name, Thing] = {}
    for k, pair in enumerate(pairs):
        for name in pair:
            if name not in held:
                held[name] = make(name)
        yield held[pair[0]], held[pair[1]]
        for name in set(pair):
            if last[name] == k:
                del held[name]
