"""The host's loop over many subvolumes and objects: it fills batches with moves and hands out the answers.

    ready objects -> rows of a batch -> DeviceCanvas.step (device) -> candidates -> AheadFlood.go_on -> ready

The device gets some numbers per row and gives back a few candidates; nothing else travels but the belief of a
finished object. On an accelerator two batches are under way, so that the host reads one while the device
computes the other. Whatever the batch, every object makes the moves that `ffn.flood.Flood` would make.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ffn.ahead import AheadFlood, Growth
from ffn.canvas import Canvas, Thresholds
from ffn.config import InferenceConfig, Triple, require
from ffn.device_canvas import AHEAD, DeviceCanvas, Slot
from ffn.engine import Engine

Candidates = list[tuple[float, Triple]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Moves of one object in a step, the rows that carry them, and the queued positions asked about."""

    growth: Growth
    positions: list[Triple]
    rows: list[int]
    queued: tuple[Triple, ...]


class Batcher:
    """Floods several subvolumes with one engine. Read `floods` afterwards.

    Up to `batch` rows (fields of view) go through the network in a step; `objects` of each subvolume are in
    progress at once. Every lane holds 5 bytes per voxel of a subvolume on the device.
    `depth` steps are under way at once: two on an accelerator, one on a CPU, which computes on the spot.
    """

    def __init__(
        self,
        canvases: Sequence[Canvas],
        engine: Engine,
        *,
        config: InferenceConfig,
        deltas_zyx: Triple,
        batch: int,
        objects: int,
        max_fovs: int | None,
        clock: Callable[[], float],
        depth: int | None = None,
    ) -> None:
        require(objects >= 1, "objects", "must be at least 1 per subvolume")
        require(batch >= config.frontier_batch, "batch", "must not be below frontier_batch")
        self.batch = max(batch, engine.least_batch)
        self._engine, self._clock = engine, clock
        self._ready: deque[Growth] = deque()
        self._canvas = DeviceCanvas(
            [engine.normalise(canvas.image) for canvas in canvases],
            [canvas.find_closed() for canvas in canvases],
            fov_zyx=canvases[0].fov_zyx,
            deltas_zyx=deltas_zyx,
            thresholds=Thresholds.of(config),
            lanes=len(canvases) * objects,
            batch=self.batch,
            least=engine.least_batch,
            device=engine.device,
            memory_format=engine.memory_format,
        )
        depth = depth or (1 if engine.device.type == "cpu" else 2)
        self._slots = deque(Slot(self.batch, self._canvas.faces, engine.device) for _ in range(depth))
        self.steps = self.rows = 0
        """Calls of the network, and the rows of them that carried a move."""
        self.seconds_tensors = 0.0
        """In `DeviceCanvas.step` without the network: on the CPU the work, on an accelerator its launch."""
        self.floods = [
            AheadFlood(
                canvas,
                engine,
                config=config,
                deltas_zyx=deltas_zyx,
                max_fovs=max_fovs,
                clock=clock,
                device_canvas=self._canvas,
                number=number,
                lanes=range(number * objects, (number + 1) * objects),
                ready=self._ready,
            )
            for number, canvas in enumerate(canvases)
        ]

    def run(self) -> list[float]:
        """Floods all subvolumes to their end; the seconds that each spent in the network."""
        before = [flood.tally.seconds_network for flood in self.floods]
        for flood in self.floods:
            flood.start()
        under_way: deque[tuple[Slot, list[Group], float]] = deque()
        while True:
            while self._slots and (groups := self._fill()):
                slot = self._slots.popleft()
                under_way.append((slot, groups, self._send(slot, groups)))
            if not under_way:
                break
            self._receive(*under_way.popleft())
        return [flood.tally.seconds_network - b for flood, b in zip(self.floods, before, strict=True)]

    def _fill(self) -> list[Group]:
        """The moves of the next step, first come first served; those of one object stay together."""
        growths: list[Growth] = []
        free = self.batch
        while self._ready and len(self._ready[0].following) <= free:
            growth = self._ready.popleft()
            if not growth.dropped:
                growths.append(growth)
                free -= len(growth.following)
        moves = [growth.flood.send(growth) for growth in growths]
        starts = np.cumsum([0, *self._per_rank(moves)]).tolist()  # row of the first move of each rank
        groups = []
        for growth, positions in zip(growths, moves, strict=True):
            rows = []
            for rank in range(len(positions)):
                rows.append(starts[rank])
                starts[rank] += 1
            queued = growth.frontier.ahead(AHEAD)
            groups.append(Group(growth=growth, positions=positions, rows=rows, queued=queued))
        return groups

    @staticmethod
    def _per_rank(moves: Sequence[Sequence[Triple]]) -> list[int]:
        """How many objects have a first move in the step, how many a second, and so on."""
        lengths = [len(positions) for positions in moves]
        return [sum(n > rank for n in lengths) for rank in range(max(lengths, default=0))]

    def _send(self, slot: Slot, groups: Sequence[Group]) -> float:
        """Starts a step; the seconds that the network took meanwhile (on the CPU: all of it)."""
        per_rank = self._per_rank([group.positions for group in groups])
        ends = np.cumsum(per_rank).tolist()
        slot.asked.numpy()[:] = self._ask(groups)
        seconds = 0.0

        def network(seen: Tensor) -> Tensor:
            nonlocal seconds
            called = self._clock()
            logits = self._engine.replay(seen)
            seconds = self._clock() - called
            return logits

        ranks = [slice(end - count, end) for end, count in zip(ends, per_rank, strict=True)]
        started = self._clock()
        self._canvas.step(slot, ranks, network)
        self.seconds_tensors += self._clock() - started - seconds
        self.steps += 1
        self.rows += ends[-1]
        return seconds

    def _ask(self, groups: Sequence[Group]) -> NDArray[np.int64]:
        """The numbers of a step, as `Slot` wants them."""
        canvas, margin = self._canvas, [n // 2 for n in self._canvas.fov_zyx]
        asked = [canvas.idle_row] * self.batch
        for group in groups:
            growth = group.growth
            lane, number, seed = growth.lane, growth.flood.number, growth.seed
            queued = [canvas.voxel(lane, position) for position in group.queued]
            queued += canvas.idle_row[1 : 1 + AHEAD - len(queued)]
            for row, position in zip(group.rows, group.positions, strict=True):
                corner = [p - m for p, m in zip(position, margin, strict=True)]
                asked[row] = [
                    canvas.voxel(number, corner),
                    canvas.voxel(lane, corner),
                    canvas.voxel(lane, growth.frontier.cell_corner(position)),
                    canvas.voxel(lane, seed),
                    *queued,
                ]
        return np.array(asked, np.int64)

    def _receive(self, slot: Slot, groups: Sequence[Group], seconds: float) -> None:
        """Hands the answers of a step to the objects."""
        started = self._clock()
        answers = self._canvas.collect(slot)
        waited = 0.0 if slot.ready is None else self._clock() - started
        self._slots.append(slot)
        used = sum(len(group.positions) for group in groups)
        for group in groups:
            growth = group.growth
            growth.flood.tally.seconds_network += (seconds + waited) * len(group.positions) / used
            believed: dict[Triple, float] = {}
            candidates = [
                self._read(answers[row], position, believed)
                for row, position in zip(group.rows, group.positions, strict=True)
            ]
            first = answers[group.rows[0]][3 * self._canvas.faces :]
            growth.holds = first[0] >= self._canvas.thresholds.move
            believed.update(zip(group.queued, first[1:], strict=False))
            growth.believed = believed
            growth.flood.go_on(growth, candidates)

    def _read(self, answer: list[float], position: Triple, believed: dict[Triple, float]) -> Candidates:
        """The candidates of one row, best first as `face_maxima` gives them; closed ones are left out."""
        faces, (z, y, x) = self._canvas.faces, position
        found = set()
        for face, offsets in enumerate(self._canvas.offsets):
            score = answer[face]
            if score < self._canvas.thresholds.move:
                continue
            dz, dy, dx = offset = offsets[int(answer[faces + face])]
            believed[z + dz, y + dy, x + dx] = answer[2 * faces + face]
            found.add((score, offset))
        return sorted(found, reverse=True)
