"""The volumes that a training recipe names: one frozen type per kind, each checking its own fields.

phantom   synthetic tissue by seed
npz       two arrays of one .npz file, or of two .npy files
zarr      two zarr arrays or OME-Zarr images, read box by box as training asks for them
"""

from __future__ import annotations

from dataclasses import dataclass

from ffn.config import ConfigError, Triple, from_json, require
from functions.model.geometry import Box
from functions.testing.phantom_training import PhantomVolumes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredVolume:
    """Image and labels somewhere on disk, and what is made of them before they are trained on.

    `box` is "z0:z1,y0:y1,x0:x1", half-open, in voxels of the file; empty for the whole volume.
    `downsample_zyx` averages the image and takes the commonest label over blocks of that many voxels.
    `relabel` gives every connected piece of an object inside the box an id of its own. Voxels of
    `background_labels` belong to no object, those of `ignore_labels` are unknown: neither trained nor judged.
    Objects of fewer than `min_object_voxels` (after downsampling) become background: no example is centred on
    one, as in google/ffn's `compute_partitions`.
    """

    path: str
    image: str
    labels: str
    box: str = ""
    downsample_zyx: Triple = (1, 1, 1)
    relabel: bool = False
    min_object_voxels: int = 0
    background_labels: tuple[int, ...] = (0,)
    ignore_labels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require(self.path != "", "path", "is empty; name a file or folder")
        require(
            all(f >= 1 for f in self.downsample_zyx), "downsample_zyx", "must be at least 1 on every axis"
        )
        for name in ("background_labels", "ignore_labels"):
            require(all(v >= 0 for v in getattr(self, name)), name, "must not be negative")
        both = set(self.background_labels) & set(self.ignore_labels)
        require(not both, "ignore_labels", f"{sorted(both)} are background_labels too; keep them in one list")
        require(self.min_object_voxels >= 0, "min_object_voxels", "must not be negative")
        parse_box(self.box)

    @property
    def in_memory(self) -> bool:
        """Whether the box has to be read whole before training."""
        return self.relabel or self.min_object_voxels > 0 or self.downsample_zyx != (1, 1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class NpzVolume(StoredVolume):
    """Arrays `image` and `labels` of the .npz file `path`."""

    image: str = "image"
    labels: str = "labels"


@dataclass(frozen=True, slots=True, kw_only=True)
class ZarrVolume(StoredVolume):
    """Arrays `image` and `labels` inside the folder `path`; of an OME-Zarr image the finest level."""

    image: str = "image.zarr"
    labels: str = "labels.zarr"
    cache_mib: int = 256
    """Most memory that read blocks of this volume are kept in."""

    def __post_init__(self) -> None:
        StoredVolume.__post_init__(self)
        require(self.cache_mib >= 1, "cache_mib", "must be at least 1")


Entry = PhantomVolumes | NpzVolume | ZarrVolume
KINDS: dict[str, type[PhantomVolumes] | type[NpzVolume] | type[ZarrVolume]] = {
    "phantom": PhantomVolumes,
    "npz": NpzVolume,
    "zarr": ZarrVolume,
}


def parse_entries(data: object, *, where: str) -> tuple[Entry, ...]:
    """The entries of one list of a recipe; raises ConfigError naming the field."""
    if not isinstance(data, list) or not data:
        raise ConfigError(f"{where}: expected [[{where}]] tables; add at least one")
    return tuple(_parse_entry(value, f"{where}[{i}]") for i, value in enumerate(data))


def _parse_entry(data: object, where: str) -> Entry:
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected a table, found {data!r}")
    kind = data.get("kind")
    if kind not in KINDS:
        raise ConfigError(f"{where}.kind: {kind!r} is not one of {', '.join(KINDS)}")
    return from_json(KINDS[kind], {k: v for k, v in data.items() if k != "kind"}, where=where)


def parse_box(text: str) -> Box | None:
    """`z0:z1,y0:y1,x0:x1` as a box, None for the empty text; raises ConfigError."""
    if not text:
        return None
    try:
        (z0, z1), (y0, y1), (x0, x1) = (map(int, axis.split(":")) for axis in text.split(","))
        box = Box(offset_zyx=(z0, y0, x0), shape_zyx=(z1 - z0, y1 - y0, x1 - x0))
        inside = min(z0, y0, x0) >= 0 and box.voxels > 0
    except ValueError:
        inside = False
    if not inside:
        raise ConfigError(f"box: {text!r} is not z0:z1,y0:y1,x0:x1 with 0 <= start < end; correct it")
    return box
