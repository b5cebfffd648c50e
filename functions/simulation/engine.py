"""The segment step, event by event: where each of many thousand GPUs spends its time.

    block   queue ---> up ------------------------------------------> walltime ---> queue ...
    worker        start | claim | read | compute ........ | write | claim | read | ...
                          ledger  file system               file system (labels, and what checkpoints wrote)

- A *block* is a batch job of `block_nodes` nodes: it waits in the queue, has its walltime, and waits again.
- *Claiming*: all workers take the next subvolume from one ledger. *Static*: each has its share at the start.
- A node that fails takes its GPUs' work back to their last checkpoints. Claimed work is free again when its
  lease ends; static work waits for its own node. At its walltime a block releases what it has claimed.
- Checkpoints block the worker in this code; all those of a subvolume are written before its labels here.

An unfinished subvolume is only the seconds that it still needs, so the state is small: a million of them are
a counter. Every second of every GPU is counted in exactly one `Spent`.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from enum import IntEnum
from heapq import heappop, heappush

from functions.simulation.outcome import Dispatch, Outcome, Spent
from functions.simulation.parameters import Machine, Work, cycle_seconds, file_bytes
from functions.simulation.resources import Ledger, SharedBandwidth

LONGEST = 10.0
"""A simulation that takes this many times what it should has stalled: its blocks keep nothing."""


class Stalled(ValueError):  # noqa: N818 - it is what happened
    """Work is lost as fast as it is done."""


@dataclass(slots=True)
class Worker:
    """One GPU's process. `token` tells events of what it does now from those of what it was doing."""

    number: int
    doing: Spent = Spent.QUEUE
    since: float = 0.0
    token: int = 0
    ticket: int = 0
    """Of its transfer, while it reads or writes."""
    needs: float = 0.0
    """Seconds that its subvolume needs; 0 without one."""
    own: int = 0
    """Static: subvolumes of its share that it has not begun."""
    kept: float = 0.0
    """Static: seconds that a subvolume it lost still needs."""


class _Kind(IntEnum):
    WORKER = 0
    UP = 1
    WALLTIME = 2
    FAILURE = 3
    RELEASE = 4


@dataclass(slots=True)
class Simulation:
    """One run of the step; build it, then `run()` once."""

    work: Work
    machine: Machine
    dispatch: Dispatch
    ledger: Ledger = field(init=False)
    files: SharedBandwidth = field(init=False)

    _random: random.Random = field(init=False)
    _workers: list[Worker] = field(init=False)
    _events: list[tuple[float, int, int, int, float]] = field(init=False)
    _spent: list[float] = field(init=False)
    _ticks: int = 0
    _open: int = 0
    """Claiming: subvolumes that nobody began."""
    _released: list[float] = field(default_factory=list)
    """Claiming: seconds still needed by subvolumes that were begun and given back."""
    _idle: list[tuple[int, int]] = field(default_factory=list)
    _unbegun: int = 0
    _steady: tuple[float, float, float] | None = None
    _failures: int = 0
    _blocks_ended: int = 0

    def __post_init__(self) -> None:
        m, w = self.machine, self.work
        self._random = random.Random(m.seed)
        self.ledger = Ledger(rate=m.ledger_ops_per_s)
        self.files = SharedBandwidth(capacity=m.fs_gbytes_per_s * 1e9, cap=m.worker_gbytes_per_s * 1e9)
        self._workers = [Worker(number) for number in range(w.gpus)]
        self._spent = [0.0] * len(Spent)
        self._unbegun = w.subvolumes
        if self.dispatch == "claiming":
            self._open = w.subvolumes
        else:
            for worker in self._workers:
                worker.own = (w.subvolumes - worker.number - 1) // w.gpus + 1
        self._events = []
        for block in range(-(-w.gpus // self._block)):
            self._at(self._wait(), _Kind.UP, block)
        if m.failures_per_node_hour:
            self._at(self._until_failure(), _Kind.FAILURE)

    # -- the loop -------------------------------------------------------------------------------------------
    def run(self) -> Outcome:
        """Simulate until every subvolume has its labels.

        Raises:
            Stalled: blocks end, or nodes fail, before anything is kept.
        """
        files, events = self.files, self._events
        left, now, longest = self.work.subvolumes, 0.0, self._longest()
        while left:
            transfer = files.next_end()
            if events and events[0][0] <= transfer:
                now, _, kind, who, what = heappop(events)
                self._happens(now, kind, who, what)
            else:
                now = transfer
                worker = self._workers[files.end(now)]
                if worker.doing is Spent.READ:
                    self._enter(worker, now, Spent.COMPUTE)
                    self._at(now + worker.needs, _Kind.WORKER, worker.number, worker.token)
                else:
                    left -= 1
                    worker.needs = 0.0
                    self._ask(worker, now, self.machine.finish_ops)
            if now > longest:
                raise Stalled(
                    f"after {now / 3600:.0f} h {left} subvolumes are unfinished: work is lost as it is done"
                )
        return self._outcome(now)

    def _happens(self, now: float, kind: int, who: int, what: float) -> None:
        if kind == _Kind.WORKER:
            worker = self._workers[who]
            if worker.token == what:
                self._goes_on(worker, now)
        elif kind == _Kind.UP:
            self._block_up(who, now)
        elif kind == _Kind.WALLTIME:
            self._block_ends(who, now)
        elif kind == _Kind.FAILURE:
            self._node_fails(now)
        else:
            self._released.append(what)
            self._wake(now)

    def _goes_on(self, worker: Worker, now: float) -> None:
        """What it was doing by itself is over: started, served by the ledger, computed, or down no more."""
        if worker.doing is Spent.COMPUTE:
            m = self.machine
            saves = worker.needs // m.checkpoint_seconds if m.checkpoint_seconds else 0
            each = m.write_bytes_per_voxel + saves * m.checkpoint_bytes_per_voxel
            self._enter(worker, now, Spent.WRITE)
            worker.ticket = self.files.start(now, each * self.work.voxels, worker.number)
        elif worker.doing is Spent.CLAIM:
            worker.needs = self._take(worker, now)
            if worker.needs:
                self._enter(worker, now, Spent.READ)
                size = self.machine.read_bytes_per_voxel * self.work.voxels
                worker.ticket = self.files.start(now, size, worker.number)
            else:
                self._enter(worker, now, Spent.IDLE)
                self._idle.append((worker.number, worker.token))
        elif worker.doing is Spent.DOWN:
            self._begin(worker, now)
        else:
            self._ask(worker, now, 0.0)

    # -- work -----------------------------------------------------------------------------------------------
    def _ask(self, worker: Worker, now: float, before: float) -> None:
        """Tell the ledger what was finished, and ask for more."""
        operations = before + (self.machine.claim_ops if self.dispatch == "claiming" else 0.0)
        self._enter(worker, now, Spent.CLAIM)
        self._at(self.ledger.submit(now, operations), _Kind.WORKER, worker.number, worker.token)

    def _take(self, worker: Worker, now: float) -> float:
        """Seconds of the subvolume that the worker has next; 0 when there is none for it."""
        if self.dispatch == "static" and worker.kept:
            needs, worker.kept = worker.kept, 0.0
            return needs
        if self.dispatch == "claiming" and self._released:
            return self._released.pop()
        if self.dispatch == "static":
            if not worker.own:
                return 0.0
            worker.own -= 1
        else:
            if not self._open:
                return 0.0
            self._open -= 1
        self._unbegun -= 1
        if not self._unbegun:
            self._steady = (now, self.ledger.operations(now), self.files.moved)
        sigma = self.machine.straggler_sigma
        return self.work.seconds * self._random.lognormvariate(-sigma * sigma / 2, sigma)

    def _give_back(self, worker: Worker, now: float, *, lease_s: float) -> None:
        """Stop what the worker does; its subvolume goes back to the last checkpoint."""
        doing, passed = worker.doing, now - worker.since
        if doing in (Spent.READ, Spent.WRITE):
            self.files.stop(now, worker.ticket)
        if worker.needs:
            computed = {Spent.COMPUTE: passed, Spent.WRITE: worker.needs}.get(doing, 0.0)
            every = self.machine.checkpoint_seconds
            kept = min(computed // every * every, computed) if every else 0.0
            lost = computed - kept
            if doing is Spent.COMPUTE:
                self._spent[Spent.COMPUTE] += kept
                self._spent[Spent.LOST] += lost
            else:
                self._spent[Spent.COMPUTE] -= lost
                self._spent[Spent.LOST] += lost + passed
            worker.since = now
            self._return(worker, now + lease_s, max(worker.needs - kept, 1e-9))

    def _return(self, worker: Worker, when: float, needs: float) -> None:
        worker.needs = 0.0
        if self.dispatch == "static":
            worker.kept = needs
        else:
            self._at(when, _Kind.RELEASE, what=needs)

    def _wake(self, now: float) -> None:
        """Have one idle worker ask again."""
        while self._idle:
            number, token = self._idle.pop()
            worker = self._workers[number]
            if worker.token == token:
                self._ask(worker, now, 0.0)
                return

    # -- blocks and nodes -----------------------------------------------------------------------------------
    def _block_up(self, block: int, now: float) -> None:
        for worker in self._members(block):
            self._begin(worker, now)
        self._heartbeats(len(self._members(block)), now)
        self._at(now + self.machine.walltime_hours * 3600, _Kind.WALLTIME, block)

    def _block_ends(self, block: int, now: float) -> None:
        for worker in self._members(block):
            self._give_back(worker, now, lease_s=0.0)
            self._enter(worker, now, Spent.QUEUE)
        self._heartbeats(-len(self._members(block)), now)
        self._blocks_ended += 1
        self._at(now + self._wait(), _Kind.UP, block)

    def _node_fails(self, now: float) -> None:
        """One of all nodes, at random; nothing happens where it is not at work."""
        self._at(now + self._until_failure(), _Kind.FAILURE)
        per = self.machine.gpus_per_node
        first = self._random.randrange(-(-self.work.gpus // per)) * per
        workers = self._workers[first : first + per]
        if workers[0].doing in (Spent.QUEUE, Spent.DOWN):
            return
        self._failures += 1
        for worker in workers:
            self._give_back(worker, now, lease_s=self.machine.lease_s)
            self._enter(worker, now, Spent.DOWN)
            self._at(now + self.machine.node_restart_hours * 3600, _Kind.WORKER, worker.number, worker.token)

    def _begin(self, worker: Worker, now: float) -> None:
        self._enter(worker, now, Spent.START)
        self._at(now + self.machine.worker_start_s, _Kind.WORKER, worker.number, worker.token)

    # -- bookkeeping ----------------------------------------------------------------------------------------
    @property
    def _block(self) -> int:
        """GPUs of a block."""
        return self.machine.block_nodes * self.machine.gpus_per_node

    def _members(self, block: int) -> list[Worker]:
        return self._workers[block * self._block : (block + 1) * self._block]

    def _heartbeats(self, workers: int, now: float) -> None:
        """So many workers more (or fewer) renew their leases."""
        if self.dispatch == "claiming":
            self.ledger.add_background(now, workers / self.machine.heartbeat_s)

    def _enter(self, worker: Worker, now: float, doing: Spent) -> None:
        self._spent[worker.doing] += now - worker.since
        worker.doing, worker.since = doing, now
        worker.token += 1

    def _at(self, when: float, kind: _Kind, who: int = 0, what: float = 0.0) -> None:
        """Remember an event; those of the same time happen in the order in which they were remembered."""
        self._ticks += 1
        heappush(self._events, (when, self._ticks, kind, who, what))

    def _wait(self) -> float:
        mean = self.machine.queue_wait_hours * 3600
        return self._random.expovariate(1 / mean) if mean else 0.0

    def _until_failure(self) -> float:
        nodes = -(-self.work.gpus // self.machine.gpus_per_node)
        return self._random.expovariate(nodes * self.machine.failures_per_node_hour / 3600)

    def _longest(self) -> float:
        """When to give up, in seconds."""
        m, w = self.machine, self.work
        least = w.subvolumes * cycle_seconds(w, m) / w.gpus
        least = max(least, w.subvolumes * file_bytes(w, m) / (m.fs_gbytes_per_s * 1e9))
        ledger = Ledger(rate=m.ledger_ops_per_s, background=w.gpus / m.heartbeat_s)
        least = max(least, w.subvolumes * ledger.submit(0.0, m.claim_ops + m.finish_ops))
        slowest = w.seconds * math.exp(6 * m.straggler_sigma)
        pauses = (m.queue_wait_hours + m.node_restart_hours) * 3600 + m.lease_s + m.worker_start_s
        return LONGEST * (least + slowest + pauses) * (1 + m.queue_wait_hours / m.walltime_hours)

    def _outcome(self, now: float) -> Outcome:
        for worker in self._workers:
            self._enter(worker, now, Spent.IDLE)
        steady, operations, moved = self._steady or (now, self.ledger.operations(now), self.files.moved)
        return Outcome(
            dispatch=self.dispatch,
            gpus=self.work.gpus,
            subvolumes=self.work.subvolumes,
            seconds=now,
            spent=tuple(self._spent),
            steady_s=steady,
            ledger=min(1.0, operations / (steady * self.ledger.rate)) if steady else 0.0,
            files=moved / (steady * self.files.capacity) if steady else 0.0,
            failures=self._failures,
            blocks_ended=self._blocks_ended,
        )
