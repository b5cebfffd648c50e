"""A lot: neighbouring units that one worker claims together, and the records that it leaves of them.

    00000012.0         created exclusively: whoever creates it owns epoch 0 of lot 12, and alone appends to it
    00000012.0.free    its owner has gone on; anybody may create epoch 1
    00000012.1         ... or has vanished, and epoch 1 was created without that
    00000012.1.done    every unit of the lot is settled: done, or in quarantine

A file has one writer for ever, so nothing is locked and nothing can be torn but the last line of a writer
that was killed, and that line counts as not written. Epochs are read in their order. An owner that sees a
later epoch than its own was overtaken and goes on with another lot; what it still appends does no harm,
since a unit writes the same bytes whoever computes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from functions.model.base import Document
from functions.store.ledger_files import LedgerFiles, UnwrittenError
from functions.store.marks import Attempt, Mark, Quarantined

Record = dict[str, Any]
State = Literal["fresh", "held", "free", "done"]


class Owner(Document):
    """Who holds a lot: enough to ask whether it is still there."""

    id: str
    host: str
    pid: int
    machine: str
    """Equal only where process numbers mean the same."""
    born: str
    """When the process was started, as its kernel tells it: numbers are used again."""


@dataclass(slots=True)
class Standing:
    """What the records of a lot say of one unit."""

    mark: Mark | None = None
    begun: int = 0
    tries: int = 0
    """Attempts that count against it, since it last got on: it failed by an error of its own, or ended a
    process in which it was alone."""
    reached: str = ""
    """What a checkpoint of the unit looked like when it was last begun."""
    company: int = 0
    """Units that were in progress at most, itself included, in an attempt that nobody has seen the end of."""
    at_most: int | None = None
    """... that may be from now on, since it was among those that ended a process; None: any number."""
    lost: int = 0
    """Attempts that ended with their process, ever; or one of them is in progress, or was the last."""
    kept: int = 0
    """How often it was put away to be gone on with."""
    failures: list[Attempt] = field(default_factory=list)
    quarantined: bool = False
    retried: set[str] = field(default_factory=set)

    @property
    def settled(self) -> bool:
        """Whether nobody needs to compute it."""
        return self.mark is not None or self.quarantined

    @property
    def suspect(self) -> bool:
        """Whether an attempt came to nothing by what may be its fault."""
        return self.tries > 0 or self.company > 0 or self.at_most is not None

    def company_at_most(self, *, reached: str) -> int | None:
        """How many units, itself included, may be in progress when it is begun again, with a checkpoint that
        looks like `reached`; None: any number. After an attempt in company that ended with its process, half
        as many."""
        if reached != self.reached:
            return None
        return max(1, self.company // 2) if self.company else self.at_most

    def take(self, record: Record) -> None:
        """Go on by one record."""
        match record["do"]:
            case "begin":
                self._begin(reached=record["reached"], company=record["company"])
            case "done":
                self.mark = Mark.model_validate(record["mark"])
            case "fail":
                self._survived()
                self.tries += 1
                self.failures.append(Attempt.model_validate(record["attempt"]))
            case "drop":
                self._survived()
            case "kept":
                self._survived()
                self._got_on()
                self.kept += 1
            case "quarantine":
                self.quarantined = True
            case "void":
                self._got_on()
                self.mark, self.reached = None, ""
                self.failures, self.quarantined = [], False
                self.retried.add(record["why"])

    def _begin(self, *, reached: str, company: int) -> None:
        """An attempt, which counts when it is alone until something is heard of it again."""
        self.at_most = self.company_at_most(reached=reached)
        if reached != self.reached:
            self._got_on()
        self.begun += 1
        self.lost += 1
        self.tries += company == 1
        self.reached, self.company = reached, company

    def _survived(self) -> None:
        """The attempt did not end with its process."""
        if self.company:
            self.lost -= 1
            self.tries -= self.company == 1
        self.company = 0

    def _got_on(self) -> None:
        """What was held against it counts no longer."""
        self.tries, self.company, self.at_most = 0, 0, None

    def given_up(self, unit: str, *, memory_gib: float | None = None) -> Quarantined:
        """What is told of a unit that is left alone, after attempts that might fill so much memory."""
        return Quarantined(
            unit=unit, attempts=self.tries, failures=tuple(self.failures), memory_gib=memory_gib
        )


def read_records(epochs: Iterable[bytes]) -> Iterator[Record]:
    """The records of a lot's epochs; a line that is no record counts as not written."""
    for text in epochs:
        for line in text.split(b"\n")[:-1]:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and "do" in record:
                yield record


def standings_of(epochs: Iterable[bytes]) -> dict[str, Standing]:
    """How the units that a lot's records name stand."""
    found: dict[str, Standing] = {}
    for record in read_records(epochs):
        if "unit" in record:
            try:
                found.setdefault(record["unit"], Standing()).take(record)
            except (KeyError, ValidationError):
                continue
    return found


def _line(record: Record) -> bytes:
    return (json.dumps(record, separators=(",", ":")) + "\n").encode()


@dataclass(frozen=True, slots=True)
class Lot:
    """The files of one lot."""

    folder: Path
    name: str
    files: LedgerFiles

    def path(self, epoch: int, ending: str = "") -> Path:
        """The file of an epoch, or the note on its end."""
        return self.folder / f"{self.name}.{epoch}{ending}"

    def epochs(self) -> list[bytes]:
        """The content of all epochs, in order."""
        found: list[bytes] = []
        for epoch in count():
            text = self.files.read(self.path(epoch))
            if text is None:
                break
            found.append(text)
        return found

    def standings(self) -> dict[str, Standing]:
        """How its units stand; those that nobody has begun are not named."""
        return standings_of(self.epochs())

    def owner(self, epoch: int) -> Owner | None:
        """Who created an epoch; None when its first line was never written."""
        for record in read_records([self.files.read(self.path(epoch)) or b""]):
            try:
                return Owner.model_validate(record["owner"]) if record["do"] == "claim" else None
            except (KeyError, ValidationError):
                return None
        return None

    def take(self, epoch: int, owner: Owner) -> Claim | None:
        """Claim the lot by creating an epoch; None when somebody else was first.

        Raises:
            OSError: the file system refuses.
        """
        first = _line({"do": "claim", "owner": owner.to_json()})
        try:
            handle = self.files.create(self.path(epoch), first)
        except UnwrittenError:
            with suppress(OSError):  # else all would wait a lease for an owner whom nobody knows
                self.files.note(self.path(epoch, ".free"))
            raise
        if handle is None:
            return None
        return Claim(lot=self, epoch=epoch, handle=handle)

    def take_next(self, owner: Owner) -> Claim:
        """Claim the lot now, whoever holds it.

        Raises:
            OSError: the file system refuses.
        """
        while True:
            claim = self.take(len(self.epochs()), owner)
            if claim is not None:
                return claim


class Claim:
    """An epoch of a lot in the hands of its owner, who alone appends to it."""

    def __init__(self, *, lot: Lot, epoch: int, handle: int) -> None:
        self.lot, self.epoch = lot, epoch
        self._handle: int | None = handle
        self._whole = True
        self.standings = standings_of(lot.epochs()[:epoch])

    def standing(self, unit: str) -> Standing:
        """How a unit stands, this claim's own records included."""
        return self.standings.setdefault(unit, Standing())

    @property
    def overtaken(self) -> bool:
        """Whether somebody took this owner for vanished, or made one of the units void."""
        return self.lot.files.exists(self.lot.path(self.epoch + 1))

    # -- records --------------------------------------------------------------------------------------------
    def begin(self, unit: str, *, reached: str = "", company: int = 1) -> None:
        """Say that a unit is attempted, before it is: a killed attempt is seen, too. `company`: so many units
        will be in progress in its process at most, itself included, until it ends."""
        self._append({"do": "begin", "unit": unit, "reached": reached, "company": company})

    def done(self, mark: Mark) -> None:
        """Mark a unit as finished."""
        self._append({"do": "done", "unit": mark.unit, "mark": mark.to_json()})

    def fail(self, unit: str, attempt: Attempt) -> None:
        """An attempt failed, and the unit is to blame."""
        self._append({"do": "fail", "unit": unit, "attempt": attempt.to_json()})

    def drop(self, unit: str) -> None:
        """An attempt ended that does not count against the unit."""
        self._append({"do": "drop", "unit": unit})

    def keep(self, unit: str) -> None:
        """A unit was put away in the middle, to be gone on with."""
        self._append({"do": "kept", "unit": unit})

    def quarantine(self, unit: str) -> None:
        """Leave a unit alone from now on."""
        self._append({"do": "quarantine", "unit": unit})

    def void(self, unit: str, *, why: str = "") -> None:
        """What is recorded of a unit so far counts no longer."""
        self._append({"do": "void", "unit": unit, "why": why})

    def _append(self, record: Record) -> None:
        """Append a record; behind one that was torn nothing is written any more."""
        if self._handle is None or not self._whole:
            raise OSError("the claim's file is not whole")
        self._whole = False
        self.lot.files.append(self._handle, _line(record))
        self._whole = True
        self.standing(record["unit"]).take(record)

    # -- ends -----------------------------------------------------------------------------------------------
    def finish(self) -> None:
        """Every unit is settled: what says so is only written when what it stands on is on the disk."""
        if self._handle is not None:
            self.lot.files.sync(self._handle)
            self._end(".done")

    def release(self) -> None:
        """Let anybody go on with the lot."""
        if self._handle is not None:
            self._end(".free")

    def leave(self) -> None:
        """End without a word: somebody else has the lot already."""
        if self._handle is not None:
            self.lot.files.close(self._handle)
            self._handle = None

    def _end(self, ending: str) -> None:
        try:
            self.lot.files.note(self.lot.path(self.epoch, ending))
        finally:
            self.leave()
