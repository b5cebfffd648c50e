"""Plays a fake microscope's script at a pace."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from functions.model.errors import TaskError
from functions.testing.microscopes import multisem, sbemimage, serialem
from functions.testing.microscopes.script import FAULTS, Script, Truth

TELL_SECONDS = 10.0


class Microscope(Protocol):
    """A fake microscope."""

    truth: Truth

    def steps(self) -> Iterator[float]:
        """Acquire; yields how many tiles' time each step takes."""


KINDS: dict[str, Callable[..., Microscope]] = {
    "sbemimage": sbemimage.FakeSbemimage,
    "serialem": serialem.FakeSerialem,
    "multisem": multisem.FakeMultisem,
}


def faults_of(kind: str) -> tuple[str, ...]:
    """The faults that a kind of microscope knows; none for what is no kind."""
    offered = {"sbemimage": FAULTS, "serialem": serialem.FAULTS, "multisem": multisem.FAULTS}
    return offered.get(kind, ())


def simulate(
    kind: str,
    folder: Path,
    script: Script,
    *,
    truth: Path | None = None,
    tiles_per_second: float | None = None,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> Truth:
    """Acquire into a new or empty folder; returns when the acquisition is over.

    `truth` is a file outside the folder, written anew every few seconds and at the end. Without a rate it
    is as fast as it can be. A pause lasts as long as ten tiles.

    Raises:
        TaskError: no such kind or fault, `truth` inside the folder, or the folder is not empty.
    """
    if kind not in KINDS:
        raise TaskError(f"{kind}: no such microscope", remedy=f"one of {', '.join(KINDS)}")
    if truth is not None and truth.resolve().is_relative_to(folder.resolve()):
        raise TaskError(f"{truth}: inside the acquisition", remedy="keep the truth elsewhere")
    if folder.exists() and any(folder.iterdir()):
        raise TaskError(f"{folder}: not empty", remedy="give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    microscope = KINDS[kind](folder, script, now=clock)
    told = clock()
    for _ in _paced(microscope.steps(), tiles_per_second, clock, sleep):
        if truth is not None and clock() - told > TELL_SECONDS:
            microscope.truth.write(truth, ended=False)
            told = clock()
    if truth is not None:
        microscope.truth.write(truth, ended=True)
    return microscope.truth


def _paced(
    steps: Iterator[float],
    rate: float | None,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> Iterator[None]:
    """Steps at their times: each says how many tiles' time it takes."""
    due = clock()
    for tiles in steps:
        if rate is not None:
            due += tiles / rate
            if (rest := due - clock()) > 0.001:
                sleep(rest)
        yield
