"""The watcher as a service: one a folder, looking when something happens and every so often anyway.

Two threads share the ledger: one looks, one starts; a service that does not answer never keeps the other from
seeing. The folder's lock goes with the process, however that ends.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from flows import locks
from flows.errors import InputError, RunError, SiteError
from flows.inputs import acquisition_name
from flows.site import Site
from flows.watch.ledger import Ledger
from flows.watch.mounts import is_remote
from flows.watch.outbox import Outbox, clear, clear_all
from flows.watch.starting import Starter, StartLoop
from flows.watch.watcher import Watcher, WatchSettings
from functions.microscopes.common import identifier
from functions.microscopes.registry import Adapter, adapter_of
from functions.model.errors import AcquisitionError
from functions.model.parameters import Parameters

STEP_SECONDS = 0.5
SETTLE_SECONDS = 0.05
"""Events come in bursts: one look answers all of them."""
log = logging.getLogger("petavoxel.watch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where a watched folder's things lie."""

    folder: Path
    ledger: Path
    outbox: Path

    @classmethod
    def of(cls, folder: Path, home: Path, *, outbox: Path | None = None) -> Places:
        """Those of a folder; its ledger has its name and a hash of its path, whatever comes to lie in it."""
        real = folder.expanduser().resolve()
        name = identifier(real.name)[:60]
        stem = f"{name}-{hashlib.sha256(str(real).encode()).hexdigest()[:8]}"
        return cls(
            folder=real,
            ledger=home / "watch" / f"{stem}.sqlite",
            outbox=(outbox.expanduser().resolve() if outbox else home / "watch" / "outbox") / stem,
        )

    @property
    def mark(self) -> str:
        """Tag of all runs of this folder, and of no other that has its name."""
        return f"watch:{self.ledger.stem[-8:]}"

    @property
    def acquisition_id(self) -> str:
        """Name of the acquisition at the site.

        Raises:
            InputError: its acquisition.json cannot be read.
        """
        return acquisition_name(self.folder)


class WatchService:
    """Watches one folder until it is told to stop."""

    def __init__(
        self,
        places: Places,
        starter: Starter,
        *,
        site: Site,
        settings: WatchSettings,
        parameters: Parameters | None = None,
        poll: bool = False,
    ) -> None:
        try:
            site.instrument.collection_path(places.outbox)
            site.instrument.collection_path(places.folder)
        except SiteError as error:
            raise SiteError(
                str(error), remedy="give --outbox a folder that the instrument collection shows"
            ) from None
        self._places = places
        self._starter = starter
        self._settings = settings
        self._parameters = parameters or Parameters()
        self._poll = poll or is_remote(places.folder)
        self._stop = threading.Event()
        self._wake = threading.Event()

    def stop(self) -> None:
        """End both threads soon; safe in a signal handler."""
        self._stop.set()
        self._wake.set()

    def run(self) -> None:
        """Watch until `stop`.

        Raises:
            RunError: somebody else watches the folder.
        """
        with folder_lock(self._places.ledger):
            clear_all(self._places.outbox)
            with ThreadPoolExecutor(1, thread_name_prefix="starter") as pool:
                starting = pool.submit(self._start_all)
                starting.add_done_callback(
                    lambda _: self.stop()
                )  # half a watcher would look well and do nothing
                try:
                    self._look_on()
                finally:
                    self.stop()
            starting.result()

    def once(self, *, seconds: float = 60.0) -> None:
        """Look once, and make the starts that follow; for a scheduler that calls every now and then."""
        with folder_lock(self._places.ledger):
            clear_all(self._places.outbox)
            ledger = Ledger(self._places.ledger)
            try:
                self._watcher(ledger, self._adapter()).look()
                loop = self._loop(ledger)
                deadline = time.monotonic() + seconds
                loop.step()
                while ledger.due() and time.monotonic() < deadline:
                    time.sleep(STEP_SECONDS)
                    loop.step()
            finally:
                ledger.close()

    # -- looking --------------------------------------------------------------------------------------------
    def _look_on(self) -> None:
        ledger = Ledger(self._places.ledger)
        try:
            while not self._stop.is_set():
                try:
                    adapter = self._adapter()
                    watcher = self._watcher(ledger, adapter)
                    break
                except (AcquisitionError, InputError) as error:  # the microscope has not begun
                    ledger.looked([str(error)])
                    self._stop.wait(min(self._settings.scan_seconds, 10.0))
            else:
                return
            with self._events(adapter):
                while not self._stop.is_set():
                    self._wake.clear()
                    self._try(watcher.look)
                    if self._wake.wait(self._settings.scan_seconds):
                        self._stop.wait(SETTLE_SECONDS)
        finally:
            ledger.close()

    def _adapter(self) -> Adapter:
        return adapter_of(self._places.folder)

    def _watcher(self, ledger: Ledger, adapter: Adapter) -> Watcher:
        return Watcher(
            self._places.folder,
            adapter=adapter,
            ledger=ledger,
            outbox=Outbox(
                self._places.outbox,
                folder=self._places.folder,
                acquisition_id=self._places.acquisition_id,
                ledger=ledger,
            ),
            acquisition_id=self._places.acquisition_id,
            settings=self._settings,
            parameters=self._parameters,
        )

    @contextmanager
    def _events(self, adapter: Adapter) -> Iterator[None]:
        """Be woken when something happens in the adapter's places; without a word where that is not to be
        had."""
        if self._poll:
            yield
            return
        from watchdog.events import FileSystemEvent, FileSystemEventHandler
        from watchdog.observers import Observer

        wake = self._wake

        class Waker(FileSystemEventHandler):
            def on_any_event(self, event: FileSystemEvent) -> None:
                if event.event_type not in ("opened", "closed_no_write"):
                    wake.set()

        observer = Observer()
        with suppress(OSError):  # no more inotify watches: the scan sees it all
            for place in adapter.places(self._places.folder):
                observer.schedule(Waker(), str(place), recursive=False)
            observer.start()
        try:
            yield
        finally:
            if observer.is_alive():
                observer.stop()
                observer.join()

    # -- starting -------------------------------------------------------------------------------------------
    def _start_all(self) -> None:
        ledger = Ledger(self._places.ledger)
        loop = self._loop(ledger)
        try:
            while not self._stop.is_set():
                self._try(loop.step)
                self._stop.wait(STEP_SECONDS)
        finally:
            ledger.close()

    def _loop(self, ledger: Ledger) -> StartLoop:
        return StartLoop(
            ledger,
            self._starter,
            stop=self._stop,
            at_most=self._settings.at_most,
            grace_seconds=self._settings.grace_seconds,
            follow_seconds=self._settings.follow_seconds,
            on_ended=lambda row, succeeded: clear(row.documents) if succeeded else None,
        )

    def _try(self, step: Callable[[], None]) -> None:
        """A service does not end because of one bad moment; what went wrong is logged, and tried again."""
        try:
            step()
        except Exception:
            log.exception("%s: a step failed; it will be tried again", self._places.folder)
            self._stop.wait(STEP_SECONDS)


@contextmanager
def folder_lock(ledger: Path) -> Iterator[None]:
    """The right to watch the folder of a ledger; held by an open file.

    Raises:
        RunError: somebody else has it.
    """
    descriptor = locks.take(ledger.with_suffix(".lock"))
    if descriptor is None:
        raise RunError(
            f"{ledger.stem}: this folder is being watched already",
            remedy="stop the other watcher first; `petavoxel watch status` shows what it does",
        )
    try:
        yield
    finally:
        os.close(descriptor)
