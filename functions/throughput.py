"""How far a fan-out has got and how fast it goes, read from its ledger: no worker is asked or slowed.

Rates come from what each worker says of itself, by its own clock; that a worker is there is judged by the
time of its file against the time that the same file system gives a file now.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from functions.store.cells import Cell
from functions.store.ledger_files import LedgerFiles
from functions.store.presence import read_beat

MVOXEL_PER_H = 3600 / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRate:
    """One worker that is at work, or that vanished."""

    worker: str
    host: str
    alive: bool
    units: int
    mvoxel_per_h: float
    units_per_s: float
    unit: str
    """What it is computing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """A fan-out at one moment."""

    units: int
    done: int
    quarantined: int
    in_progress: int
    """Units that a worker which is there says it computes."""
    workers: tuple[WorkerRate, ...]

    @property
    def alive(self) -> int:
        """Workers that are there."""
        return sum(worker.alive for worker in self.workers)

    @property
    def mvoxel_per_h(self) -> float:
        """Of all workers that are there together."""
        return sum(worker.mvoxel_per_h for worker in self.workers if worker.alive)

    @property
    def eta_seconds(self) -> float | None:
        """Until all units are settled at that rate; None when nothing is left, or nobody has done any yet."""
        left = self.units - self.done - self.quarantined
        rate = sum(worker.units_per_s for worker in self.workers if worker.alive)
        return left / rate if left and rate else None

    def figures(self) -> dict[str, float]:
        """What a step's record shows of it."""
        alive = self.alive
        found = {"quarantined": float(self.quarantined), "in_progress": float(self.in_progress)}
        found |= {"workers": float(alive), "workers_vanished": float(len(self.workers) - alive)}
        found |= {"mvoxel_per_h": round(self.mvoxel_per_h, 3)}
        if alive:
            found["mvoxel_per_h_per_worker"] = round(self.mvoxel_per_h / alive, 3)
        return {name: value for name, value in found.items() if value}


def measure(board: Cell, *, lease_seconds: float) -> Throughput | None:
    """How the fan-out stands whose units are claimed at `board`; None where nothing was planned."""
    ledger = board.ledger
    if ledger.numbering is None:
        return None
    census = ledger.census()
    workers = tuple(_workers(board.workers, lease_seconds=lease_seconds))
    return Throughput(
        units=census.units,
        done=census.done,
        quarantined=census.quarantined,
        in_progress=sum(worker.alive and worker.unit != "" for worker in workers),
        workers=workers,
    )


def _workers(folder: Path, *, lease_seconds: float) -> Iterator[WorkerRate]:
    """Workers of a step; those that ended have taken their files away."""
    files = LedgerFiles()
    now = _file_time(folder)
    for name in sorted(files.names(folder)):
        for file in sorted(files.names(folder / name)):
            path = folder / name / file
            beat = read_beat(files.read(path))
            with suppress(FileNotFoundError):  # it has ended since
                alive = now - path.stat().st_mtime <= lease_seconds
                if beat is not None:
                    yield _rate(path, beat, alive=alive)


def _rate(path: Path, beat: dict[str, Any], *, alive: bool) -> WorkerRate:
    units, elapsed = int(beat.get("units", 0)), float(beat.get("elapsed", 0.0))
    return WorkerRate(
        worker=path.stem,
        host=str(beat.get("host", "")),
        alive=alive,
        units=units,
        mvoxel_per_h=float(beat.get("voxels", 0.0)) / elapsed * MVOXEL_PER_H if elapsed else 0.0,
        units_per_s=units / elapsed if elapsed else 0.0,
        unit=str(beat.get("unit", "")),
    )


def _file_time(folder: Path) -> float:
    """The time that the file system gives a file now; 0, so that all seem alive, where none can be
    written."""
    path = folder / f".now-{uuid.uuid4().hex[:8]}"
    try:
        path.touch()
        return path.stat().st_mtime
    except OSError:
        return 0.0
    finally:
        path.unlink(missing_ok=True)
