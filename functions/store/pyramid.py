"""Multiscale arrays: which levels a volume has, how voxels are pooled, and how shards are written.

    level 0   30 x  8 x  8 nm      copied
    level 1   30 x 16 x 16 nm      y, x halved: they are finer than z
    level 2   30 x 32 x 32 nm      y, x halved: 16 nm is still finer than 30 nm
    level 3   60 x 64 x 64 nm      about isotropic from here on, so all axes are halved

Each level is made from the one before it, one shard at a time, so memory is bounded by a shard and what lies
under it. A shard is written whole and once; the same input gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray

from functions.model.geometry import ZYX, Box
from functions.store.counted import store_at
from functions.store.limits import give_back
from functions.store.traffic import note_read, note_written

Pooling = Literal["mean", "mode", "max"]
AnyArray = NDArray[np.generic]
Read = Callable[[Box], Any]


ISOTROPY = 1.5
"""An axis is halved with the finest one while its voxel is at most this many times longer."""
SLAB_VOXELS = 1 << 21
"""Source voxels pooled at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One level: its shape and its factors against level 0 (powers of two, z, y, x)."""

    path: str
    shape_zyx: ZYX
    factor_zyx: ZYX
    step_zyx: ZYX
    """Factors against the level before; 1, 1, 1 at level 0."""


def plan_levels(
    shape_zyx: ZYX, voxel_size_zyx_nm: tuple[float, float, float], *, smallest_px: int = 64
) -> list[Level]:
    """Halve the finest axes until the longest side of a level is at most `smallest_px`.

    Axes of one voxel are not halved. An odd extent is rounded up: every voxel is represented on every level.
    """
    levels = [Level(path="0", shape_zyx=shape_zyx, factor_zyx=(1, 1, 1), step_zyx=(1, 1, 1))]
    voxel = np.array(voxel_size_zyx_nm, dtype=float)
    while max(levels[-1].shape_zyx) > smallest_px:
        last = levels[-1]
        long = np.array(last.shape_zyx) > 1
        finest = voxel[long].min()
        halved = long & (voxel <= ISOTROPY * finest)
        step = _zyx(np.where(halved, 2, 1))
        levels.append(
            Level(
                path=str(len(levels)),
                shape_zyx=_zyx([-(-n // s) for n, s in zip(last.shape_zyx, step, strict=True)]),
                factor_zyx=_zyx([f * s for f, s in zip(last.factor_zyx, step, strict=True)]),
                step_zyx=step,
            )
        )
        voxel = voxel * np.array(step)
    return levels


def pool_mean(data: NDArray[np.unsignedinteger], step_zyx: ZYX) -> AnyArray:
    """Mean of blocks of `step_zyx` voxels (z, y, x), halves rounded up; edge blocks use what there is."""
    blocks = _blocks(data, step_zyx)
    total = np.zeros(blocks[0].shape, dtype=np.uint32)
    for block in blocks:
        total += block
    n = len(blocks)
    return ((total + n // 2) // n).astype(data.dtype)


def pool_mode(data: NDArray[np.unsignedinteger], step_zyx: ZYX) -> AnyArray:
    """Most frequent label of blocks of `step_zyx` voxels: never an id that is not there.

    Of equally frequent labels the first in z, y, x order wins, and any label wins against background, so that
    thin neurites last.
    """
    blocks = _blocks(data, step_zyx)
    best = blocks[0].copy()
    best_score = np.full(best.shape, -1, dtype=np.int8)
    for block in blocks:
        score = np.zeros(best.shape, dtype=np.int8)
        for other in blocks:
            score += (block == other).astype(np.int8)
        score = (2 * score - (block == 0)).astype(np.int8)
        better = score > best_score
        best[better] = block[better]
        best_score[better] = score[better]
    return best


def pool_max(data: NDArray[np.unsignedinteger], step_zyx: ZYX) -> AnyArray:
    """Highest value of blocks of `step_zyx` voxels (z, y, x): a mask of thin things loses none of them."""
    return np.asarray(np.maximum.reduce(_blocks(data, step_zyx)))


POOLS = {"mean": pool_mean, "mode": pool_mode, "max": pool_max}


def shard_boxes(shape_zyx: ZYX, shard_zyx: ZYX) -> Iterator[Box]:
    """The shards of an array as boxes, clipped at its end, in z, y, x order."""
    whole = Box(offset_zyx=(0, 0, 0), shape_zyx=shape_zyx)
    for z in range(0, shape_zyx[0], shard_zyx[0]):
        for y in range(0, shape_zyx[1], shard_zyx[1]):
            for x in range(0, shape_zyx[2], shard_zyx[2]):
                yield whole.intersect(Box(offset_zyx=(z, y, x), shape_zyx=shard_zyx))


def write_levels(
    group: Path,
    levels: list[Level],
    *,
    read: Read,
    dtype: str,
    pooling: Pooling,
    chunk_zyx: ZYX,
    shard_zyx: ZYX,
) -> None:
    """Write the arrays of all levels into the zarr group at `group`.

    Args:
        read: returns a box of level 0 with the array's dtype.
        chunk_zyx: readable unit inside a shard; clipped to the level's shape.
        shard_zyx: one file; rounded up to whole chunks.
    """
    source, source_shape = read, levels[0].shape_zyx
    for level in levels:
        chunk = _zyx([min(c, n) for c, n in zip(chunk_zyx, level.shape_zyx, strict=True)])
        shard = _zyx(
            [c * max(1, -(-min(s, n) // c)) for c, s, n in
             zip(chunk, shard_zyx, level.shape_zyx, strict=True)]
        )  # fmt: skip
        array = _create(group / level.path, level.shape_zyx, dtype, chunk, shard)
        for box in shard_boxes(level.shape_zyx, shard):
            first = level.path == "0"
            data = source(box) if first else _pooled(source, source_shape, box, level, pooling, dtype)
            array[box.slices] = data
            note_written(raw=data.nbytes)
            del data  # or it would be held while the next shard is read
            give_back()  # the buffers in which threads have packed chunks
        source, source_shape = _reader(array), level.shape_zyx


def _create(path: Path, shape: ZYX, dtype: str, chunk: ZYX, shard: ZYX) -> zarr.Array:
    """A sharded array; its index stands at the start, where a range finds it without the file's size."""
    compressor = zarr.codecs.BloscCodec(
        cname="zstd",
        clevel=5,
        typesize=np.dtype(dtype).itemsize,
        shuffle="noshuffle" if dtype == "uint8" else "shuffle",
    )
    return zarr.create_array(
        store=store_at(path),
        shape=shape,
        chunks=chunk,
        shards={"shape": shard, "index_location": "start"},
        dtype=dtype,
        fill_value=0,
        compressors=compressor,
        dimension_names=("z", "y", "x"),
    )


def _pooled(read: Read, source_shape: ZYX, box: Box, level: Level, pooling: Pooling, dtype: str) -> AnyArray:
    """A box of `level`, pooled from the level before in slabs of bounded size."""
    pool = POOLS[pooling]
    step, shape = level.step_zyx, box.shape_zyx
    thickness = max(1, SLAB_VOXELS // max(1, step[0] * shape[1] * step[1] * shape[2] * step[2]))
    whole = Box(offset_zyx=(0, 0, 0), shape_zyx=source_shape)
    out = np.empty(shape, dtype)
    for z in range(0, shape[0], thickness):
        target = Box(
            offset_zyx=(box.offset_zyx[0] + z, *box.offset_zyx[1:]),
            shape_zyx=(min(thickness, shape[0] - z), *shape[1:]),
        )
        under = Box(
            offset_zyx=_zyx([o * s for o, s in zip(target.offset_zyx, step, strict=True)]),
            shape_zyx=_zyx([n * s for n, s in zip(target.shape_zyx, step, strict=True)]),
        ).intersect(whole)
        out[z : z + thickness] = pool(read(under), step)
    return out


def _blocks(data: NDArray[np.unsignedinteger], step_zyx: ZYX) -> list[NDArray[np.unsignedinteger]]:
    """The voxels of each block, one array a position in the block; odd ends are repeated."""
    pad = [(0, -n % s) for n, s in zip(data.shape, step_zyx, strict=True)]
    if any(p[1] for p in pad):
        data = np.pad(data, pad, mode="edge")
    sz, sy, sx = step_zyx
    return [data[z::sz, y::sy, x::sx] for z in range(sz) for y in range(sy) for x in range(sx)]


def _reader(array: zarr.Array) -> Read:
    def read(box: Box) -> AnyArray:
        data = np.asarray(array[box.slices])
        note_read(raw=data.nbytes)
        return data

    return read


def _zyx(values: object) -> ZYX:
    z, y, x = (int(v) for v in values)  # type: ignore[attr-defined]
    return z, y, x
