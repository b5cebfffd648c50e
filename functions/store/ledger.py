"""The ledger of a cell: which of its units are done, held, free or in quarantine. Files, no server, no lock.

    <cell>/ledger/plan/                     the units in a fixed order, in lots (`functions.store.numbering`)
                  lots/00000/00000012.0     a thousand lots a folder (`functions.store.lots`)
                  units/3fa/<unit>.0        a unit that is claimed by itself, planned or not
                  quarantine/1c0/<unit>.json
                  retries/<fingerprint>     units were tried again once more, for who asked by that name

One listing of a folder tells how a thousand lots stand; files are opened only of those in progress. At ten
million units there are 156,250 lots in 157 folders of at most 3,000 entries, and marks are read as lines of
packed files.
"""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from functions.store.files import fingerprint, write_json
from functions.store.ledger_files import LedgerFiles
from functions.store.lots import Lot, Standing, State
from functions.store.marks import Mark, Quarantined
from functions.store.numbering import Numbering, read_numbering, write_numbering
from functions.store.presence import myself
from functions.store.spread import spread

LOTS_A_FOLDER = 1000
_NAME = re.compile(r"(?P<lot>.+)\.(?P<epoch>\d+)(?P<ending>\.done|\.free)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """How a lot stands by the names of its files; `epoch` is the next to create."""

    epoch: int = 0
    state: State = "fresh"


def read_names(names: Sequence[str]) -> dict[str, Listed]:
    """How the lots stand whose files lie in one folder; those without files are not named."""
    latest: dict[str, int] = {}
    endings: dict[tuple[str, int], State] = {}
    for name in names:
        match = _NAME.fullmatch(name)
        if match is None:
            continue
        lot, epoch = match["lot"], int(match["epoch"])
        if match["ending"]:
            endings[lot, epoch] = "done" if match["ending"] == ".done" else "free"
        else:
            latest[lot] = max(latest.get(lot, 0), epoch)
    return {
        lot: Listed(epoch=epoch + 1, state=endings.get((lot, epoch), "held")) for lot, epoch in latest.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """How many units there are, and how they stand."""

    units: int
    settled: int
    """Done or in quarantine."""
    quarantined: int
    held: int
    """Lots that a worker holds, be it still there or not."""
    kept: int
    """How often units that are not done were put away to be gone on with."""
    lost: int = 0
    """Attempts at units that are not done which ended with their process, or are in progress."""

    @property
    def done(self) -> int:
        """Units that are finished."""
        return self.settled - self.quarantined

    @property
    def open(self) -> int:
        """Units that are still to be computed."""
        return self.units - self.settled


class Ledger:
    """The ledger under one folder. Cheap to build; keeps nothing but its numbering."""

    def __init__(self, path: Path, *, files: LedgerFiles | None = None) -> None:
        self.path = path
        self.files = files or LedgerFiles()

    # -- lots -----------------------------------------------------------------------------------------------
    @property
    def numbering(self) -> Numbering | None:
        """The planned units; None where nothing was planned."""
        return read_numbering(self.path / "plan")

    def number(self, units: Sequence[str], *, size: int) -> Numbering:
        """Cut the cell's units into lots of `size`, unless that was done."""
        found = self.numbering
        if found is None:
            write_numbering(self.path / "plan", units, size=size)
            found = self.numbering
        assert found is not None
        return found

    def lot(self, number: int) -> Lot:
        """A planned lot."""
        return Lot(self.path / "lots" / f"{number // LOTS_A_FOLDER:05d}", f"{number:08d}", self.files)

    def single(self, unit: str) -> Lot:
        """A unit as a lot of its own."""
        return Lot(spread(self.path / "units", unit).parent, unit, self.files)

    def folders(self) -> list[range]:
        """The numbers of the planned lots, folder by folder."""
        lots = self.numbering.lots if self.numbering else 0
        return [range(a, min(a + LOTS_A_FOLDER, lots)) for a in range(0, lots, LOTS_A_FOLDER)]

    def look(self, folder: range) -> dict[int, Listed]:
        """How the lots of a folder stand, by one listing."""
        names = self.files.names(self.lot(folder.start).folder)
        listed = read_names(names)
        return {number: listed.get(f"{number:08d}", Listed()) for number in folder}

    @property
    def has_singles(self) -> bool:
        """Whether any unit was claimed by itself."""
        return self.files.exists(self.path / "units")

    # -- one unit -------------------------------------------------------------------------------------------
    def lots_of(self, unit: str) -> list[Lot]:
        """Where records of a unit may be."""
        numbering = self.numbering
        number = None if numbering is None else numbering.lot_of(unit)
        planned = [] if number is None else [self.lot(number)]
        return [*planned, self.single(unit)]

    def standings(self, unit: str) -> list[Standing]:
        """How a unit stands, wherever there are records of it."""
        found = [lot.standings().get(unit) for lot in self.lots_of(unit)]
        return [standing for standing in found if standing is not None]

    def mark(self, unit: str) -> Mark | None:
        """The mark of a unit; None when it is not done."""
        return next((s.mark for s in self.standings(unit) if s.mark is not None), None)

    def void(self, unit: str, *, why: str = "") -> None:
        """Have a settled unit computed again: its mark, or its quarantine, counts no longer.

        `why` names what asks for it: what has the same name and comes later asks in vain. It also has what is
        held against a unit that is not settled count no longer.
        """
        standings = self.standings(unit)
        told = self.quarantine_path(unit).exists()  # also where a full disk did not take the record behind it
        held = told or any(s.settled or (why and s.suspect) for s in standings)
        if not held or any(why and why in s.retried for s in standings):
            return
        for lot in self.lots_of(unit):
            if lot.epochs():  # a lot is settled also by what a unit has done by itself
                claim = lot.take_next(myself())
                claim.void(unit, why=why)
                claim.release()
        self.quarantine_path(unit).unlink(missing_ok=True)

    def retry(self, why: str) -> None:
        """Have what was put aside, or is on its way there, tried again, once for each `why`: what is found
        later was found in that trial."""
        begun = self.path / "retries" / fingerprint(why)
        if self.files.exists(begun):
            return
        for unit in [*(found.unit for found in self.quarantined()), *self.suspects()]:
            self.void(unit, why=why)
        begun.parent.mkdir(parents=True, exist_ok=True)
        self.files.note(begun)

    def void_all(self, *, numbering: bool = False) -> None:
        """Forget all records at once, and with `numbering` which units there are.

        Who still holds a lot writes into a lost file.
        """
        for name in ("lots", "units", "quarantine", *(("plan",) if numbering else ())):
            folder = self.path / name
            if folder.is_dir():
                lost = folder.with_name(f".{name}.{uuid.uuid4().hex[:8]}.void")
                folder.rename(lost)
                shutil.rmtree(lost, ignore_errors=True)

    # -- all units ------------------------------------------------------------------------------------------
    def standings_of_all(self) -> Iterator[tuple[str, Standing]]:
        """Every unit that there are records of, and how it stands; linear, a packed file at a time."""
        for folder in self.folders():
            for number, listed in self.look(folder).items():
                if listed.state != "fresh":
                    yield from self.lot(number).standings().items()
        singles = self.path / "units"
        for name in sorted(self.files.names(singles)):
            for unit in sorted(read_names(self.files.names(singles / name))):
                yield from self.single(unit).standings().items()

    def census(self) -> Census:
        """Count the units; of settled lots nothing but the listing is read."""
        numbering = self.numbering
        assert numbering is not None
        given_up = {found.unit for found in self.quarantined()}
        loose: dict[int, set[str]] = {}
        for unit in self._singles_done():
            number = numbering.lot_of(unit)
            if number is not None:
                loose.setdefault(number, set()).add(unit)
        settled = kept = held = lost = 0
        for folder in self.folders():
            for number, listed in self.look(folder).items():
                if listed.state == "done":
                    settled += numbering.width(number)
                    continue
                held += listed.state == "held"
                standings = {} if listed.state == "fresh" else self.lot(number).standings()
                marked = {unit for unit, s in standings.items() if s.mark} | loose.get(number, set())
                settled += len(marked | (given_up & set(standings)))
                kept += sum(standing.kept for standing in standings.values())
                lost += sum(s.lost for unit, s in standings.items() if unit not in marked | given_up)
        return Census(
            units=len(numbering),
            settled=settled,
            quarantined=len(given_up),
            held=held,
            kept=kept,
            lost=lost,
        )

    def missing(self) -> Iterator[str]:
        """Planned units that are neither done nor in quarantine, in order."""
        numbering = self.numbering
        assert numbering is not None
        for folder in self.folders():
            for number, listed in self.look(folder).items():
                if listed.state != "done":
                    standings = self.lot(number).standings()
                    for unit in numbering.units(number):
                        standing = standings.get(unit)
                        if (standing is None or not standing.settled) and not self.single_settled(unit):
                            yield unit

    def suspects(self) -> Iterator[str]:
        """Planned units that are not settled and that something is held against."""
        for folder in self.folders():
            for number, listed in self.look(folder).items():
                if listed.state in ("held", "free"):
                    standings = self.lot(number).standings()
                    yield from (unit for unit, s in standings.items() if s.suspect and not s.settled)

    def single_settled(self, unit: str) -> bool:
        """Whether a unit was settled by itself, outside its lot."""
        standing = self.single(unit).standings().get(unit) if self.has_singles else None
        return standing is not None and standing.settled

    def _singles_done(self) -> Iterator[str]:
        singles = self.path / "units"
        for name in self.files.names(singles):
            for unit, listed in read_names(self.files.names(singles / name)).items():
                if listed.state == "done":
                    yield unit

    # -- quarantine -----------------------------------------------------------------------------------------
    def quarantine_path(self, unit: str) -> Path:
        """Where it is told why a unit is left alone."""
        return spread(self.path / "quarantine", f"{unit}.json")

    def tell_quarantine(self, found: Quarantined) -> None:
        """Write down why a unit is left alone."""
        write_json(self.quarantine_path(found.unit), found.to_json())

    def quarantined(self) -> list[Quarantined]:
        """The units that are left alone, by name."""
        folder = self.path / "quarantine"
        paths = [
            folder / name / file
            for name in self.files.names(folder)
            for file in self.files.names(folder / name)
        ]
        found = [
            Quarantined.parse(p.read_bytes(), source=str(p)) for p in paths if not p.name.startswith(".")
        ]
        return sorted(found, key=lambda q: q.unit)
