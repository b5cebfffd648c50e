"""Windows on arrays that are too large to hold, and a bounded memory of the blocks read last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from functions.model.geometry import Box

AnyArray = NDArray[np.generic]
Key = tuple[int, ...]


class BlockCache:
    """The blocks used last, of several arrays, together never above `most_bytes`."""

    def __init__(self, *, most_bytes: int) -> None:
        self._most_bytes, self._bytes = most_bytes, 0
        self._blocks: OrderedDict[Key, AnyArray] = OrderedDict()

    def get(self, key: Key, read: Callable[[], AnyArray]) -> AnyArray:
        """The block of this key, read when it is not there."""
        if (block := self._blocks.get(key)) is not None:
            self._blocks.move_to_end(key)
            return block
        block = read()
        self._bytes += block.nbytes
        self._blocks[key] = block
        while self._bytes > self._most_bytes:
            _, dropped = self._blocks.popitem(last=False)
            self._bytes -= dropped.nbytes
        return block

    @property
    def nbytes(self) -> int:
        """What is held now."""
        return self._bytes


class Window:
    """A box of a 3-d array as an array of its own: `shape`, `dtype`, and `[z0:z1, y0:y1, x0:x1]`.

    Reads are rounded to blocks of whole chunks (several thin ones, as of sections, in one) that the cache
    remembers.
    """

    def __init__(self, array: Any, box: Box, *, cache: BlockCache | None = None) -> None:
        self._array, self._box, self._cache = array, box, cache
        self.shape = box.shape_zyx
        self.dtype = np.dtype(array.dtype)
        chunk = getattr(array, "chunks", None) or (64, 64, 64)
        self._block = tuple(_block_extent(int(c)) for c in chunk)

    @property
    def ndim(self) -> int:
        """Always z, y, x."""
        return 3

    def __getitem__(self, where: tuple[slice, slice, slice]) -> AnyArray:
        starts, ends = [], []
        for s, extent, offset in zip(where, self.shape, self._box.offset_zyx, strict=True):
            start, stop, step = s.indices(extent)
            if step != 1:
                raise ValueError(f"step {step}: windows are read with step 1")
            starts.append(start + offset)
            ends.append(max(start, stop) + offset)
        if self._cache is None:
            return np.asarray(self._array[tuple(slice(a, b) for a, b in zip(starts, ends, strict=True))])
        out = np.empty([b - a for a, b in zip(starts, ends, strict=True)], self.dtype)
        ranges = [range(a // n, -(-b // n)) for a, b, n in zip(starts, ends, self._block, strict=True)]
        for index in product(*ranges):
            corner = [i * n for i, n in zip(index, self._block, strict=True)]
            block = self._read(index, corner)
            target, source = [], []
            for a, b, c, n in zip(starts, ends, corner, block.shape, strict=True):
                low, high = max(a, c), min(b, c + n)
                target.append(slice(low - a, high - a))
                source.append(slice(low - c, high - c))
            out[tuple(target)] = block[tuple(source)]
        return out

    def _read(self, index: Key, corner: list[int]) -> AnyArray:
        where = tuple(
            slice(c, min(c + n, e)) for c, n, e in zip(corner, self._block, self._array.shape, strict=True)
        )
        assert self._cache is not None
        return self._cache.get((id(self._array), *index), lambda: np.asarray(self._array[where]))


def _block_extent(chunk: int) -> int:
    """Whole chunks, up to about 64 voxels."""
    return chunk * max(1, 64 // chunk)
