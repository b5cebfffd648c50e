"""One look at a watched folder: take in the news, judge what is open, decide what to start.

A look is a function of the folder, the ledger and the clock. Events only say when to look; so an event
that is lost, or comes twice, changes nothing.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.errors import FlowsError
from flows.inputs import FlowStep, RunRequest
from flows.watch.batches import ready
from flows.watch.completeness import Evidence, Faults, judge
from flows.watch.ledger import Ledger
from flows.watch.outbox import Outbox
from flows.watch.rows import COMPLETE, SEEN, AcquisitionRow, SectionRow
from functions.microscopes.observing import Facts
from functions.microscopes.registry import Adapter
from functions.microscopes.wholeness import FileFacts, file_facts
from functions.model.errors import PetavoxelError
from functions.model.parameters import Parameters

STAGE: FlowStep = "stitch"
"""Section runs stop here: what comes after needs more than one section."""
MAX_TAG = 64
MOST_SECTIONS = 50
"""Of a batch: its shards and the names of its files share the state of one flow."""
TROUBLE = (FlowsError, PetavoxelError, OSError, ValueError)
"""What half-written metadata and a share that went away raise, ValueError where values fit no model: it is
told, and keeps neither other sections nor the next look from their work."""
TELL_SECONDS = 60.0
"""Between notes that a look found nothing."""
ALL_DONE = "acquisition.done"


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchSettings:
    """How to watch."""

    every: int = 1
    """Sections a start."""
    quiet_seconds: float = 60.0
    """Without a new tile, after which an expected set has settled, and a section of unknown size is taken for
    complete."""
    end_quiet_seconds: float | None = 6 * 3600.0
    """Without a new tile, after which the acquisition is taken for over; None: only when somebody says so."""
    scan_seconds: float = 10.0
    """Between looks, whatever events say."""
    volume: bool = True
    """Run the whole flow on all sections at the end."""
    at_most: int = 4
    """Runs at work at the same time."""
    grace_seconds: float = 120.0
    """An attempt whose outcome is not known may still be carried out for so long."""
    follow_seconds: float = 15.0
    """Between questions about runs that are at work."""


class Watcher:
    """Looks at one folder. Keeps nothing but the sizes of files whose format does not tell their end."""

    def __init__(
        self,
        folder: Path,
        *,
        adapter: Adapter,
        ledger: Ledger,
        outbox: Outbox,
        acquisition_id: str,
        settings: WatchSettings,
        parameters: Parameters,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder = folder
        self._adapter = adapter
        self._ledger = ledger
        self._outbox = outbox
        self._acquisition_id = acquisition_id
        self._settings = settings
        self._parameters = parameters
        self._clock = clock
        self._sizes: dict[str, tuple[int, int, float]] = {}

    def look(self) -> None:
        """Take in what is new, judge, and put the starts that follow into the ledger."""
        try:
            while self._take():  # who was away for long is told in pieces
                pass
        except TROUBLE as error:
            self._ledger.looked([str(error)])
            return
        self._judge()
        self._start_sections()
        if self._settings.volume:
            self._start_volume()

    def _take(self) -> bool:
        """Keep the adapter's news; whether there may be more at once."""
        whole = self._ledger.acquisition()
        observed = self._adapter.observe(self.folder, whole.memory)
        if observed.memory != whole.memory or observed.markers or observed.problems:
            self._ledger.take(observed)
        elif self._clock() - whole.looked > TELL_SECONDS:
            self._ledger.looked()
        return bool(observed.tiles)

    # -- judging --------------------------------------------------------------------------------------------
    def _judge(self) -> None:
        """Judge every open section."""
        rows = self._ledger.sections(SEEN)
        if not rows:
            return
        whole = self._ledger.acquisition()
        closing = self.closing(whole)
        for row in rows:
            evidence = self._evidence(row, whole, closing=closing)
            verdict = judge(
                evidence,
                quiet_seconds=self._settings.quiet_seconds,
                faults=lambda row=row: self._faults(row),  # type: ignore[misc]
            )
            if not verdict.complete:
                if verdict.waits_for != row.waits:
                    self._ledger.waiting(row.z, verdict.waits_for)
            elif not self._ledger.known_version(row.z):
                self._ledger.complete(row.z, seq=row.seq, rule=verdict.rule, left_out=verdict.left_out)

    def closing(self, whole: AcquisitionRow) -> bool:
        """Whether the acquisition is over: somebody said so, all planned sections are there and complete, or
        nothing has come for long."""
        if whole.finished or (self.folder / ALL_DONE).exists():
            return True
        limit, rows = self._settings.end_quiet_seconds, self._ledger.newest_change()
        if limit is not None and rows is not None and self._clock() - rows >= limit:
            return True
        planned = whole.facts.planned if whole.facts else None
        if planned is None:
            return False
        states = self._ledger.states()
        return all(states.get(z, SEEN) != SEEN for z in range(*planned))

    def _evidence(self, row: SectionRow, whole: AcquisitionRow, *, closing: bool) -> Evidence:
        missing: tuple[str, ...] = ()
        expected = row.expected if isinstance(row.expected, int) else None
        if isinstance(row.expected, tuple):
            expected = len(row.expected)
            missing = tuple(sorted(set(row.expected) - self._ledger.keys(row.z)))
        return Evidence(
            tiles=self._ledger.tile_count(row.z),
            marker=row.marker,
            expected=expected,
            missing=missing,
            done_file=(self.folder / f"z{row.z:05d}.done").exists(),
            followed=whole.seq > row.seq,
            quiet_seconds=max(0.0, self._clock() - row.changed),
            closing=closing,
        )

    def _faults(self, row: SectionRow) -> Faults:
        """Files of a section that are not whole, each with why."""
        bad = []
        for seen in self._ledger.tiles(row.z):
            facts = file_facts(self.folder / seen.path, plane=seen.plane)
            if facts.fault or (facts.whole is None and self._grows(seen.path, facts)):
                bad.append(seen.path)
        return tuple(bad)

    def _grows(self, path: str, facts: FileFacts) -> bool:
        """Whether a file of a format that does not tell has changed within the quiet time; by our own
        clock."""
        now = self._clock()
        size, mtime, since = self._sizes.get(path, (-1, -1, now))
        if (size, mtime) != (facts.size, facts.mtime_ns):
            since = now
        self._sizes[path] = (facts.size, facts.mtime_ns, since)
        if now - since < self._settings.quiet_seconds:
            return True
        del self._sizes[path]
        return False

    # -- starting -------------------------------------------------------------------------------------------
    def _start_sections(self) -> None:
        complete = {row.z: row for row in self._ledger.sections(COMPLETE)}
        whole = self._ledger.acquisition()
        if not complete or whole.facts is None:
            return
        every = min(self._settings.every, MOST_SECTIONS)
        for batch in ready(self._ledger.states(), every=every, closing=self.closing(whole)):
            rows = [complete[z] for z in batch]
            while rows:
                count = self._outbox.fitting(rows)
                self._start(rows[:count], whole.facts)
                rows = rows[count:]

    def _start(self, rows: Sequence[SectionRow], facts: Facts) -> None:
        """A batch of sections, to be looked at while the microscope goes on."""
        tag = section_tag(self._acquisition_id, rows, serial=self._ledger.start_count("sections"))
        span = f"z {rows[0].z}" if len(rows) == 1 else f"z {rows[0].z}-{rows[-1].z}"
        part = {"stop_after": STAGE, "sections": (rows[0].z, rows[-1].z + 1)}
        self._begin("sections", tag, rows, facts, {"label": f"{self._acquisition_id[:40]} {span}", **part})

    def _start_volume(self) -> None:
        """The whole flow over everything, once all that was started has ended; again after a retake."""
        pairs = self._ledger.all_ended()
        if not pairs or self._ledger.has_volume(pairs):
            return
        whole = self._ledger.acquisition()
        if whole.facts is None or not self.closing(whole):
            return
        tag = _short(f"volume-version:{self._acquisition_id}:{self._ledger.start_count('volume') + 1}")
        label = f"{self._acquisition_id[:40]} volume"
        self._begin("volume", tag, self._ledger.sections(), whole.facts, {"label": label})

    def _begin(
        self,
        kind: str,
        tag: str,
        rows: Sequence[SectionRow],
        facts: Facts,
        asked: dict[str, Any],
    ) -> None:
        """Pack sections and put their start into the ledger; `asked` are further fields of the request."""
        try:
            documents, files = self._outbox.pack(tag, rows, facts)
        except TROUBLE as error:
            self._ledger.looked([str(error)])
            return
        request = RunRequest(
            source=str(self.folder),
            acquisition_id=self._acquisition_id,
            parameters=self._parameters,
            tags=(tag,),
            files=files,
            documents=str(documents),
            **asked,
        )
        self._ledger.begin(
            tag=tag,
            kind=kind,
            sections=rows,
            request=request.model_dump_json(),
            documents=str(documents),
        )


def section_tag(acquisition_id: str, rows: Sequence[SectionRow], *, serial: int) -> str:
    """`section-version:<acquisition>:<z>:<version>`; of a batch its range, and how many starts came
    before."""
    if len(rows) == 1:
        return _short(f"section-version:{acquisition_id}:{rows[0].z}:{rows[0].version}")
    return _short(f"section-versions:{acquisition_id}:{rows[0].z}-{rows[-1].z}:{serial + 1}")


def _short(tag: str) -> str:
    """A tag that the service takes: a long acquisition id is hashed."""
    if len(tag) <= MAX_TAG:
        return tag
    kind, acquisition_id, *rest = tag.split(":")
    return ":".join((kind, hashlib.sha256(acquisition_id.encode()).hexdigest()[:16], *rest))
