"""The trigger's benchmark, small: the shipped watcher, killed, over a service that fails."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.trigger import faulty


def test_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    found = faulty(tmp_path / "a", sections=6, kills=2, rate=16.0, every=1, seed=2)
    assert (found["lost"], found["doubled"], found["wrong_tiles"]) == (0, 0, 0)
    assert (found["killed"], found["settled"], found["volumes_started"]) == (2, True, 1)
    assert found["starts"] >= found["sections"] == 6
    assert found["calls_failed"]
