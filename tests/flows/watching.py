"""A watched folder under a clock of our own, and a starter that fails when it is told to."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from flows.inputs import RunRequest
from flows.watch.ledger import Ledger
from flows.watch.outbox import Outbox, clear
from flows.watch.starting import FoundRun, StartLoop
from flows.watch.watcher import Watcher, WatchSettings
from functions.microscopes.registry import adapter_of
from functions.model.errors import AcquisitionError
from functions.model.parameters import Parameters
from functions.testing.microscopes import Script, Truth, simulate
from tests.benchmarks.trigger_service import canonical, look

SETTINGS = WatchSettings(quiet_seconds=60, end_quiet_seconds=None, at_most=1000, grace_seconds=30)


@dataclass
class FakeStarter:
    """Runs by tag. `failures` are raised by the next calls of start; with `carried_out` after the run
    began."""

    clock: Callable[[], float]
    runs: dict[str, list[tuple[RunRequest, dict[str, dict[str, list[object]]]]]] = field(default_factory=dict)
    failures: list[tuple[Exception, bool]] = field(default_factory=list)
    find_failures: list[Exception] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)

    def start(self, request: RunRequest) -> str:
        self.calls["start"] += 1
        error, carried_out = self.failures.pop(0) if self.failures else (None, True)
        if carried_out:
            seen = look(request) if request.stop_after == "stitch" else {}
            self.runs.setdefault(request.tags[0], []).append((request, seen))
        if error is not None:
            raise error
        return f"run of {request.tags[0]}"

    def find(self, tag: str) -> FoundRun | None:
        self.calls["find"] += 1
        if self.find_failures:
            raise self.find_failures.pop(0)
        return FoundRun(id=f"run of {tag}", ended=True, succeeded=True) if tag in self.runs else None


class World:
    """One folder, its ledger and its watcher; `again` builds a new watcher, as after a crash."""

    def __init__(self, root: Path, *, settings: WatchSettings = SETTINGS) -> None:
        self.root = root
        self.now = 1000.0
        self.folder = root / "stack"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.starter = FakeStarter(clock=lambda: self.now)
        self.settings = settings
        self.watcher: Watcher | None = None
        self.ledger = Ledger(root / "home" / "ledger.sqlite", clock=lambda: self.now)
        self.again()

    def again(self) -> None:
        """Forget everything but the disk."""
        self.ledger.close()
        self.ledger = Ledger(self.ledger.path, clock=lambda: self.now)
        self.watcher = None
        self.loop = StartLoop(
            self.ledger,
            self.starter,
            stop=threading.Event(),
            at_most=self.settings.at_most,
            grace_seconds=self.settings.grace_seconds,
            follow_seconds=0.0,
            on_ended=lambda row, ok: clear(row.documents) if ok else None,
            clock=lambda: self.now,
        )

    def _outbox(self) -> Outbox:
        return Outbox(self.root / "outbox", folder=self.folder, acquisition_id="stack", ledger=self.ledger)

    def look(self, *, start: bool = True) -> None:
        """One look, and the starts that are due."""
        if self.watcher is None:
            try:
                adapter = adapter_of(self.folder)
            except AcquisitionError:
                return
            self.watcher = Watcher(
                self.folder,
                adapter=adapter,
                ledger=self.ledger,
                outbox=self._outbox(),
                acquisition_id="stack",
                settings=self.settings,
                parameters=Parameters(),
                clock=lambda: self.now,
            )
        self.watcher.look()
        if start:
            self.loop.step()

    def rest(self, seconds: float, *, every: float = 10.0) -> None:
        """Let time pass, looking now and then."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + every)
            self.look()

    def acquire(self, kind: str, script: Script, *, looking: bool = True, crash_every: int = 0) -> Truth:
        """Play a microscope, a tile every 4 s, looking after each step."""
        steps = 0

        def sleep(seconds: float) -> None:
            nonlocal steps
            self.now += seconds
            steps += 1
            if crash_every and steps % crash_every == 0:
                self.again()
            if looking:
                self.look()

        return simulate(kind, self.folder, script, tiles_per_second=0.25, clock=lambda: self.now, sleep=sleep)

    def judge(self, truth: Truth) -> dict[str, object]:
        """What was started against what was acquired."""
        started: Counter[tuple[int, int]] = Counter()
        wrong = []
        for tag, runs in self.starter.runs.items():
            for _, sections in runs:
                for z, tiles in sections.items():
                    places = {path: tile[:2] for path, tile in tiles.items()}
                    states = [canonical(state) for state in truth.states.get(int(z), [])]
                    fits = [i for i, s in enumerate(states) if {p: t[:2] for p, t in s.items()} == places]
                    whole = all(
                        any(s.get(p, [0, 0, ""])[2] == tile[2] for s in states) for p, tile in tiles.items()
                    )
                    if fits and whole:
                        started[int(z), fits[-1]] += 1
                    else:
                        wrong.append((tag, z))
        last = {(z, len(states) - 1) for z, states in truth.states.items()}
        return {
            "lost": sorted(last - set(started)),
            "doubled": [state for state, count in started.items() if count > 1],
            "wrong": wrong,
            "versions": len(started),
        }
