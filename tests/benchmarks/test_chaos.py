"""A few kills, a jumping clock, a full disk, truncated chunks and a poison subvolume: the same bytes."""

import json
from pathlib import Path

import pytest

from tests.benchmarks.chaos import chaos
from tests.benchmarks.chaos_site import account, begun_in, unaccounted


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_a_few_times_the_published_volume_is_the_same(tmp_path: Path) -> None:
    found = chaos(tmp_path, kills=6, seed=4, counts_zyx=(2, 6, 6))
    assert found["passed"], json.dumps(found, indent=1)
    assert (found["identical"], found["kills"], found["redone_beyond_in_flight"]) == (True, 6, 0)


def test_an_attempt_that_no_kill_explains_is_counted(tmp_path: Path) -> None:
    """The judge of the run above is judged: by a ledger that was written by hand."""

    def lines(pid: int, *records: tuple[str, str]) -> str:
        claim = {"do": "claim", "owner": {"id": f"worker-{pid}", "pid": pid}}
        told = [claim, *({"do": do, "unit": unit} for do, unit in records)]
        return "".join(json.dumps(record) + "\n" for record in told)

    ledger = tmp_path / "segment/key/ledger"
    (ledger / "plan").mkdir(parents=True)
    lots = ledger / "lots/00000"
    lots.mkdir(parents=True)
    (lots / "00000000.0").write_text(lines(7, ("begin", "a"), ("done", "a"), ("begin", "b")))
    (lots / "00000000.1").write_text(lines(8, ("begin", "b"), ("done", "b")))
    found = account(tmp_path, killed={7})["segment"]
    assert (found.units, found.begun, found.done, found.lost, found.redone) == (2, 3, 2, 1, 0)
    assert account(tmp_path, killed=set())["segment"].redone == 1  # nobody killed 7
    assert found.twice == 0
    (lots / "00000000.2").write_text(lines(9, ("begin", "a"), ("done", "a")))
    found = account(tmp_path, killed={7, 8, 9})["segment"]
    assert (found.redone, found.twice) == (1, 1)  # a was done before
    (lots / "00000001.0").write_text(lines(7, ("begin", "c"), ("kept", "c")))
    (lots / "00000001.1").write_text(lines(8, ("begin", "c"), ("done", "c")))
    found = account(tmp_path, killed={7, 8, 9})["segment"]
    assert (found.kept, found.redone) == (1, 1)  # put away when 7 had to go, and gone on with


def test_what_was_segmented_without_a_word_in_the_ledger_is_noticed(tmp_path: Path) -> None:
    """Seen by the processes themselves: the ledger cannot tell of what nobody wrote into it."""
    ledger = tmp_path / "segment/key/ledger"
    (ledger / "plan").mkdir(parents=True)
    (ledger / "lots/00000").mkdir(parents=True)
    lines = [{"do": "begin", "unit": unit} for unit in ("a", "b", "b", "c", "c")]
    (ledger / "lots/00000/00000000.0").write_text("".join(json.dumps(line) + "\n" for line in lines))
    begun, log = begun_in(tmp_path, "segment"), tmp_path / "segmented"
    assert begun == {"a": 1, "b": 2, "c": 2}
    log.write_text("a 7\nb 7\nb 8\nc 8\n")
    assert unaccounted(log, begun=begun, killed={7}) == []
    assert unaccounted(log, begun=begun, killed=set()) == ["b"]  # nobody was killed: why twice?
    log.write_text("a 7\na 8\n")
    assert unaccounted(log, begun=begun, killed={7, 8}) == ["a"]  # begun once
