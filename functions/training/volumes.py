"""The volumes of a recipe, opened: arrays read whole, or windows on zarr arrays that are read box by box."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import zarr
from numpy.typing import NDArray

from ffn.config import ConfigError, Triple, require
from ffn.examples import TrainingVolume
from functions.model.geometry import Box
from functions.model.volume import MOST_VOXELS
from functions.store.label_files import finest_level
from functions.testing.phantom_training import PhantomVolumes, training_volumes
from functions.training.cache import BlockCache, Window
from functions.training.entries import Entry, NpzVolume, StoredVolume, parse_box
from functions.training.sampling import downsample_image, downsample_labels, split_pieces, whole_blocks

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenVolume:
    """A volume in memory: to train on, and the truth before downsampling to judge by.

    `truth` uint32 (Z, Y, X): 0 = background, 1.. = objects, and `unknown`, if there is such, not judged.
    """

    name: str
    training: TrainingVolume
    truth: NDArray[np.uint32]
    unknown: int | None = None
    downsample_zyx: Triple = (1, 1, 1)


def open_training(entries: tuple[Entry, ...], *, data: Path) -> list[TrainingVolume]:
    """The volumes to train on; zarr arrays stay on disk. Raises ConfigError naming the field."""
    return [v for found in _each(entries, _open_training, data, "volumes") for v in found]


def open_held_out(entries: tuple[Entry, ...], *, data: Path) -> list[OpenVolume]:
    """The volumes to validate on, in memory. Raises ConfigError naming the field."""
    return [v for found in _each(entries, _open_whole, data, "validation.volumes") for v in found]


def _each(
    entries: tuple[Entry, ...], read: Callable[[Entry, Path], list[T]], data: Path, where: str
) -> Iterator[list[T]]:
    for i, entry in enumerate(entries):
        try:
            yield read(entry, data)
        except ConfigError as error:
            raise ConfigError(f"{where}[{i}].{error}") from None


def _open_training(entry: Entry, data: Path) -> list[TrainingVolume]:
    if isinstance(entry, PhantomVolumes):
        return training_volumes(entry)
    if isinstance(entry, NpzVolume) or entry.in_memory:
        return [volume.training for volume in _open_whole(entry, data)]
    image, labels = _arrays(entry, data)
    box = _box(entry, image.shape)
    cache = BlockCache(most_bytes=entry.cache_mib << 20)
    return [
        TrainingVolume(
            image=Window(image, box, cache=cache),
            labels=Window(labels, box, cache=cache),
            background_labels=entry.background_labels,
            ignore_labels=entry.ignore_labels,
        )
    ]


def _open_whole(entry: Entry, data: Path) -> list[OpenVolume]:
    if isinstance(entry, PhantomVolumes):
        volumes = zip(entry.seeds, training_volumes(entry), strict=True)
        return [
            OpenVolume(name=f"phantom {s}", training=v, truth=np.asarray(v.labels[:, :, :]))
            for s, v in volumes
        ]
    image, labels = _arrays(entry, data)
    box = _box(entry, image.shape)
    fits = box.voxels <= MOST_VOXELS
    require(fits, "box", f"{box.voxels} voxels are too many to hold in memory; give a smaller box")
    try:
        return [_in_memory(entry, np.asarray(image[box.slices]), np.asarray(labels[box.slices]))]
    except (RuntimeError, OSError) as error:
        raise ConfigError(f"path: {data / entry.path} is damaged ({error}); copy it again") from None


def _arrays(entry: StoredVolume, data: Path) -> tuple[Any, Any]:
    """Image and labels of one shape, not read yet if they are zarr arrays."""
    path = data / entry.path
    if not path.exists():
        raise ConfigError(f"path: {path} does not exist; correct it, or give the data's folder with --data")
    read = _npz_array if isinstance(entry, NpzVolume) else _zarr_array
    image, labels = read(path, entry.image, "image"), read(path, entry.labels, "labels")
    TrainingVolume(image=image, labels=labels)  # checks dimensions, shapes and types
    return image, labels


def _in_memory(entry: StoredVolume, image: NDArray[np.generic], labels: NDArray[np.integer]) -> OpenVolume:
    """Downsampled and relabelled as the entry says."""
    truth, unknown = _renumbered(labels, entry)
    factor = entry.downsample_zyx
    z, y, x = image.shape
    truth = truth[whole_blocks((z, y, x), factor)]
    coarse = downsample_labels(truth, factor).copy()
    hidden = None if unknown is None else coarse == unknown
    if entry.relabel:
        coarse = split_pieces(coarse)
    if entry.min_object_voxels:
        sizes = np.bincount(coarse.ravel())
        coarse = np.where(sizes[coarse] < entry.min_object_voxels, 0, coarse).astype(np.uint32)
    ignored: tuple[int, ...] = ()
    if hidden is not None:
        ignored = (int(coarse.max()) + 1,)
        coarse[hidden] = ignored[0]
    training = TrainingVolume(
        image=downsample_image(image, factor), labels=coarse, background_labels=(0,), ignore_labels=ignored
    )
    return OpenVolume(name=entry.path, training=training, truth=truth, unknown=unknown, downsample_zyx=factor)


def _renumbered(labels: NDArray[np.integer], entry: StoredVolume) -> tuple[NDArray[np.uint32], int | None]:
    """0 = background, 1.. = objects, and the id of what is unknown, if anything is."""
    values, inverse = np.unique(labels, return_inverse=True)
    background, ignored = np.isin(values, entry.background_labels), np.isin(values, entry.ignore_labels)
    new = np.cumsum(~background & ~ignored)
    new[background] = 0
    unknown = len(values) + 1 if ignored.any() else None
    new[ignored] = len(values) + 1
    return new.astype(np.uint32)[inverse].reshape(labels.shape), unknown


def _npz_array(path: Path, name: str, field: str) -> Any:
    try:
        with np.load(path, allow_pickle=False) as archive:
            if name not in archive.files:
                raise ConfigError(f"{field}: {path} has no array {name!r}, but {', '.join(archive.files)}")
            return archive[name]
    except ConfigError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise ConfigError(f"path: {path} is not a readable .npz file ({error}); copy it again") from None


def _zarr_array(path: Path, name: str, field: str) -> Any:
    try:
        return finest_level(zarr.open(str(path / name), mode="r"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{field}: {path / name} is no zarr array ({error}); correct the path") from None


def _box(entry: StoredVolume, shape: tuple[int, ...]) -> Box:
    whole = Box(offset_zyx=(0, 0, 0), shape_zyx=(shape[0], shape[1], shape[2]))
    box = parse_box(entry.box) or whole
    require(
        whole.contains(box), "box", f"{entry.box} leaves the volume's shape {shape}; give a box inside it"
    )
    return box
