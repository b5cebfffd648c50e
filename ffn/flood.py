"""The loop over the seeds and moves of one subvolume; it can be put away between any two network calls.

`Flood` is what `ffn.inference.segment` runs; its state is a `Snapshot` when put away.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ffn.canvas import FAILED_SEED, Canvas
from ffn.config import InferenceConfig, Triple
from ffn.engine import Engine
from ffn.movement import Frontier, face_maxima
from ffn.seeds import find_interior, find_peaks
from ffn.segmentation import Attempt, Counters, Outcome, Progress, Segmentation
from ffn.snapshot import Snapshot, SnapshotError


@dataclass(slots=True)
class _Tally:
    moves: list[Triple] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    calls: int = 0
    seconds_network: float = 0.0
    seconds_before: float = 0.0
    seeds: int = 0
    seeds_done: int = 0
    objects: int = 0
    labelled: int = 0
    skipped_moves: int = 0


@dataclass(slots=True)
class _Round:
    """The seeds of one fill round; `next` is the next to be tried."""

    number: int
    peaks: NDArray[np.int32]
    labelled_before: int
    next: int = 0


@dataclass(slots=True)
class CurrentObject:
    """The object in progress; it began after `moves_before` moves."""

    seed: Triple
    frontier: Frontier
    moves_before: int


class BudgetSpentError(Exception):
    """The allowed number of fields of view is used up."""


class Flood:
    """The loop over seeds and moves of one subvolume."""

    def __init__(
        self,
        canvas: Canvas,
        engine: Engine,
        *,
        config: InferenceConfig,
        deltas_zyx: Triple,
        max_fovs: int | None,
        clock: Callable[[], float],
    ) -> None:
        self.config = config
        self.deltas_zyx = deltas_zyx
        self.engine = engine
        self.canvas = canvas
        self.max_fovs = max_fovs
        self.clock = clock
        self.fingerprint = ""
        self.tally = _Tally()
        self._round: _Round | None = None
        self._object: CurrentObject | None = None
        self._started = self._checkpointed = clock()
        self._progress: Callable[[Progress], None] | None = None
        self._on_checkpoint: Callable[[Snapshot], None] | None = None
        self._checkpoint_seconds = 0.0
        self._checkpoint_now: Callable[[], bool] | None = None

    def report_to(
        self,
        progress: Callable[[Progress], None] | None,
        on_checkpoint: Callable[[Snapshot], None] | None,
        checkpoint_seconds: float,
        checkpoint_now: Callable[[], bool] | None = None,
    ) -> None:
        """Whom to tell of each attempt, and whom to give a snapshot every so many seconds, or when asked."""
        self._progress, self._on_checkpoint = progress, on_checkpoint
        self._checkpoint_seconds, self._checkpoint_now = checkpoint_seconds, checkpoint_now

    def run(self) -> None:
        """Ends the object in progress, then tries every seed, then those of the fill rounds."""
        try:
            if self._object is not None:
                self._attempt(self._object)
            for seed in self._seeds():
                self.canvas.begin(seed)
                frontier = self._frontier(seed)
                self._attempt(CurrentObject(seed=seed, frontier=frontier, moves_before=len(self.tally.moves)))
        except BudgetSpentError:
            return

    def result(self, *, seconds: float) -> Segmentation:
        """What was found; the canvas is spent after it."""
        tally, canvas = self.tally, self.canvas
        canvas.labels[canvas.labels == FAILED_SEED] = 0
        return Segmentation(
            labels=canvas.labels.view(np.uint32),
            probabilities=canvas.probabilities,
            attempts=tuple(tally.attempts),
            moves_zyx=_positions(tally.moves),
            counters=Counters(
                fovs=len(tally.moves),
                rejected_fovs=sum(a.moves for a in tally.attempts if a.outcome != "object"),
                calls=tally.calls,
                seeds=tally.seeds,
                attempts=len(tally.attempts),
                objects=tally.objects,
                seconds_network=tally.seconds_network,
                seconds_host=tally.seconds_before + seconds - tally.seconds_network,
                weak=sum(a.outcome == "weak" for a in tally.attempts),
                small=sum(a.outcome == "small" for a in tally.attempts),
                skipped_moves=self._skipped_moves(),
            ),
        )

    def flood_from(self, seed: Triple) -> list[Triple]:
        """Floods one object and labels nothing: its belief is left in the canvas. Returns its moves."""
        before = len(self.tally.moves)
        self.canvas.begin(seed)
        self._flood_object(CurrentObject(seed=seed, frontier=self._frontier(seed), moves_before=before))
        return self.tally.moves[before:]

    def _seeds(self) -> Iterator[Triple]:
        """Seeds that may be started now; a fill round proposes its own in the interior still unlabelled."""
        canvas, seeds = self.canvas, self.config.seeds
        starts = canvas.masks.starts
        if any(n < f for n, f in zip(canvas.shape_zyx, canvas.fov_zyx, strict=True)):
            return
        if starts is not None and not starts.any():
            return
        interior: NDArray[np.bool_] | None = None
        for number in range(self._round.number if self._round else 0, 1 + seeds.fill_rounds):
            if self._round is None or self._round.number != number:
                if interior is None:
                    interior = find_interior(
                        self.engine.normalise(canvas.image), config=seeds, allowed=starts
                    )
                self._open_round(number, interior)
            current = self._round
            assert current is not None
            yield from self._seeds_of(current)
            if number > 0 and self.tally.labelled == current.labelled_before:
                return

    def _open_round(self, number: int, interior: NDArray[np.bool_]) -> None:
        free = interior if number == 0 else interior & (self.canvas.labels == 0)
        exact = number == 0 and self.config.seeds.policy == "peaks"
        peaks = find_peaks(free, config=self.config.seeds, inside_only=not exact)
        self._round = _Round(number=number, peaks=peaks, labelled_before=self.tally.labelled)
        self.tally.seeds += len(peaks)

    def _seeds_of(self, current: _Round) -> Iterator[Triple]:
        canvas = self.canvas
        while current.next < len(current.peaks):
            z, y, x = current.peaks[current.next].tolist()
            current.next += 1
            self.tally.seeds_done += 1
            if not canvas.may_start((z, y, x)):
                continue
            if canvas.touches_object((z, y, x), distance_zyx=self.config.min_boundary_distance_zyx):
                canvas.fail((z, y, x))
                continue
            yield z, y, x

    def _attempt(self, current: CurrentObject) -> None:
        canvas, tally = self.canvas, self.tally
        self._object = current
        self._flood_object(current)
        label = tally.objects + 1
        outcome: Outcome = "object"
        voxels = 0
        if not canvas.holds(current.seed):
            outcome = "weak"
        else:
            voxels = canvas.commit(label, min_size=self.config.min_segment_size)
            outcome = "object" if voxels else "small"
        if not voxels:
            canvas.fail(current.seed)
        tally.objects += bool(voxels)
        tally.labelled += voxels
        tally.skipped_moves += current.frontier.skipped
        tally.attempts.append(
            Attempt(
                seed_zyx=current.seed,
                outcome=outcome,
                label=label if voxels else 0,
                voxels=voxels,
                moves=len(tally.moves) - current.moves_before,
            )
        )
        self._object = None
        self._tell()

    def _tell(self) -> None:
        tally = self.tally
        if self._progress is not None:
            self._progress(
                Progress(
                    seeds_done=tally.seeds_done,
                    seeds=tally.seeds,
                    fovs=len(tally.moves),
                    objects=tally.objects,
                    labelled_voxels=tally.labelled,
                )
            )
        self._checkpoint()

    def _flood_object(self, current: CurrentObject) -> None:
        """Moves until the frontier is empty or the seed's own voxel is no longer believed in."""
        canvas = self.canvas
        while positions := self._next_moves(current.frontier, canvas.may_move):
            if not canvas.holds(current.seed):
                return
            answers = self._predict(positions)
            for position, answer in zip(positions, answers, strict=True):
                written = canvas.scatter(position, answer)
                candidates = face_maxima(
                    written, deltas_zyx=self.deltas_zyx, threshold=canvas.thresholds.move
                )
                current.frontier.extend(position, candidates)
            self._checkpoint()

    def _frontier(self, seed: Triple) -> Frontier:
        return Frontier(seed, deltas_zyx=self.deltas_zyx, min_distance=self.config.min_move_distance)

    def _next_moves(self, frontier: Frontier, may_move: Callable[[Triple], bool]) -> list[Triple]:
        positions: list[Triple] = []
        while len(positions) < self.config.frontier_batch:
            position = frontier.pop(may_move)
            if position is None:
                break
            frontier.visit(position)
            positions.append(position)
        return positions

    def _predict(self, positions: list[Triple]) -> NDArray[np.float32]:
        tally = self.tally
        if self.max_fovs is not None and len(tally.moves) + len(positions) > self.max_fovs:
            raise BudgetSpentError
        views = [self.canvas.gather(position) for position in positions]
        started = self.clock()
        answers = self.engine.predict([image for image, _ in views], [belief for _, belief in views])
        tally.seconds_network += self.clock() - started
        tally.calls += 1
        tally.moves.extend(positions)
        return answers

    def _skipped_moves(self) -> int:
        return self.tally.skipped_moves + (self._object.frontier.skipped if self._object else 0)

    def _checkpoint(self) -> None:
        """Hands out a snapshot when it is time for one."""
        if self._on_checkpoint is None:
            return
        wanted = self._checkpoint_now is not None and self._checkpoint_now()
        if not wanted and self.clock() - self._checkpointed < self._checkpoint_seconds:
            return
        self._on_checkpoint(self.put_away())
        self._checkpointed = self.clock()

    def put_away(self) -> Snapshot:
        """All that is needed to go on, copied."""
        tally, canvas, current, seeds = self.tally, self.canvas, self._object, self._round
        corner, belief = canvas.hold() if current else ((0, 0, 0), np.zeros((0, 0, 0), np.float32))
        return Snapshot(
            fingerprint=self.fingerprint,
            labels=canvas.labels.copy(),
            probabilities=None if canvas.probabilities is None else canvas.probabilities.copy(),
            attempts=tuple(tally.attempts),
            moves_zyx=_positions(tally.moves),
            peaks=_positions([]) if seeds is None else seeds.peaks,
            fill_round=0 if seeds is None else seeds.number,
            next_seed=0 if seeds is None else seeds.next,
            labelled_before=0 if seeds is None else seeds.labelled_before,
            calls=tally.calls,
            seeds=tally.seeds,
            seeds_done=tally.seeds_done,
            skipped_moves=self._skipped_moves(),
            seconds_network=tally.seconds_network,
            seconds_total=tally.seconds_before + self.clock() - self._started,
            seed=_positions([current.seed] if current else []),
            corner=np.array(corner, np.int32),
            belief=belief,
            pending=_positions(current.frontier.pending if current else []),
        )

    def take_up(self, snapshot: Snapshot) -> None:
        """Goes on from a snapshot of the same subvolume; raises SnapshotError for one of another."""
        canvas = self.canvas
        if snapshot.fingerprint != self.fingerprint:
            raise SnapshotError(
                "snapshot: belongs to another image, mask, network or configuration; begin anew without it"
            )
        if (snapshot.probabilities is None) != (canvas.probabilities is None):
            raise SnapshotError("snapshot: was made with other keep_probabilities; begin anew without it")
        snapshot.check()
        canvas.labels[:] = snapshot.labels
        if canvas.probabilities is not None and snapshot.probabilities is not None:
            canvas.probabilities[:] = snapshot.probabilities
        moves: list[Triple] = [(z, y, x) for z, y, x in snapshot.moves_zyx.tolist()]
        self.tally = _Tally(
            moves=moves,
            attempts=list(snapshot.attempts),
            calls=snapshot.calls,
            seconds_network=snapshot.seconds_network,
            seconds_before=snapshot.seconds_total,
            seeds=snapshot.seeds,
            seeds_done=snapshot.seeds_done,
            objects=sum(a.outcome == "object" for a in snapshot.attempts),
            labelled=sum(a.voxels for a in snapshot.attempts),
            skipped_moves=snapshot.skipped_moves,
        )
        self._round = _Round(
            number=snapshot.fill_round,
            peaks=snapshot.peaks,
            labelled_before=snapshot.labelled_before,
            next=snapshot.next_seed,
        )
        for z, y, x in snapshot.seed.tolist():
            self._object = self._take_up_object((z, y, x), snapshot, moves)

    def _take_up_object(self, seed: Triple, snapshot: Snapshot, moves: list[Triple]) -> CurrentObject:
        begun = len(moves) - snapshot.object_moves
        z, y, x = snapshot.corner.tolist()
        self.canvas.take_up((z, y, x), snapshot.belief)
        frontier = self._frontier(seed)
        frontier.take_up(visited=moves[begun:], pending=[(z, y, x) for z, y, x in snapshot.pending.tolist()])
        return CurrentObject(seed=seed, frontier=frontier, moves_before=begun)


def _positions(positions: Iterable[Triple]) -> NDArray[np.int32]:
    return np.array(list(positions), np.int32).reshape(-1, 3)
