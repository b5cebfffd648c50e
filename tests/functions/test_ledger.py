"""The ledger: one owner a claim, takeover, zombies, torn lines, retries, quarantine, with faults at every
write."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.store.ledger import Ledger, read_names
from functions.store.ledger_files import LedgerFiles
from functions.store.lots import Claim, Lot, Owner, standings_of
from functions.store.marks import Attempt, Mark
from functions.store.numbering import Numbering, lot_size
from functions.store.presence import Heartbeat, Watch, beat_path, born, machine, myself

UNITS = [f"u{k:03d}" for k in range(10)]


def owner(name: str) -> Owner:
    """Of another machine, so that its process cannot be asked for."""
    return Owner(id=name, host=name, pid=1, machine=f"machine of {name}", born="7")


def ledger(root: Path, *, size: int = 4, files: LedgerFiles | None = None) -> Ledger:
    made = Ledger(root / "ledger", files=files)
    made.number(UNITS, size=size)
    return made


def mark(unit: str) -> Mark:
    return Mark(unit=unit, seconds=1.0, started=2.0, figures={"voxels": 5.0})


def take(book: Ledger, number: int, name: str, epoch: int = 0) -> Claim:
    claim = book.lot(number).take(epoch, owner(name))
    assert claim is not None
    return claim


# -- lots ---------------------------------------------------------------------------------------------------
def test_units_are_cut_into_lots_in_their_order_and_found_by_name(tmp_path: Path) -> None:
    numbering = ledger(tmp_path).numbering
    assert numbering is not None
    assert [numbering.units(lot) for lot in range(numbering.lots)] == [UNITS[:4], UNITS[4:8], UNITS[8:]]
    assert [numbering.lot_of(unit) for unit in ("u000", "u007", "u009", "u0095", "v", "")] == [
        0, 1, 2, None, None, None,
    ]  # fmt: skip
    assert sum(numbering.width(lot) for lot in range(numbering.lots)) == len(numbering) == 10


def test_a_numbering_that_is_there_stays(tmp_path: Path) -> None:
    book = ledger(tmp_path, size=4)
    assert book.number([*UNITS, "v"], size=2) == book.numbering
    assert book.numbering is not None
    assert (book.numbering.size, len(book.numbering)) == (4, 10)


@pytest.mark.parametrize(
    ("units", "workers", "size"), [(60, 200, 1), (10_000, 2, 64), (100_000, 200, 10), (10_000_000, 200, 64)]
)
def test_lots_are_small_enough_for_all_to_end_together(units: int, workers: int, size: int) -> None:
    assert lot_size(units, workers) == size


def test_of_two_who_claim_one_gets_it(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    assert [book.lot(1).take(0, owner(name)) is not None for name in "ab"] == [True, False]
    found = book.lot(1).owner(0)
    assert found is not None
    assert found.id == "a"
    assert {n: lot.state for n, lot in book.look(range(3)).items()} == {0: "fresh", 1: "held", 2: "fresh"}


def test_a_listing_tells_what_became_of_each_lot(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    first, second = take(book, 0, "a"), take(book, 1, "a")
    for unit in UNITS[:4]:
        first.begin(unit)
        first.done(mark(unit))
    first.finish()
    second.release()
    assert [lot.state for lot in book.look(range(3)).values()] == ["done", "free", "fresh"]
    assert book.look(range(3))[1].epoch == 1
    census = book.census()
    assert (census.units, census.done, census.open, census.held) == (10, 4, 6, 0)
    assert list(book.missing()) == UNITS[4:]
    assert [m.unit for _, s in book.standings_of_all() if (m := s.mark)] == UNITS[:4]


def test_what_was_handed_on_is_gone_on_with_and_not_computed_again(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    claim = take(book, 0, "a")
    claim.begin("u000")
    claim.done(mark("u000"))
    claim.begin("u001", reached="")
    claim.keep("u001")
    claim.release()
    assert book.lot(0).take(0, owner("b")) is None
    again = take(book, 0, "b", epoch=1)
    assert again.standing("u000").settled
    assert (again.standing("u001").tries, again.standing("u001").kept) == (0, 1)
    assert book.census().kept == 1


def test_an_overtaken_owner_sees_it_and_what_it_still_marks_counts(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    zombie = take(book, 0, "a")
    zombie.begin("u000")
    assert not zombie.overtaken
    heir = take(book, 0, "b", epoch=1)
    assert zombie.overtaken
    assert not heir.overtaken
    zombie.done(mark("u000"))  # it wrote the same bytes
    heir.begin("u000")
    heir.done(mark("u000"))
    assert book.mark("u000") == mark("u000")
    assert book.lot(0).standings()["u000"].begun == 2


def test_a_late_mark_does_not_undo_what_was_made_void(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    zombie = take(book, 0, "a")
    zombie.begin("u000")
    zombie.done(mark("u000"))
    book.void("u000")
    assert zombie.overtaken
    zombie.done(mark("u000"))  # from what it had read before
    assert book.mark("u000") is None
    assert book.look(range(1))[0].state == "free"
    book.void("u001")  # not settled: nothing to do
    assert book.look(range(1))[0].epoch == 2


def test_void_reopens_a_lot_that_was_settled_by_units_done_by_themselves(tmp_path: Path) -> None:
    book = ledger(tmp_path, size=1)
    single = book.single("u000").take_next(owner("a"))
    single.begin("u000")
    single.done(mark("u000"))
    single.finish()
    take(book, 0, "b").finish()
    assert book.census().done == 1
    book.void("u000")
    assert (book.census().done, next(book.missing())) == (0, "u000")


def test_all_records_can_be_forgotten_at_once_and_the_numbering_stays(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    claim = take(book, 0, "a")
    claim.begin("u000")
    claim.done(mark("u000"))
    book.void_all()
    claim.done(mark("u001"))  # whoever still holds a lot writes into a lost file
    assert book.census().done == 0
    assert book.numbering is not None
    assert sorted(path.name for path in book.path.iterdir()) == ["plan"]


# -- attempts -----------------------------------------------------------------------------------------------
def test_attempts_are_counted_although_they_were_killed_and_begin_anew_when_the_unit_gets_on(
    tmp_path: Path,
) -> None:
    book = ledger(tmp_path)
    for epoch, (reached, tries) in enumerate([("", 1), ("", 2), ("k1", 1), ("k1", 2), ("k1", 3)]):
        claim = take(book, 0, "a", epoch)
        claim.begin("u000", reached=reached)  # and then it is killed
        assert claim.standing("u000").tries == tries
    assert take(book, 0, "b", 5).standing("u000").given_up("u000").reason.startswith("it ended its worker 3")


def test_what_failed_is_told_and_an_attempt_that_was_not_the_units_fault_does_not_count(
    tmp_path: Path,
) -> None:
    claim = take(ledger(tmp_path), 0, "a")
    claim.begin("u000")
    claim.drop("u000")
    assert claim.standing("u000").tries == 0
    claim.begin("u000")
    claim.fail("u000", Attempt(worker="a", error="ValueError: no", traceback="here"))
    found = claim.standing("u000").given_up("u000")
    assert (found.attempts, found.reason) == (1, "ValueError: no")


def test_a_unit_in_quarantine_is_tried_again_once_for_each_name(tmp_path: Path) -> None:
    book = ledger(tmp_path, size=1)
    for epoch, why in ((0, ""), (2, "first")):
        claim = take(book, 0, "a", epoch)
        claim.begin("u000")
        book.tell_quarantine(claim.standing("u000").given_up("u000"))
        claim.quarantine("u000")
        claim.finish()
        assert [found.unit for found in book.quarantined()] == ["u000"]
        assert (book.census().quarantined, book.census().open, book.mark("u000")) == (1, 9, None)
        if why:
            break
        book.void("u000", why="first")
        assert (book.quarantined(), book.census().open) == ([], 10)
    book.void("u000", why="first")  # asked in vain: that was its retry
    assert len(book.quarantined()) == 1
    book.void("u000", why="second")
    assert book.quarantined() == []


def test_a_quarantine_that_the_full_disk_did_not_let_be_recorded_can_be_retried(tmp_path: Path) -> None:
    book = ledger(tmp_path, size=1)
    claim = take(book, 0, "a")
    claim.begin("u000")
    book.tell_quarantine(claim.standing("u000").given_up("u000"))  # and then the disk is full
    claim.release()
    book.void("u000", why="first")
    assert book.quarantined() == []
    assert take(book, 0, "b", 2).standing("u000").tries == 0


# -- torn lines and faults ----------------------------------------------------------------------------------
@given(cut=st.integers(0, 2000), noise=st.binary(max_size=20))
def test_a_torn_file_holds_what_was_written_whole(cut: int, noise: bytes) -> None:
    lines = [b'{"do":"claim","owner":{}}\n']
    for unit in UNITS[:4]:
        lines.append(b'{"do":"begin","unit":"%s","reached":"","company":1}\n' % unit.encode())
        done = {"do": "done", "unit": unit, "mark": mark(unit).to_json()}
        lines.append((__import__("json").dumps(done) + "\n").encode())
    text = b"".join(lines)[:cut]
    whole = text[: text.rfind(b"\n") + 1]
    found = standings_of([text + noise.replace(b"\n", b"")])
    assert found.keys() == standings_of([whole]).keys()
    assert {u for u, s in found.items() if s.mark} == {u for u, s in standings_of([whole]).items() if s.mark}


class FailingFiles(LedgerFiles):
    """A file system that ends the process at its n-th change, before, in the middle of, or after it."""

    def __init__(self, fatal: int, moment: float) -> None:
        self.left, self.moment = fatal, moment

    def _fatal(self) -> bool:
        self.left -= 1
        return self.left == 0

    def create(self, path: Path, first: bytes) -> int | None:
        if self._fatal():
            if self.moment > 0:
                handle = super().create(path, b"")
                if handle is not None:
                    os.close(handle)
            raise KeyboardInterrupt
        return super().create(path, first)

    def append(self, handle: int, data: bytes) -> None:
        if self._fatal():
            os.write(handle, data[: int(len(data) * self.moment)])
            raise KeyboardInterrupt
        super().append(handle, data)

    def note(self, path: Path) -> None:
        if self._fatal():
            if self.moment > 0:
                super().note(path)
            raise KeyboardInterrupt
        super().note(path)


def settle(book: Ledger, name: str, computed: list[str]) -> None:
    """A worker that takes every lot that is not done, whoever had it."""
    for number in range(3):
        listed = book.look(range(3))[number]
        if listed.state == "done":
            continue
        claim = take(book, number, name, listed.epoch)
        assert book.numbering is not None
        for unit in book.numbering.units(number):
            if not claim.standing(unit).settled:
                claim.begin(unit)
                computed.append(unit)
                claim.done(mark(unit))
        claim.finish()


@pytest.mark.parametrize("moment", [0.0, 0.5, 1.0])
def test_killed_at_every_write_nothing_is_lost_and_no_more_than_one_unit_is_computed_again(
    tmp_path: Path, moment: float
) -> None:
    for fatal in range(1, 40):
        root = tmp_path / f"{fatal}"
        computed: list[str] = []
        book = ledger(root, files=FailingFiles(fatal, moment))
        try:
            settle(book, "a", computed)
        except KeyboardInterrupt:
            pass
        else:
            break
        settle(ledger(root), "b", computed)
        census = ledger(root).census()
        assert (census.done, census.open, census.held) == (10, 0, 0)
        assert len(computed) <= len(UNITS) + 1
        assert set(computed) == set(UNITS)
    else:
        raise AssertionError("it was never let live")


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["take", "work", "end", "die"])), max_size=60)
)
def test_in_whatever_order_workers_take_work_and_die_each_unit_is_settled_once_for_all(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str]]
) -> None:
    book = ledger(tmp_path_factory.mktemp("b"), size=3)
    assert book.numbering is not None
    held: dict[int, tuple[int, Claim]] = {}
    epochs: set[tuple[int, int]] = set()
    for who, what in steps:
        if what == "take" and who not in held:
            for number, listed in book.look(range(book.numbering.lots)).items():
                mine = [n for n, _ in held.values()]
                vanished = listed.state == "held" and number not in mine
                if listed.state in ("fresh", "free") or vanished:
                    claim = take(book, number, f"w{who}", listed.epoch)
                    assert (number, claim.epoch) not in epochs  # nobody had it
                    epochs.add((number, claim.epoch))
                    held[who] = number, claim
                    break
        elif what == "work" and who in held:
            number, claim = held[who]
            todo = [u for u in book.numbering.units(number) if not claim.standing(u).settled]
            if todo:
                claim.begin(todo[0])
                claim.done(mark(todo[0]))
        elif what == "end" and who in held:
            number, claim = held.pop(who)
            done = all(claim.standing(u).settled for u in book.numbering.units(number))
            claim.finish() if done else claim.release()
        elif what == "die" and who in held:
            held.pop(who)[1].leave()
    for _, claim in held.values():
        claim.leave()
    computed: list[str] = []
    for number in range(book.numbering.lots):
        claim = book.lot(number).take_next(owner("last"))
        for unit in book.numbering.units(number):
            if not claim.standing(unit).settled:
                computed.append(unit)
                claim.begin(unit)
                claim.done(mark(unit))
        claim.finish()
    begun = {unit: standing.begun for unit, standing in book.standings_of_all()}
    assert begun == dict.fromkeys(UNITS, 1)
    assert book.census().done == 10


def test_behind_a_torn_record_its_owner_writes_nothing_more(tmp_path: Path) -> None:
    class Full(LedgerFiles):
        full = False

        def append(self, handle: int, data: bytes) -> None:
            if self.full:
                os.write(handle, data[:9])
                raise OSError(28, "No space left on device")
            super().append(handle, data)

    files = Full()
    claim = take(ledger(tmp_path, files=files), 0, "a")
    files.full = True
    with pytest.raises(OSError, match="No space"):
        claim.begin("u000")
    files.full = False
    with pytest.raises(OSError, match="not whole"):
        claim.begin("u000")
    assert claim.lot.standings() == {}


def test_names_that_are_none_of_ours_are_passed_over() -> None:
    assert read_names([".nfs0000", "x", "a.b.0", "a.b.0.free", "a.b.1.partial"]).keys() == {"a.b"}


# -- who is there -------------------------------------------------------------------------------------------
def test_a_worker_vanishes_by_its_observers_clock_alone(tmp_path: Path) -> None:
    now = [1000.0]
    other = owner("far")
    beat = Heartbeat(tmp_path, other, lease_seconds=60)
    watch = Watch(tmp_path, lease_seconds=60, clock=lambda: now[0])
    beat.beat()
    assert not watch.vanished(other, claim="0.0")
    os.utime(beat_path(tmp_path, "far"), (0, 0))  # whatever the clocks of files say
    now[0] += 59
    assert not watch.vanished(other, claim="0.0")
    beat.beat()
    now[0] += 59
    assert not watch.vanished(other, claim="0.0")
    now[0] += 60
    assert not watch.vanished(other, claim="0.0")
    now[0] += 1
    assert watch.vanished(other, claim="0.0")
    beat.beat()  # it was only suspended
    assert not watch.vanished(other, claim="0.0")


def test_an_observer_that_was_suspended_looks_before_it_judges(tmp_path: Path) -> None:
    now = [0.0]
    other = owner("far")
    beat = Heartbeat(tmp_path, other, lease_seconds=60)
    watch = Watch(tmp_path, lease_seconds=60, clock=lambda: now[0])
    beat.beat()
    watch.vanished(other, claim="0.0")
    beat.beat()
    now[0] += 1e6
    assert not watch.vanished(other, claim="0.0")


def test_a_worker_short_of_memory_goes_on_beating(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Short(LedgerFiles):
        refused = 0

        def overwrite(self, path: Path, line: bytes) -> None:
            if self.refused < 3:
                self.refused += 1
                raise MemoryError
            super().overwrite(path, line)

    beat = Heartbeat(tmp_path, owner("far"), lease_seconds=0.04, files=Short())
    wait, refused = beat._end.wait, list[float]()

    def waiting(seconds: float) -> bool:
        if len(refused) < 2:
            refused.append(seconds)
            raise MemoryError
        return wait(seconds)

    monkeypatch.setattr(beat._end, "wait", waiting)
    with beat:
        until = time.monotonic() + 30
        while not beat_path(tmp_path, "far").exists() and time.monotonic() < until:
            time.sleep(0.01)
        assert beat_path(tmp_path, "far").exists()


def test_an_owner_that_never_wrote_its_name_vanishes_too(tmp_path: Path) -> None:
    now = [0.0]
    watch = Watch(tmp_path, lease_seconds=60, clock=lambda: now[0])
    assert not watch.vanished(None, claim="3.0")
    now[0] += 0.4
    assert not watch.vanished(None, claim="3.0")
    now[0] += 0.2
    assert not watch.vanished(None, claim="4.0")
    assert watch.vanished(None, claim="3.0")


def test_an_owner_that_was_slow_to_write_its_name_sees_that_it_was_overtaken(tmp_path: Path) -> None:
    lot = Lot(folder=tmp_path, name="00000003", files=LedgerFiles())
    slow = lot.take(0, owner("slow"))
    fast = lot.take(1, owner("fast"))
    assert slow is not None
    assert fast is not None
    assert slow.overtaken
    assert not fast.overtaken


def test_a_worker_beats_while_it_is_there_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = beat_path(tmp_path, "far")
    with Heartbeat(tmp_path, owner("far"), lease_seconds=0.2):
        seen = {path.read_bytes()}
        deadline = time.monotonic() + 60
        while len(seen) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
            seen.add(path.read_bytes())
    assert not path.exists()


@pytest.mark.skipif(not machine(), reason="needs /proc")
def test_on_its_own_machine_a_process_that_is_gone_has_vanished_at_once(tmp_path: Path) -> None:
    me = myself()
    watch = Watch(tmp_path, lease_seconds=60)
    assert born(me.pid) == me.born != ""
    assert not watch.vanished(me, claim="0.0")
    assert watch.vanished(me.model_copy(update={"born": "1"}), claim="0.0")  # its number was used again
    assert watch.vanished(me.model_copy(update={"pid": 2**22 + 1}), claim="0.0")
    assert not watch.vanished(me.model_copy(update={"born": "1", "machine": "other"}), claim="0.0")


def test_ten_million_units_need_no_large_folder() -> None:
    numbering = Numbering(names=range(10_000_000), size=64)
    assert numbering.lots == 156_250
    assert -(-numbering.lots // 1000) == 157
