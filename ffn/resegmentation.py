"""Are two segments one? Flood again at their decision point, once from inside each, and compare.

    +-- cube ------------------+     other segments stay as they are: no move goes into them;
    |   c c c  c c c c c c     |     A and B are forgotten, and flooded from seeds deep inside each;
    |  +-- analysis box ----+  |     the two objects, within the analysis box, are the evidence
    | a|a a * a a . b b * b |b |     (`ffn.evidence`): from one neurite both seeds give the same object.
    |  +--------------------+  |
    +--------------------------+

A port of google/ffn's pair resegmentation (`process_point`, `evaluate_pair_resegmentation`; Januszewski et
al. 2018, doi 10.1038/s41592-018-0049-4). Three things differ: a cube is cut at the volume's border, not given
up; of several attempts without success the best counts, not the last; voxels that the object took from
other segments are counted.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from ffn.candidates import DecisionPoint
from ffn.canvas import Canvas, Thresholds
from ffn.checkpoint import Model
from ffn.config import InferenceConfig, NetworkConfig, Triple, logit, reach, require
from ffn.device import choose_device
from ffn.engine import Engine, Kernel, Precision
from ffn.evidence import Mask, PairEvidence, Reflooding, jaccard, max_edt_nm, recovered_fraction
from ffn.flood import Flood
from ffn.inference import check_image
from ffn.masks import Masks

_WAS_INSIDE, _IS_OUTSIDE = logit(0.8), logit(0.5)  # google/ffn's `history_deleted`

Slices = tuple[slice, slice, slice]


class Volume(Protocol):
    """Anything that is sliced like an array (Z, Y, X): numpy, memmap, zarr."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, key: Slices, /) -> NDArray[np.generic]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ResegmentationConfig:
    """What is flooded around a decision point, and what counts; in voxels, defaults for the FIB-25 network.

    `radius_zyx` of the cube, `analysis_radius_zyx` of the box that is judged: those of google/ffn's manual.
    Up to `max_attempts` seeds are tried in a segment, `exclusion_radius_zyx` apart, until the object recovers
    `recovery_fraction` of its voxels in the cube. `object_threshold`: the probability from which a voxel is
    part of the object. `stop_early` saves the second flooding when the first recovered too little of either.
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


def resegment(
    image: Volume,
    labels: Volume,
    points: Iterable[DecisionPoint],
    *,
    model: Model,
    settings: ResegmentationConfig | None = None,
    config: InferenceConfig | None = None,
    voxel_size_zyx_nm: tuple[float, float, float] | None = None,
    mask: Volume | None = None,
    device: torch.device | None = None,
    kernel: Kernel = "auto",
    precision: Precision = "fp32",
) -> Iterator[PairEvidence]:
    """Yields the evidence of each decision point, in their order.

    `image` and `labels` (Z, Y, X; 0 = none) show the same voxels, `mask` too (bool, True = tissue); a cube at
    a time is read of each. `settings` default to those suiting the model's network, `config` and
    `voxel_size_zyx_nm` to the model's.

    Raises InferenceError for cubes that cannot be flooded (see `ffn.inference.segment`), ValueError for
    volumes of different shapes or a point outside.
    """
    network = model.network.config
    settings = settings or ResegmentationConfig.suiting(network)
    config = config or model.inference
    shape = tuple(image.shape)
    for name, other in (("labels", labels), ("mask", mask)):
        if other is not None and tuple(other.shape) != shape:
            raise ValueError(f"{name}: shape {tuple(other.shape)} must equal the image's {shape}")
    engine = Engine(
        model.network,
        model.normalisation,
        device=device or choose_device("cpu"),
        precision=precision,
        kernel=kernel,
    )
    for point in points:
        if not all(0 <= p < n for p, n in zip(point.point_zyx, shape, strict=True)):
            raise ValueError(f"points: {point.point_zyx} lies outside the volume of shape {shape}")
        cube = _box(point.point_zyx, settings.radius_zyx, shape)
        tissue = None if mask is None else np.asarray(mask[cube], bool)
        masks = Masks.of(tissue)
        seen = np.ascontiguousarray(image[cube])
        check_image(seen, masks, model.normalisation)
        canvas = _WatchedCanvas(
            seen, fov_zyx=network.fov_zyx, thresholds=Thresholds.of(config), allowed=masks
        )
        flood = Flood(
            canvas,
            engine,
            config=config,
            deltas_zyx=reach(config, network),
            max_fovs=None,
            clock=time.perf_counter,
        )
        pair = _Pair(
            point,
            np.asarray(labels[cube]),
            cube,
            flood,
            settings,
            voxel_size_zyx_nm or model.voxel_size_zyx_nm,
        )
        yield pair.evidence()


class _WatchedCanvas(Canvas):
    """A canvas that counts, for each move, the voxels which the network takes back."""

    def __init__(
        self,
        image: NDArray[np.generic],
        *,
        fov_zyx: Triple,
        thresholds: Thresholds,
        allowed: Masks,
    ) -> None:
        super().__init__(image, fov_zyx=fov_zyx, thresholds=thresholds, allowed=allowed)
        self.deleted: list[int] = []

    def scatter(self, position: Triple, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        old = self.belief[self._fov(position)]
        self.deleted.append(int(np.count_nonzero((old >= _WAS_INSIDE) & (logits < _IS_OUTSIDE))))
        return super().scatter(position, logits)


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One object: its seed and voxels, its moves and what each deleted; in the cube."""

    seed: Triple
    found: Mask
    moves: list[Triple]
    deleted: list[int]
    recovered: float


class _Pair:
    """The two segments of a decision point in their cube (coordinates of the cube)."""

    def __init__(
        self,
        point: DecisionPoint,
        labels: NDArray[np.generic],
        cube: Slices,
        flood: Flood,
        settings: ResegmentationConfig,
        voxel_size_zyx_nm: tuple[float, float, float],
    ) -> None:
        self.point, self.settings, self.flood = point, settings, flood
        self.voxel_size_zyx_nm = voxel_size_zyx_nm
        self.corner: Triple = (cube[0].start, cube[1].start, cube[2].start)
        self.first, self.second = labels == point.first, labels == point.second
        self.others = (labels != 0) & ~self.first & ~self.second
        flood.canvas.labels[self.others] = 1
        centre = _minus(point.point_zyx, self.corner)
        self.box = _box(centre, settings.analysis_radius_zyx, labels.shape)

    def evidence(self) -> PairEvidence:
        first, second = self.first[self.box], self.second[self.box]
        both = bool(first.any() and second.any())
        one, one_mask = self._reflood(self.first) if both else (None, None)
        settled = (
            one is None or min(one.recovered_first, one.recovered_second) < self.settings.recovery_fraction
        )
        skip = not both or (self.settings.stop_early and settled)
        other, other_mask = (None, None) if skip else self._reflood(self.second)
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

    def _reflood(self, segment: Mask) -> tuple[Reflooding | None, Mask | None]:
        """The best object flooded from inside `segment`, as numbers and as a mask of the analysis box."""
        best: _Attempt | None = None
        attempts = moves = 0
        for seed in self._seeds(segment):
            attempt = self._attempt(seed, segment)
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
            depth[_box((z, y, x), self.settings.exclusion_radius_zyx, depth.shape)] = 0

    def _attempt(self, seed: Triple, segment: Mask) -> _Attempt:
        canvas = self.flood.canvas
        assert isinstance(canvas, _WatchedCanvas)
        canvas.deleted.clear()
        moves = self.flood.flood_from(seed)
        found = canvas.belief >= logit(self.settings.object_threshold)  # NaN, unseen, is not
        return _Attempt(seed, found, moves, list(canvas.deleted), recovered_fraction(found, segment))

    def _deleted_in_box(self, attempt: _Attempt) -> int:
        return sum(
            count
            for move, count in zip(attempt.moves, attempt.deleted, strict=True)
            if all(s.start <= p < s.stop for p, s in zip(move, self.box, strict=True))
        )


def _box(centre: Triple, radius: Triple, shape: tuple[int, ...]) -> Slices:
    """The box of this radius around a point, within the shape."""
    z, y, x = (slice(max(c - r, 0), min(c + r + 1, n)) for c, r, n in zip(centre, radius, shape, strict=True))
    return z, y, x


def _plus(position: Triple, offset: Triple) -> Triple:
    return position[0] + offset[0], position[1] + offset[1], position[2] + offset[2]


def _minus(position: Triple, offset: Triple) -> Triple:
    return position[0] - offset[0], position[1] - offset[1], position[2] - offset[2]
