"""One network for many floods: those that wait at the same time go through it together.

    thread 1: segment(...) ── seat ──┐                          ┌──► seat ──► go on
    thread 2: segment(...) ── seat ──┼─► rows of a batch ─► network ─► seat ──► go on
    thread 3: segment(...) ── seat ──┘                          └──► ...

One object makes its moves one after the other, and a subvolume holds few objects that can be flooded at once;
an accelerator wants dozens of fields of view. So many subvolumes are flooded, each in a thread of its own and
as if it were alone: what another does is not even looked at. Rows of a batch do not depend on each other,
so labels and moves are those of `segment` with an `Engine` of its own, provided that the network answers a
field of view alike whatever else is in the batch (cuDNN did, bit by bit, on an H100).
"""

import threading
from collections import deque
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ffn.config import Normalisation, require
from ffn.engine import Engine, Kernel, Precision, next_power_of_two
from ffn.network import IMAGE, SEED, FloodFillingNetwork

_UNDER_WAY = 2
"""Batches on the device at once: the host hands out one while the next is computed."""


class Seat:
    """What one flood sees of a `JointEngine`: an engine of its own, for one thread."""

    def __init__(self, engine: "JointEngine") -> None:
        self._engine = engine
        self.device, self.precision, self.kernel = engine.device, engine.precision, engine.kernel
        pinned = engine.device.type != "cpu"
        fov = engine.fov_zyx
        self.question = torch.zeros((*fov, 2), pin_memory=pinned)
        self.answer = torch.zeros(fov, pin_memory=pinned)
        self.done = threading.Event()
        self.error: BaseException | None = None

    def normalise(self, image: NDArray[np.generic]) -> NDArray[np.float32]:
        """Grey values as the network sees them."""
        return self._engine.normalise(image)

    def predict(
        self, images: Sequence[NDArray[np.generic]], beliefs: Sequence[NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """New logits (B, Z, Y, X) for B fields of view, as `Engine.predict`; waits for them.

        Raises what the network raised in the thread that runs it.
        """
        answers = np.empty((len(images), *self._engine.fov_zyx), np.float32)
        sample = self.question.numpy()
        for answer, image, belief in zip(answers, images, beliefs, strict=True):
            sample[..., IMAGE] = self.normalise(image)
            sample[..., SEED] = belief
            self.done.clear()
            self._engine.ask(self)
            self.done.wait()
            if self.error is not None:
                raise self.error
            answer[:] = self.answer.numpy()
        return answers


class JointEngine(Engine):
    """An `Engine` in a thread of its own, for any number of seats; a context, or from `start` to `stop`.

    Up to `batch` fields of view go through the network at once: those that wait, rounded up to a power of two
    so that it sees few shapes.
    """

    def __init__(
        self,
        network: FloodFillingNetwork,
        normalisation: Normalisation,
        *,
        device: torch.device,
        batch: int,
        precision: Precision = "fp32",
        kernel: Kernel = "auto",
    ) -> None:
        require(batch >= 1, "batch", "must be at least 1")
        super().__init__(network, normalisation, device=device, precision=precision, kernel=kernel)
        self.fov_zyx = network.config.fov_zyx
        self.batch = max(batch, self.least_batch)
        self.calls = self.rows = 0
        self._asking: SimpleQueue[Seat | None] = SimpleQueue()
        self._x = torch.zeros((self.batch, *self.fov_zyx, 2), device=device)
        self._thread = threading.Thread(target=self._serve, name="ffn-network", daemon=True)

    def start(self) -> Self:
        """Begins its thread, which ends with `stop`, or with the process."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Ends its thread when all is answered that was asked; nobody may ask any more."""
        self._asking.put(None)
        self._thread.join()
        self._graphs.clear()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def seat(self) -> Seat:
        """A new seat, for one thread."""
        return Seat(self)

    def ask(self, seat: Seat) -> None:
        """Queues what a seat asks; its `done` is set when it is answered."""
        self._asking.put(seat)

    def _serve(self) -> None:
        under_way: deque[tuple[list[Seat], torch.Event | None]] = deque()
        more = True
        while more or under_way:
            seats: list[Seat] = []
            if more and len(under_way) < _UNDER_WAY:
                seats, more = self._collect(wait=not under_way)
            if seats:
                try:
                    under_way.append((seats, self._send(seats)))
                except Exception as error:  # each flood raises it in its own thread
                    _hand_out(seats, error)
            elif under_way:
                self._receive(*under_way.popleft())

    def _collect(self, *, wait: bool) -> tuple[list[Seat], bool]:
        """The seats that are waiting, up to a batch of them, and whether more may come."""
        seats: list[Seat] = []
        while len(seats) < self.batch:
            try:
                seat = self._asking.get(block=wait and not seats)
            except Empty:
                break
            if seat is None:
                return seats, False
            seats.append(seat)
        return seats, True

    def _send(self, seats: list[Seat]) -> torch.Event | None:
        """Starts a batch; the event that says when it is done, where the device works by itself."""
        rows = min(max(next_power_of_two(len(seats)), self.least_batch), self.batch)
        with torch.inference_mode():
            for row, seat in zip(self._x, seats, strict=False):
                row.copy_(seat.question, non_blocking=True)
            logits = self._logits(rows)
            for row, seat in zip(logits, seats, strict=False):
                seat.answer.copy_(row, non_blocking=True)
        self.calls += 1
        self.rows += len(seats)
        if self.device.type == "cpu":
            return None
        event = torch.Event(device=self.device)
        event.record()
        return event

    def _logits(self, rows: int) -> Tensor:
        return self.replay(self._x[:rows].permute(0, 4, 1, 2, 3))

    @staticmethod
    def _receive(seats: list[Seat], event: torch.Event | None) -> None:
        try:
            if event is not None:
                event.synchronize()
        except Exception as error:
            _hand_out(seats, error)
        else:
            _hand_out(seats, None)


def _hand_out(seats: list[Seat], error: BaseException | None) -> None:
    for seat in seats:
        seat.error = error
        seat.done.set()
