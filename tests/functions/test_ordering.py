"""An external merge sort: the order of a sort in memory, whatever is held at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.agglomeration import ordering
from functions.agglomeration.ordering import FAN_IN, Ordering, Rows
from functions.model.scratch import Held
from functions.store.scratch import Scratch

KIND = np.dtype([("score", "<f8"), ("id", "<u8"), ("z", "<i4")])


def columns(rows: Rows) -> tuple[np.ndarray, ...]:
    return -rows["score"], rows["id"], rows["z"]


def made(count: int, seed: int = 0) -> Rows:
    random = np.random.default_rng(seed)
    rows = np.zeros(count, KIND)
    rows["score"] = random.integers(0, 5, count) / 4
    rows["id"] = random.integers(0, 2**63, count, dtype=np.uint64) * 2 + 1
    rows["z"] = random.integers(-9, 9, count)
    return rows


def expected(rows: Rows) -> list[tuple[float, ...]]:
    return [tuple(row) for row in rows[np.lexsort(columns(rows)[::-1])].tolist()]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 70), st.integers(0, 3))
def test_rows_come_in_order_whatever_is_held(parts: list[int], at_once: int, seed: int) -> None:
    rows = made(sum(parts), seed)
    order = Ordering(KIND, columns, scratch=Held(), at_once=at_once)
    for part in np.split(rows, np.cumsum(parts)[:-1]) if parts else ():
        order.add(part)
    assert [row.item() for row in order.in_order()] == expected(rows)


@pytest.mark.parametrize("runs", [FAN_IN, FAN_IN + 1, FAN_IN**2 + 1])
def test_runs_of_any_number_are_merged_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: int
) -> None:
    most, rows = 0, made(3 * runs - 1)
    merge = ordering.heapq.merge  # type: ignore[attr-defined]

    def counted(*runs, key):  # type: ignore[no-untyped-def]
        nonlocal most
        most = max(most, len(runs))
        return merge(*runs, key=key)

    monkeypatch.setattr(ordering.heapq, "merge", counted)  # type: ignore[attr-defined]
    monkeypatch.setattr(ordering, "LEAST_BLOCK", 2)
    with Scratch(tmp_path / "scratch") as scratch:
        order = Ordering(KIND, columns, scratch=scratch, at_once=3)
        order.add(rows)
        written = [path for path in (tmp_path / "scratch").rglob("*") if path.is_file()]
        assert len(written) <= -(-rows.size // 2) + runs  # what is merged is removed
        assert [row.item() for row in order.in_order()] == expected(rows)
    assert most == min(runs, FAN_IN)
    assert not (tmp_path / "scratch").exists()


def test_what_fits_is_not_written(tmp_path: Path) -> None:
    rows = made(20)
    order = Ordering(KIND, columns, scratch=Scratch(tmp_path / "scratch"), at_once=20)
    order.add(rows)
    assert [row.item() for row in order.in_order()] == expected(rows)
    assert not (tmp_path / "scratch").exists()
