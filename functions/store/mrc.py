"""MRC stacks: the header, and one plane at a time, also while the file is still being written.

The layout is that of MRC2014 (Cheng et al., J. Struct. Biol. 192, 2015) with IMOD's rule for bytes: mode 0 is
unsigned unless the IMOD stamp says signed. Rows lie from the bottom up. The array library is imported only
where pixels are read: who watches a microscope needs the header alone.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HEADER_BYTES = 1024
IMOD_STAMP = 1146047817
MODES = {0: ("u1", 1), 1: ("i2", 2), 6: ("u2", 2)}
"""Modes of gray tiles: NumPy's name of the type, and its bytes."""


class MrcError(ValueError):
    """Not an MRC stack of gray tiles; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MrcHeader:
    """What the first 1024 bytes say."""

    shape_yx: tuple[int, int]
    planes: int
    mode: int
    signed: bool
    order: Literal["<", ">"]
    data_offset: int

    @property
    def plane_bytes(self) -> int:
        """Of one plane."""
        return self.shape_yx[0] * self.shape_yx[1] * MODES[self.mode][1]

    def plane_end(self, plane: int) -> int:
        """The byte behind plane `plane`; the file holds it from this size on."""
        return self.data_offset + (plane + 1) * self.plane_bytes

    @property
    def dtype(self) -> str:
        """Of the pixels that `read_plane` returns."""
        return "uint8" if self.mode == 0 else "uint16"


def is_mrc(path: Path) -> bool:
    """Whether the header is one of MRC, of whatever mode."""
    with open(path, "rb") as handle:
        head = handle.read(HEADER_BYTES)
    return len(head) == HEADER_BYTES and (
        head[208:212] in (b"MAP ", b"MAP\0") or struct.unpack("<i", head[152:156])[0] == IMOD_STAMP
    )


def read_header(path: Path) -> MrcHeader:
    """The header of a stack.

    Raises:
        MrcError: not MRC, or no gray tiles.
        OSError: it cannot be read.
    """
    with open(path, "rb") as handle:
        head = handle.read(HEADER_BYTES)
    if len(head) < HEADER_BYTES:
        raise MrcError(f"{len(head)} bytes, an MRC header has {HEADER_BYTES}")
    orders: tuple[Literal["<", ">"], ...] = ("<", ">")
    for order in orders:
        nx, ny, nz, mode = struct.unpack(f"{order}4i", head[:16])
        (extended,) = struct.unpack(f"{order}i", head[92:96])
        if 0 < nx < 1 << 20 and 0 < ny < 1 << 20 and 0 <= nz < 1 << 28 and 0 <= extended < 1 << 31:
            break
    else:
        raise MrcError("its header is not one of MRC")
    if mode not in MODES:
        raise MrcError(f"mode {mode}, expected one of {', '.join(map(str, MODES))} (gray)")
    stamp, flags = struct.unpack(f"{order}2i", head[152:160])
    return MrcHeader(
        shape_yx=(ny, nx),
        planes=nz,
        mode=mode,
        signed=mode == 0 and stamp == IMOD_STAMP and bool(flags & 1),
        order=order,
        data_offset=HEADER_BYTES + extended,
    )


def read_plane(path: Path, header: MrcHeader, plane: int) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """The pixels of a plane, (y, x), from the top row down; negative values of mode 1 become 0."""
    import numpy as np

    name = "i1" if header.signed else MODES[header.mode][0]
    raw: NDArray[Any] = np.fromfile(
        path,
        dtype=np.dtype(name).newbyteorder(header.order),
        count=header.shape_yx[0] * header.shape_yx[1],
        offset=header.plane_end(plane) - header.plane_bytes,
    ).reshape(header.shape_yx)[::-1]
    if header.signed:
        return np.ascontiguousarray((raw.astype(np.int16) + 128).astype(np.uint8))
    if header.mode == 1:
        raw = np.maximum(raw, 0)
    return np.ascontiguousarray(raw.astype(header.dtype))


def new_header(*, shape_yx: tuple[int, int], planes: int, mode: int) -> bytes:
    """The header of a new little-endian stack without an extended header."""
    head = bytearray(HEADER_BYTES)
    ny, nx = shape_yx
    struct.pack_into("<4i", head, 0, nx, ny, planes, mode)
    struct.pack_into("<3i", head, 28, nx, ny, planes)
    struct.pack_into("<3f", head, 40, float(nx), float(ny), float(planes))
    struct.pack_into("<3f", head, 52, 90.0, 90.0, 90.0)
    struct.pack_into("<3i", head, 64, 1, 2, 3)
    head[208:216] = b"MAP DD\0\0"
    return bytes(head)


def without_labels(head: bytes, *, planes: int, order: str) -> bytes:
    """A stack's header for some of its planes: nobody's labels, no extended header."""
    copy = bytearray(head[:HEADER_BYTES])
    struct.pack_into(f"{order}i", copy, 8, planes)
    struct.pack_into(f"{order}i", copy, 36, planes)
    struct.pack_into(f"{order}i", copy, 92, 0)
    struct.pack_into(f"{order}i", copy, 220, 0)
    copy[224:] = bytes(HEADER_BYTES - 224)
    return bytes(copy)
