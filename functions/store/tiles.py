"""Tiles of one section as 8-bit images, decoded when needed and kept while there is room."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from functions.model.acquisition import Section
from functions.model.errors import safe_join
from functions.registration.contrast import histogram, percentile_range, to_eight_bit
from functions.store.images import read_tile

CACHE_BYTES = 400 << 20


class TileReader:
    """Reads the tiles of a section. 16-bit tiles are mapped to 8 bits by percentiles of the whole section."""

    def __init__(self, folder: Path, section: Section, *, cache_bytes: int = CACHE_BYTES) -> None:
        self._paths = [
            safe_join(folder, tile.path, field=f"sections[{section.id}].tiles[{k}].path")
            for k, tile in enumerate(section.tiles)
        ]
        self._cache: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
        self._cache_bytes = cache_bytes
        self._range: tuple[float, float] | None = None

    def __len__(self) -> int:
        return len(self._paths)

    def image(self, index: int) -> NDArray[np.uint8]:
        """Tile `index` (Y, X).

        Raises:
            AcquisitionError: its file cannot be decoded.
        """
        if index in self._cache:
            self._cache.move_to_end(index)
            return self._cache[index]
        raw = read_tile(self._paths[index])
        image = (
            to_eight_bit(raw.astype(np.uint16), *self._gray_range())
            if raw.dtype == np.uint16
            else raw.astype(np.uint8)
        )
        self._cache[index] = image
        while len(self._cache) > 1 and sum(i.nbytes for i in self._cache.values()) > self._cache_bytes:
            self._cache.popitem(last=False)
        return image

    def _gray_range(self) -> tuple[float, float]:
        """Grey values that become 1 and 255, from all 16-bit tiles of the section."""
        if self._range is None:
            counts = np.zeros(1 << 16, dtype=np.int64)
            for path in self._paths:
                raw = read_tile(path)
                if raw.dtype == np.uint16:
                    counts += histogram(raw)
            self._range = percentile_range(counts)
        return self._range
