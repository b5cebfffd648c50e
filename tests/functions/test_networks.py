"""The network at which the threads of a process meet: kept for the next, closed when another is wanted."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ffn.engine import Precision
from ffn.joint import Seat
from functions import networks
from functions.networks import seat_shared
from functions.store.named import DEMO_MODEL

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    """Without a network of an earlier test, and none is left to a later one."""
    _forget()
    yield
    _forget()
    assert serving() == 0


def _forget() -> None:
    old, networks._table = networks._table, None
    if old is not None:
        old.engine.stop()


def serving() -> int:
    """Threads that run a network."""
    return sum(thread.name == "ffn-network" for thread in threading.enumerate())


def answers(seat: Seat) -> bool:
    """Whether the network of a seat answers."""
    fov = seat._engine.fov_zyx
    logits = seat.predict([np.zeros(fov, np.uint8)], [np.zeros(fov, np.float32)])
    return bool(np.isfinite(logits).all())


def test_those_who_want_the_same_network_meet_there_and_it_stays_for_the_next() -> None:
    with seat_shared(DEMO_MODEL, CPU, "fp32", 2) as one, seat_shared(DEMO_MODEL, CPU, "fp32", 2) as two:
        assert one._engine is two._engine
        assert one is not two
    with seat_shared(DEMO_MODEL, CPU, "fp32", 2) as three:
        assert three._engine is one._engine
        assert answers(three)
    assert serving() == 1


@pytest.mark.parametrize("change", ["model", "precision", "batch"])
def test_the_network_of_before_is_closed_when_another_is_wanted(tmp_path: Path, change: str) -> None:
    path = DEMO_MODEL
    with seat_shared(DEMO_MODEL, CPU, "fp32", 2):
        pass
    if change == "model":
        path = Path(shutil.copy(DEMO_MODEL, tmp_path / "other.safetensors"))
    precision: Precision = "bf16" if change == "precision" else "fp32"
    with seat_shared(path, CPU, precision, 3 if change == "batch" else 2) as seat:
        assert serving() == 1
        assert answers(seat)


def test_whoever_is_still_at_the_old_network_is_answered_until_it_leaves() -> None:
    with seat_shared(DEMO_MODEL, CPU, "fp32", 2) as old:
        with seat_shared(DEMO_MODEL, CPU, "fp32", 3) as new:
            assert new._engine is not old._engine
            assert serving() == 2
            assert answers(old)
        assert serving() == 2
    assert serving() == 1
