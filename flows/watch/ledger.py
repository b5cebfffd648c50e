"""The ledger: what was seen of an acquisition and what was started for it, in one SQLite file.

    section   seen ─► complete ─► starting ─► started ─► ended     (a retake: seen, next version)
    start             (tag kept)   starting ─► started ─► ended

News and the adapter's memory are kept in one transaction, and so are a start's tag, its request and the state
of its sections, before the service hears of it. Whoever is killed at any point goes on from here.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path

from flows.sqlite import open_shared, transaction_on
from flows.watch.rows import (
    COMPLETE,
    ENDED,
    SEEN,
    STARTED,
    STARTING,
    AcquisitionRow,
    SectionRow,
    StartRow,
    facts_of,
    section_of,
    start_of,
    tile_of,
)
from functions.microscopes.observing import Observed, SeenTile

_SCHEMA = """
PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS acquisition (
  id INTEGER PRIMARY KEY CHECK (id = 1), memory TEXT, facts TEXT, finished_seq INTEGER,
  problems TEXT, looked REAL, seq INTEGER);
INSERT OR IGNORE INTO acquisition VALUES (1, '{}', NULL, NULL, '[]', 0, 0);
CREATE TABLE IF NOT EXISTS sections (
  z INTEGER PRIMARY KEY, version INTEGER, state TEXT, rule TEXT, waits TEXT, marker INTEGER, expected TEXT,
  seq INTEGER, changed REAL, completed REAL, left_out TEXT);
CREATE INDEX IF NOT EXISTS by_state ON sections (state);
CREATE INDEX IF NOT EXISTS by_seq ON sections (seq);
CREATE TABLE IF NOT EXISTS tiles (
  z INTEGER, key TEXT, path TEXT, stamp TEXT, body TEXT, PRIMARY KEY (z, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS starts (
  id INTEGER PRIMARY KEY, tag TEXT UNIQUE, kind TEXT, sections TEXT, request TEXT, documents TEXT, state TEXT,
  run_id TEXT, attempts INTEGER, unsure INTEGER, due REAL, created REAL, tried REAL, started REAL, ended REAL,
  succeeded INTEGER, error TEXT);
CREATE INDEX IF NOT EXISTS by_start_state ON starts (state);
CREATE TABLE IF NOT EXISTS versions (
  z INTEGER, version INTEGER, signature TEXT, start_id INTEGER, completed REAL, PRIMARY KEY (z, version),
  UNIQUE (z, signature));
"""


class Ledger:
    """One connection to the ledger of a watched folder; threads and processes have one each."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self._clock = clock
        self._db = open_shared(path)
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close it."""
        self._db.close()

    def transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        """All or nothing."""
        return transaction_on(self._db)

    # -- what is seen ---------------------------------------------------------------------------------------
    def acquisition(self) -> AcquisitionRow:
        """What holds for the whole acquisition."""
        memory, facts, finished, problems, looked, seq = self._db.execute(
            "SELECT memory, facts, finished_seq, problems, looked, seq FROM acquisition"
        ).fetchone()
        return AcquisitionRow(
            memory=json.loads(memory),
            facts=facts_of(facts),
            finished=finished == seq,
            problems=tuple(json.loads(problems)),
            looked=looked,
            seq=seq,
        )

    def finish(self) -> None:
        """Somebody says that the acquisition is over; a later tile takes it back."""
        with self.transaction() as db:
            db.execute("UPDATE acquisition SET finished_seq = seq")

    def take(self, observed: Observed) -> int:
        """Keep the news of a look; returns how many tiles were new or other than before."""
        now, changed = self._clock(), 0
        with self.transaction() as db:
            (seq,) = db.execute("SELECT seq FROM acquisition").fetchone()
            for seen in observed.tiles:
                row = (seen.z, seen.key, seen.path, seen.stamp)
                old = db.execute("SELECT z, key, path, stamp FROM tiles WHERE z = ? AND key = ?", row[:2])
                if old.fetchone() != row:
                    seq, changed = seq + 1, changed + 1
                    body = json.dumps(asdict(seen), separators=(",", ":"))
                    db.execute("INSERT OR REPLACE INTO tiles VALUES (?, ?, ?, ?, ?)", (*row, body))
                    _reopen(db, seen.z, seq=seq, now=now)
            for z, expected in observed.expected.items():
                db.execute("UPDATE sections SET expected = ? WHERE z = ?", (json.dumps(expected), z))
            db.executemany("UPDATE sections SET marker = 1 WHERE z = ?", [(z,) for z in observed.markers])
            db.execute(
                "UPDATE acquisition SET memory = ?, facts = coalesce(facts, ?),"
                " problems = ?, looked = ?, seq = ?",
                (
                    json.dumps(observed.memory),
                    None if observed.facts is None else json.dumps(asdict(observed.facts)),
                    json.dumps(observed.problems[:20]),
                    now,
                    seq,
                ),
            )
        return changed

    def looked(self, problems: Sequence[str] = ()) -> None:
        """Keep that a look found nothing, or could not see."""
        with self.transaction() as db:
            db.execute(
                "UPDATE acquisition SET looked = ?, problems = ?", (self._clock(), json.dumps(problems))
            )

    def newest_change(self) -> float | None:
        """When the last tile of all was seen."""
        (newest,) = self._db.execute("SELECT max(changed) FROM sections").fetchone()
        return None if newest is None else float(newest)

    def states(self) -> dict[int, str]:
        """The state of every section."""
        return dict(self._db.execute("SELECT z, state FROM sections ORDER BY z").fetchall())

    def sections(self, *states: str) -> list[SectionRow]:
        """Sections in these states (all without any), ascending in z."""
        some = f"WHERE state IN ({', '.join('?' * len(states))})" if states else ""
        rows = self._db.execute(
            f"SELECT {', '.join(SectionRow.__slots__)} FROM sections {some} ORDER BY z", states
        )
        return [section_of(row) for row in rows]

    def tiles(self, z: int) -> list[SeenTile]:
        """The tiles of a section, by key."""
        rows = self._db.execute("SELECT body FROM tiles WHERE z = ? ORDER BY key", (z,))
        return [tile_of(json.loads(body)) for (body,) in rows]

    def keys(self, z: int) -> set[str]:
        """The keys of a section's tiles."""
        return {key for (key,) in self._db.execute("SELECT key FROM tiles WHERE z = ?", (z,))}

    def tile_count(self, z: int | None = None) -> int:
        """Tiles of a section, or of all."""
        where, values = ("", ()) if z is None else ("WHERE z = ?", (z,))
        return int(self._db.execute(f"SELECT count(*) FROM tiles {where}", values).fetchone()[0])

    def alone_in(self, folder: str, z: int) -> bool:
        """Whether no tile of another section lies below a folder."""
        where = "path >= ? AND path < ? AND z != ?"
        row = self._db.execute(
            f"SELECT 1 FROM tiles WHERE {where} LIMIT 1", (f"{folder}/", f"{folder}0", z)
        ).fetchone()
        return row is None

    # -- what is decided ------------------------------------------------------------------------------------
    def waiting(self, z: int, waits: str) -> None:
        """Keep what an unfinished section waits for."""
        with self.transaction() as db:
            db.execute("UPDATE sections SET waits = ? WHERE z = ? AND state = ?", (waits, z, SEEN))

    def complete(self, z: int, *, seq: int, rule: str, left_out: Iterable[str] = ()) -> None:
        """A section is complete by a rule, unless a tile came since it was judged at `seq`."""
        with self.transaction() as db:
            db.execute(
                "UPDATE sections SET state = ?, rule = ?, waits = '', completed = ?, left_out = ?"
                " WHERE z = ? AND state = ? AND seq = ?",
                (COMPLETE, rule, self._clock(), json.dumps(list(left_out)), z, SEEN, seq),
            )

    def signature(self, z: int) -> str:
        """What a section's tiles are: their places, files and takes. Equal signatures are one version."""
        rows = self._db.execute("SELECT key, path, stamp FROM tiles WHERE z = ? ORDER BY key", (z,))
        return hashlib.sha256(json.dumps(rows.fetchall()).encode()).hexdigest()

    def begin(
        self, *, tag: str, kind: str, sections: Sequence[SectionRow], request: str, documents: str
    ) -> bool:
        """Keep a start before it is made, and that its sections are `starting`. False, and nothing kept, if a
        tile of them came meanwhile, or if their versions have been started before."""
        now = self._clock()
        with self.transaction() as db:
            pairs = [(row.z, row.version) for row in sections]
            for row in sections if kind == "sections" else ():
                found = db.execute("SELECT state, seq FROM sections WHERE z = ?", (row.z,)).fetchone()
                if found != (COMPLETE, row.seq):
                    return False
            cursor = db.execute(
                "INSERT INTO starts (tag, kind, sections, request, documents, state, attempts, unsure, due,"
                " created, tried, error) VALUES (?, ?, ?, ?, ?, ?, 0, 0, 0, ?, 0, '')",
                (tag, kind, json.dumps(pairs), request, documents, STARTING, now),
            )
            for row in sections if kind == "sections" else ():
                db.execute(
                    "INSERT INTO versions VALUES (?, ?, ?, ?, ?)",
                    (row.z, row.version, self.signature(row.z), cursor.lastrowid, row.completed),
                )
                db.execute("UPDATE sections SET state = ? WHERE z = ?", (STARTING, row.z))
        return True

    def known_version(self, z: int) -> bool:
        """Whether these very tiles of a section have been started before; if so the section is left at
        that."""
        with self.transaction() as db:
            row = db.execute(
                "SELECT starts.state, versions.version FROM versions JOIN starts ON starts.id = start_id"
                " WHERE z = ? AND signature = ?",
                (z, self.signature(z)),
            ).fetchone()
            if row is not None:
                db.execute("UPDATE sections SET state = ?, version = ? WHERE z = ?", (*row, z))
        return row is not None

    # -- what is started ------------------------------------------------------------------------------------
    def starts(self, *states: str) -> list[StartRow]:
        """Starts in these states (all without any), in the order in which they were decided."""
        some = f"WHERE state IN ({', '.join('?' * len(states))})" if states else ""
        columns = ", ".join(StartRow.__slots__)
        rows = self._db.execute(f"SELECT {columns} FROM starts {some} ORDER BY id", states)
        return [start_of(row) for row in rows]

    def all_ended(self) -> list[tuple[int, int]]:
        """(z, version) of all sections, once all have ended; else empty."""
        if self._db.execute("SELECT 1 FROM sections WHERE state != ? LIMIT 1", (ENDED,)).fetchone():
            return []
        return self._db.execute("SELECT z, version FROM sections ORDER BY z").fetchall()

    def has_volume(self, pairs: Sequence[tuple[int, int]]) -> bool:
        """Whether the volume of these (z, version) has been started."""
        row = self._db.execute(
            "SELECT 1 FROM starts WHERE kind = 'volume' AND sections = ?", (json.dumps(pairs),)
        ).fetchone()
        return row is not None

    def start_count(self, kind: str) -> int:
        """How many starts of a kind there were."""
        return int(self._db.execute("SELECT count(*) FROM starts WHERE kind = ?", (kind,)).fetchone()[0])

    def due(self) -> bool:
        """Whether a start is not made that should be by now, or soon."""
        soon = self._clock() + 30
        row = self._db.execute("SELECT 1 FROM starts WHERE state = ? AND due <= ?", (STARTING, soon))
        return row.fetchone() is not None

    def attempt(self, start_id: int) -> None:
        """An attempt begins: until its outcome is known it may have been carried out."""
        with self.transaction() as db:
            db.execute(
                "UPDATE starts SET attempts = attempts + 1, unsure = 1, tried = ? WHERE id = ?",
                (self._clock(), start_id),
            )

    def postpone(self, start_id: int, *, seconds: float, unsure: bool, error: str) -> None:
        """An attempt failed; the next one comes after `seconds`."""
        with self.transaction() as db:
            db.execute(
                "UPDATE starts SET due = ?, unsure = ?, error = ? WHERE id = ?",
                (self._clock() + seconds, int(unsure), error[:500], start_id),
            )

    def started(self, start_id: int, run_id: str) -> None:
        """The service has the run."""
        with self.transaction() as db:
            db.execute(
                "UPDATE starts SET state = ?, run_id = ?, started = ?, unsure = 0, error = '' WHERE id = ?",
                (STARTED, run_id, self._clock(), start_id),
            )
            _advance(db, start_id, STARTING, STARTED)

    def ended(self, start_id: int, *, succeeded: bool) -> None:
        """The run is over."""
        with self.transaction() as db:
            db.execute(
                "UPDATE starts SET state = ?, ended = ?, succeeded = ? WHERE id = ?",
                (ENDED, self._clock(), int(succeeded), start_id),
            )
            _advance(db, start_id, STARTED, ENDED)

    def moved(self, z: int) -> str | None:
        """The documents of the last start of a section, if that run moved its files and succeeded."""
        row = self._db.execute(
            "SELECT starts.documents, succeeded FROM versions JOIN starts ON starts.id = start_id"
            " WHERE z = ? ORDER BY version DESC LIMIT 1",
            (z,),
        ).fetchone()
        return str(row[0]) if row is not None and row[1] else None


def _reopen(db: sqlite3.Connection, z: int, *, seq: int, now: float) -> None:
    """A tile of a section is new: it is `seen` again, as the next version if it was on its way already."""
    if db.execute("SELECT 1 FROM sections WHERE z = ?", (z,)).fetchone() is None:
        db.execute(
            "INSERT INTO sections VALUES (?, 1, ?, '', '', 0, NULL, ?, ?, NULL, '[]')", (z, SEEN, seq, now)
        )
        return
    # behind all that were started: a section whose tiles came back to an older version has its number
    (version,) = db.execute("SELECT 1 + coalesce(max(version), 0) FROM versions WHERE z = ?", (z,)).fetchone()
    db.execute(
        "UPDATE sections SET state = ?, version = ?, rule = '', marker = 0, seq = ?, changed = ?,"
        " completed = NULL, left_out = '[]' WHERE z = ?",
        (SEEN, version, seq, now, z),
    )


def _advance(db: sqlite3.Connection, start_id: int, before: str, after: str) -> None:
    """Move the sections of a start on, but for those that a retake has reopened."""
    (pairs,) = db.execute("SELECT sections FROM starts WHERE id = ?", (start_id,)).fetchone()
    db.executemany(
        "UPDATE sections SET state = ? WHERE z = ? AND version = ? AND state = ?",
        [(after, z, version, before) for z, version in json.loads(pairs)],
    )
