"""Tiles of one section as 8-bit images, decoded when needed and kept while there is room."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from functions.model.acquisition import Section
from functions.model.errors import AcquisitionError, safe_join
from functions.model.shading import Shading
from functions.registration.contrast import histogram, percentile_range, to_eight_bit
from functions.registration.masks import reduce_mean
from functions.registration.shading import factors, flattened, usual_shape
from functions.store.images import TilePixels, read_tile, tile_sha256

CACHE_BYTES = 400 << 20
ImagePlace = tuple[Path, int | None]
"""A file, and which of its planes."""
Number = TypeVar("Number", bound=np.generic)


class TileReader:
    """Reads the tiles of a section. 16-bit tiles are mapped to 8 bits by percentiles of the whole section.

    `sha256` are the checksums of the tiles that ingest accepted, in the section's order: a file that has
    changed since is refused when it is first read. None are known of manifests written without them.
    `flat` is the shading that is taken out of the tiles of the usual (largest) shape, once they are of 8
    bits.
    """

    def __init__(
        self,
        folder: Path,
        section: Section,
        *,
        sha256: Sequence[str] = (),
        flat: Shading | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._images = [
            (safe_join(folder, tile.path, field=f"sections[{section.id}].tiles[{k}].path"), tile.plane)
            for k, tile in enumerate(section.tiles)
        ]
        self._accepted = dict(zip(self._images, sha256, strict=False))
        self._kept: Recent[np.uint8] = Recent(cache_bytes)
        self._range: tuple[float, float] | None = None
        self._factors: NDArray[np.float32] | None = None
        if flat is not None:
            self._factors = factors(flat, usual_shape([tile.shape_yx for tile in section.tiles]))

    def __len__(self) -> int:
        return len(self._images)

    def image(self, index: int) -> NDArray[np.uint8]:
        """Tile `index` (Y, X).

        Raises:
            AcquisitionError: its file cannot be decoded, or is not the one that ingest accepted.
        """
        return self._kept.get(index, lambda: self._decode(self._images[index]))

    def _decode(self, place: ImagePlace) -> NDArray[np.uint8]:
        raw = self._read(place)
        if raw.dtype == np.uint16:
            image = to_eight_bit(raw.astype(np.uint16), *self._gray_range())
        else:
            image = raw.astype(np.uint8)
        if self._factors is None or self._factors.shape != image.shape:
            return image
        return flattened(image, self._factors)

    def _read(self, image: ImagePlace) -> TilePixels:
        path, plane = image
        accepted = self._accepted.pop(image, None)
        if accepted is not None and path.is_file() and tile_sha256(path, plane) != accepted:
            raise AcquisitionError(
                f"{path}: not the file that ingest accepted (its SHA-256 differs)",
                remedy="start the run at ingest: it takes the new file and redoes what depends on it",
            )
        return read_tile(path, plane)

    def _gray_range(self) -> tuple[float, float]:
        """Grey values that become 1 and 255, from all 16-bit tiles of the section."""
        if self._range is None:
            counts = np.zeros(1 << 16, dtype=np.int64)
            for image in self._images:
                raw = self._read(image)
                if raw.dtype == np.uint16:
                    counts += histogram(raw)
            self._range = percentile_range(counts)
        return self._range


class ReducedTiles:
    """Tiles as means of blocks of `factor` px a side; these are kept, the full ones one at a time."""

    def __init__(self, reader: TileReader, factor: int, *, cache_bytes: int = CACHE_BYTES) -> None:
        self._reader = reader
        self._factor = factor
        self._kept: Recent[np.float32] = Recent(cache_bytes)

    def image(self, index: int) -> NDArray[np.float32]:
        """Tile `index` (ceil(Y / factor), ceil(X / factor)).

        Raises:
            AcquisitionError: see `TileReader.image`.
        """
        return self._kept.get(index, lambda: reduce_mean(self._reader.image(index), self._factor))


class Recent(Generic[Number]):
    """The images used last, as many as fit; at least one."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._images: OrderedDict[int, NDArray[Number]] = OrderedDict()
        self._bytes = 0

    def get(self, index: int, make: Callable[[], NDArray[Number]]) -> NDArray[Number]:
        """Image `index`, made when it is not kept."""
        if index not in self._images:
            self._images[index] = make()
            self._bytes += self._images[index].nbytes
        self._images.move_to_end(index)
        while len(self._images) > 1 and self._bytes > self._most_bytes:
            self._bytes -= self._images.popitem(last=False)[1].nbytes
        return self._images[index]
