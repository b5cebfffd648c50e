"""Whether an image file is all there, from a few bytes of it; no array library, no decoding.

TIFF says where its pixels lie, BMP how long it is, PNG and JPEG end with a mark, a plane of an MRC stack ends
at 1024 + extended header + (z + 1) nx ny bytes. Of other formats nothing can be told: `whole` is None, and
only time tells whether they still grow.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from functions.store.mrc import MrcError, read_header

TAIL_BYTES = 64
PNG_END = b"IEND\xaeB`\x82"
TIFF_MAGIC = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}
WIDTH, LENGTH, BITS, STRIPS, STRIP_BYTES, TILES, TILE_BYTES = 256, 257, 258, 273, 279, 324, 325
TYPE_BYTES = {3: 2, 4: 4, 13: 4, 16: 8, 18: 8}
TYPE_CODES = {3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
MOST_VALUES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """What a look at a file shows. `whole` is None where its format does not tell."""

    size: int = 0
    mtime_ns: int = 0
    whole: bool | None = None
    fault: str = ""
    """Why it cannot be used yet: `missing`, `empty`, `truncated`; empty when it is whole."""
    shape_yx: tuple[int, int] | None = None
    bits: int | None = None


def file_facts(path: Path, *, plane: int | None = None) -> FileFacts:
    """Size, time and wholeness of an image file, or of one plane of a stack. Never raises for what is
    there."""
    try:
        with open(path, "rb") as handle:
            stat = os.fstat(handle.fileno())
            base = FileFacts(size=stat.st_size, mtime_ns=stat.st_mtime_ns)
            if stat.st_size == 0:
                return replace(base, whole=False, fault="empty")
            try:
                whole, shape, bits = _look(path, handle, stat.st_size, plane)
            except (struct.error, MrcError, ValueError, OverflowError):
                return replace(base, whole=False, fault="truncated")
    except OSError:
        return FileFacts(whole=False, fault="missing")
    fault = "truncated" if whole is False else ""
    return replace(base, whole=whole, fault=fault, shape_yx=shape, bits=bits)


Look = tuple[bool | None, tuple[int, int] | None, int | None]


def _look(path: Path, handle: BinaryIO, size: int, plane: int | None) -> Look:
    if plane is not None:
        header = read_header(path)
        return header.plane_end(plane) <= size, header.shape_yx, 8 if header.mode == 0 else 16
    head = handle.read(54)
    if head[:4] in TIFF_MAGIC:
        return _tiff(handle, size, *TIFF_MAGIC[head[:4]])
    if head[:2] == b"BM":
        stated, width, height = (*struct.unpack("<I", head[2:6]), *struct.unpack("<ii", head[18:26]))
        (bits,) = struct.unpack("<H", head[28:30])
        (start,) = struct.unpack("<I", head[10:14])
        needed = start + (width * bits + 31) // 32 * 4 * abs(height)
        return size >= max(stated, needed), (abs(height), width), bits
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        width, height, bits = struct.unpack(">IIB", head[16:25])
        return PNG_END in _tail(handle, size), (height, width), bits
    if head[:3] == b"\xff\xd8\xff":
        return b"\xff\xd9" in _tail(handle, size), None, 8
    return None, None, None


def _tail(handle: BinaryIO, size: int) -> bytes:
    handle.seek(max(0, size - TAIL_BYTES))
    return handle.read()


def _tiff(handle: BinaryIO, size: int, order: str, big: bool) -> Look:
    """Whether the first image's strips or tiles all lie inside the file."""
    handle.seek(8 if big else 4)
    (directory,) = struct.unpack(order + ("Q" if big else "I"), handle.read(8 if big else 4))
    if not 8 <= directory < size:
        return False, None, None
    handle.seek(directory)
    (count,) = struct.unpack(order + ("Q" if big else "H"), handle.read(8 if big else 2))
    entry_bytes = 20 if big else 12
    table = handle.read(count * entry_bytes) if count < 4096 else b""
    tags: dict[int, tuple[int, ...]] = {}
    for start in range(0, len(table), entry_bytes):
        (tag,) = struct.unpack_from(order + "H", table, start)
        if tag in (WIDTH, LENGTH, BITS, STRIPS, STRIP_BYTES, TILES, TILE_BYTES):
            tags[tag] = _values(handle, table[start : start + entry_bytes], order, big)
    offsets = tags.get(STRIPS) or tags.get(TILES) or ()
    lengths = tags.get(STRIP_BYTES) or tags.get(TILE_BYTES) or ()
    if not offsets or len(offsets) != len(lengths) or WIDTH not in tags or LENGTH not in tags:
        return False, None, None
    whole = all(n > 0 and at + n <= size for at, n in zip(offsets, lengths, strict=True))
    return whole, (tags[LENGTH][0], tags[WIDTH][0]), tags.get(BITS, (1,))[0]


def _values(handle: BinaryIO, entry: bytes, order: str, big: bool) -> tuple[int, ...]:
    kind, count = struct.unpack_from(order + ("HQ" if big else "HI"), entry, 2)
    if kind not in TYPE_BYTES or count > MOST_VALUES:
        return ()
    length, inline = count * TYPE_BYTES[kind], entry[-8:] if big else entry[-4:]
    if length <= len(inline):
        data = inline[:length]
    else:
        handle.seek(struct.unpack(order + ("Q" if big else "I"), inline)[0])
        data = handle.read(length)
    return struct.unpack(f"{order}{count}{TYPE_CODES[kind]}", data)
