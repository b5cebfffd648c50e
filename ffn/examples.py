"""Training examples: cubes around a voxel of an object, larger than the field of view to train movement.

x
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ffn.augment import AugmentConfig, augment
from ffn.config import ConfigError, Normalisation, Triple, require


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingVolume:
    """`image` uint8 and `labels` integer (Z, Y, X); label 0 belongs to no object."""

    image: NDArray[np.uint8]
    labels: NDArray[np.uint32]

    def __post_init__(self) -> None:
        require(self.image.ndim == 3, "image", f"must be (Z, Y, X), found {self.image.ndim} axes")
        require(self.image.shape == self.labels.shape, "labels", "must have the shape of the image")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleConfig:
    """`shape_zyx` is an example in voxels (odd); `fill_fractions` are the upper ends of the partitions.

    `positions_per_volume` are drawn once from every volume and partitioned.
    """

    shape_zyx: Triple = (49, 49, 49)
    fill_fractions: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    positions_per_volume: int = 20_000

    def __post_init__(self) -> None:
        require(all(n % 2 == 1 for n in self.shape_zyx), "shape_zyx", "must be odd")
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
    """A stream of examples, numbered from 0; number n is always the same example."""

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
        self._volumes, self._config, self._augmentation = list(volumes), config, augmentation
        self._normalisation, self._seed = normalisation, seed
        self._partitions = self._partition()

    def __getitem__(self, number: int) -> Example:
        rng = np.random.default_rng([self._seed, 1, number])
        partition = self._partitions[int(rng.integers(len(self._partitions)))]
        volume_index, *centre = (int(v) for v in partition[int(rng.integers(len(partition)))])
        where = _around((centre[0], centre[1], centre[2]), self._config.shape_zyx)
        volume = self._volumes[volume_index]
        image, labels = augment(
            volume.image[where].astype(np.float32), volume.labels[where], config=self._augmentation, rng=rng
        )
        target = labels == labels[tuple(n // 2 for n in labels.shape)]
        image -= np.float32(self._normalisation.mean)
        image /= np.float32(self._normalisation.std)
        return Example(image=image, target=target)

    def _partition(self) -> list[NDArray[np.int64]]:
        """The positions (N, 4: volume, z, y, x) of each fill-fraction partition that has any."""
        positions, fractions = [], []
        for index, volume in enumerate(self._volumes):
            rng = np.random.default_rng([self._seed, 0, index])
            found, filled = _positions(volume, self._config, rng)
            positions.append(np.insert(found, 0, index, axis=1))
            fractions.append(filled)
        place, fraction = np.concatenate(positions), np.concatenate(fractions)
        if len(place) == 0:
            raise ConfigError("volumes: no labelled voxel is far enough from the border for one example")
        part = np.searchsorted(np.asarray(self._config.fill_fractions), fraction)
        return [place[part == p] for p in np.unique(part)]


def _positions(
    volume: TrainingVolume, config: ExampleConfig, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Random labelled centres (N, 3), and the fraction (N,) of the example that their object fills."""
    half = np.asarray(config.shape_zyx) // 2
    high = np.asarray(volume.labels.shape) - half
    if (high <= half).any():
        raise ConfigError(f"volumes: {volume.labels.shape} is smaller than an example, {config.shape_zyx}")
    tries = rng.integers(half, high, (config.positions_per_volume, 3))
    z, y, x = tries.T
    found = tries[volume.labels[z, y, x] > 0]
    fractions = np.empty(len(found))
    for i, (z, y, x) in enumerate(found):
        patch = volume.labels[_around((z, y, x), config.shape_zyx)][
            ::2, ::2, ::2
        ]  # every 8th voxel is enough
        fractions[i] = (patch == volume.labels[z, y, x]).mean()
    return found, fractions


def _around(centre: Triple, shape: Triple) -> tuple[slice, slice, slice]:
    z, y, x = (slice(c - n // 2, c - n // 2 + n) for c, n in zip(centre, shape, strict=True))
    return z, y, x
