"""One decision point in its cube: both segments flooded again, by a driver that runs the network.

A pair never calls the network itself. `Pair.evidence` is a coroutine: it yields fields of view and is sent
the network's answers, so that one call of the network can serve many pairs (`ffn.resegmentation`).
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ffn.candidates import DecisionPoint
from ffn.canvas import Canvas
from ffn.config import NetworkConfig, Triple, logit, require
from ffn.evidence import Mask, PairEvidence, Reflooding, jaccard, max_edt_nm, recovered_fraction
from ffn.flood import Flood

_WAS_INSIDE, _IS_OUTSIDE = logit(0.8), logit(0.5)  # google/ffn's `history_deleted`

Slices = tuple[slice, slice, slice]
View = tuple[NDArray[np.generic], NDArray[np.float32]]
"""Image and belief of one field of view."""
Answers = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResegmentationConfig:
    """What is flooded around a decision point, and what counts; in voxels, defaults for the FIB-25 network.

    `radius_zyx` of the cube, `analysis_radius_zyx` of the box that is judged: those of google/ffn's manual.
    Up to `max_attempts` seeds are tried in a segment, `exclusion_radius_zyx` apart, until the object recovers
    `recovery_fraction` of its voxels in the cube. `object_threshold`: the probability from which a voxel is
    part of the object. The segment with fewer voxels in the box is flooded first: a piece of a neurite more
    often finds the rest of it than the rest finds the piece. `stop_early` saves the other flooding when that
    one recovered too little of either.
    """

    radius_zyx: Triple = (50, 50, 50)
    analysis_radius_zyx: Triple = (34, 34, 34)
    exclusion_radius_zyx: Triple = (8, 8, 8)
    max_attempts: int = 8
    recovery_fraction: float = 0.6
    object_threshold: float = 0.5
    stop_early: bool = False

    def __post_init__(self) -> None:
        require(min(self.analysis_radius_zyx) >= 1, "analysis_radius_zyx", "must be at least 1 voxel")
        inside = all(a <= r for a, r in zip(self.analysis_radius_zyx, self.radius_zyx, strict=True))
        require(inside, "analysis_radius_zyx", "must not exceed radius_zyx")
        require(min(self.exclusion_radius_zyx) >= 0, "exclusion_radius_zyx", "must be >= 0")
        require(self.max_attempts >= 1, "max_attempts", "must be at least 1")
        require(0 < self.recovery_fraction <= 1, "recovery_fraction", "is a fraction above 0, at most 1")
        require(0 < self.object_threshold < 1, "object_threshold", "is a probability between 0 and 1")

    @classmethod
    def suiting(cls, network: NetworkConfig) -> "ResegmentationConfig":
        """The defaults' proportions for another field of view: 1.5 of it as radius, 1 (+ 1) to be judged."""
        fov, deltas = network.fov_zyx, network.deltas_zyx
        return cls(
            radius_zyx=(-(-3 * fov[0] // 2), -(-3 * fov[1] // 2), -(-3 * fov[2] // 2)),
            analysis_radius_zyx=(fov[0] + 1, fov[1] + 1, fov[2] + 1),
            exclusion_radius_zyx=deltas,
        )


class WatchedCanvas(Canvas):
    """A canvas that counts, for each move, the voxels which the network takes back."""

    deleted: tuple[int, ...] = ()
    """Of the moves of the current object."""

    def begin(self, seed_zyx: Triple) -> None:
        super().begin(seed_zyx)
        self.deleted = ()

    def scatter(self, position: Triple, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        old = self.belief[self._fov(position)]
        self.deleted += (int(np.count_nonzero((old >= _WAS_INSIDE) & (logits < _IS_OUTSIDE))),)
        return super().scatter(position, logits)


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One object: its seed and voxels, its moves and what each deleted; in the cube."""

    seed: Triple
    found: Mask
    moves: list[Triple]
    deleted: tuple[int, ...]
    recovered: float


class Pair:
    """The two segments of a decision point in their cube; seeds and moves in coordinates of the cube.

    `labels` (Z, Y, X) of the cube, whose first voxel is `corner` of the volume; `flood` on a canvas of it.
    """

    def __init__(
        self,
        point: DecisionPoint,
        labels: NDArray[np.generic],
        *,
        corner: Triple,
        flood: Flood,
        settings: ResegmentationConfig,
        voxel_size_zyx_nm: tuple[float, float, float],
    ) -> None:
        self.point, self.corner, self.flood, self.settings = point, corner, flood, settings
        self.voxel_size_zyx_nm = voxel_size_zyx_nm
        self.first, self.second = labels == point.first, labels == point.second
        self.others = (labels != 0) & ~self.first & ~self.second
        flood.canvas.labels[self.others] = 1
        self.box = box_around(_minus(point.point_zyx, corner), settings.analysis_radius_zyx, labels.shape)

    def evidence(self) -> Generator[list[View], Answers, PairEvidence]:
        """Yields fields of view, is sent the answers (B, Z, Y, X), returns the evidence."""
        first, second = self.first[self.box], self.second[self.box]
        both = bool(first.any() and second.any())
        if not both:
            return self._evidence(first, second, {})
        segments = {"first": self.first, "second": self.second}
        small, large = sorted(segments, key=lambda name: int(np.count_nonzero(segments[name][self.box])))
        found = {small: (yield from self._reflood(segments[small]))}
        if not (self.settings.stop_early and self._is_lost(found[small][0])):
            found[large] = yield from self._reflood(segments[large])
        return self._evidence(first, second, found)

    def _is_lost(self, found: Reflooding | None) -> bool:
        return (
            found is None
            or min(found.recovered_first, found.recovered_second) < self.settings.recovery_fraction
        )

    def _evidence(
        self, first: Mask, second: Mask, found: dict[str, tuple[Reflooding | None, Mask | None]]
    ) -> PairEvidence:
        (one, one_mask), (other, other_mask) = (found.get(name, (None, None)) for name in ("first", "second"))
        iou = 0.0 if one_mask is None or other_mask is None else jaccard(one_mask, other_mask)
        return PairEvidence(
            first=self.point.first,
            second=self.point.second,
            point_zyx=self.point.point_zyx,
            voxels_first=int(np.count_nonzero(first)),
            voxels_second=int(np.count_nonzero(second)),
            max_edt_first_nm=max_edt_nm(first, self.voxel_size_zyx_nm),
            max_edt_second_nm=max_edt_nm(second, self.voxel_size_zyx_nm),
            from_first=one,
            from_second=other,
            iou=iou,
        )

    def _reflood(
        self, segment: Mask
    ) -> Generator[list[View], Answers, tuple[Reflooding | None, Mask | None]]:
        """The best object flooded from inside `segment`, as numbers and as a mask of the analysis box."""
        best: _Attempt | None = None
        attempts = moves = 0
        for seed in self._seeds(segment):
            attempt = yield from self._attempt(seed, segment)
            attempts, moves = attempts + 1, moves + len(attempt.moves)
            if best is None or attempt.recovered > best.recovered:
                best = attempt
            if attempt.recovered >= self.settings.recovery_fraction:
                break
        if best is None:
            return None, None
        found = best.found[self.box]
        voxels = int(np.count_nonzero(found))
        return (
            Reflooding(
                seed_zyx=_plus(best.seed, self.corner),
                attempts=attempts,
                moves=moves,
                voxels=voxels,
                recovered_first=recovered_fraction(found, self.first[self.box]),
                recovered_second=recovered_fraction(found, self.second[self.box]),
                foreign_fraction=int(np.count_nonzero(found & self.others[self.box])) / max(voxels, 1),
                deleted_voxels=self._deleted_in_box(best),
                max_edt_nm=max_edt_nm(found, self.voxel_size_zyx_nm),
            ),
            found,
        )

    def _seeds(self, segment: Mask) -> Iterator[Triple]:
        """The deepest voxel of the segment with room for a field of view, then the deepest far from it."""
        depth = ndimage.distance_transform_edt(segment, sampling=self.voxel_size_zyx_nm)
        inner = tuple(
            slice(m, max(n - m, m)) for m, n in zip(self.flood.canvas.margin_zyx, segment.shape, strict=True)
        )
        allowed = np.zeros(segment.shape, bool)
        allowed[inner] = True
        if (starts := self.flood.canvas.masks.starts) is not None:
            allowed &= starts
        depth[~allowed] = 0
        for _ in range(self.settings.max_attempts):
            z, y, x = (int(i) for i in np.unravel_index(int(depth.argmax()), depth.shape))
            if depth[z, y, x] <= 0:
                return
            yield z, y, x
            depth[box_around((z, y, x), self.settings.exclusion_radius_zyx, depth.shape)] = 0

    def _attempt(self, seed: Triple, segment: Mask) -> Generator[list[View], Answers, _Attempt]:
        canvas = self.flood.canvas
        assert isinstance(canvas, WatchedCanvas)
        current, moves = self.flood.begin(seed), list[Triple]()
        while positions := self.flood.choose_moves(current):
            answers = yield [canvas.gather(position) for position in positions]
            self.flood.take_answers(current, positions, answers)
            moves += positions
        found = canvas.belief >= logit(self.settings.object_threshold)  # NaN, unseen, is not
        return _Attempt(seed, found, moves, canvas.deleted, recovered_fraction(found, segment))

    def _deleted_in_box(self, attempt: _Attempt) -> int:
        return sum(
            count
            for move, count in zip(attempt.moves, attempt.deleted, strict=True)
            if all(s.start <= p < s.stop for p, s in zip(move, self.box, strict=True))
        )


def box_around(centre: Triple, radius: Triple, shape: tuple[int, ...]) -> Slices:
    """The box of this radius around a point, within the shape."""
    z, y, x = (slice(max(c - r, 0), min(c + r + 1, n)) for c, r, n in zip(centre, radius, shape, strict=True))
    return z, y, x


def _plus(position: Triple, offset: Triple) -> Triple:
    return position[0] + offset[0], position[1] + offset[1], position[2] + offset[2]


def _minus(position: Triple, offset: Triple) -> Triple:
    return position[0] - offset[0], position[1] - offset[1], position[2] - offset[2]
