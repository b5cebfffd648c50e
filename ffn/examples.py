"""Training examples: cubes around a voxel of an object, larger than the field of view to train movement.

Where examples lie is decided once, from blocks of the labels: random voxels of objects, partitioned by the
fraction of the cube that their object fills, which are then drawn from evenly (Januszewski et al. 2018; in
google/ffn `compute_partitions`). Each example is read when it is asked for: volumes may exceed memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ffn.augment import AugmentConfig, augment
from ffn.config import ConfigError, Normalisation, Triple, require

OTHER, OBJECT, UNKNOWN = 0, 1, 2
"""What a voxel of an example is: of the central voxel's object, of anything else, or not known."""

_BLOCK = 64  # side of the blocks in which centres are looked for, voxels
_PER_BLOCK = 250  # centres looked for in a block before another block is worth reading


class Array(Protocol):
    """A 3-d array that is read by boxes: numpy, memory-mapped, zarr, or a window on one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent of each axis."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""

    def __getitem__(self, where: tuple[slice, slice, slice], /) -> Any:
        """The voxels of a box as a numpy array."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingVolume:
    """`image` (grey values of any number type) and `labels` (integers), both (Z, Y, X), read by boxes.

    Voxels of `background_labels` belong to no object; those of `ignore_labels` are unknown: no weight.
    """

    image: Array
    labels: Array
    background_labels: tuple[int, ...] = (0,)
    ignore_labels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        axes = len(self.image.shape)
        require(axes == 3, "image", f"must be (Z, Y, X), found {axes} axes; take one channel of one volume")
        same = tuple(self.image.shape) == tuple(self.labels.shape)
        require(same, "labels", f"must have the shape of the image, {self.image.shape}; crop both to one box")
        kind = np.dtype(self.image.dtype).kind
        require(kind in "uif", "image", f"{self.image.dtype} are no grey values; convert to uint8 or uint16")
        kind = np.dtype(self.labels.dtype).kind
        require(kind in "ui", "labels", f"{self.labels.dtype} are no ids; give integers, 0 for none")
        if isinstance(self.image, np.ndarray) and not isinstance(self.image, np.memmap):
            _require_finite(self.image, "image")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleConfig:
    """`shape_zyx` is an example in voxels (odd); `fill_fractions` are the upper ends of the partitions.

    `positions_per_volume` are drawn once from every volume and partitioned. `connected` leaves out of an
    object what is not connected with its central voxel inside the example (through faces): no movement can
    get there.
    """

    shape_zyx: Triple = (49, 49, 49)
    fill_fractions: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    positions_per_volume: int = 20_000
    connected: bool = False

    def __post_init__(self) -> None:
        require(all(n > 0 and n % 2 == 1 for n in self.shape_zyx), "shape_zyx", "must be odd")
        ends = self.fill_fractions
        require(
            len(ends) > 0 and list(ends) == sorted(set(ends)) and ends[0] > 0 and ends[-1] == 1.0,
            "fill_fractions",
            "must rise from above 0 to 1.0",
        )
        require(self.positions_per_volume > 0, "positions_per_volume", "must be positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """Normalised `image` float32 and `target` bool (Z, Y, X): the object of the central voxel.

    `known` bool: where the truth is known; voxels elsewhere carry no weight. None: everywhere.
    """

    image: NDArray[np.float32]
    target: NDArray[np.bool_]
    known: NDArray[np.bool_] | None = None


class ExampleSource:
    """A stream of examples, numbered from 0; number n is always the same one, however volumes are stored."""

    def __init__(
        self,
        volumes: Sequence[TrainingVolume],
        *,
        config: ExampleConfig,
        augmentation: AugmentConfig,
        normalisation: Normalisation,
        seed: int,
    ) -> None:
        require(len(volumes) > 0, "volumes", "give at least one training volume")
        sides = {"": 0, "yx": 2, "zyx": 3}[augmentation.swap_axes]
        require(
            len(set(config.shape_zyx[3 - sides :])) <= 1,
            "augmentation.swap_axes",
            f"examples of {config.shape_zyx} change their shape with it; swap axes of equal extent only",
        )
        self._volumes, self._config, self._augmentation = list(volumes), config, augmentation
        self._normalisation, self._seed = normalisation, seed
        self._partitions = self._partition()

    def __getitem__(self, number: int) -> Example:
        rng = np.random.default_rng([self._seed, 1, number])
        partition = self._partitions[int(rng.integers(len(self._partitions)))]
        index, *centre = (int(v) for v in partition[int(rng.integers(len(partition)))])
        where = _around((centre[0], centre[1], centre[2]), self._config.shape_zyx)
        volume = self._volumes[index]
        seen = np.asarray(volume.image[where])
        _require_finite(seen, f"volumes[{index}].image")
        judged = self._judge(volume, np.asarray(volume.labels[where]))
        image, voxels = augment(seen.astype(np.float32), judged, config=self._augmentation, rng=rng)
        image -= np.float32(self._normalisation.mean)
        image /= np.float32(self._normalisation.std)
        known = voxels != UNKNOWN if volume.ignore_labels else None
        return Example(image=image, target=voxels == OBJECT, known=known)

    def _judge(self, volume: TrainingVolume, labels: NDArray[np.integer]) -> NDArray[np.uint8]:
        """What each voxel is, in an example whose centre lies in an object."""
        centre = tuple(n // 2 for n in labels.shape)
        of_object = labels == labels[centre]
        if self._config.connected:
            pieces, _ = ndimage.label(of_object)
            of_object = pieces == pieces[centre]
        voxels: NDArray[np.uint8] = of_object.astype(np.uint8)  # OTHER, OBJECT
        if volume.ignore_labels:
            voxels[np.isin(labels, volume.ignore_labels)] = UNKNOWN
        return voxels

    def _partition(self) -> list[NDArray[np.int64]]:
        """The positions (N, 4: volume, z, y, x) of each fill-fraction partition that has any."""
        positions, fractions = [np.empty((0, 4), np.int64)], [np.empty(0)]
        for index, volume in enumerate(self._volumes):
            rng = np.random.default_rng([self._seed, 0, index])
            for found, filled in _positions(volume, self._config, rng, field=f"volumes[{index}]"):
                positions.append(np.insert(found, 0, index, axis=1))
                fractions.append(filled)
        place, fraction = np.concatenate(positions), np.concatenate(fractions)
        if len(place) == 0:
            raise ConfigError(
                "volumes: no labelled voxel is far enough from the border for one example; "
                "give a box with objects in it, or smaller examples"
            )
        part = np.searchsorted(np.asarray(self._config.fill_fractions), fraction)
        return [place[part == p] for p in np.unique(part)]


def _positions(
    volume: TrainingVolume, config: ExampleConfig, rng: np.random.Generator, *, field: str
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Per block: random centres (N, 3) in objects, and the fraction (N,) of the example that each fills.

    Of a small volume all blocks are read, of a large one as many random ones as the positions are worth.
    """
    half = np.asarray(config.shape_zyx) // 2
    extent = np.asarray(volume.labels.shape) - 2 * half  # of the centres
    if (extent <= 0).any():
        raise ConfigError(
            f"{field}: {tuple(volume.labels.shape)} is smaller than an example, {config.shape_zyx}; "
            "give a larger volume or smaller examples"
        )
    grid = -(-extent // _BLOCK)
    count = int(np.prod(grid))
    wanted = min(count, -(-config.positions_per_volume // _PER_BLOCK))
    chosen = np.sort(rng.choice(count, wanted, replace=False)) if wanted < count else np.arange(count)
    starts = np.stack(np.unravel_index(chosen, grid), axis=1) * _BLOCK
    ends = np.minimum(starts + _BLOCK, extent)
    sizes = np.prod(ends - starts, axis=1)
    shares = rng.multinomial(config.positions_per_volume, sizes / sizes.sum())
    outside = (*volume.background_labels, *volume.ignore_labels)
    for start, end, share in zip(starts, ends, shares, strict=True):
        tries = rng.integers(start, end, (share, 3))  # from the first voxel that can be a centre
        z, y, x = (slice(int(a), int(b + 2 * h)) for a, b, h in zip(start, end, half, strict=True))
        labels = np.asarray(volume.labels[z, y, x])
        local = tries - start
        owner = labels[tuple((local + half).T)]
        inside = ~np.isin(owner, outside)
        yield tries[inside] + half, _filled(labels, local[inside], owner[inside], config.shape_zyx)


def _filled(
    labels: NDArray[np.integer], corners: NDArray[np.int64], owners: NDArray[np.integer], shape: Triple
) -> NDArray[np.float64]:
    """The fraction of the cube at each corner that its owner fills; every 8th voxel is enough."""
    coarse = np.ascontiguousarray(labels[::2, ::2, ::2])
    fractions = np.empty(len(corners))
    for i, (corner, owner) in enumerate(zip(corners.tolist(), owners, strict=True)):
        z, y, x = (slice((c + 1) // 2, (c + n + 1) // 2) for c, n in zip(corner, shape, strict=True))
        patch = coarse[z, y, x]
        fractions[i] = np.count_nonzero(patch == owner) / max(1, patch.size)
    return fractions


def _around(centre: Triple, shape: Triple) -> tuple[slice, slice, slice]:
    z, y, x = (slice(c - n // 2, c - n // 2 + n) for c, n in zip(centre, shape, strict=True))
    return z, y, x


def _require_finite(image: NDArray[Any], field: str) -> None:
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise ConfigError(f"{field}: has NaN or infinite voxels; fill them and give their labels as ignored")
