"""What finds objects in one subvolume: the interface, and the flood-filling network behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

from ffn.masks import Masks
from functions.model.errors import ModelError, VolumeError
from functions.model.geometry import ZYX
from functions.model.parameters import SeedOrder, SegmentParameters
from functions.networks import choose, config_of, count_at_once, load, place, seat_shared
from functions.store.progress import Drained, ProgressFile
from functions.store.verdicts import find_verdict
from functions.tasks import Problem

if TYPE_CHECKING:
    import torch

    from ffn.candidates import DecisionPoint
    from ffn.checkpoint import Model
    from ffn.config import InferenceConfig
    from ffn.engine import Precision
    from ffn.evidence import PairEvidence
    from ffn.inference import Segmentation, Snapshot
    from ffn.joint import Seat
    from ffn.resegmentation import ResegmentationConfig

BATCH = 32
"""Fields of view per network call on an accelerator."""

Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flooded:
    """What a segmenter returns: labels (Z, Y, X), 0 = none, what they cost, and what a person should know.

    The counts are those of `ffn.inference.Counters`.
    """

    labels: NDArray[np.uint32]
    fovs: int = 0
    rejected_fovs: int = 0
    skipped_moves: int = 0
    discarded_fovs: int = 0
    calls: int = 0
    seeds: int = 0
    attempts: int = 0
    weak: int = 0
    small: int = 0
    network_seconds: float = 0.0
    host_seconds: float = 0.0
    problems: tuple[Problem, ...] = ()


class Segmenter(Protocol):
    """Anything that finds objects in an image; `masks` says where they may start, move and be labelled."""

    @property
    def radius_zyx(self) -> ZYX:
        """Half its field of view: how near to a face of the image it can place its centre."""
        ...

    def __call__(self, image: Image, masks: Masks) -> Flooded:
        """Label the objects of `image` (Z, Y, X)."""
        ...


class _Network(TypedDict):
    """What each flood is told of the network: which, how, where and in what numbers."""

    model: Model
    config: InferenceConfig
    device: torch.device
    precision: Precision


class FfnSegmenter:
    """A flood-filling network on the device, and in the precision, that the parameters name.

    Where a process floods several subvolumes at once, they meet at one network (`ffn.joint`); else with a
    batch by `segment_many`: the same moves, many at once.
    With `progress` it keeps there every few minutes how far it got, and goes on from what it finds there;
    when `stop` says so it does that at once, and raises `Drained`.
    """

    def __init__(
        self,
        path: Path,
        parameters: SegmentParameters,
        *,
        progress: ProgressFile | None = None,
        seed_order: SeedOrder | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Load the model of a file; `seed_order` takes the place of the model's or the mode's.

        Raises:
            ModelError: not a model, no such device, or a precision that nobody has passed.
        """
        self._path, self._model = path, load(path)
        self._parameters = parameters
        self._config = config_of(self._model, parameters, seed_order=seed_order)
        self._progress = progress if parameters.checkpoint_seconds > 0 else None
        self._stop = stop
        self._device = place(choose(parameters.device), parameters)
        self._batch = parameters.batch or (BATCH if self._device.type != "cpu" else None)
        self._shares = count_at_once(parameters) > 1
        self._network = _Network(
            model=self._model, config=self._config, device=self._device, precision=parameters.precision
        )
        self._ungated = self._check_precision(path)

    @property
    def radius_zyx(self) -> ZYX:
        """Half the network's field of view."""
        z, y, x = self._model.network.config.fov_zyx
        return z // 2, y // 2, x // 2

    @property
    def min_segment_voxels(self) -> int:
        """The smallest object that is kept."""
        return self._config.min_segment_size

    def __call__(self, image: Image, masks: Masks) -> Flooded:
        """Flood `image` from seeds that `masks` allows.

        Raises:
            VolumeError: the image cannot be flooded as it is.
        """
        from ffn.inference import SnapshotError

        problems: list[Problem] = []
        resume = self._resume(problems)
        with _images_refused():
            try:
                result = self._segment(image, masks, resume, problems)
            except SnapshotError as error:
                problems.append(unusable(str(error)))
                result = self._segment(image, masks, None, problems)
        counters = result.counters
        return Flooded(
            labels=result.labels,
            fovs=counters.fovs,
            rejected_fovs=counters.rejected_fovs,
            skipped_moves=counters.skipped_moves,
            discarded_fovs=counters.discarded_fovs,
            calls=counters.calls,
            seeds=counters.seeds,
            attempts=counters.attempts,
            weak=counters.weak,
            small=counters.small,
            network_seconds=counters.seconds_network,
            host_seconds=counters.seconds_host,
            problems=tuple(problems),
        )

    @property
    def resegmentation(self) -> ResegmentationConfig:
        """The settings of `reflood` that suit the network."""
        from ffn.resegmentation import ResegmentationConfig

        return ResegmentationConfig.suiting(self._model.network.config)

    def reflood(
        self,
        image: Image,
        labels: NDArray[np.uint32],
        points: list[DecisionPoint],
        *,
        masks: Masks,
        settings: ResegmentationConfig,
        voxel_size_zyx_nm: tuple[float, float, float],
        at_once: int | None = None,
    ) -> list[PairEvidence]:
        """Flood both objects at each decision point again, starting and moving where `masks` allows.

        At most `at_once` pairs are in progress at a time; without it as many as a batch holds.

        Raises:
            VolumeError: the image cannot be flooded as it is.
        """
        from ffn.resegmentation import resegment

        batch = self._batch or 1
        with _images_refused():
            return list(
                resegment(
                    image,
                    labels,
                    points,
                    **self._network,
                    settings=settings,
                    voxel_size_zyx_nm=voxel_size_zyx_nm,
                    mask=masks.starts,
                    batch=batch if at_once is None else min(batch, at_once),
                )
            )

    def look_at(self, voxel_size_zyx_nm: tuple[float, float, float]) -> list[Problem]:
        """Problems when the network was trained at clearly another voxel size, or runs unjudged."""
        trained = self._model.voxel_size_zyx_nm
        factor = max(max(a / b, b / a) for a, b in zip(voxel_size_zyx_nm, trained, strict=True))
        if factor <= self._parameters.voxel_size_factor:
            return list(self._ungated)
        voxel_size = Problem(
            code="voxel_size",
            subject=f"volume {voxel_size_zyx_nm} nm, network {trained} nm",
            remedy="use a network trained at this voxel size",
        )
        return [*self._ungated, voxel_size]

    def _segment(
        self, image: Image, masks: Masks, resume: Snapshot | None, problems: list[Problem]
    ) -> Segmentation:
        from ffn.inference import segment, segment_many

        progress = self._progress

        def keep(snapshot: Snapshot) -> None:
            assert progress is not None
            try:
                progress.write(snapshot.to_arrays())
            except OSError as error:  # scratch is full: go on, hours of work are worth more than the way back
                if not any(p.code == "progress_not_kept" for p in problems):
                    problems.append(not_kept(error))
            if self._stop():
                raise Drained

        parameters = self._parameters
        if self._batch is None or self._shares:
            with self._seat() as seat:
                return segment(
                    image,
                    **self._network,
                    mask=masks,
                    engine=seat,
                    resume=resume,
                    on_checkpoint=None if progress is None else keep,
                    checkpoint_seconds=parameters.checkpoint_seconds,
                    checkpoint_now=self._stop,
                )
        (found,) = segment_many(
            [image],
            **self._network,
            batch=max(self._batch, self._config.frontier_batch),
            objects=parameters.objects,
            masks=[masks],
            resume=[resume],
            on_checkpoint=None if progress is None else lambda _, snapshot: keep(snapshot),
            checkpoint_seconds=parameters.checkpoint_seconds,
            checkpoint_now=self._stop,
        )
        return found

    def _seat(self) -> AbstractContextManager[Seat | None]:
        """A place at the process's network, where several subvolumes meet at it."""
        if not self._shares:
            return nullcontext()
        batch = self._batch or count_at_once(self._parameters)
        return seat_shared(self._path, self._device, self._parameters.precision, batch)

    def _resume(self, problems: list[Problem]) -> Snapshot | None:
        """How far an earlier process got; nothing when that cannot be read."""
        from ffn.inference import Snapshot, SnapshotError

        if self._progress is None:
            return None
        try:
            arrays = self._progress.read()
            return None if arrays is None else Snapshot.from_arrays(arrays)
        except (VolumeError, SnapshotError) as error:
            self._progress.put_aside()
            problems.append(unusable(str(error)))
            return None

    def _check_precision(self, path: Path) -> tuple[Problem, ...]:
        precision, device = self._parameters.precision, self._device.type
        if precision == "fp32":
            return ()
        verdict = find_verdict(path, sha256=self._model.sha256, precision=precision, device=device)
        if verdict is not None and verdict.passed:
            return ()
        found = f"did not pass ({verdict.reasons[0]})" if verdict and verdict.reasons else "was never judged"
        if not self._parameters.allow_ungated:
            raise ModelError(
                f"segment.precision: {precision} on {device} {found} for {path.name}",
                remedy=f"run `petavoxel model gate {path} --precision {precision} --device {device}`, "
                "use fp32, or set segment.allow_ungated=true",
            )
        return (
            Problem(
                code="precision_ungated",
                subject=f"{precision} on {device} {found}",
                remedy=f"petavoxel model gate {path.name} --precision {precision}",
            ),
        )


@contextmanager
def _images_refused() -> Iterator[None]:
    """An image that the network cannot flood is a matter of the volume."""
    from ffn.inference import InferenceError

    try:
        yield
    except InferenceError as error:
        raise VolumeError(str(error), remedy="look at the aligned volume, or take another model") from None


def not_kept(error: OSError) -> Problem:
    """What is told of a subvolume whose progress the disk did not take."""
    return Problem(code="progress_not_kept", subject=str(error), remedy="make room on scratch")


def unusable(why: str) -> Problem:
    """What is told of a subvolume whose progress could not be gone on with."""
    return Problem(
        code="progress_unusable", subject=why, remedy="nothing to do: the subvolume was begun anew"
    )
