"""One subvolume, several objects at once, and yet the result of one after the other.

As a processor works ahead of its program: objects are flooded in lanes of their own, but they are labelled
in the order of their seeds, and what one has done counts only if it would have done so in its turn.

    seeds in order   1    2    3    4 ...
    lane 0           1 ========> labelled
    lane 1                2 ===========| waits for its turn => labelled
    lane 2                     3 =====x a centre of 3 now lies in 1: begun anew in its turn

All that one object knows of the others are labels, looked at where a centre is about to be placed and before
a start; and labels only ever grow. So an object flooded ahead is right if, when the older ones are labelled,
none of its centres lies in them and its seed does not touch them. Otherwise it is dropped. Two rules save
work and change no result: a seed is not begun ahead in a cell (of the size of the deltas) where another
object has been, and an object that comes to a cell of an older one waits until that one is labelled.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from ffn.canvas import Canvas
from ffn.config import InferenceConfig, Triple
from ffn.device_canvas import AHEAD, Box, DeviceCanvas
from ffn.engine import Engine
from ffn.flood import BudgetSpentError, Flood
from ffn.flood_state import CurrentObject
from ffn.movement import Frontier
from ffn.segmentation import Segmentation
from ffn.snapshot import Snapshot

_LOOK = 64  # seeds looked at for one to begin ahead, at a time: bounds the host's work


@dataclass(slots=True, eq=False)
class Growth:
    """An object in progress in a lane. Of two, the one with the smaller `index` is the older.

    `groups`: its moves, as they went through the network together; `following`: those that go next;
    `believed`: the belief after the last of them, where the host has asked; `left_out`: moves that were near
    a visited centre; `earlier`: moves made before a snapshot.
    """

    flood: "AheadFlood"
    index: int
    seed: Triple
    lane: int
    frontier: Frontier
    believed: dict[Triple, float]
    holds: bool = True
    groups: list[list[Triple]] = field(default_factory=list)
    following: list[Triple] = field(default_factory=list)
    left_out: list[Triple] = field(default_factory=list)
    earlier: tuple[Triple, ...] = ()
    finished: bool = False
    dropped: bool = False

    def moves(self) -> list[Triple]:
        """All moves since the last snapshot."""
        return list(chain.from_iterable(self.groups))


class AheadFlood(Flood):
    """`Flood` with its beliefs on a device, driven from outside: who finds moves in `ready` makes them."""

    def __init__(
        self,
        canvas: Canvas,
        engine: Engine,
        *,
        config: InferenceConfig,
        deltas_zyx: Triple,
        max_fovs: int | None,
        clock: Callable[[], float],
        device_canvas: DeviceCanvas,
        number: int,
        lanes: Sequence[int],
        ready: deque[Growth],
    ) -> None:
        super().__init__(canvas, engine, config=config, deltas_zyx=deltas_zyx, max_fovs=max_fovs, clock=clock)
        self.number = number
        self._device_canvas = device_canvas
        self._several = len(lanes) > 1
        self._lanes = list(lanes)
        self._ready = ready
        self._head: Growth | None = None
        self._ahead: dict[int, Growth] = {}
        self._parked: list[Growth] = []
        self._claims: dict[Triple, Growth] = {}
        self._look_from = 0
        self._discarded_fovs = 0
        self._turns = self._take_turns()

    def start(self) -> None:
        """Finds the first moves."""
        next(self._turns, None)
        self._look_ahead()

    def go_on(self, growth: Growth, candidates: Sequence[list[tuple[float, Triple]]]) -> None:
        """Takes up the answers to the last group of moves of an object; `believed` and `holds` are set."""
        if growth.dropped:
            return
        for position, found in zip(growth.groups[-1], candidates, strict=True):
            growth.frontier.extend(position, found)
        if growth is self._head:
            self._checkpoint()
        self._choose(growth)
        if self._head is not None and self._head.finished:
            next(self._turns, None)
            self._look_ahead()

    def send(self, growth: Growth) -> list[Triple]:
        """The moves of an object that go through the network now."""
        growth.groups.append(growth.following)
        growth.following = []
        return growth.groups[-1]

    def result(self, *, seconds: float) -> Segmentation:
        """What was found, as `Flood` would have found it."""
        found = super().result(seconds=seconds)
        return replace(found, counters=replace(found.counters, discarded_fovs=self._discarded_fovs))

    def put_away(self) -> Snapshot:
        """As `Flood` would be put away; what was flooded ahead is not kept."""
        head = self._head
        if head is None:
            return super().put_away()
        box = self._box(head)
        self.canvas.take_up(_corner(box), self._device_canvas.download(head.lane, box))
        self._object = self._as_current(head)
        snapshot = super().put_away()
        self._object = None
        return replace(
            snapshot,
            moves_zyx=np.concatenate([snapshot.moves_zyx, _rows(head.moves())]),
            calls=snapshot.calls + len(head.groups),
        )

    def _take_turns(self) -> Iterator[None]:
        """Labels object after object in the order of their seeds; pauses while the one in turn is flooded."""
        try:
            if (resumed := self._object) is not None:
                self._object = None
                yield from self._finish(self._resume(resumed))
            for seed in self._seeds():
                yield from self._finish(self._in_turn(seed))
        except BudgetSpentError:
            pass
        self._drop(list(self._ahead.values()))

    def _finish(self, growth: Growth) -> Iterator[None]:
        self._head = growth
        labelled = sum(bool(self.canvas.labels[position] > 0) for position in growth.left_out)
        growth.frontier.skipped -= labelled  # in its turn nearness would not have been what kept it away
        parked, self._parked = self._parked, []
        for waiting in parked:
            self._queue(waiting)
        while not growth.finished:
            yield
        before = self.tally.labelled
        self._attempt(self._as_current(growth))
        if self.tally.labelled > before:
            self._after_labelling(self._box(growth))
        self._free(growth)

    def _flood_object(self, current: CurrentObject) -> None:
        """The object in turn is flooded already: now its moves count, and the host gets its belief."""
        growth, tally = self._head, self.tally
        assert growth is not None
        for group in growth.groups:
            if self.max_fovs is not None and len(tally.moves) + len(group) > self.max_fovs:
                raise BudgetSpentError
            tally.moves.extend(group)
            tally.calls += 1
        box = self._box(growth)
        self.canvas.take_up(_corner(box), self._device_canvas.download(growth.lane, box))
        self._head = None

    def _as_current(self, growth: Growth) -> CurrentObject:
        before = len(self.tally.moves) - len(growth.earlier)
        return CurrentObject(seed=growth.seed, frontier=growth.frontier, moves_before=before)

    def _in_turn(self, seed: Triple) -> Growth:
        """The object of the next seed: as far as it was flooded ahead, or begun now."""
        assert self._round is not None
        index = self._round.next - 1
        self._drop([growth for growth in self._ahead.values() if growth.index < index])
        return self._ahead.pop(index, None) or self._begin(index, seed)

    def _look_ahead(self) -> None:
        """Begins objects of later seeds in the lanes that are free."""
        seeds = self._round
        if seeds is None or self._head is None or self.max_fovs is not None:
            return
        self._look_from = max(self._look_from, seeds.next)
        for index in range(self._look_from, min(self._look_from + _LOOK, len(seeds.peaks))):
            if not self._lanes:
                return
            self._look_from = index + 1
            z, y, x = seeds.peaks[index].tolist()
            if index not in self._ahead and self._may_begin((z, y, x)):
                self._ahead[index] = self._begin(index, (z, y, x))

    def _may_begin(self, seed: Triple) -> bool:
        distance = self.config.min_boundary_distance_zyx
        return (
            self._cell(seed) not in self._claims
            and self.canvas.may_start(seed)
            and not self.canvas.touches_object(seed, distance_zyx=distance)
        )

    def _begin(self, index: int, seed: Triple) -> Growth:
        lane = self._lanes.pop()
        self._device_canvas.begin(lane, seed)
        growth = Growth(
            flood=self,
            index=index,
            seed=seed,
            lane=lane,
            frontier=self._frontier(seed),
            believed={seed: self.canvas.thresholds.init},
        )
        self._choose(growth)
        return growth

    def _resume(self, current: CurrentObject) -> Growth:
        assert self._round is not None
        lane = self._lanes.pop()
        growth = Growth(
            flood=self,
            index=self._round.next - 1,
            seed=current.seed,
            lane=lane,
            frontier=current.frontier,
            believed={},
            holds=self.canvas.holds(current.seed),
            earlier=tuple(self.tally.moves[current.moves_before :]),
        )
        corner, belief = self.canvas.hold()
        box = tuple(slice(c, c + n) for c, n in zip(corner, belief.shape, strict=True))
        self._device_canvas.put(lane, (box[0], box[1], box[2]), belief)
        self._choose(growth)
        return growth

    def _choose(self, growth: Growth) -> None:
        """The next moves of an object, or its end; as `Flood._flood_object` decides."""
        valid: list[Triple] = []
        growth.following = self._next_moves(growth.frontier, lambda p: self._may_move(growth, p, valid))
        growth.left_out += [position for position in valid if position not in growth.following]
        if not growth.following or not growth.holds:
            growth.finished = True
        elif self.max_fovs is not None and self._exceeds(growth, self.max_fovs):
            growth.finished = True
            growth.groups.append(growth.following)  # one too many, for `_flood_object` to find
        else:
            self._queue(growth)

    def _exceeds(self, growth: Growth, max_fovs: int) -> bool:
        return len(self.tally.moves) + len(growth.moves()) + len(growth.following) > max_fovs

    def _queue(self, growth: Growth) -> None:
        if growth.dropped:
            return
        if self._several:
            cells = [self._cell(position) for position in growth.following]
            owners = [self._claims.get(cell, growth) for cell in cells]
            if any(owner.index < growth.index for owner in owners):
                self._parked.append(growth)
                return
            self._claims.update(dict.fromkeys(cells, growth))
        self._ready.append(growth)

    def _may_move(self, growth: Growth, position: Triple, valid: list[Triple]) -> bool:
        if not self.canvas.is_open(position):
            return False
        if position not in growth.believed:
            asked = (position, *growth.frontier.ahead(AHEAD))
            voxels = [self._device_canvas.voxel(growth.lane, p) for p in asked]
            growth.believed.update(zip(asked, self._device_canvas.sample(voxels), strict=True))
        if growth.believed[position] < self.canvas.thresholds.move:
            return False
        valid.append(position)
        return True

    def _after_labelling(self, box: Box) -> None:
        """Labels have grown within `box`: closes them to centres, drops what was flooded on other terms."""
        labels = self.canvas.labels
        self._device_canvas.close(self.number, box, labels[box] > 0)
        wrong = []
        for growth in self._ahead.values():
            centres = _rows([*growth.moves(), *growth.following])
            if (labels[tuple(centres.T)] > 0).any() or self._starts_wrongly(growth.seed):
                wrong.append(growth)
        if wrong:
            self._drop(wrong)
            self._look_from = 0

    def _starts_wrongly(self, seed: Triple) -> bool:
        distance = self.config.min_boundary_distance_zyx
        return self.canvas.touches_object(seed, distance_zyx=distance)

    def _drop(self, growths: Sequence[Growth]) -> None:
        for growth in growths:
            growth.dropped = True
            self._discarded_fovs += len(growth.moves())
            del self._ahead[growth.index]
            self._free(growth)

    def _free(self, growth: Growth) -> None:
        """Clears the lane for another object; a step still under way there is done before."""
        self._device_canvas.clear(growth.lane, self._box(growth))
        self._lanes.append(growth.lane)
        if self._several:
            for position in chain(growth.moves(), growth.following):
                if self._claims.get(cell := self._cell(position)) is growth:
                    del self._claims[cell]

    def _open_round(self, number: int, interior: NDArray[np.bool_]) -> None:
        self._drop(list(self._ahead.values()))
        super()._open_round(number, interior)
        self._look_from = 0

    def _box(self, growth: Growth) -> Box:
        """All that an object has touched."""
        margin = self.canvas.margin_zyx
        centres = _rows([*growth.earlier, *growth.moves()])
        if not len(centres):
            z, y, x = (slice(p, p + 1) for p in growth.seed)
            return z, y, x
        low, high = centres.min(axis=0) - margin, centres.max(axis=0) + margin + 1
        z, y, x = (slice(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True))
        return z, y, x

    def _cell(self, position: Triple) -> Triple:
        (z, y, x), (dz, dy, dx) = position, self.deltas_zyx
        return z // max(dz, 1), y // max(dy, 1), x // max(dx, 1)


def _corner(box: Box) -> Triple:
    return box[0].start, box[1].start, box[2].start


def _rows(positions: Sequence[Triple]) -> NDArray[np.int32]:
    return np.array(positions, np.int32).reshape(-1, 3)
