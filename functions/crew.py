"""A crew: several workers in threads of one process, for a step whose units go better side by side.

Each claims, settles and hands on by itself, as workers in processes of their own do; what they share is what
a process has once, such as the network on its accelerator, and its end (`functions.company`). The first whose
own fault, or the site's, an error is has the others put away what they have in hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from queue import SimpleQueue
from threading import Thread

from functions.company import Company
from functions.stopping import Stopping
from functions.store.limits import within
from functions.store.marks import Mark
from functions.store.run import Run
from functions.tasks import ShardManifest
from functions.worker import Account, StepModule, Worker


class Crew:
    """Workers that share one shard; from outside, one worker."""

    def __init__(
        self,
        manifest: ShardManifest,
        shard: int,
        module: StepModule,
        *,
        stopping: Stopping,
        run: Run,
        size: int,
    ) -> None:
        self._stopping, self._memory_gib = stopping, run.spec.memory_gib
        self._size, self._company = size, Company(size)
        self._workers = [
            Worker(
                manifest,
                shard,
                module,
                stopping=stopping,
                run=run,
                seat=seat,
                seats=size,
                company=self._company,
            )
            for seat in range(size)
        ]
        self.expendable = self._workers[0].expendable
        self.account = Account()

    def work(self) -> Iterator[Mark]:
        """Settle units; the marks of those that were computed here.

        Raises:
            WorkerError: a worker of the crew, or its site, is at fault.
            PetavoxelError: what the step needs is not there.
        """
        told: SimpleQueue[Mark | Exception | None] = SimpleQueue()
        threads = [Thread(target=self._man, args=(worker, told)) for worker in self._workers]
        faults: list[Exception] = []
        at_work = len(threads)
        with within(self._memory_gib, subject="a crew"):
            try:
                for thread in threads:
                    thread.start()
                while at_work:
                    item = told.get()
                    if isinstance(item, Mark):
                        yield item
                    else:
                        at_work -= 1
                        faults += [] if item is None else [item]
            finally:
                if at_work:  # interrupted, or nobody wants more: else they would go on for hours
                    self._stopping.stop()
                for thread in threads:
                    if thread.ident is not None:
                        thread.join()
        self.account.merge([worker.account for worker in self._workers])
        if self._company.size < self._size:
            self.account.crowded = (self._size, self._company.size)
        if faults:
            raise faults[0]

    def left(self) -> int:
        """Units that are not settled: of all, or of those dealt to this shard."""
        return self._workers[0].left()

    def _man(self, worker: Worker, told: SimpleQueue[Mark | Exception | None]) -> None:
        fault: Exception | None = None
        try:
            for mark in worker.work():
                told.put(mark)
        except Exception as error:  # raised again in the thread that asked for the marks
            fault = error
            self._stopping.stop()
        told.put(fault)


def crew_of(
    manifest: ShardManifest, shard: int, module: StepModule, *, stopping: Stopping, run: Run
) -> Worker | Crew:
    """Who works on a shard: one worker, or as many as the step has units at once in a process."""
    size = module.at_once(run) if hasattr(module, "at_once") else 1
    if size == 1:
        return Worker(manifest, shard, module, stopping=stopping, run=run)
    return Crew(manifest, shard, module, stopping=stopping, run=run, size=size)
