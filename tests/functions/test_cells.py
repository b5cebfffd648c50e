"""Cells: a unit is computed once, and what is half-written does not count."""

from pathlib import Path

import pytest

from functions.model.errors import VolumeError
from functions.store.cells import Cell, UnitReport
from functions.store.files import atomic_path, fingerprint, write_json


def test_a_unit_is_computed_once(tmp_path: Path) -> None:
    cell = Cell(tmp_path / "stitch" / "k")
    calls: list[int] = []

    def compute() -> UnitReport:
        calls.append(1)
        return UnitReport(figures={"residual_px": 0.25})

    first, fresh = cell.run_unit("z1", compute)
    again, fresh_again = cell.run_unit("z1", compute)
    assert (fresh, fresh_again, len(calls)) == (True, False, 1)
    assert first == again
    assert again.figures["residual_px"] == 0.25
    assert cell.attempts() == {"z1": 1}


def test_a_unit_that_failed_is_not_marked_and_is_begun_again(tmp_path: Path) -> None:
    cell = Cell(tmp_path / "c")

    def broken() -> UnitReport:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        cell.run_unit("u", broken)
    assert not cell.is_done("u")
    cell.run_unit("u", UnitReport)
    assert cell.attempts() == {"u": 2}


def test_a_unit_that_reports_failure_is_tried_again(tmp_path: Path) -> None:
    cell = Cell(tmp_path / "c")
    mark, _ = cell.run_unit("u", lambda: UnitReport(status="failed"))
    assert mark.status == "failed"
    _, fresh = cell.run_unit("u", UnitReport)
    assert fresh
    assert cell.is_done("u")


def test_a_mark_that_is_not_there_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="unit u is not finished; run its step first"):
        Cell(tmp_path).mark("u")


def test_atomic_path_leaves_nothing_behind_when_the_writer_fails(tmp_path: Path) -> None:
    target = tmp_path / "array"

    def write_half() -> None:
        with atomic_path(target) as partial:
            partial.mkdir()
            (partial / "chunk").write_bytes(b"half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_atomic_path_replaces_an_older_folder_whole(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    for name in ("old", "new"):
        with atomic_path(target) as partial:
            partial.mkdir()
            (partial / name).touch()
    assert [p.name for p in target.iterdir()] == ["new"]


def test_equal_documents_have_equal_bytes_and_fingerprints(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"x": 1, "y": [2]})
    write_json(tmp_path / "b", {"y": [2], "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert fingerprint({"x": 1, "y": 2}) == fingerprint({"y": 2, "x": 1})
    assert fingerprint("a", "bc") != fingerprint("ab", "c")


def test_atomic_path_can_give_way_to_a_folder_that_came_meanwhile(tmp_path: Path) -> None:
    target = tmp_path / "array"
    with atomic_path(target, keep_older=True) as partial:
        partial.mkdir()
        (partial / "mine").touch()
        target.mkdir()
        (target / "theirs").touch()
    assert [p.name for p in tmp_path.iterdir()] == ["array"]
    assert [p.name for p in target.iterdir()] == ["theirs"]
