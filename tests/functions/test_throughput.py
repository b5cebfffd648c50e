"""Progress and rates of a fan-out, read from its ledger."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from functions.store.cells import Cell
from functions.store.lots import Owner
from functions.store.marks import Mark
from functions.store.presence import Heartbeat, beat_path
from functions.throughput import measure

LEASE = 60.0


def board(root: Path, units: int = 8) -> Cell:
    cell = Cell(root / "segment" / "key")
    cell.ledger.number([f"u{k}" for k in range(units)], size=2)
    return cell


def beating(cell: Cell, name: str, *, units: int, voxels: float, elapsed: float, unit: str = "") -> Path:
    """A worker that says so much; the time of its file is now."""
    owner = Owner(id=name, host=f"host of {name}", pid=1, machine=name, born="1")
    beat = Heartbeat(cell.workers, owner, lease_seconds=LEASE)
    beat.tell(units=units, voxels=voxels, elapsed=elapsed, unit=unit)
    beat.beat()
    return beat_path(cell.workers, name)


def test_rates_are_those_of_the_workers_that_are_there(tmp_path: Path) -> None:
    cell = board(tmp_path)
    claim = cell.ledger.lot(0).take(0, Owner(id="a", host="a", pid=1, machine="a", born="1"))
    assert claim is not None
    for unit in ("u0", "u1"):
        claim.begin(unit)
        claim.done(Mark(unit=unit, seconds=100.0, started=0.0, figures={"voxels": 5e6}))
    claim.finish()
    beating(cell, "a", units=2, voxels=10e6, elapsed=1800.0, unit="u2")
    beating(cell, "b", units=1, voxels=5e6, elapsed=3600.0, unit="u4")
    lost = beating(cell, "c", units=9, voxels=9e9, elapsed=3600.0, unit="u6")
    stat = lost.stat()
    os.utime(lost, (stat.st_atime, stat.st_mtime - LEASE - 5))
    found = measure(cell, lease_seconds=LEASE)
    assert found is not None
    assert (found.units, found.done, found.quarantined, found.in_progress) == (8, 2, 0, 2)
    assert {w.worker: (w.alive, w.mvoxel_per_h) for w in found.workers} == {
        "a": (True, 20.0), "b": (True, 5.0), "c": (False, 9000.0),
    }  # fmt: skip
    assert found.mvoxel_per_h == 25.0
    assert found.eta_seconds == pytest.approx(6 / (2 / 1800 + 1 / 3600))
    assert found.figures() == {
        "in_progress": 2.0, "workers": 2.0, "workers_vanished": 1.0, "mvoxel_per_h": 25.0,
        "mvoxel_per_h_per_worker": 12.5,
    }  # fmt: skip


def test_workers_that_ended_are_not_shown_and_without_any_nobody_knows_the_time_left(tmp_path: Path) -> None:
    cell = board(tmp_path)
    with Heartbeat(
        cell.workers, Owner(id="a", host="a", pid=1, machine="a", born="1"), lease_seconds=LEASE
    ) as beat:
        beat.tell(units=3, voxels=1e6)
    found = measure(cell, lease_seconds=LEASE)
    assert found is not None
    assert (found.workers, found.eta_seconds, found.figures()) == ((), None, {})


def test_what_was_never_planned_has_no_progress(tmp_path: Path) -> None:
    assert measure(Cell(tmp_path / "segment" / "key"), lease_seconds=LEASE) is None


def test_a_damaged_heartbeat_is_passed_over(tmp_path: Path) -> None:
    cell = board(tmp_path)
    path = beating(cell, "a", units=2, voxels=10e6, elapsed=1800.0)
    path.write_bytes(b'{"count": 7, "un')
    found = measure(cell, lease_seconds=LEASE)
    assert found is not None
    assert found.workers == ()
